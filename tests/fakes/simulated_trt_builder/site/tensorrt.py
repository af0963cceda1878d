"""A SIMULATED `tensorrt`: the builder's documented calls of TensorRT 10, and nothing behind them.

What the documentation forbids is an error here: a second use of a builder's parts in the wrong order, a shape that is
no tuple, a profile for an input that the network does not have, a plan without a profile for open dimensions.
"""

__version__ = "10.13.3.9"


class Logger:
    WARNING = 2

    def __init__(self, severity):
        assert severity == self.WARNING


class MemoryPoolType:
    WORKSPACE = "workspace"


class BuilderFlag:
    FP16 = "fp16"
    VERSION_COMPATIBLE = "version_compatible"
    EXCLUDE_LEAN_RUNTIME = "exclude_lean_runtime"


class Network:
    def __init__(self):
        self.inputs = {}


class OnnxParser:
    def __init__(self, network, logger):
        assert isinstance(network, Network)
        assert isinstance(logger, Logger)
        self._network, self._errors = network, []

    @property
    def num_errors(self):
        return len(self._errors)

    def get_error(self, index):
        return self._errors[index]

    def parse_from_file(self, path):
        import onnx

        try:
            graph = onnx.load(path).graph
        except Exception:  # noqa: BLE001 - the parser answers False, whatever the reason
            self._errors.append("In node -1 (importModel): INVALID_GRAPH: failed to parse the file")
            return False
        for value in graph.input:
            dims = value.type.tensor_type.shape.dim
            self._network.inputs[value.name] = tuple(dim.dim_value or -1 for dim in dims)
        return True


class Profile:
    def __init__(self):
        self.shapes = {}

    def set_shape(self, name, least, usual, most):
        assert all(isinstance(shape, tuple) for shape in (least, usual, most))
        assert all(a <= b <= c for a, b, c in zip(least, usual, most, strict=True))
        self.shapes[name] = (least, usual, most)


class Config:
    def __init__(self):
        self.flags, self.profiles, self.workspace = set(), [], 0

    def set_flag(self, flag):
        self.flags.add(flag)

    def set_memory_pool_limit(self, pool, size):
        assert pool == MemoryPoolType.WORKSPACE
        self.workspace = size

    def add_optimization_profile(self, profile):
        self.profiles.append(profile)
        return len(self.profiles) - 1


class Builder:
    def __init__(self, logger):
        assert isinstance(logger, Logger)

    def create_network(self, flags):
        assert flags == 0
        return Network()

    def create_builder_config(self):
        return Config()

    def create_optimization_profile(self):
        return Profile()

    def build_serialized_network(self, network, config):
        open_inputs = {name for name, shape in network.inputs.items() if -1 in shape}
        described = {name for profile in config.profiles for name in profile.shapes}
        if open_inputs - described or described - set(network.inputs):
            return None
        return b"simulated plan " + ",".join(sorted(config.flags)).encode()
