"""What is published, from Python: weights for a MindSpore network, models that predict. See docs/hub.md.

    from registry import hub
    hub.load_weights(network, network_name="lenet", device_target="ascend", dataset="mnist", version="0.5.0")
    hub.load("lenet").predict(batch)
    hub.list()

The one `__init__` with content here: these names are the client's face, and nothing heavy is imported for them.
"""

from registry.hub.model import Model, load, load_weights
from registry.hub.source import HubError
from registry.hub.source import list_models as list  # noqa: A004 - hub.list() is its name

__all__ = ["HubError", "Model", "list", "load", "load_weights"]
