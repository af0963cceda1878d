"""`registry ask`: one request to a device over MQTT, and its answer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from registry.cli.inference.broker import (
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
from registry.cli.session import Session, command
from registry.client.errors import UsageFault
from registry.client.versions import split_reference

if TYPE_CHECKING:
    from registry.client.devices import Answer, DetectedObject

LEAST_SECONDS = 0.05
"""For the request, however long the connection took."""
SHOWN = 64
"""Elements of an output that a person sees; --json has all."""


@command
@asks_devices
def ask(
    session: Session,
    device: DeviceArgument,
    reference: ReferenceArgument,
    *,
    picture: PictureOption = None,
    request: RequestOption = None,
    npz: NpzOption = None,
    pool: PoolOption = False,
    output: Annotated[
        list[str] | None, typer.Option("--output", metavar="NAME", help="Only this output; may be repeated.")
    ] = None,
    score_threshold: Annotated[
        float | None,
        typer.Option(
            "--score-threshold", min=0, max=1, metavar="SCORE", help="Of a detector: only objects with a higher score."
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option("--timeout", min=0.1, max=3600, metavar="SECONDS", help="For the connection and the answer."),
    ] = 10.0,
    options: BrokerOptions,
) -> None:
    """Ask a device that serves a model, over MQTT, and show the answer.

    ```
    registry ask edge-1 lenet --picture 7.png
    registry ask edge-1 iris --request '-' <<< '{"x": [[5.1, 3.5, 1.4, 0.2]]}'
    registry ask edge-1 yolo --picture street.jpg --score-threshold 0.5
    registry ask edge-1 sum --npz inputs.npz --output y --json
    registry ask cameras lenet --pool --picture 7.png --broker mqtt://broker.example
    ```
    """
    given = read_inputs(picture, npz, request)
    if given is None:
        raise UsageFault("Nothing to ask", hint="Give --picture FILE, --request FILE or --npz FILE")
    model, version = split_reference(reference)
    asked = completed(given, model, version, output)
    if score_threshold is not None:
        from registry.client.devices import DetectionOptions  # noqa: PLC0415 - needs NumPy

        asked["detections"] = DetectionOptions(score_threshold=score_threshold)
    until = time.monotonic() + timeout
    with connected(options, connect_timeout=timeout) as client:
        whom: dict[str, Any] = {"pool": device} if pool else {"device": device}
        if not pool:
            require_models(client, device, max(LEAST_SECONDS, until - time.monotonic()))
        try:
            answer = client.infer(
                **whom,
                timeout=max(LEAST_SECONDS, until - time.monotonic()),
                **asked,
            )
        except ValueError as error:
            if hasattr(error, "code"):
                raise
            raise UsageFault(str(error)) from error
    show(session, answer)


def show(session: Session, answer: Answer) -> None:
    """An answer: its labels where there are some, else its tensors."""
    outputs = {name: _plain(answer, name) for name in answer.datatypes}
    if session.out.as_json:
        session.out.document(
            {
                "device": answer.device,
                "model": answer.model_name,
                "version": answer.model_version,
                "variant": answer.variant,
                "seconds": round(answer.seconds, 6),
                **_found(answer),
                "outputs": {
                    name: {"datatype": answer.datatypes[name], "shape": list(answer.raw(name).shape), "data": data}
                    for name, data in outputs.items()
                },
            }
        )
        return
    from registry.client.devices.detections import OBJECT_OUTPUTS  # noqa: PLC0415 - needs NumPy

    try:
        found = answer.detections
    except LookupError:
        pass
    else:
        _table(session, found)
        outputs = {name: data for name, data in outputs.items() if name not in OBJECT_OUTPUTS}
    try:
        rows = [
            (item, label, f"{score:.4f}")
            for item, (labels, scores) in enumerate(zip(answer.labels, answer.scores, strict=True))
            for label, score in zip(labels, scores, strict=True)
        ]
    except LookupError:
        rows = []
    if rows:
        many = len(answer.labels) > 1
        session.out.table(
            ((">ITEM",) if many else ()) + ("LABEL", ">SCORE"), [row if many else row[1:] for row in rows], empty=""
        )
    for name, data in outputs.items():
        if rows and name in ("label", "score"):
            continue
        session.out.say(f"{name} {answer.datatypes[name]}{list(answer.raw(name).shape)}: {_text(data)}")
    who = f"{answer.device}: {answer.model_name}@{answer.model_version} ({answer.variant})"
    session.out.note(f"{who}, {answer.seconds * 1e3:.1f} ms")


def _found(answer: Answer) -> dict[str, Any]:
    """The objects of a detector's answer, for programs."""
    try:
        objects = answer.detections
    except LookupError:
        return {}
    rows = [{"label": e.label, "class": e.class_id, "score": e.score, "box": list(e.box)} for e in objects]
    return {"detections": rows}


def _table(session: Session, found: list[DetectedObject]) -> None:
    """Edges in pixels of the picture."""
    rows = [(each.label, f"{each.score:.4f}", *(f"{edge:.1f}" for edge in each.box)) for each in found]
    session.out.table(("LABEL", ">SCORE", ">LEFT", ">TOP", ">RIGHT", ">BOTTOM"), rows, empty="nothing was detected")


def _plain(answer: Answer, name: str) -> Any:
    """Lists of numbers and text; what is no UTF-8 keeps its bytes as escapes."""
    values = answer[name].tolist()
    return _decoded(values) if answer.datatypes[name] == "BYTES" else values


def _decoded(value: Any) -> Any:
    return [_decoded(item) for item in value] if isinstance(value, list) else value.decode(errors="backslashreplace")


def _text(data: Any) -> str:
    import numpy as np  # noqa: PLC0415 - loaded by now

    return np.array2string(np.asarray(data), threshold=SHOWN, precision=6, separator=", ")
