"""ONNX and AIR to OM, by Huawei's ATC (`atc` of CANN; needs no NPU, but the operators of the chip it compiles for).

It succeeded only when it exits with 0 and its file is there and is an OM: some failures end with 0 too. An OM runs on
the chip of `--soc_version` only, on the CANN that built it or a later one; both go into its requirements. Rules of the
options are those of ATC's manual; they are checked before it runs, because ATC takes minutes to say no.

What its error numbers mean, and what helps, is from the error code reference of CANN 8 and reports of users: ATC prints
`E10001: ...` lines to standard output and exits with a status that says only that it failed.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from agent.conversion.base import OUT, ConversionPlan, ConversionRequest, Ran, bad_option, check_options, target_of
from agent.errors import PermanentError
from registry.contracts.catalogue.manifest import Format, Requirements, Target, TensorSpec
from registry.contracts.codes import JobCode
from registry.contracts.tensors import Datatype

TOOL = "atc"
FRAMEWORK = {Format.AIR: "1", Format.ONNX: "5"}
OPTIONS = {
    "soc_version": "the chip, by default this host's: Ascend310P3",
    "cann_version": "the CANN of the atc that runs, where the host's facts do not say it: 8.0.RC1",
    "input_shape": '"x:1,3,224,224;y:1,10"; by default the source\'s, with a batch of 1',
    "input_format": "NCHW, NHWC or ND",
    "dynamic_batch_size": "gears, 2 to 100 batch sizes: 1,2,4,8; not for AIR",
    "dynamic_image_size": 'picture sizes: "224,224;448,448"',
    "dynamic_dims": 'combinations of dimensions: "1,224;8,448"',
    "insert_op_conf": "the text of an AIPP configuration",
    "output_type": "FP32, FP16 or UINT8",
    "precision_mode": "allow_fp32_to_fp16, force_fp16, must_keep_origin_dtype, ...",
    "external_weight": "1: weights in a folder beside the file",
    "log": "debug, info, warning, error or null",
}
GEAR_OPTIONS = ("dynamic_batch_size", "dynamic_image_size", "dynamic_dims")
SUCCESS = "ATC run success"
FILE = "model.om"
AIPP_FILE = "aipp.cfg"
_SOC_NAME = re.compile(r"Ascend[0-9A-Za-z_-]{2,32}")
_SHAPE = re.compile(r"[^:;]{1,256}:-?\d{1,10}(,-?\d{1,10}){0,7}")


class Explanation(NamedTuple):
    """Of one error number, or of all that begin with it."""

    cause: str
    hint: str


_OPSET = "export the model with opset 11 to 17; ATC's newest parser knows 18 at most"
_SOC = "--option soc_version=..., one that this CANN knows: Ascend310 up to CANN 8.2, Ascend310P3, Ascend310B4, ..."
EXPLANATIONS: dict[str, Explanation] = {
    "E10001": Explanation("an option has a value that ATC does not take", "correct the option that the message names"),
    "E10002": Explanation("an input shape is not written as ATC wants it", 'write it as "x:1,3,224,224"'),
    "E10004": Explanation("an option is empty", "give it a value or leave it out"),
    "E10007": Explanation("--framework is missing or unknown", "convert from ONNX or AIR"),
    "E10054": Explanation("an option that ATC needs is missing", "give the option that the message names"),
    "E10057": Explanation("an option stands twice, or does not go with another", "leave one of them out"),
    "E19010": Explanation("ATC has no parser for an operator of this opset", _OPSET),
    "EZ3002": Explanation("an operator is not supported on this chip", "replace it in the model, or update CANN"),
    "EZ3003": Explanation("an operator is not supported on this chip", "replace it in the model, or update CANN"),
    "EC0005": Explanation("the chip is not known to this CANN", _SOC),
    "ED0001": Explanation("the chip is not known to this CANN", _SOC),
    "EE1000": Explanation("the chip is not known to this CANN", _SOC),
    "EC0010": Explanation(
        "a Python module that ATC needs is missing",
        "install what the message names into the Python that ATC uses: pip install attrs decorator numpy psutil scipy "
        "sympy protobuf",
    ),
    "E40000": Explanation(
        "the operator compiler (TBE) cannot be imported",
        "source CANN's set_env.sh; its Python packages must fit the Python that runs",
    ),
    "E19999": Explanation("an inner error of ATC", "look for the first error above it; try another CANN release"),
}
_LIBRARY = re.compile(r"error while loading shared libraries: (\S+?):")
_NUMBER = re.compile(r"^\s*(?:\[?ERROR\]?\s*)?(E[A-Z0-9]\w?\d{3,4})\s*:\s*(.{0,300})", re.MULTILINE)
_LIBRARY_HINT = (
    "source CANN's set_env.sh before the agent starts; on a host without a driver add CANN's devlib folder to "
    "LD_LIBRARY_PATH"
)


def plan(request: ConversionRequest) -> ConversionPlan:
    """The exact command. Raises PermanentError: bad_option, tool_missing."""
    check_options(request.options, OPTIONS, TOOL)
    if request.tools.atc is None:
        raise PermanentError(
            JobCode.TOOL_MISSING,
            "there is no `atc` here: install Huawei's CANN toolkit and source its set_env.sh, or convert on a device "
            "that has it (--on DEVICE)",
        )
    soc = request.option("soc_version", request.tools.soc)
    if not _SOC_NAME.fullmatch(soc):
        bad_option(
            f"soc_version {soc!r}: the chip is not known from this host's facts; say it: soc_version=Ascend310P3"
        )
    cann = request.option("cann_version", request.tools.cann)
    if not cann:
        bad_option("the CANN that compiles is not known from this host's facts; say it: cann_version=8.0.RC1")
    gears = _gears(request)
    shapes = _shapes(request, bool(gears))
    command = [
        request.tools.atc,
        f"--model={request.entry}",
        f"--framework={FRAMEWORK[request.source.format]}",
        f"--output={OUT}/{FILE.removesuffix('.om')}",
        f"--soc_version={soc}",
    ]
    if shapes:
        command.append("--input_shape=" + ";".join(f"{name}:{_dims(shape)}" for name, shape in shapes.items()))
    files = _aipp(request)
    command += [f"--insert_op_conf={name}" for name in files]
    passed = (*GEAR_OPTIONS, "input_format", "output_type", "precision_mode", "external_weight", "log")
    command += [f"--{name}={request.options[name]}" for name in passed if name in request.options]
    return ConversionPlan(
        tool=TOOL,
        command=tuple(command),
        entry=FILE,
        name=request.option("name", f"om-{soc.lower()}"),
        target=target_of(request, Target.ASCEND910 if soc.startswith("Ascend910") else Target.ASCEND310),
        inputs=tuple(
            spec.model_copy(update={"shape": shapes[spec.name]}) if spec.name in shapes else spec
            for spec in request.source.inputs
        ),
        outputs=_outputs(request, shapes),
        requirements=Requirements(soc_version=soc, cann_version=cann),
        files=files,
        versions={"cann": cann},
    )


def check(_request: ConversionRequest, _plan: ConversionPlan, ran: Ran) -> None:
    """Raises PermanentError(tool_failed) when ATC said that it failed; whether its file is there, others look."""
    why = explain(ran.output) or " ".join(ran.output.split())[-300:]
    if ran.code != 0:
        raise PermanentError(JobCode.TOOL_FAILED, f"atc failed with exit status {ran.code}: {why or 'no word'}")
    if SUCCESS not in ran.output:
        raise PermanentError(JobCode.TOOL_FAILED, f"atc ended without saying that it succeeded: {why}")


def _gears(request: ConversionRequest) -> tuple[int, ...]:
    """The batch sizes of a dynamic batch; empty without. Raises PermanentError."""
    named = [name for name in GEAR_OPTIONS if name in request.options]
    if not named:
        return ()
    if len(named) > 1:
        bad_option(f"{' and '.join(named)} exclude each other: ATC takes one of them")
    if request.source.format is Format.AIR:
        bad_option(f"{named[0]} does not go with AIR: an AIR file has its shapes for good; convert from ONNX")
    if named[0] != "dynamic_batch_size":
        if "input_shape" not in request.options:
            bad_option(f"{named[0]} needs input_shape, with -1 where a dimension may change")
        return ()
    text = request.options["dynamic_batch_size"]
    sizes = [int(part) for part in text.split(",") if part.isascii() and part.isdecimal() and len(part) < 6]
    if (
        len(sizes) != text.count(",") + 1
        or not 2 <= len(sizes) <= 100
        or min(sizes) < 1
        or len(set(sizes)) != len(sizes)
    ):
        bad_option(f"dynamic_batch_size takes 2 to 100 different sizes from 1, such as 1,2,4,8; not {text[:64]!r}")
    return tuple(sizes)


def _shapes(request: ConversionRequest, gears: bool) -> dict[str, tuple[int, ...]]:
    """The shape of every input for `--input_shape`; empty for AIR, which has its own. Raises PermanentError."""
    given = request.option("input_shape")
    if given:
        shapes = dict(_parsed(part) for part in given.split(";"))
    elif request.source.format is Format.AIR:
        return {}
    else:
        shapes = {
            spec.name: tuple(
                (-1 if gears else 1) if axis == 0 and dim == -1 else dim for axis, dim in enumerate(spec.shape)
            )
            for spec in request.source.inputs
        }
    unknown = set(shapes) - {spec.name for spec in request.source.inputs}
    if request.source.inputs and unknown:
        bad_option(f"input_shape names {sorted(unknown)}, which the model does not have")
    if gears and not any(shape[:1] == (-1,) for shape in shapes.values()):
        bad_option("dynamic_batch_size needs an input whose first dimension is -1")
    for name, shape in shapes.items():
        open_dims = shape[1:] if gears else shape
        if -1 in open_dims and not any(option in request.options for option in GEAR_OPTIONS[1:]):
            bad_option(
                f"input {name} has the shape {list(shape)}: ATC needs every size; give input_shape, such as "
                f'"{name}:{_dims(tuple(1 if dim == -1 else dim for dim in shape))}"'
            )
    return shapes


def _parsed(text: str) -> tuple[str, tuple[int, ...]]:
    if not _SHAPE.fullmatch(text.strip()):
        bad_option(f'input_shape is written "x:1,3,224,224;y:1,10"; {text[:64]!r} is not')
    name, _, dims = text.strip().rpartition(":")
    return name, tuple(int(dim) for dim in dims.split(","))


def _dims(shape: tuple[int, ...]) -> str:
    return ",".join(str(dim) for dim in shape)


def _outputs(request: ConversionRequest, shapes: dict[str, tuple[int, ...]]) -> tuple[TensorSpec, ...]:
    """The source's, with the batch of the inputs."""
    batches = {shape[0] for shape in shapes.values() if shape}
    if len(batches) != 1:
        return request.source.outputs
    batch = batches.pop()
    return tuple(
        spec.model_copy(update={"shape": (batch, *spec.shape[1:])}) if spec.shape[:1] == (-1,) else spec
        for spec in request.source.outputs
    )


