"""What a user of MindSpore does with the hub client. Run by MindSpore's interpreter, with this project on its path:

PYTHONPATH=ROOT PYTHON mindspore_hub.py NUM_CLASS '{"dataset": "mnist", ...}'

Prints one JSON object: `values`, every number that is in the network afterwards, and `code` of what was refused.
"""

from __future__ import annotations

import json
import sys

import numpy as np

from registry import hub
from registry.mindspore_networks.lenet import LeNet5

network = LeNet5(num_class=int(sys.argv[1]))
for parameter in network.get_parameters():
    parameter.set_data(type(parameter.value())(np.full(parameter.shape, 7, np.float32)))
code = ""
try:
    assert hub.load_weights(network, **json.loads(sys.argv[2])) is network
except hub.HubError as error:
    code = error.code
values = {float(number) for item in network.get_parameters() for number in np.unique(item.asnumpy())}
sys.stdout.write(json.dumps({"values": sorted(values), "code": code}) + "\n")
