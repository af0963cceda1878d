"""The quick start: a whole fleet on this machine, on loopback, asked real questions."""

from __future__ import annotations

import argparse
import fcntl
import io
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

import numpy as np
from bad_version import write_bad_version
from next_steps import BAD, ENVIRONMENT, MODEL, environment_text, next_steps
from PIL import Image
from processes import BIN, Fleet, free_port, listens
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from registry.client.devices import Answer, Client, DeviceError

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "scripts" / "models"
DEVICE = "quickstart"
REGISTRY_PORT, BROKER_PORT = 8470, 1883
FOLDER = ROOT / ".modelfleet" / "quickstart"
MARK = ".quickstart"
"""A file in the folder of a quick start, locked while it runs."""

FETCH_SECONDS = 900
"""More than the script gives its own download: it says why it failed."""

console = Console(highlight=False)


def main() -> int:
    """Run the quick start; the exit code is 0 only when every picture was answered rightly."""
    parser = argparse.ArgumentParser(prog="scripts/quickstart", description=__doc__)
    parser.add_argument("--once", action="store_true", help="end after the pictures, with an exit code")
    parser.add_argument(
        "--folder",
        type=Path,
        default=FOLDER,
        help="where its data goes: a new folder, or one of an earlier quick start, which is emptied",
    )
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that is not UTF-8 gets question marks, not a traceback
    try:
        claimed = _claim(arguments.folder)  # held until this process ends
        with claimed, Fleet(arguments.folder, _port(REGISTRY_PORT), _port(BROKER_PORT)) as fleet:
            return _run(fleet, arguments.once)
    except (RuntimeError, OSError, DeviceError) as error:
        console.print("[red]quickstart failed:[/]", escape(f"{error}\nlogs: {arguments.folder}/*.log"))
        return 1
    except KeyboardInterrupt:
        return 130


def _claim(folder: Path) -> IO[str]:
    """Empties a folder of an earlier quick start, and holds it against another one. RuntimeError when it is neither."""
    mark = folder / MARK
    if folder != FOLDER and not mark.exists() and folder.exists() and any(folder.iterdir()):
        raise RuntimeError(f"{folder} is not empty, and no quick start made it: name a folder that is not there yet")
    folder.mkdir(parents=True, exist_ok=True)
    claimed = mark.open("w")
    try:
        fcntl.flock(claimed, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        claimed.close()
        raise RuntimeError(f"a quick start runs in {folder}: end it first, or name another folder (--folder)") from None
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path != mark:
            path.unlink()
    return claimed


def _port(usual: int) -> int:
    """The usual port where it is free, so that the printed commands stay short."""
    return free_port() if listens(usual) else usual


def _run(fleet: Fleet, once: bool) -> int:
    with console.status("starting broker, registry and agent"):
        broker = fleet.start_broker()
        fleet.start_registry()
        fleet.start_agent(DEVICE, fleet.add_device(DEVICE), MODELFLEET_AGENT_HEALTH_INTERVAL_S="5")
    console.print(f"[bold]broker[/]    {Path(broker.argv[0]).name} on 127.0.0.1:{fleet.broker_port}")
    console.print(f"[bold]registry[/]  {fleet.url}   (API: {fleet.url}/openapi.json)")
    console.print(f"[bold]agent[/]     device '{DEVICE}', CPU")
    _publish(fleet, "lenet")
    _publish(fleet, "text-direction")
    with Client(f"mqtt://127.0.0.1:{fleet.broker_port}") as client:
        wrong = _ask_digits(client) + _ask_text(client)
    console.print("[green]all answers right[/]" if not wrong else f"[red]{wrong} answers wrong[/]")
    if not once:
        _stay(fleet)
    return 1 if wrong else 0


def _publish(fleet: Fleet, model: str) -> None:
    """As a user does: publish a manifest, deploy it, wait until it serves."""
    if model == "text-direction":
        target = fleet.folder / "text-direction"
        shutil.copytree(MODELS / model, target)
        _fetch(target)
    else:
        target = MODELS / model
    with console.status(f"publishing {model}"):
        answer = fleet.registry("publish", str(target / f"{model}.toml"))
        version = answer["version"]
        fleet.registry("deploy", f"{model}@{version}", "--device", DEVICE, "--wait")
    console.print(f"[bold]published[/] {model}@{version} and serving on '{DEVICE}'")


def _fetch(target: Path) -> None:
    """The third-party model into `target`. RuntimeError says why it could not be had."""
    argv = [sys.executable, str(ROOT / "scripts" / "fetch-third-party-model"), str(target)]
    with console.status("fetching text-direction (27 MB)"):
        try:
            done = subprocess.run(
                argv, capture_output=True, text=True, errors="replace", timeout=FETCH_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"the third-party model was not there within {FETCH_SECONDS} s") from None
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or f"{argv[1]} ended with {done.returncode}")


