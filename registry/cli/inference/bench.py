"""`registry bench`: how fast a device answers over MQTT."""

from __future__ import annotations

import time
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from registry.cli.inference.broker import (
    METADATA_S,
    BrokerOptions,
    DeviceArgument,
    NpzOption,
    PictureOption,
    PoolOption,
    ReferenceArgument,
    RequestOption,
    asks_devices,
    connected,
    require_models,
)
from registry.cli.inference.inputs import completed, read_inputs
from registry.cli.output import CliError, ExitCode
from registry.cli.session import Session, command
from registry.client.errors import UsageFault
from registry.client.versions import split_reference

if TYPE_CHECKING:
    from registry.client.devices import Answer, Client, DeviceError

TOLD_EVERY_S = 2.0
DEFAULT_SECONDS = 10.0


@dataclass
class BenchFigures:
    """What came back so far."""

    seconds: array[float] = field(default_factory=lambda: array("d"))
    """Of each answer, from the call to the answer."""
    errors: Counter[str] = field(default_factory=Counter)
    """By code."""
    took: float = 0.0
    """From the first request to the newest answer."""

    def add(self, outcome: Answer | DeviceError, took: float) -> None:
        """One request ended."""
        self.took = took
        if isinstance(outcome, Exception):
            self.errors[outcome.code] += 1
        else:
            self.seconds.append(outcome.seconds)

    @property
    def mostly_overloaded(self) -> bool:
        """Were more than half of the requests refused because the device was full?"""
        return 2 * self.errors["overloaded"] > len(self.seconds) + self.errors.total()

    @property
    def rate(self) -> float:
        """Answers per second."""
        return len(self.seconds) / self.took if self.took > 0 else 0.0

    def quantiles(self) -> dict[str, float]:
        """Milliseconds; empty without an answer."""
        held = sorted(self.seconds)
        if not held:
            return {}
        shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
        return {
            name: round(held[min(len(held) - 1, int(share * len(held)))] * 1e3, 3) for name, share in shares.items()
        }


@command
@asks_devices
def bench(
    session: Session,
    device: DeviceArgument,
    reference: ReferenceArgument,
    *,
    requests: Annotated[
        int | None, typer.Option("--requests", "-n", min=1, max=10_000_000, help="Send so many.")
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option("--seconds", min=0.1, max=600, help=f"Send for so long. Default: {DEFAULT_SECONDS:g}."),
    ] = None,
    in_flight: Annotated[
        int, typer.Option("--in-flight", min=1, max=1024, help="Requests that are under way at once.")
    ] = 32,
    picture: PictureOption = None,
    request: RequestOption = None,
    npz: NpzOption = None,
    pool: PoolOption = False,
    qos: Annotated[int, typer.Option("--qos", min=0, max=1, help="Of MQTT.")] = 1,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, max=3600, help="Seconds for each request.")] = 10.0,
    options: BrokerOptions,
) -> None:
    """Measure how many requests a device answers per second, and how fast.

    Without --picture, --npz and --request it sends random numbers in the shapes that the device says the model takes
    (one where any size may be). A refused request counts as an error and is not sent again. The latency is what this
    program sees: with the broker, the network and the queue that --in-flight makes. Exit code 1: nothing was answered.

    ```
    registry bench edge-1 lenet
    registry bench edge-1 lenet --picture 7.png --in-flight 1 --requests 1000
    registry bench cameras lenet --pool --seconds 60 --json
    ```
    """
    if requests is not None and seconds is not None:
        raise UsageFault("Give --requests or --seconds, not both")
    given = read_inputs(picture, npz, request)
    if given is not None and "request_id" in given:
        raise UsageFault("The request has an id: a device would run it once, and answer from memory after that")
    model, version = split_reference(reference)
    fields = completed(given or {}, model, version)
    whom: dict[str, Any] = {"pool": device} if pool else {"device": device}
    interrupted = False
    with connected(options, max_in_flight=max(in_flight, 1)) as client:
        if not pool:
            require_models(client, device, timeout)
        if given is None:
            fields["inputs"] = random_inputs(client, model, timeout=timeout, **whom)
        how: dict[str, Any] = {"timeout": timeout, "qos": qos}
        first = client.infer(**whom, **how, **fields)
        tally = BenchFigures()
        began = told = time.monotonic()
        until = began + (seconds or DEFAULT_SECONDS) if requests is None else None
        asked = _requests(fields | whom, requests, until)
        try:
            for outcome in client.infer_many(asked, window=in_flight, errors="return", retries=0, **how):
                now = time.monotonic()
                tally.add(outcome, now - began)
                if now - told >= TOLD_EVERY_S:
                    told = now
                    session.out.note(f"{now - began:4.0f} s: {len(tally.seconds)} answers, {tally.rate:.0f}/s")
        except KeyboardInterrupt:
            interrupted = True
        limit = queue_limit(client, first, timeout) if tally.mostly_overloaded and not interrupted else None
    _show(session, first, tally, in_flight)
    if tally.mostly_overloaded:
        holds = "" if limit is None else f": {first.device} holds {limit} requests of {model} at once"
        session.out.warn(f"most requests were refused as overloaded{holds}. Send fewer at once: --in-flight N")
    if interrupted:
        raise typer.Exit(ExitCode.INTERRUPTED)
    if not tally.seconds:
        raise CliError("Nothing was answered", code=next(iter(tally.errors), "failed"))