def _aipp(request: ConversionRequest) -> dict[str, str]:
    """The AIPP configuration as a file. With it the inputs become UINT8 pictures. Raises PermanentError."""
    text = request.option("insert_op_conf")
    if not text:
        return {}
    if "aipp_op" not in text:
        bad_option("insert_op_conf is the text of an AIPP configuration: aipp_op { ... }")
    if any(spec.datatype is not Datatype.UINT8 for spec in request.source.inputs):
        bad_option(
            "AIPP makes UINT8 pictures of the inputs, and all variants of a version take the same: convert a version "
            "whose inputs are UINT8, or publish such an OM as a version of its own"
        )
    return {AIPP_FILE: text}


def explain(output: str) -> str:
    """Why it failed, in one line: number, ATC's own words, the cause, what helps. Empty when nothing is known."""
    library = _LIBRARY.search(output)
    if library is not None:
        return f"ATC lacks the library {library[1]}: {_LIBRARY_HINT}"
    found = _NUMBER.findall(output)
    known = next(((number, text) for number, text in found if number in EXPLANATIONS and number != "E19999"), None)
    number, text = known or (found[0] if found else ("", ""))
    if not number:
        return ""
    told = " ".join(text.split())
    explanation = EXPLANATIONS.get(number)
    if explanation is None:
        return f"{number}: {told}"
    return f"{number}: {told} ({explanation.cause}; {explanation.hint})"
