"""The exact commands of conversions, and what is refused before a tool runs for minutes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from agent.conversion.atc import EXPLANATIONS, explain
from agent.conversion.base import ConversionPlan, ConversionRequest, Ran, Tools
from agent.conversion.convert import TOOLCHAINS, plan_for
from agent.conversion.tensorrt import version_of
from agent.errors import PermanentError, TransientError
from agent.jobs.convert import require_facts
from registry.contracts.catalogue.conversions import GOALS, source_for
from registry.contracts.catalogue.entry_points import EntryPoint
from registry.contracts.catalogue.manifest import Build, FileRef, Format, Manifest, Network, Target, TensorSpec, Variant
from registry.contracts.fit.platforms import Evidence, Platform
from registry.contracts.tensors import Datatype
from registry.contracts.wire import digest_of

TOOLS = Tools(
    python="python",
    mindspore="ms-python",
    atc="atc",
    trtexec="trtexec",
    soc="Ascend310P3",
    cann="8.0.RC1",
    compute_capability="8.6",
)


def variant(kind: Format = Format.ONNX, shape: tuple[int, ...] = (-1, 1, 28, 28), **more: Any) -> Variant:
    return Variant(
        name=more.pop("name", "cpu"),
        format=kind,
        target=Target.CPU,
        entry="model.bin",
        files=(FileRef(path="model.bin", digest=digest_of(b""), size=0),),
        inputs=(TensorSpec(name="x", datatype=more.pop("datatype", Datatype.FP32), shape=shape),),
        outputs=(TensorSpec(name="y", datatype=Datatype.FP32, shape=(shape[0], 10)),),
        **more,
    )


def planned(to: Format, source: Variant | None = None, tools: Tools = TOOLS, **options: str) -> ConversionPlan:
    return plan_for(ConversionRequest(source=source or variant(), to=to, tools=tools, options=options))


def refused(to: Format, source: Variant | None = None, tools: Tools = TOOLS, **options: Any) -> PermanentError:
    with pytest.raises(PermanentError) as caught:
        planned(to, source, tools, **options)
    return caught.value


def test_what_a_failed_look_at_the_host_did_not_find_is_waited_for_and_what_is_not_there_is_refused() -> None:
    evidence = {"ascend": Evidence(failed=True, reason="slow")}
    looked = Platform(os="linux", arch="aarch64", cpu_count=1, evidence=evidence)
    unknown = replace(TOOLS, soc="")
    request = ConversionRequest(source=variant(), to=Format.OM, tools=unknown, options={})
    with pytest.raises(TransientError, match="ascend failed: slow"):
        require_facts(request, looked)
    require_facts(replace(request, options={"soc_version": "Ascend310P3"}), looked)
    require_facts(replace(request, tools=TOOLS), looked)  # an earlier look knew
    require_facts(replace(request, to=Format.ONNX), looked)
    require_facts(request, looked.model_copy(update={"evidence": {}}))
    assert refused(Format.OM, tools=unknown).code == "bad_option"


def test_every_goal_has_a_toolchain_and_every_toolchain_a_goal() -> None:
    goals = {(source, goal.format) for goal in GOALS.values() for source in goal.sources}
    assert goals == set(TOOLCHAINS)
    assert (Format.ONNX, Format.OM) in goals
    assert (Format.MINDIR, Format.OM) not in goals


def test_a_conversion_starts_from_what_was_published_rather_than_from_what_was_made() -> None:
    made = variant(name="a-int8", build=Build(parent=digest_of(b"p"), tool="t"))
    manifest = Manifest(model="m", version="1", variants=(made, variant(name="b")))
    chosen = source_for(manifest, GOALS["om"])
    assert chosen is not None
    assert chosen.name == "b"
    assert source_for(manifest, GOALS["mindir"]) is None


def test_atc_gets_one_fixed_batch_unless_gears_are_asked_for() -> None:
    plan = planned(Format.OM)
    assert plan.command == (
        "atc",
        "--model=source/model.bin",
        "--framework=5",
        "--output=out/model",
        "--soc_version=Ascend310P3",
        "--input_shape=x:1,1,28,28",
    )
    assert (plan.name, plan.target, plan.outputs[0].shape) == ("om-ascend310p3", Target.ASCEND310, (1, 10))
    assert (plan.requirements.soc_version, plan.requirements.cann_version) == ("Ascend310P3", "8.0.RC1")
    geared = planned(Format.OM, dynamic_batch_size="1,2,4,8", soc_version="Ascend910B4", name="gears")
    assert geared.command[4:] == (
        "--soc_version=Ascend910B4",
        "--input_shape=x:-1,1,28,28",
        "--dynamic_batch_size=1,2,4,8",
    )
    assert (geared.name, geared.target, geared.inputs[0].shape) == ("gears", Target.ASCEND910, (-1, 1, 28, 28))


def test_atc_takes_air_as_it_is() -> None:
    plan = planned(Format.OM, variant(Format.AIR, (1, 1, 28, 28)))
    assert plan.command[2] == "--framework=1"
    assert not any(part.startswith("--input_shape") for part in plan.command)


@pytest.mark.parametrize(
    ("source", "options", "says"),
    [
        (variant(), {"dynamic_batch_size": "8"}, "2 to 100"),
        (variant(), {"dynamic_batch_size": ",".join(map(str, range(1, 102)))}, "2 to 100"),
        (variant(), {"dynamic_batch_size": "1,1"}, "2 to 100"),
        (variant(), {"dynamic_batch_size": "0,1"}, "2 to 100"),
        (variant(), {"dynamic_batch_size": "1,x"}, "2 to 100"),
        (variant(Format.AIR), {"dynamic_batch_size": "1,2"}, "AIR"),
        (variant(shape=(1, 3)), {"dynamic_batch_size": "1,2"}, "first dimension is -1"),
        (variant(), {"dynamic_batch_size": "1,2", "dynamic_dims": "1;2"}, "exclude each other"),
        (variant(), {"dynamic_image_size": "28,28;56,56"}, "needs input_shape"),
        (variant(shape=(-1, -1)), {}, "every size"),
        (variant(), {"input_shape": "x=1,2"}, "is written"),
        (variant(), {"input_shape": "z:1,2"}, "does not have"),
        (variant(), {"soc_version": "310P3"}, "chip"),
        (variant(), {"soc_version": "Ascend310P3 --mode=0"}, "chip"),
        (variant(), {"framework": "1"}, "not given an option"),
        (variant(), {"log": "a\nb"}, "printable"),
        (variant(), {"insert_op_conf": "aipp_op { aipp_mode: static }"}, "UINT8"),
        (variant(datatype=Datatype.UINT8), {"insert_op_conf": "/etc/passwd"}, "the text"),
        (variant(), {"target": "tpu"}, "one of"),
    ],
)
def test_what_atc_would_refuse_is_refused_before_it_runs(source: Variant, options: dict[str, Any], says: str) -> None:
    error = refused(Format.OM, source, **options)
    assert error.code == "bad_option"
    assert says in error.message


def test_an_aipp_configuration_becomes_a_file_beside_the_source() -> None:
    text = "aipp_op {\n  aipp_mode: static\n}"
    plan = planned(Format.OM, variant(datatype=Datatype.UINT8), insert_op_conf=text)
    assert plan.files == {"aipp.cfg": text}
    assert "--insert_op_conf=aipp.cfg" in plan.command


def test_a_host_without_the_tool_says_what_to_install() -> None:
    bare = Tools(python="python")
    source = variant(Format.MINDSPORE_CKPT, network=Network(name="lenet5"))
    for to, start, says in (
        (Format.OM, variant(), "CANN"),
        (Format.MINDIR, source, "numpy<2"),
        (Format.TENSORRT_PLAN, variant(), "GPU"),
    ):
        error = refused(to, start, bare)
        assert error.code == "tool_missing"
        assert says in error.message
    assert refused(Format.TENSORRT_PLAN, tools=Tools("p", compute_capability="8.6"), builder="trtexec").code == (
        "tool_missing"
    )
    assert refused(Format.MINDSPORE_CKPT).code == "conversion_unknown"
    assert "atc" in refused(Format.OM, tools=bare).message
    assert "8.0.RC1" in refused(Format.OM, tools=Tools("p", atc="atc", soc="Ascend310P3")).message


@pytest.mark.parametrize("to", [Format.ONNX, Format.MINDIR, Format.AIR])
def test_mindspores_export_gets_the_network_and_the_names_of_the_manifest(to: Format) -> None:
    network = Network(name="lenet5", arguments={"num_class": 10})
    plan = planned(to, variant(Format.MINDSPORE_CKPT, network=network), target="cpu")
    assert plan.command[:3] == ("ms-python", "-I", "-B")
    order = json.loads(plan.command[-1])
    assert order["network"] == "lenet5"
    assert order["arguments"] == {"num_class": 10}
    assert (order["shape"], order["inputs"], order["outputs"]) == ([None, 1, 28, 28], ["x"], ["y"])
    assert refused(to, variant(Format.MINDSPORE_CKPT)).code == "bad_option"


def test_a_checkpoint_with_signed_code_is_not_converted_for_a_conversion_runs_no_code_of_a_version() -> None:
    point = EntryPoint(module="net.py", function="build", key=digest_of(b""), signature="A" * 86 + "==")
    source = variant(Format.MINDSPORE_CKPT).model_copy(update={"entry_point": point})
    error = refused(Format.ONNX, source)
    assert error.code == "bad_option"
    assert "signed code" in error.message


def test_trtexec_and_the_builder_get_the_same_profile() -> None:
    plan = planned(Format.TENSORRT_PLAN, builder="trtexec", precision="fp16", max_batch="16")
    assert plan.command == (
        "trtexec",
        "--onnx=source/model.bin",
        "--saveEngine=out/model.plan",
        "--skipInference",
        "--minShapes=x:1x1x28x28",
        "--optShapes=x:8x1x28x28",
        "--maxShapes=x:16x1x28x28",
        "--fp16",
    )
    assert (plan.name, plan.requirements.compute_capability) == ("plan-sm86-fp16", "8.6")
    order = json.loads(planned(Format.TENSORRT_PLAN, max_batch="16").command[-1])
    assert order["profiles"] == {"x": [[1, 1, 28, 28], [8, 1, 28, 28], [16, 1, 28, 28]]}
    assert refused(Format.TENSORRT_PLAN, variant(shape=(-1, -1))).code == "bad_option"
    assert refused(Format.TENSORRT_PLAN, max_batch="0").code == "bad_option"


def test_trtexecs_version_is_read_from_its_first_line() -> None:
    plan = planned(Format.TENSORRT_PLAN, builder="trtexec")
    told = "&&&& RUNNING TensorRT.trtexec [TensorRT v101303] [b9] # trtexec --onnx=m.onnx"
    assert version_of(plan, Ran(0, told), "") == "10.13.3.9"
    assert version_of(plan, Ran(0, ""), "11.4.0.106") == "11.4.0.106"
    with pytest.raises(PermanentError, match="version"):
        version_of(plan, Ran(0, "nothing"), "")


def test_quantisation_keeps_the_target_and_says_in_the_name_what_it_is() -> None:
    plan = planned(Format.ONNX)
    assert (plan.name, plan.target) == ("cpu-int8", Target.CPU)
    assert refused(Format.ONNX, mode="static").code == "bad_option"
    long = planned(Format.ONNX, variant(name="a" * 64))
    assert (len(long.name), long.name[-5:]) == (64, "-int8")


@pytest.mark.parametrize("number", sorted(EXPLANATIONS))
def test_each_known_error_of_atc_has_a_cause_and_what_helps(number: str) -> None:
    text = f"ATC run failed\n{number}: something about [x]\n"
    told = explain(text)
    assert told.startswith(f"{number}: something about [x] (")
    assert EXPLANATIONS[number].hint in told


def test_the_first_known_error_is_explained_and_not_the_inner_error_that_follows() -> None:
    told = explain("E19999: Inner Error!\nE19010: No parser is registered for Op [Div, optype [ai.onnx::23::Div]].")
    assert told.startswith("E19010")
    assert "opset" in told
    assert explain("E12345: never seen") == "E12345: never seen"
    assert explain("nothing to say") == ""
    assert "libascend_hal.so" in explain("atc.bin: error while loading shared libraries: libascend_hal.so: cannot open")


@pytest.mark.parametrize(
    ("to", "options"),
    [
        (Format.ONNX, {"name": "Not A Name"}),
        (Format.ONNX, {"name": "a" * 65}),
        (Format.OM, {"cann_version": "8 or so"}),
        (Format.OM, {"soc_version": "Ascend310_"}),
    ],
)
def test_what_no_variant_can_be_called_is_refused_before_a_tool_runs(to: Format, options: dict[str, Any]) -> None:
    fault = refused(to, None, TOOLS, **options)
    assert (fault.code, "cannot stand in a variant" in fault.message) == ("bad_option", True)
