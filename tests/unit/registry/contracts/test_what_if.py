"""Facts that are imagined on top of what a device told."""

from __future__ import annotations

import pytest

from registry.contracts.catalogue.manifest import Format, Target
from registry.contracts.fit.choices import SETTABLE, imagine
from registry.contracts.fit.platforms import AscendFacts, BackendFacts
from registry.contracts.fit.resolution import resolve
from tests.unit.registry.contracts.test_resolution import HOST, manifest, variant

BROKEN_ACL = BackendFacts(name="ascend_acl", usable=False, reason="no CANN", formats=(Format.OM,))
NPU = HOST.model_copy(
    update={"ascend": AscendFacts(soc="Ascend310B4", chips=1), "backends": (*HOST.backends, BROKEN_ACL)}
)
OM = variant("om", Target.ASCEND310, Format.OM, soc_version="Ascend310B4", cann_version="8.2")
PLAN = variant("plan", Target.GPU, Format.TENSORRT_PLAN, compute_capability="8.6", tensorrt_version="10.13.3.9")


def test_with_a_newer_cann_the_om_would_run() -> None:
    assert resolve(manifest(OM), NPU).chosen is None
    assert resolve(manifest(OM), imagine(NPU, {"cann": "8.1"})).chosen is None
    assert resolve(manifest(OM), imagine(NPU, {"cann": "8.2"})).chosen == "om"


def test_blanks_around_a_value_are_none_of_it() -> None:
    assert imagine(NPU, {"soc": " Ascend310P3 "}) == imagine(NPU, {"soc": "Ascend310P3"})


def test_chip_and_cann_may_be_imagined_in_any_order() -> None:
    both = {"soc": "Ascend310B4", "cann": "8.2"}
    assert imagine(HOST, both) == imagine(HOST, dict(reversed(both.items())))
    assert resolve(manifest(OM), imagine(HOST, both)).chosen == "om"


def test_a_gpu_host_may_be_imagined() -> None:
    changes = {"compute_capability": "8.6", "tensorrt": "10.13.3.9"}
    assert resolve(manifest(PLAN), imagine(HOST, changes)).chosen == "plan"
    assert resolve(manifest(PLAN), imagine(HOST, changes | {"compute_capability": "7.5"})).chosen is None


@pytest.mark.parametrize(
    ("changes", "needs"),
    [
        ({"arch": "aarch64"}, {"arch": ("aarch64",)}),
        ({"os": "windows"}, {"os": "windows"}),
        ({"memory": "4GiB"}, {"memory_bytes": 4 << 30}),
        ({"disk": "64g"}, {"disk_bytes": 64 << 30}),
        ({"onnx_opset": "25", "onnx_ir": "13"}, {"onnx_opsets": {"": 25}, "onnx_ir": 13}),
        ({"onnxruntime": "1.32.0", "onnx_opset": "25"}, {"onnx_opsets": {"": 25}}),
    ],
)
def test_every_fact_takes_effect(changes: dict[str, str], needs: dict[str, object]) -> None:
    asked = manifest(variant("v", **needs))
    assert resolve(asked, HOST).chosen is None
    assert resolve(asked, imagine(HOST, changes)).chosen == "v"


def test_an_onnx_runtime_of_which_only_the_version_is_imagined_reads_nobody_knows_what() -> None:
    asked = manifest(variant("v", onnx_opsets={"": 17}))
    assert resolve(asked, imagine(HOST, {"onnxruntime": "1.20.0"})).chosen is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"can": "8.2"}, "there are: os, arch, memory"),
        ({"memory": "much"}, "say 8GiB"),
        ({"memory": "-1"}, "no size"),
        ({"soc": "310"}, "Ascend310P3"),
        ({"onnx_opset": "x"}, "whole number"),
        ({"virtual": "maybe"}, "neither true nor false"),
        ({"cann": "8.2" + "x" * 100}, "at most 64"),
        ({"driver": "1"}, "no accelerator"),
        ({"cann": "newest"}, "no version like 8.2"),
        ({"compute_capability": "99999"}, "not like 8.6"),
        ({"compute_capability": "sm_86"}, "not like 8.6"),
        ({"tensorrt": ""}, "does not begin with a number"),
        ({"mindspore": "latest"}, "does not begin with a number"),
        ({str(number): "1" for number in range(40)}, "at once"),
    ],
)
def test_what_cannot_be_imagined_is_said(changes: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        imagine(HOST, changes)


def test_nothing_imagined_changes_nothing() -> None:
    assert imagine(NPU, {}) == NPU
    assert imagine(NPU, {"virtual": "true"}).ascend == AscendFacts(soc="Ascend310B4", chips=1, virtual=True)


def test_every_fact_has_an_example_that_works() -> None:
    for name, (_, example) in SETTABLE.items():
        imagine(NPU, {name: example.split(";")[0].split(":")[0]})
