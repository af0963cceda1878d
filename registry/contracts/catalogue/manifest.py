"""The manifest: what a version is. Immutable; its canonical bytes have the digest that names it.

A version holds one or more variants, each the version's form for one format and target platform, and golden vectors:
inputs and expected outputs, by which every variant is measured. The vectors are one safetensors file (no pickle;
https://github.com/huggingface/safetensors#format): case i has the tensors `i/in/<input name>` and
`i/out/<output name>`, i from 0. BYTES tensors cannot be golden.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, FiniteFloat, model_validator

from registry.contracts.catalogue.batching import Batching
from registry.contracts.catalogue.detection import Detection, Labels
from registry.contracts.catalogue.entry_points import MAX_MODULE_BYTES, EntryPoint
from registry.contracts.enums import StrEnum, as_said
from registry.contracts.tensors import MAX_NAME, MAX_RANK, MAX_TENSORS, Datatype
from registry.contracts.wire import (
    MAX_INTEGER,
    Digest,
    Integer,
    LabelKey,
    LabelValue,
    Name,
    RelativePath,
    VersionName,
    Wire,
)

MAX_GOLDEN_CASES = 64
MAX_GOLDEN_BYTES = 64 << 20
"""Of the whole file: every device of a fleet downloads and runs it."""

_Distance = Annotated[float, Field(ge=0, le=1e9)]
_Share = Annotated[float, Field(ge=0, le=1)]


class Tolerance(Wire):
    """How far an output may be from the golden one: |got - want| <= absolute + relative * |want|, each element."""

    absolute: _Distance = 1e-4
    """Of any element."""
    relative: _Distance = 1e-3
    """Times |want|."""
    top1_agreement: _Share = 1.0
    """The least share of items whose largest element along the last axis is at the same place.
    Only of outputs with shape [N, classes], classes >= 2."""


class Special(StrEnum):
    """What a floating-point tensor may hold beside numbers."""

    NAN = "nan"
    """Not a number."""
    INFINITY = "inf"
    """Positive infinity."""
    NEGATIVE_INFINITY = "-inf"
    """Negative infinity."""


class Parity(Wire):
    """How one variant compared with the golden vectors."""

    cases: Annotated[int, Field(ge=0, le=MAX_INTEGER)]
    """So many were compared."""
    max_abs: float
    """Largest |got - want| over all cases and outputs."""
    max_rel: float
    """Largest |got - want| / max(|want|, 1e-6)."""
    top1_agreement: _Share | None = None
    """None: no output has the shape [N, classes]."""
    passed: bool
    """Everything within the manifest's tolerance, and no NaN where none was expected."""
    run_us: float | None = None
    """Microseconds of one run, median over the cases."""
    specials: Annotated[dict[str, tuple[Special, ...]], Field(max_length=MAX_TENSORS)] = Field(default_factory=dict)
    """NaN and infinities that the golden vectors themselves hold, by output: there they are part of a right answer."""
    why: Annotated[str, Field(max_length=512)] = ""
    """Why it did not pass: the first case and output that are off, or what the run failed with."""


class MeasuredParity(Wire):
    """A parity, and where it was measured."""

    parity: Parity
    """What was measured."""
    backend: str
    """Backend and provider, e.g. `onnxruntime/CPUExecutionProvider`."""
    reference: Name | None = None
    """The variant that the golden outputs came from; None: the publisher gave them."""


def parity_figures(parity: Parity) -> tuple[str, str, str, str]:
    """Largest absolute and relative error, agreement of the top class, time of a run."""
    top1 = "-" if parity.top1_agreement is None else f"{parity.top1_agreement:.2%}"
    run = "-" if parity.run_us is None else f"{parity.run_us:.0f} us"
    return f"{parity.max_abs:.3g}", f"{parity.max_rel:.3g}", top1, run


MAX_MANIFEST_BYTES = 16 << 20
"""Longer manifests are refused before they are parsed. Names of classes take most of a long one."""


