"""What a host has: facts that were probed, never listed. Requirements are what a variant needs.

A fact has a value, a source (the call, command or file that said it) and a time. Values are typed fields, because
predicates read them; `evidence` says by the field's name where each came from, and why one is not there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

from pydantic import AwareDatetime, Field

from registry.contracts.catalogue.manifest import Format, Target
from registry.contracts.wire import MAX_INTEGER, Digest, Integer, Wire, canonical_json, digest_of

_VOLATILE = {"observed_at", "disk_free_bytes", "memory_free_bytes", "evidence"}
_VOLATILE_WITHIN = {"ascend": {"health"}}
MAX_EVIDENCE = 64


class Evidence(Wire):
    """Where a fact came from."""

    source: Annotated[str, Field(max_length=256)] = ""
    """The call, command or file: `acl.get_soc_name`, `npu-smi info`, `/proc/meminfo`."""
    observed_at: AwareDatetime | None = None
    """When the host was looked at. None: not known."""
    reason: Annotated[str, Field(max_length=512)] = ""
    """Why the host has none, or why it could not be found out, and what would help."""
    failed: bool = False
    """The last look failed or was cut short: the fact is of an earlier one (`observed_at`), or not known. It is looked
    at again."""


class BackendFacts(Wire):
    """One backend on one host, as a probe found it by using it."""

    name: str
    """The agent's catalogue name, e.g. `onnxruntime`."""
    usable: bool
    """It worked when it was tried."""
    unknown: bool = False
    """The probe failed, stalled or was cut short, and there is none before it: what is not said to work may work."""
    reason: str = ""
    """Why it is not usable, and what to install."""
    version: str = ""
    """Of the runtime. Empty: not known."""
    formats: tuple[Format, ...] = ()
    """What it can load."""
    targets: tuple[Target, ...] = ()
    """The kinds of platform that it really runs on here: a provider counts only after a session ran on it."""
    providers: tuple[str, ...] = ()
    """In the vendor's words: `CPUExecutionProvider`."""
    max_onnx_ir: Integer | None = None
    """The newest ONNX IR version that it reads. None: not known, or it reads no ONNX."""
    max_onnx_opset: Integer | None = None
    """The newest ai.onnx opset that it knows. None: not known, or it reads no ONNX."""
    networks: tuple[str, ...] = ()
    """The architectures that it can fill checkpoints into."""
    entry_points: tuple[Digest, ...] = ()
    """Ids of the public keys whose signed entry points this host runs; empty: no code of a model runs here."""


class AscendFacts(Wire):
    """The Ascend chips of a host; of several kinds, the first."""

    soc: Annotated[str, Field(max_length=64)] = ""
    """As ATC's `--soc_version`: Ascend310P3, Ascend910B4, Ascend910_9392. Empty: not known."""
    name: Annotated[str, Field(max_length=64)] = ""
    """As `npu-smi info` prints it: 310P3."""
    chips: Annotated[int, Field(ge=0, le=4096)] = 0
    """On this host. 0: none, or not known."""
    memory_bytes: Integer | None = None
    """Of one chip."""
    health: Annotated[str, Field(max_length=32)] = ""
    """OK, Warning, Alarm, Critical; changes by the minute, and is Alarm on a 200I DK that works. Empty: not known, or
    the other facts are those of an earlier start."""
    driver: Annotated[str, Field(max_length=64)] = ""
    """Version of the driver. Empty: not known."""
    virtual: bool | None = None
    """A slice of a chip (vNPU); None: not known."""


class CannFacts(Wire):
    """Huawei's CANN as its own files say."""

    version: Annotated[str, Field(max_length=64)] = ""
    """8.0.RC1. Empty: not installed, or not found."""
    opp: Annotated[str, Field(max_length=64)] = ""
    """Of the operator library."""


class CudaFacts(Wire):
    """The NVIDIA GPUs of a host; the facts are those of the one that CUDA uses first."""

    name: Annotated[str, Field(max_length=128)] = ""
    """As the driver says: `NVIDIA A10`."""
    gpus: Annotated[int, Field(ge=0, le=4096)] = 0
    """That the agent may use."""
    compute_capability: Annotated[str, Field(max_length=8)] = ""
    """8.6. Empty: not known, for instance because GPUs of several kinds are in it."""
    memory_bytes: Integer | None = None
    """Of that GPU. None: not known."""
    driver: Annotated[str, Field(max_length=64)] = ""
    """550.54.15."""
    cuda: Annotated[str, Field(max_length=16)] = ""
    """The newest CUDA that the driver runs: 12.4."""


class FactRow(NamedTuple):
    """One fact, for showing."""

    name: str
    """As in `evidence` of Platform."""
    value: Any
    """None: the host has none, or it is not known: `evidence.reason` says which."""
    evidence: Evidence
    """Where it came from."""


