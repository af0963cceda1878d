"""TensorRT plans on the GPU, through the name-based API (TensorRT 8.5 to 11).

A plan runs with the TensorRT and on the kind of GPU that built it. TensorRT has no call that tells beforehand, so what
the manifest says of the build is compared first, and a plan that does not come up is refused with TensorRT's own words.
Plans that bring code for the host are refused: engine_host_code_allowed stays False, whoever signed them.

Static and dynamic shapes: a request runs under the first optimisation profile that holds its shapes. All memory is
taken when loading, for the largest shapes of all profiles. Refused when loading: shape tensors on the host, formats
that are not linear, outputs whose size only a run tells, datatypes that the Open Inference Protocol does not know.
One context on one stream, one request at a time. TensorRT checks no sizes: everything is checked before it is copied.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from agent.backends.base import (
    NUMPY_DTYPES,
    BackendError,
    BackendProbe,
    DeviceTensor,
    LoadOptions,
    TensorInfo,
    checked_feed,
    size_of,
)
from agent.backends.catalog import CATALOG, import_vendor
from agent.backends.tensorrt_cuda import NAME, Cuda, CudaError
from registry.plan_file import read_description

if TYPE_CHECKING:
    from agent.backends.base import Array

MAX_PLAN_BYTES = 16 << 30
_OLDEST = (8, 5)
"""The name-based API came with TensorRT 8.5."""
_CROSS_MAJOR = {("8", "10"), ("10", "11")}
"""Of version-compatible plans, beside a newer release of the same major (TensorRT's documentation)."""
_VERSION = re.compile(r"\d+(\.\d+){1,3}")
DATATYPES = {
    "FLOAT": "FP32",
    "HALF": "FP16",
    "BF16": "BF16",
    "INT8": "INT8",
    "UINT8": "UINT8",
    "INT32": "INT32",
    "INT64": "INT64",
    "BOOL": "BOOL",
}
"""TensorRT's DataType by name in the words of the Open Inference Protocol; FP8, FP4, INT4 and so on are not in it."""
MAX_PROFILES = 64
_MAX_TENSORS = 2048
_MAX_BUFFER = 1 << 36
_TOLD_LINES, _TOLD_CHARS = 4, 400

Shape = tuple[int, ...]
Profile = dict[str, tuple[Shape, Shape]]
"""An optimisation profile: by input the smallest and the largest shape."""


class TensorRtPlan:
    """The backend for TensorRT plans."""

    def probe(self) -> BackendProbe:
        """Takes the GPU, a stream and memory, and makes a TensorRT runtime.

        `version` is TensorRT's; the provider names it and the GPU's compute capability, on which a plan depends.
        """
        try:
            trt = vendor()
            cuda = Cuda()
            stream = cuda.make_stream()
            try:
                cuda.free(cuda.allocate(256))
                cuda.synchronize(stream)
            finally:
                cuda.destroy_stream(stream)
            make_runtime(trt, make_log(trt))
            capability = cuda.compute_capability()
        except BackendError as error:
            return BackendProbe(usable=False, reason=error.message)
        version = str(trt.__version__)
        return BackendProbe(usable=True, version=version, targets=("gpu",), providers=(provider(trt, capability),))

    def load(self, directory: str, entry: str, options: LoadOptions) -> TensorRtSession:
        """Loads a plan; what was taken is given back when that fails."""
        if options.target != "gpu":
            raise BackendError("backend_unavailable", f"a TensorRT plan runs on a GPU, not on {options.target!r}")
        trt = vendor()
        cuda = Cuda()
        capability = cuda.compute_capability()
        check_build(options.build, str(trt.__version__), capability)
        plan = read_plan(os.path.join(directory, entry))
        log = make_log(trt)
        return TensorRtSession(trt, cuda, make_runtime(trt, log), plan, log=log, provider=provider(trt, capability))


class Log:
    """What TensorRT said. TensorRT keeps the first logger of a process for all its life, so there is only one."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, text: str) -> None:
        """An error or a warning."""
        self._lines = [*self._lines[1 - _TOLD_LINES :], " ".join(text.split())]

    def told(self) -> str:
        """The last errors in a line, and forgets them."""
        lines, self._lines = self._lines, []
        return "; ".join(lines)[-_TOLD_CHARS:]


_LOGS: dict[int, Any] = {}
"""The process's logger, by the identity of the vendor's module."""


def make_log(trt: Any) -> Any:
    """An ILogger of TensorRT's that is also a Log: the same one each time."""
    if id(trt) not in _LOGS:

        class _Logger(trt.ILogger, Log):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)
                Log.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if int(severity) <= int(trt.ILogger.Severity.ERROR):
                    self.add(message)

        _LOGS[id(trt)] = _Logger()
    return _LOGS[id(trt)]