class Format(StrEnum):
    """What a variant's files are."""

    ONNX = "onnx"
    """An ONNX model, with its external data."""
    MINDSPORE_CKPT = "mindspore-ckpt"
    """Parameters of a MindSpore network, which the manifest names."""
    MINDIR = "mindir"
    """MindSpore's graph."""
    AIR = "air"
    """GEIR, as older MindSpore calls it: only a source for ATC."""
    OM = "om"
    """A model that ATC built for one Ascend chip."""
    TENSORRT_PLAN = "tensorrt-plan"
    """An engine that TensorRT built for one kind of GPU."""


class Target(StrEnum):
    """The kind of platform a variant is made for."""

    CPU = "cpu"
    """Any processor that `requirements.arch` allows."""
    GPU = "gpu"
    """An NVIDIA GPU."""
    ASCEND310 = "ascend310"
    """An Ascend chip for inference: 310, 310P, 310B."""
    ASCEND910 = "ascend910"
    """An Ascend chip for training and inference: 910 and its successors."""


class FileRef(Wire):
    """One file of an artifact: where it lies inside it, and which blob it is."""

    path: RelativePath
    """Inside the artifact's folder."""
    digest: Digest
    """The blob with its content."""
    size: Annotated[int, Field(ge=0, le=1 << 50)]
    """Bytes."""


class TensorSpec(Wire):
    """One input or output. A dimension of -1 may have any size."""

    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
    """As the model names it."""
    datatype: Datatype
    """Of each element."""
    shape: Annotated[tuple[Annotated[int, Field(ge=-1, le=1 << 31)], ...], Field(max_length=MAX_RANK)]
    """Of an output it is what the file declares; an answer has the shape that the model gave."""
    any_rank: bool = False
    """The file declares no shape: tensors of any rank, and `shape` is empty."""


BuildVersion = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")]
"""A version or a chip, as the vendor's tool says it."""
ComputeCapability = Annotated[str, Field(pattern=r"^[0-9]{1,2}\.[0-9]$")]
"""Of a CUDA GPU: `8.6`."""


class Requirements(Wire):
    """What a host must have. An absent field asks for nothing."""

    os: str | None = None
    """As `uname -s` says, in lower case: `linux`. None: any."""
    arch: tuple[str, ...] = ()
    """Any of these, as `uname -m` says; empty: any."""
    onnx_ir: Integer | None = None
    """The ONNX IR version of the file: a runtime's newest must be at least this."""
    onnx_opsets: dict[str, Integer] = Field(default_factory=dict)
    """Operator domain ("" is ai.onnx) to opset version."""
    memory_bytes: Integer | None = None
    """Free memory needed to load and run, measured or given by the publisher."""
    mindspore_version: BuildVersion | None = None
    """The MindSpore that wrote a MindIR; the host's may not be older."""
    soc_version: BuildVersion | None = None
    """The Ascend chip of an OM, as ATC's `--soc_version`: `Ascend310P3`. The host's must be the same."""
    cann_version: BuildVersion | None = None
    """The CANN that built an OM: `8.0.RC1`. The host's may not be older."""
    opp_version: BuildVersion | None = None
    """The operator library that an OM was built with. It must be the same on a virtual NPU, and should be for an OM
    whose shapes are dynamic."""
    tensorrt_version: BuildVersion | None = None
    """The TensorRT that built a plan: `10.13.3.9`. The host's must be the same, unless it is version-compatible."""
    tensorrt_version_compatible: bool = False
    """The plan was built with VERSION_COMPATIBLE: later ones of the same major run it, 10's run on 11, 8's on 10."""
    compute_capability: ComputeCapability | None = None
    """The GPU that a plan was built for: `8.6`. The host's must be the same, unless `hardware_compat` says so."""
    hardware_compat: Literal["ampere_plus", "same_compute_capability"] | None = None
    """The plan's HardwareCompatibilityLevel: any GPU of compute capability 8.0 or newer, or any of the same one."""
    disk_bytes: Integer | None = None
    """Disk that the files and what is made of them need; None: the files' own size."""


class Network(Wire):
    """The architecture that a checkpoint's parameters belong to, by its name in the agent's built-in catalogue."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
    """`lenet5`, `resnet50`, ..."""
    arguments: Annotated[dict[str, Integer | float | bool | str], Field(max_length=32)] = Field(default_factory=dict)
    """Keyword arguments of the architecture's constructor: `{"num_class": 10, "num_channel": 1}`."""