def _requests(fields: dict[str, Any], count: int | None, until: float | None) -> Iterator[Any]:
    from registry.client.devices import InferenceRequest  # noqa: PLC0415 - needs NumPy

    sent = 0
    while (count is None or sent < count) and (until is None or time.monotonic() < until):
        yield InferenceRequest(**fields)
        sent += 1


def queue_limit(client: Client, first: Answer, timeout: float) -> int | None:
    """How many requests the device holds of the model; None: it does not say."""
    from registry.client.devices import DeviceError  # noqa: PLC0415 - needs NumPy

    try:
        found = client.metadata(first.device, first.model_name, timeout=min(timeout, METADATA_S))
    except DeviceError:
        return None
    limit = found.document["parameters"].get("queue_limit")
    return limit if isinstance(limit, int) else None


def random_inputs(
    client: Client, model: str, *, timeout: float, device: str | None = None, pool: str | None = None
) -> dict[str, Any]:
    """Of the shapes that the device, or one of the pool, says. Raises DeviceError, CliError."""
    if device is not None:
        found = client.metadata(device, model, timeout=timeout)
    else:
        ready = [each for each in client.who_serves(model, pool=pool, wait=min(timeout, 1.0)) if each.ready]
        if not ready:
            raise CliError(f"No device of the pool {pool} says that {model} is ready", code="model_not_ready")
        found = ready[0]
    if not found.ready:
        raise CliError(f"{model} is not ready on {found.device}: {found.reason}", code=found.code)
    return {each.name: random_tensor(each.datatype, each.shape) for each in found.inputs if not each.optional}


def random_tensor(datatype: str, shape: tuple[int, ...]) -> Any:
    """Numbers of the datatype: floating-point in 0 to 1, integers in 0 to 9; the text `text`. -1 in a shape is 1."""
    import numpy as np  # noqa: PLC0415 - loaded by now

    from registry.client.devices import TypedTensor  # noqa: PLC0415 - as above

    sizes = tuple(1 if size < 0 else size for size in shape)
    source = np.random.default_rng(0)
    if datatype == "BYTES":
        return np.full(sizes, "text", dtype=object)
    if datatype == "BOOL":
        return source.integers(0, 2, sizes).astype(bool)
    if datatype.startswith(("INT", "UINT")):
        return TypedTensor(source.integers(0, 10, sizes), datatype)
    return TypedTensor(source.random(sizes, dtype=np.float32), datatype)


def _show(session: Session, first: Answer, tally: BenchFigures, in_flight: int) -> None:
    quantiles = tally.quantiles()
    failed = sum(tally.errors.values())
    if session.out.as_json:
        session.out.document(
            {
                "device": first.device,
                "model": first.model_name,
                "version": first.model_version,
                "variant": first.variant,
                "requests": len(tally.seconds) + failed,
                "answered": len(tally.seconds),
                "errors": dict(tally.errors),
                "seconds": round(tally.took, 3),
                "rate": round(tally.rate, 1),
                "in_flight": in_flight,
                "latency_ms": quantiles,
            }
        )
        return
    session.out.say(f"{first.device}: {first.model_name}@{first.model_version} ({first.variant})")
    session.out.say(f"{len(tally.seconds)} answers in {tally.took:.1f} s, {in_flight} in flight: {tally.rate:.0f}/s")
    if quantiles:
        session.out.say("latency " + ", ".join(f"{name} {value:g} ms" for name, value in quantiles.items()))
    if failed:
        session.out.say(errors_text(tally.errors))


def errors_text(errors: Counter[str]) -> str:
    """How many there were of each code, the most frequent first."""
    many = "error" if errors.total() == 1 else "errors"
    return f"{errors.total():,} {many}: " + ", ".join(f"{code} {count:,}" for code, count in errors.most_common())
