"""ONNX Runtime's execution providers: which there are, in which order they are tried, and what really ran.

A provider that is listed is not one that works, and ONNX Runtime falls back to the CPU silently: with
`session.disable_cpu_ep_fallback` and `enable_fallback=0` most fallbacks become errors, and a session counts only when
the wanted provider is among those it really has and was given nodes of the graph. Plugin providers come as packages
named onnxruntime_ep_* with get_library_path() and get_ep_names(); they are what the operator installed, and are loaded
as such.

The files beside a model are handed to ONNX Runtime as memory. By path it maps external data for as long as the session
lives (onnxruntime/core/framework/tensorprotoutils.cc): what becomes of the file on the disk then becomes an answer.
From memory it copies what it needs while the session is made. ONNX Runtime before 1.23 cannot take it so: there the
file stays mapped, and only the check in the background sees it.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import mmap
import os
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from typing import Any, NamedTuple

from agent.backends.ascend_acl import target_of
from agent.backends.base import BackendError, LoadOptions, is_memory_fault
from agent.backends.catalog import CATALOG, import_vendor

NAME = "onnxruntime"
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
TENSORRT, CANN = "TensorrtExecutionProvider", "CANNExecutionProvider"
PLUGIN_PREFIX = "onnxruntime_ep_"
MAX_PLUGINS = 16
MAX_ENGINE_BYTES = 8 << 30
"""Of the engines that TensorRT's provider keeps for one artifact; those for shapes, drivers and versions of long ago
are dropped first."""
_FATAL = 4
"""Log severity: what goes wrong comes as an exception, and a worker's stderr is small."""
_ASCENDS = ("ascend310", "ascend910")
_DEVICE_TARGETS = {"CPU": "cpu", "GPU": "gpu"}
"""OrtHardwareDeviceType by name; an NPU of a plugin is no target of this product."""


class Provider(NamedTuple):
    """One execution provider."""

    name: str
    targets: tuple[str, ...]
    concurrent: bool = False
    """Several threads may run one session; documented for CPU and CUDA."""
    helpers: tuple[str, ...] = ()
    """Providers that may take the nodes that it does not, on the same hardware."""
    devices: tuple[Any, ...] = ()
    """Of a plugin: its OrtEpDevice objects."""


BUILT_IN = (
    Provider(CPU, ("cpu",), concurrent=True),
    Provider(CUDA, ("gpu",), concurrent=True),
    Provider(TENSORRT, ("gpu",), helpers=(CUDA,)),
    Provider(CANN, _ASCENDS),
)
"""In the order in which they are tried; the profile `latency` tries TensorRT before CUDA."""

_REGISTERED: dict[str, tuple[Provider, ...]] = {}
"""Plugin packages of this process, each registered once."""
_FAULTS: dict[str, str] = {}
"""Why a plugin package counts for nothing."""


def vendor() -> Any:
    """The module onnxruntime. Raises BackendError(backend_unavailable), saying what to install."""
    # Some builds carry an uploader of usage data; it must be off before the import.
    os.environ.update(CATALOG[NAME].settings)
    onnxruntime = import_vendor(NAME, "onnxruntime", "onnxruntime")
    onnxruntime.set_default_logger_severity(_FATAL)
    return onnxruntime


def listed(ort: Any) -> tuple[Provider, ...]:
    """What this onnxruntime says it has, and the plugins that are installed beside it."""
    available = set(ort.get_available_providers())
    return (*(provider for provider in BUILT_IN if provider.name in available), *_plugins(ort))


def wanted_for(ort: Any, options: LoadOptions) -> tuple[Provider, ...]:
    """The providers to try for a target, best first; the setting `provider` allows only the one that it names."""
    named = options.settings.get("provider")
    able = [p for p in listed(ort) if options.target in p.targets and named in (None, p.name)]
    if options.target == "cpu" and named is None:
        able = [provider for provider in able if provider.name == CPU]
    if options.profile == "latency":
        able.sort(key=lambda provider: provider.name != TENSORRT)
    return tuple(able)