class Build(Wire):
    """How a variant was made from a sibling: enough to make it again."""

    parent: Digest
    """The canonical digest of the variant that it was converted from."""
    tool: Annotated[str, Field(max_length=64)]
    """`mindspore-export`, `atc`, `tensorrt`, `onnxruntime-quantize`."""
    command: Annotated[tuple[Annotated[str, Field(max_length=4096)], ...], Field(max_length=128)] = ()
    """The exact command line, or the call, one argument each; no secrets."""
    versions: Annotated[dict[str, str], Field(max_length=32)] = Field(default_factory=dict)
    """Tool and library versions: `{"mindspore": "2.10.0", "cann": "8.0.RC1"}`."""
    built_on: Name | None = None
    """The device that built it; None: the publisher's machine."""


class Variant(Wire):
    """The version's form for one format and target platform. Its canonical digest names it in reports."""

    name: Name
    """Unique in the version; people and deployments name it by this."""
    format: Annotated[Format, BeforeValidator(as_said(Format))]
    """What the files are."""
    target: Annotated[Target, BeforeValidator(as_said(Target))]
    """A device that is older than the registry passes over a variant whose format or target it does not know."""
    entry: RelativePath
    """The file that the backend opens; the others (external data, labels) lie beside it."""
    files: Annotated[tuple[FileRef, ...], Field(min_length=1, max_length=64)]
    """All files of the artifact, `entry` among them."""
    inputs: Annotated[tuple[TensorSpec, ...], Field(max_length=MAX_TENSORS)] = ()
    """What a request must have. Empty: the file itself says it, when it is loaded."""
    optional_inputs: Annotated[tuple[TensorSpec, ...], Field(max_length=MAX_TENSORS)] = ()
    """Inputs that the model has a default for: a request may leave them out. Not among `inputs`."""
    outputs: Annotated[tuple[TensorSpec, ...], Field(max_length=MAX_TENSORS)] = ()
    """What an answer has. Empty: the file itself says it, when it is loaded."""
    requirements: Requirements = Requirements()
    """What a host must have."""
    network: Network | None = None
    """Only of a checkpoint: what its parameters are filled into."""
    entry_point: EntryPoint | None = None
    """Only of a checkpoint, instead of `network`: signed code that builds what its parameters are filled into."""
    build: Build | None = None
    """None: it was published as it is."""
    parity: MeasuredParity | None = None
    """Measured by the publisher, where the variant could run there."""
    batching: Batching | None = None
    """May requests be joined into one run? None: one request at a time."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @model_validator(mode="after")
    def _files_are_consistent(self) -> Variant:
        paths = [file.path for file in self.files]
        if len(set(paths)) != len(paths):
            raise ValueError(f"variant {self.name}: a file path appears twice")
        if self.entry not in paths:
            raise ValueError(f"variant {self.name}: entry {self.entry!r} is not among its files")
        return self

    @model_validator(mode="after")
    def _entry_point_is_one_of_the_files(self) -> Variant:
        code = self.entry_point
        if code is None:
            return self
        if self.format is not Format.MINDSPORE_CKPT or self.network is not None:
            raise ValueError(f"variant {self.name}: an entry point is for a checkpoint that names no network")
        module = next((file for file in self.files if file.path == code.module), None)
        if module is None or code.module == self.entry:
            raise ValueError(f"variant {self.name}: the module {code.module!r} is not a file beside its checkpoint")
        if module.size > MAX_MODULE_BYTES:
            raise ValueError(f"variant {self.name}: a module of {module.size} bytes; at most {MAX_MODULE_BYTES}")
        if not self.inputs or not self.outputs:
            raise ValueError(f"variant {self.name}: code does not say its inputs and outputs, so the variant must")
        return self


class ImageInput(Wire):
    """How a picture becomes the input tensor: decode, resize, scale, normalise, lay out.

    value = (pixel * scale - mean[channel]) / std[channel], pixel in 0..255.
    """

    input: str
    """The input tensor that takes the picture; it must be the model's only input."""
    height: Annotated[int, Field(ge=1, le=8192)]
    """Of the tensor, in pixels."""
    width: Annotated[int, Field(ge=1, le=8192)]
    """Of the tensor, in pixels."""
    channels: Literal["L", "RGB", "BGR"] = "RGB"
    """L is one grey channel (ITU-R 601-2 luma)."""
    resize: Literal["stretch", "pad", "letterbox", "crop"] = "stretch"
    """All but stretch keep the aspect ratio. pad: scaled to fit, top left, the rest filled with `pad_value`. letterbox:
    the same in the middle, half a pixel to the top and left. crop: the shorter edge is scaled to `shorter_edge`, the
    longer one rounded down, and the middle is taken, half a pixel to the top and left."""
    shorter_edge: Annotated[int, Field(ge=1, le=8192)] | None = None
    """Of `crop`, in pixels, before the middle is taken: at least height and width. None: the larger of them."""
    filter: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"] = "bilinear"
    """How pixels are interpolated: Pillow's filters, which include anti-aliasing when a picture shrinks."""
    max_megapixels: Annotated[int, Field(ge=1, le=50)] = 40
    """Pictures of more million pixels are refused. One takes up to 4 bytes a pixel, twice, while it is decoded."""
    reduced: bool = False
    """True: a JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that is still enough for the input: faster, in less
    memory, and pixels differ a little from those of the whole picture. Say what the model was evaluated with."""
    pad_value: Annotated[int, Field(ge=0, le=255)] = 0
    """Of each channel, before scale and mean."""
    scale: FiniteFloat = 1 / 255
    """Factor of a pixel's value."""
    mean: Annotated[tuple[FiniteFloat, ...], Field(max_length=3)] = ()
    """Per channel, in the tensor's channel order; empty: 0."""
    std: Annotated[tuple[FiniteFloat, ...], Field(max_length=3)] = ()
    """Per channel, in the tensor's channel order, not 0; empty: 1."""
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    """NCHW: a plane for each channel; NHWC: the channels of a pixel side by side."""

    @model_validator(mode="after")
    def _per_channel_values_fit(self) -> ImageInput:
        count = 1 if self.channels == "L" else 3
        if len(self.mean) not in (0, count) or len(self.std) not in (0, count):
            raise ValueError(f"image: mean and std need {count} values for channels {self.channels}")
        if 0.0 in self.std:
            raise ValueError("image: std must not be 0")
        if self.shorter_edge is not None and self.resize != "crop":
            raise ValueError("image: shorter_edge goes with resize = crop")
        if self.shorter_edge is not None and self.shorter_edge < max(self.height, self.width):
            raise ValueError("image: shorter_edge is smaller than what is taken from the middle")
        return self


