"""THE table of backends. Adding one is a row here and a module beside it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from agent.backends.base import BackendError

if TYPE_CHECKING:
    from agent.backends.base import Backend


class CatalogEntry(NamedTuple):
    """One backend."""

    implementation: str
    """`module:Class`, imported in the worker only."""
    vendor: str
    """The vendor's module that it needs."""
    install: str
    """What a person does when that is missing."""
    formats: tuple[str, ...]
    """registry.contracts.catalogue.manifest.Format values that it loads."""
    environment: tuple[str, ...] = ()
    """Variables that the vendor needs; a worker's environment holds nothing else of the agent's."""
    settings: Mapping[str, str] = MappingProxyType({})
    """Variables that the vendor's library reads and a worker always has."""


CATALOG = {
    "onnxruntime": CatalogEntry(
        implementation="agent.backends.ort:OnnxRuntime",
        vendor="onnxruntime",
        install="install the package onnxruntime (onnxruntime-gpu on a CUDA host, onnxruntime-cann on an Ascend host; "
        "never two of them in one environment)",
        formats=("onnx",),
        environment=(
            *("LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH", "ASCEND_OPP_PATH"),
            *("ASCEND_AICPU_PATH", "ASCEND_RT_VISIBLE_DEVICES"),
        ),
        settings=MappingProxyType({"ORT_DISABLE_TELEMETRY": "1"}),
    ),
    "mindspore": CatalogEntry(
        implementation="agent.backends.mindspore_graph:MindSpore",
        vendor="mindspore",
        install='install mindspore and "numpy<2" in an environment of their own and name its Python: '
        'worker.interpreters = {mindspore = "/opt/mindspore/bin/python"}',
        formats=("mindir", "mindspore-ckpt"),
        environment=("LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "ASCEND_HOME_PATH", "ASCEND_OPP_PATH"),
        settings=MappingProxyType({"GLOG_v": "3"}),
    ),
    "tensorrt_plan": CatalogEntry(
        implementation="agent.backends.tensorrt_plan:TensorRtPlan",
        vendor="tensorrt",
        install="install the packages tensorrt (the version that built the plans, for the host's CUDA) and cuda-python",
        formats=("tensorrt-plan",),
        environment=("LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES"),
    ),
    "ascend_acl": CatalogEntry(
        implementation="agent.backends.ascend_acl:AscendAcl",
        vendor="acl",
        install="install Huawei's CANN (runtime or toolkit) and source its set_env.sh before the agent starts; "
        "packages named acl or pyacl on public indexes are something else",
        formats=("om",),
        environment=(
            *("LD_LIBRARY_PATH", "ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH", "ASCEND_OPP_PATH", "ASCEND_AICPU_PATH"),
            "ASCEND_RT_VISIBLE_DEVICES",
        ),
        # A worker cannot write log files, and is not to wait for the device's log when it ends.
        settings=MappingProxyType(
            {
                "ASCEND_SLOG_PRINT_TO_STDOUT": "1",
                "ASCEND_GLOBAL_LOG_LEVEL": "3",
                "ASCEND_LOG_DEVICE_FLUSH_TIMEOUT": "0",
            }
        ),
    ),
}


def open_backend(name: str) -> Backend:
    """The backend of that name. Raises BackendError(backend_unavailable) when there is none, or no NumPy for it."""
    entry = CATALOG.get(name)
    if entry is None:
        raise BackendError("backend_unavailable", f"no backend is named {name!r}; there are {', '.join(CATALOG)}")
    path, _, attribute = entry.implementation.partition(":")
    try:
        module = import_module(path)
    except ImportError as error:
        raise BackendError("backend_unavailable", f"{sys.executable}: {error}; {entry.install}") from None
    return cast("Backend", getattr(module, attribute)())


def import_vendor(backend: str, module: str, called: str) -> Any:
    """A module of the vendor's. Raises BackendError(backend_unavailable), saying what to install."""
    try:
        return import_module(module)
    except ImportError as error:
        why = " ".join(str(error).split())[:400]
        raise BackendError(
            "backend_unavailable", f"{called} cannot be imported ({why}): {CATALOG[backend].install}"
        ) from None
