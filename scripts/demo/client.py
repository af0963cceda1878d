"""A small MQTT 5 client that asks a device and waits for the result: what a user of the fleet would write.

Open Inference Protocol over MQTT: the request goes to `<prefix>/devices/<device>/infer/<model>`, the result comes
to the request's response topic with its correlation data.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import struct
import time
import uuid
from dataclasses import dataclass
from typing import Any

import numpy as np
import paho.mqtt.client as mqtt
from numpy.typing import NDArray
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

HEADER_LENGTH = "inference-header-content-length"
DATATYPES = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "INT32": "<i4", "INT64": "<i8", "UINT8": "|u1"}
"""Datatypes of the protocol that this client sends and reads in binary form, as NumPy names them."""


class RequestFailedError(Exception):
    """The device answered with an error result, or not at all (code `no_answer`)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


@dataclass(frozen=True)
class Answer:
    """A result: the protocol's JSON, the tensors by output name, and how long it took from publish to result."""

    header: dict[str, Any]
    tensors: dict[str, NDArray[Any]]
    seconds: float


def end_session(client: mqtt.Client) -> None:
    """Disconnects and ends paho's thread, leaving nothing open.

    `loop_stop` leaves a pair of sockets that paho closes when the client is collected; without its callbacks the
    client is in no cycle, so that is at once.
    """
    client.disconnect()
    client.loop_stop()
    client.on_socket_open = client.on_connect = client.on_subscribe = None
    client.on_message = client.on_publish = client.on_disconnect = None


class FleetClient:
    """Connects at once; `close()` or a `with` statement ends it. One request at a time."""

    def __init__(self, port: int, host: str = "127.0.0.1", prefix: str = "modelfleet/v1") -> None:
        self._prefix = prefix
        self._replies: queue.Queue[mqtt.MQTTMessage] = queue.Queue(maxsize=100)
        self._reply_topic = f"demo/{os.getpid()}-{uuid.uuid4().hex[:8]}/replies"
        self._subscribed: queue.Queue[bool] = queue.Queue()
        client = self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        # Without it a QoS 1 round trip takes 44 ms.
        client.on_socket_open = lambda _c, _u, sock: sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.on_connect = lambda c, *_: c.subscribe(self._reply_topic, qos=1)
        client.on_subscribe = lambda *_: self._subscribed.put(True)
        client.on_message = lambda _c, _u, message: self._replies.put_nowait(message)
        client.connect(host, port)
        client.loop_start()
        self._subscribed.get(timeout=10)

    def __enter__(self) -> FleetClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Disconnects."""
        end_session(self._client)

    def ask_image(self, device: str, model: str, picture: bytes, content_type: str = "image/png") -> Answer:
        """A JPEG or PNG file as it is; the device decodes and scales it as the manifest says."""
        return self._ask(self._topic(device, model), picture, content_type, {})

    def ask_tensors(self, device: str, model: str, *, seconds: float = 10, **inputs: NDArray[Any]) -> Answer:
        """Tensors of DATATYPES in the protocol's binary form; waits `seconds` for the result."""
        names = {np.dtype(code): name for name, code in DATATYPES.items()}
        header = {
            "inputs": [
                {
                    "name": name,
                    "shape": list(x.shape),
                    "datatype": names[x.dtype],
                    "parameters": {"binary_data_size": x.nbytes},
                }
                for name, x in inputs.items()
            ],
            "parameters": {"binary_data_output": True},
        }
        head = json.dumps(header).encode()
        body = head + b"".join(np.ascontiguousarray(x).tobytes() for x in inputs.values())
        extra = {HEADER_LENGTH: str(len(head))}
        topic = self._topic(device, model)
        return self._ask(topic, body, "application/octet-stream", extra, seconds=seconds)

    def _topic(self, device: str, model: str) -> str:
        return f"{self._prefix}/devices/{device}/infer/{model}"

    def _ask(self, topic: str, body: bytes, content_type: str, extra: dict[str, str], *, seconds: float = 10) -> Answer:
        correlation = uuid.uuid4().bytes
        properties = Properties(PacketTypes.PUBLISH)
        properties.ResponseTopic = self._reply_topic
        properties.CorrelationData = correlation
        properties.ContentType = content_type
        properties.MessageExpiryInterval = max(1, round(seconds))
        properties.UserProperty = list(extra.items())
        start = time.perf_counter()
        self._client.publish(topic, body, qos=1, properties=properties)
        while True:
            try:
                message = self._replies.get(timeout=max(0.01, start + seconds - time.perf_counter()))
            except queue.Empty:
                raise RequestFailedError("no_answer", f"{topic}: no answer within {seconds} s") from None
            if message.properties is not None and message.properties.CorrelationData == correlation:
                return _decode(message, time.perf_counter() - start)


def _decode(message: mqtt.MQTTMessage, seconds: float) -> Answer:
    properties = dict(getattr(message.properties, "UserProperty", []))
    length = int(properties.get(HEADER_LENGTH, len(message.payload)))
    header = json.loads(message.payload[:length])
    if "error" in header:
        raise RequestFailedError(header.get("code", "unknown"), header["error"])
    rest, tensors = memoryview(message.payload)[length:], {}
    for output in header["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            tensors[output["name"]] = np.array(output["data"]).reshape(output["shape"])
        elif output["datatype"] == "BYTES":
            tensors[output["name"]], rest = np.array(_strings(rest[:size])).reshape(output["shape"]), rest[size:]
        else:
            array = np.frombuffer(rest[:size], DATATYPES[output["datatype"]])
            tensors[output["name"]], rest = array.reshape(output["shape"]), rest[size:]
    return Answer(header, tensors, seconds)


def _strings(data: memoryview) -> list[str]:
    texts, at = [], 0
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at)
        texts.append(bytes(data[at + 4 : at + 4 + length]).decode())
        at += 4 + length
    return texts