class Classification(Wire):
    """How an output becomes labels with scores; `catalogue.classes` says which shapes it may have."""

    output: str
    """The output tensor with the scores."""
    softmax: bool = True
    """False when the model ends in softmax itself, or in a sigmoid."""
    labels: Labels
    """Name of each class, in the output's order."""
    top_k: Annotated[int, Field(ge=1, le=100)] = 5
    """So many labels are answered, the best first; all where there are fewer."""


class Golden(Wire):
    """The version's golden vectors; see `registry.contracts.golden_vectors` for the file."""

    file: FileRef
    """The blob with the vectors."""
    cases: Annotated[int, Field(ge=1, le=MAX_GOLDEN_CASES)]
    """How many the file has."""
    reference: Name | None = None
    """The variant that made the outputs; None: the publisher gave them, or another version."""
    of: Annotated[str, Field(max_length=160)] | None = None
    """`MODEL@VERSION` whose golden vectors these are, too."""
    compared_with: Annotated[str, Field(max_length=160)] | None = None
    """`MODEL@VERSION` whose model made the outputs on the publisher's machine."""
    tolerance: Tolerance = Tolerance()
    """How far an answer may be from the golden one."""

    @model_validator(mode="after")
    def _file_is_bounded(self) -> Golden:
        if self.file.size > MAX_GOLDEN_BYTES:
            raise ValueError(f"golden vectors of {self.file.size} bytes; at most {MAX_GOLDEN_BYTES}")
        return self