def guarded_session(ort: Any, model: str | bytes, provider: Provider, options: LoadOptions) -> Any:
    """An InferenceSession that really is on the provider. Raises BackendError(load_failed or backend_unavailable)."""
    settings = ort.SessionOptions()
    settings.log_severity_level = _FATAL
    settings.intra_op_num_threads = options.cores if options.profile == "latency" else 1
    settings.inter_op_num_threads = 1
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if provider.name != CPU:
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if CUDA in (provider.name, *provider.helpers) and hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            ort.preload_dlls()
    given: dict[str, Any] = {"enable_fallback": 0}
    if provider.devices:
        settings.add_provider_for_devices(list(provider.devices), {})
    else:
        given["providers"] = [(name, provider_options(name, options)) for name in (provider.name, *provider.helpers)]
    try:
        with external_data(settings, model):
            session = ort.InferenceSession(model, settings, **given)
    except Exception as error:  # noqa: BLE001 - the vendor's exceptions derive from Exception only
        if is_memory_fault(error):
            raise BackendError(
                "out_of_memory", f"loading the model needs more memory than there is: {first_line(error)}"
            ) from None
        raise _refusal(provider, first_line(error)) from None
    if provider.name not in session.get_providers():
        raise BackendError(
            "backend_unavailable",
            f"onnxruntime fell back to {', '.join(session.get_providers())} although {provider.name} was asked for: "
            "the provider's libraries are missing or do not fit",
        )
    session.disable_fallback()
    what_ran(session, provider)
    return session


@contextlib.contextmanager
def external_data(settings: Any, model: str | bytes) -> Iterator[None]:
    """Gives `settings` (SessionOptions) the other files of the model's folder while a session is made."""
    give = getattr(settings, "add_external_initializers_from_files_in_memory", None)
    if give is None or isinstance(model, bytes):
        yield
        return
    with contextlib.ExitStack() as stack:
        names: list[str] = []
        maps: list[mmap.mmap] = []
        for name, path in _others(model):
            with open(path, "rb") as stream:
                maps.append(stack.enter_context(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)))
            names.append(name)
        if names:
            give(names, maps, [len(content) for content in maps])
        yield


def _others(model: str) -> Iterator[tuple[str, str]]:
    """Files beside the model that have bytes in them: the name as the model may call it, and the path."""
    folder = os.path.dirname(model)
    for at, _, files in os.walk(folder):
        for name in files:
            path = os.path.join(at, name)
            if path != model and os.lstat(path).st_size:
                yield os.path.relpath(path, folder), path


def _refusal(provider: Provider, text: str) -> BackendError:
    """Whether the provider did not come up, or the model is at fault."""
    missing = ("explicitly disabled", "ExecutionProvider fail", "install TensorRT", "Failed to load", "CUDA failure")
    if provider.name != CPU and any(words in text for words in missing):
        return BackendError("backend_unavailable", f"{provider.name} does not come up: {text}")
    return BackendError("load_failed", f"onnxruntime cannot load the model: {text}")


def what_ran(session: Any, provider: Provider) -> str:
    """Who computes it, most nodes first; ONNX Runtime before 1.24 does not tell who got which nodes.

    Raises BackendError(backend_unavailable) when the wanted provider and its helpers got none.
    """
    tell = getattr(session, "get_provider_graph_assignment_info", None)
    if provider.name == CPU or tell is None:
        return provider.name
    nodes: dict[str, int] = {}
    for part in tell():
        nodes[part.ep_name] = nodes.get(part.ep_name, 0) + len(part.get_nodes())
    if nodes and not any(name in nodes for name in (provider.name, *provider.helpers)):
        raise BackendError("backend_unavailable", f"{provider.name} was given no node: {', '.join(nodes)} has them all")
    return " + ".join(sorted(nodes, key=lambda name: -nodes[name])) or provider.name


