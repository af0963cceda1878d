"""Asks devices over MQTT for the page that tries models, by the library that programs use.

Each trial has a connection of its own to the registry's broker, as the registry's user of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from registry.certificates import CertificateError
from registry.config import Mqtt
from registry.contracts.codes import InferenceCode, RequestCode
from registry.contracts.topics import REPLIES
from registry.server.console.trials import AskedSlot, Box, Outcome, ShownOutput

if TYPE_CHECKING:
    from registry.client.devices import Answer, Client, DeviceError

CONNECT_S = 5.0
ANSWER_S = 10.0
"""Seconds until an answer must be there, waiting and repeats included."""
MAX_SHOWN = 1000
"""Elements of an output."""
MAX_CHARACTERS = 256
"""Of one text in an output."""
_OBJECTS = ("boxes", "scores", "classes", "labels")
_CLASSES = ("label", "score")


def ask(mqtt: Mqtt, targets: Sequence[AskedSlot], given: Mapping[str, Any]) -> tuple[Outcome, ...]:
    """One outcome for each target, which are asked one after the other, so that none waits for another.

    Args:
        mqtt: The registry's settings of its broker.
        targets: Whom.
        given: Arguments of `Client.infer`: a picture, or inputs with what else a request says.
    """
    from registry.client.devices import Client, DeviceError  # noqa: PLC0415 - needs NumPy: 100 ms

    try:
        arguments = mqtt.client_arguments()
        # Below the user's name, as the broker's rules tie the answers of a client to its user.
        prefix = f"{REPLIES}/{mqtt.username}" if mqtt.username else REPLIES
        client = Client(arguments.pop("url"), **arguments, reply_prefix=prefix, connect_timeout=CONNECT_S)
    except DeviceError as error:
        return tuple(_failed(target, error) for target in targets)
    except (ValueError, CertificateError, OSError) as error:
        fault = DeviceError(RequestCode.NOT_CONNECTED, f"the registry's settings of its broker cannot be used: {error}")
        return tuple(_failed(target, fault) for target in targets)
    with client:
        return tuple(_asked(client, target, given) for target in targets)


def _asked(client: Client, target: AskedSlot, given: Mapping[str, Any]) -> Outcome:
    from registry.client.devices import DeviceError  # noqa: PLC0415 - as above

    whom: dict[str, Any] = {"pool": target.name} if target.pool else {"device": target.name}
    wanted = {**given, "model": target.model, **({"version": target.version} if target.version else {})}
    try:
        return _answered(target, client.infer(**whom, **wanted, timeout=ANSWER_S))
    except DeviceError as error:
        return _failed(target, error)
    except (ValueError, TypeError) as error:
        return _failed(target, DeviceError(InferenceCode.BAD_PAYLOAD, f"the request cannot be sent: {error}"))


def _failed(target: AskedSlot, error: DeviceError) -> Outcome:
    return Outcome(target, code=error.code, message=error.message, action=error.action, device=error.device)


def _answered(target: AskedSlot, answer: Answer) -> Outcome:
    labels: tuple[tuple[tuple[str, float], ...], ...] = ()
    boxes: tuple[Box, ...] | None = None
    shown = set(answer.datatypes)
    try:
        boxes = tuple(Box(*each.box, each.score, each.class_id, each.label) for each in answer.detections[:MAX_SHOWN])
        shown -= set(_OBJECTS)
    except LookupError:
        pass
    try:
        rows = zip(answer.labels, answer.scores.tolist(), strict=True)
        labels = tuple(tuple(zip(names, scores, strict=True)) for names, scores in list(rows)[:MAX_SHOWN])
        shown -= set(_CLASSES)
    except LookupError:
        pass
    outputs = tuple(_shown(answer, name) for name in answer.datatypes if name in shown)
    return Outcome(
        target,
        seconds=answer.seconds,
        device=answer.device,
        version=answer.model_version,
        variant=answer.variant,
        labels=labels,
        boxes=boxes,
        outputs=outputs,
    )


def _shown(answer: Answer, name: str) -> ShownOutput:
    values = answer[name]
    left_out = max(0, values.size - MAX_SHOWN)
    if left_out:
        values = values.ravel()[:MAX_SHOWN]
    if values.dtype.kind == "f":
        values = values.astype("U").astype("f8")  # the digits that the value has in its own width
    text = json.dumps(_plain(values.tolist()), ensure_ascii=False)
    return ShownOutput(name, answer.datatypes[name], answer.raw(name).shape, text, left_out)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value.decode(errors="backslashreplace")[:MAX_CHARACTERS] if isinstance(value, bytes) else value