class Origin(Wire):
    """Where a version was imported from, as its publisher found it. Told to people; nothing follows from it."""

    kind: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
    """`huggingface`, `mlflow`, `triton`, `oci`, `sklearn`, `torch` or `files`."""
    source: Annotated[str, Field(min_length=1, max_length=512)]
    """The repository, folder, reference or file there, without the path on the publisher's machine."""
    revision: Annotated[str, Field(max_length=128)] | None = None
    """The commit, digest, run or version number there."""
    url: Annotated[str, Field(max_length=512, pattern=r"^https?://")] | None = None
    """Where people can read about it."""


class Manifest(Wire):
    """A version: its variants, and what belongs to all of them."""

    schema_version: Literal[1] = 1
    """Of this document."""
    model: Name
    """The model's name."""
    version: VersionName
    """The version's name."""
    variants: Annotated[tuple[Variant, ...], Field(min_length=1, max_length=64)]
    """In no order: the fit decides."""
    image: ImageInput | None = None
    """How a picture becomes the input. None: the model takes no pictures."""
    classification: Classification | None = None
    """How an output becomes labels. None: it does not."""
    detection: Detection | None = None
    """How outputs become boxes. None: they do not."""
    labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=64)] = Field(default_factory=dict)
    """What the publisher says of the version: key to value."""
    licence: Annotated[str, Field(max_length=128)] | None = None
    """An SPDX expression where there is one."""
    card: FileRef | None = None
    """The Markdown model card."""
    origin: Origin | None = None
    """Where it was imported from. None: it was published from files."""
    golden: Golden | None = None
    """What every variant must answer, on every device, before it serves."""
    extends: Digest | None = None
    """The manifest of the same version that this one has more variants than; all else is as it was there."""

    @model_validator(mode="after")
    def _variants_agree(self) -> Manifest:
        names = [variant.name for variant in self.variants]
        if len(set(names)) != len(names):
            raise ValueError("a variant name appears twice")
        first = self.variants[0]
        for other in self.variants[1:]:
            if other.inputs and first.inputs and not _same_signature(first, other):
                raise ValueError(
                    f"variants {first.name} and {other.name} disagree in inputs or outputs: {_difference(first, other)}"
                )
        if self.detection is not None and (self.image is None or self.classification is not None):
            raise ValueError("detection goes with image, without classification: boxes are those of a picture")
        if self.golden is not None and self.golden.reference not in (None, *names):
            raise ValueError(f"the golden vectors come from {self.golden.reference}, which is no variant")
        return self

    def variant(self, name: str) -> Variant | None:
        """The variant of that name, or None."""
        return next((variant for variant in self.variants if variant.name == name), None)

    def blobs(self) -> dict[Digest, int]:
        """Every blob that the version needs, with its size."""
        files = [file for variant in self.variants for file in variant.files]
        beside = [file for file in (self.card, self.golden.file if self.golden else None) if file is not None]
        return {file.digest: file.size for file in (*files, *beside)}


def same_tensors(one: tuple[TensorSpec, ...], other: tuple[TensorSpec, ...]) -> bool:
    """Names, datatypes and ranks agree; a fixed dimension may stand where the sibling's is dynamic."""
    return len(one) == len(other) and all(
        x.name == y.name and x.datatype == y.datatype and (x.any_rank or y.any_rank or _agree(x.shape, y.shape))
        for x, y in zip(one, other, strict=True)
    )


def _agree(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return len(one) == len(other) and all(p == q or -1 in (p, q) for p, q in zip(one, other, strict=True))


def _same_signature(one: Variant, other: Variant) -> bool:
    return same_tensors(one.inputs, other.inputs) and same_tensors(one.outputs, other.outputs)


def _difference(one: Variant, other: Variant) -> str:
    """The first tensor that they do not have in common, and what each says of it."""
    sides = (("input", one.inputs, other.inputs), ("output", one.outputs, other.outputs))
    for side, ours, theirs in sides:
        for number, (x, y) in enumerate(zip_longest(ours, theirs), 1):
            if x is None or y is None or not same_tensors((x,), (y,)):
                return f"{side} {number} of {one.name} is {_said(x)}, of {other.name} {_said(y)}"
    return ""


def _said(spec: TensorSpec | None) -> str:
    if spec is None:
        return "not there"
    return f"{spec.name[:64]!r} {spec.datatype} {'of any shape' if spec.any_rank else list(spec.shape)}"