class TensorRtSession:
    """One plan. `run` and `close` may come from any thread, one after the other."""

    concurrent = False
    batch_sizes: tuple[int, ...] = ()

    def __init__(self, trt: Any, cuda: Cuda, runtime: Any, plan: bytes, *, log: Log, provider: str) -> None:
        """Raises BackendError; whatever was taken by then is given back."""
        self._trt, self._cuda, self._log = trt, cuda, log
        self.provider = provider
        self._lock = threading.Lock()
        self._runtime = runtime
        self._engine: Any = None
        self._context: Any = None
        self._tensors: dict[str, DeviceTensor] = {}
        with ExitStack() as stack:
            self._open(plan, stack)
            self._stack = stack.pop_all()
        self.inputs = tuple(self._tensors[name].info for name in self._input_names)
        self.outputs = tuple(tensor.info for name, tensor in self._tensors.items() if name not in self._input_names)

    def _open(self, plan: bytes, stack: ExitStack) -> None:
        """Takes everything; the stack gives it back in the opposite order: context and engine before their memory."""
        self._stream = self._cuda.make_stream()
        stack.callback(self._cuda.destroy_stream, self._stream)
        self._memory = stack.enter_context(ExitStack())
        stack.callback(self._drop)
        self._log.told()
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise BackendError("load_failed", f"TensorRT refuses the plan: {self._log.told() or 'without a reason'}")
        infos = self._read_signature()
        self._profiles = self._read_profiles(infos)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise BackendError(
                "backend_unavailable",
                f"TensorRT makes no execution context: {(self._log.told() or 'without a reason')}",
            )
        self._profile = -1
        self._take_buffers(infos)

    def run(self, feeds: dict[str, Array], outputs: Sequence[str]) -> list[Array]:
        """See BackendSession.run."""
        with self._lock:
            if self._context is None:
                raise BackendError("run_failed", "the model is closed")
            given = {name: checked_feed(self._tensors[name].info, feeds) for name in self._input_names}
            self._cuda.bind(running=True)
            # Copies run by themselves: what they read and write lives until the stream is synchronised, come what may.
            sources = {name: np.asarray(array, order="C") for name, array in given.items()}
            try:
                results = self._enqueue(sources, outputs)
            except BackendError:
                self._settle()
                raise
            self._cuda.synchronize(self._stream, running=True)
            return results

    def close(self) -> None:
        """Gives everything back; when a part of that fails, the rest is given back before CudaError is raised."""
        with self._lock:
            if self._context is None:
                return
            try:
                self._cuda.bind()
                self._cuda.synchronize(self._stream)
            finally:
                self._stack.close()

    # -- loading -------------------------------------------------------------------------------------------------------

    def _drop(self) -> None:
        """TensorRT frees its objects when the last name for them goes."""
        self._context = None
        self._engine = None
        self._runtime = None

    def _read_signature(self) -> dict[str, TensorInfo]:
        """Every tensor by name, in the engine's order."""
        trt, engine = self._trt, self._engine
        if not 0 < engine.num_io_tensors <= _MAX_TENSORS:
            raise BackendError("load_failed", f"the plan has {engine.num_io_tensors} tensors")
        infos: dict[str, TensorInfo] = {}
        inputs: list[str] = []
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
                raise BackendError("load_failed", f"{name!r} is a shape tensor on the host, which no request carries")
            if engine.get_tensor_format(name) != trt.TensorFormat.LINEAR:
                raise BackendError("load_failed", f"{name!r} is not linear in memory: build the plan without formats")
            kind = engine.get_tensor_dtype(name).name
            if kind not in DATATYPES:
                raise BackendError(
                    "load_failed", f"{name!r} is a {kind}, which the Open Inference Protocol has no datatype for"
                )
            infos[name] = TensorInfo(name, DATATYPES[kind], tuple(engine.get_tensor_shape(name)))
            if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
                inputs.append(name)
        self._input_names = tuple(inputs)
        return infos

    def _read_profiles(self, infos: dict[str, TensorInfo]) -> tuple[Profile, ...]:
        count = self._engine.num_optimization_profiles
        if not 0 < count <= MAX_PROFILES:
            raise BackendError("load_failed", f"the plan has {count} optimisation profiles")
        return tuple(
            {name: self._ends(name, index, infos[name]) for name in self._input_names} for index in range(count)
        )

    def _ends(self, name: str, profile: int, info: TensorInfo) -> tuple[Shape, Shape]:
        """The smallest and the largest shape of an input."""
        if -1 not in info.shape:
            return info.shape, info.shape
        shapes = self._engine.get_tensor_profile_shape(name, profile)
        if len(shapes) != 3 or any(len(shape) != len(info.shape) for shape in shapes):
            raise BackendError("load_failed", f"optimisation profile {profile} says nothing of input {name!r}")
        return tuple(shapes[0]), tuple(shapes[2])

    def _take_buffers(self, infos: dict[str, TensorInfo]) -> None:
        """For the largest shapes of every profile."""
        sizes = dict.fromkeys(infos, 1)  # an empty tensor wants an address as well
        for index, profile in enumerate(self._profiles):
            self._select(index)
            self._set_shapes({name: high for name, (_, high) in profile.items()})
            for name, info in infos.items():
                shape = tuple(self._context.get_tensor_shape(name))
                if any(dim < 0 for dim in shape):
                    raise BackendError("load_failed", f"the size of output {name!r} depends on the data of a request")
                sizes[name] = max(sizes[name], size_of(info, shape))
        for name, info in infos.items():
            if sizes[name] > _MAX_BUFFER:
                raise BackendError("load_failed", f"{name!r} takes {sizes[name]} bytes at its largest shape")
            pointer = self._cuda.allocate(sizes[name])
            self._memory.callback(self._cuda.free, pointer)
            self._tensors[name] = DeviceTensor(info, pointer, sizes[name])
            if not self._context.set_tensor_address(name, pointer):
                raise BackendError("load_failed", f"TensorRT takes no address for {name!r}: {self._log.told()}")

    # -- running -------------------------------------------------------------------------------------------------------

    def _enqueue(self, sources: dict[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Puts one run on the stream; the arrays that it returns are filled when the stream is synchronised."""
        shapes = {name: array.shape for name, array in sources.items()}
        fitting = [index for index, profile in enumerate(self._profiles) if _holds(profile, shapes)]
        if not fitting:
            raise BackendError("wrong_shape", f"no optimisation profile of the plan holds {_show(shapes)}")
        self._select(self._profile if self._profile in fitting else fitting[0])
        self._set_shapes(shapes)
        for name, array in sources.items():
            self._cuda.upload(self._tensors[name].pointer, array.ctypes.data, array.nbytes, self._stream)
        if not self._context.execute_async_v3(self._stream):
            raise BackendError("run_failed", f"TensorRT cannot run the model: {self._log.told() or 'without a reason'}")
        results = []
        for name in outputs:
            info, pointer, size = self._tensors[name]
            shape = tuple(self._context.get_tensor_shape(name))
            if any(dim < 0 for dim in shape) or size_of(info, shape) > size:
                raise BackendError(
                    "run_failed", f"output {name!r} came as {list(shape)}, which its memory does not hold"
                )
            result: Array = np.empty(shape, NUMPY_DTYPES[info.datatype])
            self._cuda.download(result.ctypes.data, pointer, result.nbytes, self._stream)
            results.append(result)
        return results

    def _select(self, index: int) -> None:
        """Makes a profile the active one; the shapes of the one before count no more."""
        if index == self._profile:
            return
        self._profile = -1
        if not self._context.set_optimization_profile_async(index, self._stream):
            raise BackendError("run_failed", f"optimisation profile {index} cannot be used: {self._log.told()}")
        self._cuda.synchronize(self._stream, running=True)
        self._profile = index

    def _set_shapes(self, shapes: dict[str, Shape]) -> None:
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise BackendError("wrong_shape", f"TensorRT refuses {_show({name: shape})}: {self._log.told()}")
        missing = self._context.infer_shapes()
        if missing:
            raise BackendError("run_failed", f"the shapes of {', '.join(missing)} stay open")

    def _settle(self) -> None:
        """After a failure in the middle: nothing may still be copying when the arrays go."""
        try:
            self._cuda.synchronize(self._stream, running=True)
        except CudaError as error:
            self._log.add(error.message)  # the first failure is the one to tell


def vendor() -> Any:
    """The module `tensorrt`. Raises BackendError(backend_unavailable), saying what to install."""
    trt = import_vendor(NAME, "tensorrt", "tensorrt")
    version = str(getattr(trt, "__version__", ""))
    if not _VERSION.match(version) or tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
        message = f"TensorRT {version or 'without a version'} is older than 8.5: {CATALOG[NAME].install}"
        raise BackendError("backend_unavailable", message)
    return trt


def provider(trt: Any, capability: str) -> str:
    """What computes, in a report."""
    return f"TensorRT {trt.__version__} on compute capability {capability}"


def make_runtime(trt: Any, log: Log) -> Any:
    """A runtime that loads no host code. Raises BackendError(backend_unavailable)."""
    try:
        runtime = trt.Runtime(log)
    except Exception as error:  # noqa: BLE001 - pybind's exceptions derive from Exception only
        raise BackendError("backend_unavailable", f"TensorRT does not start: {log.told() or error}") from None
    runtime.engine_host_code_allowed = False
    return runtime


def check_build(build: Mapping[str, str], version: str, capability: str) -> None:
    """Whether what the manifest says of the plan fits this host. Raises BackendError(load_failed)."""
    wanted = build.get("tensorrt_version")
    compatible = build.get("tensorrt_version_compatible") == "True"
    if wanted and not _runs_version(wanted, version, compatible=compatible):
        raise BackendError(
            "load_failed", f"the plan was built by TensorRT {wanted}, this host has {version}: build it again"
        )
    built_for, level = build.get("compute_capability"), build.get("hardware_compat")
    ampere_plus = level == "ampere_plus" and int(capability.split(".", maxsplit=1)[0]) >= 8
    if built_for and built_for != capability and not ampere_plus:
        raise BackendError(
            "load_failed",
            f"the plan was built for compute capability {built_for}, this GPU has {capability}: build it again",
        )


def _runs_version(wanted: str, version: str, *, compatible: bool) -> bool:
    if wanted == version:
        return True
    if not compatible or not _VERSION.fullmatch(wanted):
        return False
    built, runs = wanted.split("."), version.split(".")
    if built[0] == runs[0]:
        return [int(part) for part in runs] >= [int(part) for part in built]
    return (built[0], runs[0]) in _CROSS_MAJOR


def read_plan(path: str) -> bytes:
    """The plan's bytes, bounded, without the description that ultralytics writes in front. Raises
    BackendError(load_failed)."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not 0 < size <= MAX_PLAN_BYTES:
                raise BackendError("load_failed", f"the plan has {size} bytes: it is empty or larger than any is")
            file.seek(read_description(file, size)[1])
            return file.read()
    except OSError as error:
        raise BackendError("load_failed", f"the plan cannot be read: {error.strerror}") from None


def _holds(profile: Profile, shapes: dict[str, Shape]) -> bool:
    return all(
        low <= dim <= high
        for name, shape in shapes.items()
        for low, dim, high in zip(profile[name][0], shape, profile[name][1])
    )


def _show(shapes: dict[str, Shape]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
