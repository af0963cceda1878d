"""The rival: what one writes in an afternoon. on_message parses the request, runs the model and publishes the result.

Open Inference Protocol binary in and out, like the agent; no checks, no batches, no TCP_NODELAY, one thread.
usage: rival.py PORT TOPIC MODEL.onnx QOS   prints "ready"
"""

from __future__ import annotations

import json
import sys

import numpy as np
import onnxruntime as ort
import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

port, topic, path, qos = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
LENGTH = "inference-header-content-length"


def answer(client, _userdata, message):
    """One request, one result."""
    length = int(dict(message.properties.UserProperty)[LENGTH])
    header = json.loads(message.payload[:length])
    tensor = header["inputs"][0]
    x = np.frombuffer(message.payload, np.float32, offset=length).reshape(tensor["shape"])
    (y,) = session.run(None, {tensor["name"]: x})
    head = json.dumps(
        {
            "model_name": "m",
            "outputs": [
                {
                    "name": session.get_outputs()[0].name,
                    "shape": list(y.shape),
                    "datatype": "FP32",
                    "parameters": {"binary_data_size": y.nbytes},
                }
            ],
        }
    ).encode()
    properties = Properties(PacketTypes.PUBLISH)
    properties.CorrelationData = message.properties.CorrelationData
    properties.UserProperty = [(LENGTH, str(len(head)))]
    client.publish(message.properties.ResponseTopic, head + y.tobytes(), qos, properties=properties)


client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
client.on_message = answer
client.on_connect = lambda c, *_: c.subscribe(topic, qos)
client.on_subscribe = lambda *_: print("ready", flush=True)
client.connect("127.0.0.1", port)
client.loop_forever()
