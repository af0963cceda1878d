"""A conversion on this machine: the agent's toolchains in a process of their own, then the result into the registry.

The toolchains belong to the agent, which this program does not import: it runs them (`python -m agent.jobs.here`),
as it would run any tool, and checks what comes back.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from registry.cli.catalogue.pull import bring
from registry.cli.output import CliError, ExitCode, meter
from registry.cli.session import Session
from registry.client.transfers import LocalFile, hash_file, upload
from registry.contracts.api.versions import VariantAnswer, VariantOffer
from registry.contracts.catalogue.conversions import Goal
from registry.contracts.catalogue.manifest import FileRef, Manifest, MeasuredParity, Variant
from registry.contracts.comparison.golden_file import read_cases, with_bytes
from registry.contracts.paths import variant_path

COMMAND = ("-m", "agent.jobs.here")
PLAN_TIMEOUT_S = 120.0
SLACK_S = 120.0
MAX_ANSWER_BYTES = 4 << 20
STOP_S = 10.0
_MAX_SHOWN = 400


def order(
    source: Variant,
    goal: Goal,
    options: Mapping[str, str],
    *,
    golden: str | None,
    device: dict[str, str] | None = None,
    folder: Path | None = None,
    timeout_s: float = 0,
    dry_run: bool = False,
) -> dict[str, Any]:
    """As `agent.jobs.here` takes it. `golden`: the file, empty where there will be one, None where there is none.

    `dry_run`: the command is wanted even if its program is not here.
    """
    return {
        "source": source.to_json(),
        "to": str(goal.format),
        "options": dict(options),
        "folder": str(folder) if folder else None,
        "golden": golden,
        "timeout_s": timeout_s,
        "device": device,
        "dry_run": dry_run,
        "parent": os.getpid(),
    }


def plan(wanted: dict[str, Any]) -> dict[str, Any]:
    """What would be run: `tool`, `command`, `name`; is its program `missing` here? Raises CliError: it cannot be."""
    found: dict[str, Any] = _run(wanted, PLAN_TIMEOUT_S)["plan"]
    return found


def quoted(part: str) -> str:
    """An argument as a shell takes it."""
    return shlex.quote(part)


def convert(
    session: Session,
    manifest: Manifest,
    source: Variant,
    *,
    goal: Goal,
    options: Mapping[str, str],
    folder: Path,
    timeout_s: float,
) -> None:
    """Makes the variant in `folder`, measures it where it runs here, and adds it. Raises CliError."""
    for file in source.files:
        bring(session, file, folder / "source")
    golden = bring(session, manifest.golden.file, folder / "golden") if manifest.golden else None
    wanted = order(source, goal, options, golden=str(golden) if golden else None, folder=folder, timeout_s=timeout_s)
    session.out.note(f"Making {goal.format} from {source.name}.")
    answer = _run(wanted, timeout_s + SLACK_S)
    try:
        variant = Variant.model_validate(answer["variant"])
    except (KeyError, ValidationError) as error:
        raise CliError(f"The conversion's answer cannot be read: {error}", code="bad_answer") from error
    variant = _measured(session, manifest, variant, folder / "out", golden)
    _add(session, manifest, variant, folder / "out")


def _add(session: Session, manifest: Manifest, variant: Variant, folder: Path) -> None:
    path = variant_path(manifest.model, manifest.version, variant.name)
    offer = VariantOffer(variant=variant)
    answer = session.client.change("PUT", path, offer, VariantAnswer, repeatable=True)
    for missing in answer.missing:
        file = _local(folder / missing.path, missing)
        with meter(f"uploading {missing.path}", missing.size, quiet=session.out.as_json) as at:
            upload(session.client, file, at, session.out.note)
    if answer.manifest is None:
        answer = session.client.change("PUT", path, offer, VariantAnswer, repeatable=True)
    if answer.manifest is None:
        raise CliError("The registry still lacks files that were uploaded", code="bad_answer")
    if session.out.as_json:
        session.out.document({"variant": variant.to_json(), "manifest": answer.manifest})
    else:
        session.out.say(f"{manifest.model}@{manifest.version} has a variant {variant.name} now ({variant.format}).")


def _measured(session: Session, manifest: Manifest, variant: Variant, folder: Path, golden: Path | None) -> Variant:
    """The variant with its parity; as it was where it cannot run here. Raises CliError(golden_mismatch)."""
    if manifest.golden is None or golden is None:
        session.out.note("  not measured: the version has no golden vectors")
        return variant
    from registry.running.parity import measure  # noqa: PLC0415 - needs NumPy
    from registry.running.process import LocalVariants  # noqa: PLC0415 - as above

    with ExitStack() as stack:
        process = LocalVariants([variant], lambda made: folder / made.entry, stack).process(variant.name)
        if isinstance(process, str):
            session.out.note(f"  not measured here: {process}")
            return variant
        content = golden.read_bytes()
        parity = measure(process, with_bytes(read_cases(content, len(content)), content), manifest.golden.tolerance)
        backend = process.backend
    figures = f"largest error {parity.max_abs:.3g}, relative {parity.max_rel:.3g}"
    if not parity.passed:
        raise CliError(
            f"{variant.name} does not answer the golden vectors as the manifest says: {parity.why}; {figures}",
            code="golden_mismatch",
            hint="It was not added. Its precision is too low for this version's tolerance; try other --option values.",
        )
    session.out.note(f"  measured on {backend}: {figures}: passed")
    measured = MeasuredParity(parity=parity, backend=backend, reference=manifest.golden.reference)
    return variant.model_copy(update={"parity": measured})


def _local(path: Path, expected: FileRef) -> LocalFile:
    file = hash_file(path)
    if file.digest != expected.digest:
        raise CliError(f"{path.name} changed after it was made", code="file_changed")
    return file


def _run(wanted: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """The conversion program's answer. Raises CliError. Interrupted, it is told to stop and waited for."""
    with subprocess.Popen(
        [sys.executable, *COMMAND], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            out, errors = process.communicate(json.dumps(wanted).encode(), timeout=timeout_s)
        except BaseException as error:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
            process.kill()
            if isinstance(error, subprocess.TimeoutExpired):
                raise CliError("The conversion did not end in time", code="tool_timeout") from None
            raise
    try:
        answer: dict[str, Any] = json.loads(out[:MAX_ANSWER_BYTES])
        fault = answer.get("error")
    except (ValueError, AttributeError):
        words = " ".join(errors.decode("utf-8", "replace").split())[-_MAX_SHOWN:]
        raise CliError(
            f"The conversion program cannot run here: {words}",
            code="tool_missing",
            hint="It needs the agent's packages: pip install 'modelfleet[agent,publish]'; or use --on DEVICE",
        ) from None
    if fault is not None:
        raise CliError(str(fault["message"]), code=str(fault["code"]), exit_code=ExitCode.FAILURE)
    return answer
