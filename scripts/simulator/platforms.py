"""The kinds of host that simulated devices claim to be; all of them say `simulated` as their agent's version."""

from __future__ import annotations

from registry.contracts.catalogue.manifest import Format, Target
from registry.contracts.fit.platforms import BackendFacts, Platform


def _onnx(version: str, opset: int) -> BackendFacts:
    return BackendFacts(
        name="onnxruntime",
        usable=True,
        version=version,
        formats=(Format.ONNX,),
        targets=(Target.CPU,),
        providers=("CPUExecutionProvider",),
        max_onnx_ir=10,
        max_onnx_opset=opset,
    )


PLATFORMS = (
    Platform(os="linux", arch="x86_64", cpu_count=4, memory_bytes=8 << 30, backends=(_onnx("1.20.1", 21),),
             agent_version="simulated"),
    Platform(os="linux", arch="aarch64", cpu_count=4, memory_bytes=4 << 30, backends=(_onnx("1.20.1", 21),),
             agent_version="simulated"),
    Platform(os="linux", arch="aarch64", cpu_count=2, memory_bytes=2 << 30, backends=(_onnx("1.17.0", 20),),
             agent_version="simulated"),
)  # fmt: skip
"""Three classes of CPU hosts; which one a device is, its name decides."""