def _ask_digits(client: Client) -> int:
    """Real handwritten digits, as PNG files and as tensors; how many answers were wrong."""
    files = sorted((MODELS / "lenet" / "digits").glob("*.png"))
    console.print("\nReal handwritten digits, to [bold]lenet[/]:")
    _draw([Image.open(file) for file in files[6:16:2][:4]])
    table = Table("picture", "as PNG", "score", "latency", "as tensor", "latency", box=None, header_style="dim")
    wrong = 0
    client.infer(DEVICE, "lenet", picture=files[0].read_bytes())
    for file in files:
        truth = file.stem.split("-")[1]
        picture = client.infer(DEVICE, "lenet", picture=file.read_bytes())
        label, score = picture.label, picture.score
        pixels = np.asarray(Image.open(file).convert("L"), np.float32).reshape(1, 1, 28, 28) / 255
        tensor = client.infer(DEVICE, "lenet", {"x": pixels})
        best = str(int(tensor["y"].argmax()))
        wrong += (label != truth) + (best != truth)
        cells = (_mark(label, truth), f"{score:.2f}", _ms(picture), _mark(best, truth), _ms(tensor))
        table.add_row(file.name, *cells)
    console.print(table)
    return wrong


def _ask_text(client: Client) -> int:
    """A third-party model from a PyPI package: is a line of text upright?"""
    console.print("\nLines of text, to [bold]text-direction[/] (a third-party model):")
    table = Table("picture", "as PNG", "score", "latency", box=None, header_style="dim")
    wrong = 0
    for file in sorted((MODELS / "text-direction" / "pictures").glob("*.png")):
        truth = file.stem.split("-")[1]
        answer = client.infer(DEVICE, "text-direction", picture=file.read_bytes())
        label, score = answer.label, answer.score
        wrong += label != truth
        table.add_row(file.name, _mark(label, truth), f"{score:.2f}", _ms(answer))
    console.print(table)
    return wrong


def _mark(label: str, truth: str) -> str:
    return f"[green]{label}[/]" if label == truth else f"[red]{label} (is {truth})[/]"


def _ms(answer: Answer) -> str:
    return f"{answer.seconds * 1e3:.2f} ms"


def _draw(pictures: list[Image.Image]) -> None:
    """Pictures side by side, two pixels a character."""
    rows = [np.asarray(p.convert("L").resize((14, 14)), np.float32) > 90 for p in pictures]
    picture = np.concatenate([np.pad(row, ((0, 0), (0, 3))) for row in rows], axis=1)
    out = io.StringIO()
    for top, bottom in zip(picture[::2], picture[1::2], strict=True):
        out.write("  " + "".join(" ▄▀█"[2 * int(t) + int(b)] for t, b in zip(top, bottom, strict=True)) + "\n")
    console.print(out.getvalue().rstrip("\n"))


def _stay(fleet: Fleet) -> None:
    """Until Ctrl-C, with what to try next."""
    folder = fleet.folder.absolute()
    write_bad_version(MODELS / MODEL, folder / "bad", BAD)
    (folder / ENVIRONMENT).write_text(
        environment_text(
            programs=BIN,
            url=fleet.url,
            data_dir=fleet.registry_data.absolute(),
            broker=f"mqtt://127.0.0.1:{fleet.broker_port}",
        ),
        encoding="utf-8",
    )
    steps = next_steps(
        root=ROOT,
        folder=folder,
        console=str(fleet.registry("console")["url"]),
        device=DEVICE,
        port=fleet.broker_port,
        picture=MODELS / "lenet/digits/digit-7-1.png",
        mosquitto=shutil.which("mosquitto_pub") is not None and shutil.which("mosquitto_sub") is not None,
    )
    console.print(f"\n{steps}\nLogs: {fleet.folder}/*.log", soft_wrap=True, markup=False)
    threading.Event().wait()


if __name__ == "__main__":
    sys.exit(main())