def provider_options(name: str, options: LoadOptions) -> dict[str, str]:
    """Options of a built-in provider, as text (ONNX Runtime's documentation of each)."""
    if name == TENSORRT:
        if not options.engines:
            return {"device_id": "0"}
        folder = kept_engines(options.engines)
        cache = {"trt_engine_cache_enable": "1", "trt_engine_cache_path": folder}
        return {"device_id": "0", **cache, "trt_timing_cache_enable": "1", "trt_timing_cache_path": folder}
    if name == CANN:
        # By default it would compute in FP16 whatever the file says; so only where the chip has nothing else.
        precision = options.settings.get("precision_mode", "allow_fp32_to_fp16")
        return {"device_id": "0", "precision_mode": str(precision)}
    if name == CUDA:
        # By default CUDA rounds the operands of FP32 products to TF32's 10 bits; here only if the operator allows it.
        return {"device_id": "0", "use_tf32": "1" if options.settings.get("tf32") is True else "0"}
    return {}


def kept_engines(folder: str, limit: int = MAX_ENGINE_BYTES) -> str:
    """The folder in which TensorRT's provider keeps the engines that it built from one artifact.

    It lies beside the artifact's files, counts as part of the artifact and goes with it. It is made when it is not
    there; the oldest files over the limit are dropped.

    Raises BackendError(load_failed) when the disk refuses.
    """
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with os.scandir(folder) as entries:
            files = [(entry.stat(follow_symlinks=False), entry.path) for entry in entries]
        total = sum(status.st_size for status, _ in files)
        for status, path in sorted(files, key=lambda file: (file[0].st_mtime, file[1])):
            if total <= limit:
                break
            os.unlink(path)
            total -= status.st_size
    except OSError as error:
        raise BackendError("load_failed", f"no place for TensorRT's engines: {error.strerror}") from None
    return folder


def targets_of(provider: Provider) -> tuple[str, ...]:
    """The targets that a working provider is: of an Ascend, the one that the chip's name says."""
    if provider.name != CANN:
        return provider.targets
    target = target_of(_soc_name())
    return () if target is None else (target,)


def _soc_name() -> str:
    """aclrtGetSocName of CANN's C library, which the provider has loaded and initialised by now."""
    try:
        library = ctypes.CDLL("libascendcl.so")
        library.aclrtGetSocName.restype = ctypes.c_char_p
        name = library.aclrtGetSocName()
    except (OSError, AttributeError) as error:
        raise BackendError("backend_unavailable", f"CANN's library does not tell the chip: {error}") from None
    return (name or b"").decode("ascii", "replace")


def plugin_faults() -> tuple[str, ...]:
    """Of the installed plugin packages, those that `listed` found to be of no use here, and why."""
    return tuple(f"{package} is installed and of no use: {reason}" for package, reason in _FAULTS.items())


def _plugins(ort: Any) -> tuple[Provider, ...]:
    """The providers of installed plugin packages that have a device here."""
    if not hasattr(ort, "register_execution_provider_library"):
        return ()
    names = sorted(module.name for module in pkgutil.iter_modules() if module.name.startswith(PLUGIN_PREFIX))
    for name in names[:MAX_PLUGINS]:
        if name not in _REGISTERED:
            _REGISTERED[name] = _register(ort, name)
    return tuple(provider for providers in _REGISTERED.values() for provider in providers)


def _register(ort: Any, package: str) -> tuple[Provider, ...]:
    """The package's providers, with their devices that are a target of this product."""
    try:
        module = import_module(package)
        names = list(module.get_ep_names())
        ort.register_execution_provider_library(package, module.get_library_path())
        devices = [device for device in ort.get_ep_devices() if device.ep_name in names and _target(device)]
    except Exception as error:  # noqa: BLE001 - a package that is broken must not take the other providers with it
        _FAULTS[package] = first_line(error)
        return ()
    if not devices:
        _FAULTS[package] = "it finds no device here"
    found = []
    for name in dict.fromkeys(device.ep_name for device in devices):
        mine = tuple(device for device in devices if device.ep_name == name)
        found.append(Provider(name, tuple(dict.fromkeys(_target(device) for device in mine)), devices=mine))
    return tuple(found)


def _target(device: Any) -> str:
    return _DEVICE_TARGETS.get(str(device.device.type).rsplit(".", maxsplit=1)[-1], "")


def first_line(error: BaseException) -> str:
    """What the vendor says in one line, its beginning and its end."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 400 else f"{text[:120]} ... {text[-270:]}"