class Platform(Wire):
    """The facts of one host. Absent means unknown, and unknown never counts as fitting."""

    os: str
    """As `uname -s` says, in lower case: `linux`."""
    arch: str
    """As `uname -m` says: x86_64, aarch64."""
    libc: str = ""
    """Name and version of the C library: `glibc 2.36`. Empty: not known."""
    cpu_count: Annotated[int, Field(ge=1, le=MAX_INTEGER)] = 1
    """Processors this agent may use."""
    cpu_features: tuple[str, ...] = ()
    """As the kernel names them. Empty: not known."""
    memory_bytes: Integer | None = None
    """Rounded down, so that boards of one kind say the same."""
    memory_free_bytes: Integer | None = None
    """When it was looked at; not part of the digest."""
    disk_bytes: Integer | None = None
    """The size of the disk with the agent's data; rounded down."""
    disk_free_bytes: Integer | None = None
    """When it was looked at; not part of the digest."""
    max_request_bytes: Annotated[int, Field(ge=0, le=MAX_INTEGER)] | None = None
    """The largest request that the agent's settings allow; None: an older agent, which does not say."""
    ascend: AscendFacts | None = None
    """None: there is no Ascend chip, or it is not known."""
    cann: CannFacts | None = None
    """None: CANN is not there, or it is not known."""
    cuda: CudaFacts | None = None
    """None: there is no NVIDIA GPU, or it is not known."""
    backends: tuple[BackendFacts, ...] = ()
    """What each backend of the agent can do here."""
    agent_version: str = ""
    """Version of the agent's package."""
    python: Annotated[str, Field(max_length=32)] = ""
    """Of the agent: 3.11.2."""
    locale: str = ""
    """Of the agent: what language and encoding tools print in."""
    observed_at: AwareDatetime | None = None
    """When the facts were gathered. None: not said."""
    evidence: Annotated[dict[str, Evidence], Field(max_length=MAX_EVIDENCE)] = Field(default_factory=dict)
    """By the name of the field, `ascend`, `backend.onnxruntime`: where it came from."""

    def facts_digest(self) -> Digest:
        """Names the class of hosts with the same facts; what changes by the minute is left out."""
        stable = {key: value for key, value in self.to_json().items() if key not in _VOLATILE}
        for key, volatile in _VOLATILE_WITHIN.items():
            if isinstance(stable.get(key), dict):
                stable[key] = {name: value for name, value in stable[key].items() if name not in volatile}
        return digest_of(canonical_json(stable))

    def failed(self) -> tuple[str, ...]:
        """The facts, by their names in `evidence`, whose last look failed: not known, or of an earlier look."""
        return tuple(sorted(name for name, told in self.evidence.items() if told.failed))

    @property
    def has_accelerator(self) -> bool:
        """There is an NPU or a GPU, whether or not a backend works on it."""
        found = (self.ascend and self.ascend.chips) or (self.cuda and self.cuda.gpus)
        return bool(found) or any(t is not Target.CPU for b in self.backends if b.usable for t in b.targets)

    def rows(self) -> Iterator[FactRow]:
        """Every fact with its source and time, for people; backends are their own lines."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            if name in ("observed_at", "evidence", "backends", "cpu_features"):
                continue
            if isinstance(value, (AscendFacts, CannFacts, CudaFacts)) and value != type(value)():
                yield from self._within(name, value)
            else:
                yield FactRow(name, None if value == "" or isinstance(value, Wire) else value, self._evidence(name))
        yield FactRow("cpu_features", len(self.cpu_features) or None, self._evidence("cpu_features"))
        for backend in self.backends:
            key = f"backend.{backend.name}"
            told = self._evidence(key)
            value = _backend_text(backend) if backend.usable else None
            reason = told.reason or ("" if backend.usable else backend.reason[:512])
            yield FactRow(key, value, told.model_copy(update={"reason": reason}))

    def _within(self, name: str, value: Wire) -> Iterator[FactRow]:
        for field in type(value).model_fields:
            inner = getattr(value, field)
            told = self.evidence.get(f"{name}.{field}") or self._evidence(name)
            yield FactRow(f"{name}.{field}", None if inner == "" else inner, told)

    def _evidence(self, name: str) -> Evidence:
        return self.evidence.get(name) or Evidence(observed_at=self.observed_at)


def _backend_text(backend: BackendFacts) -> str:
    """`1.32.0 on cpu (CPUExecutionProvider; IR up to 13, opset up to 25)`."""
    newest = []
    if backend.max_onnx_ir is not None:
        newest.append(f"IR up to {backend.max_onnx_ir}")
    if backend.max_onnx_opset is not None:
        newest.append(f"opset up to {backend.max_onnx_opset}")
    more = "; ".join(part for part in (", ".join(backend.providers), ", ".join(newest)) if part)
    return f"{backend.version} on {', '.join(backend.targets)}" + (f" ({more})" if more else "")
