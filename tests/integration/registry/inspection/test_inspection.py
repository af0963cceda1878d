"""What publishing reads from real files, and which files it refuses: hostile, broken, or not meant for it."""

from __future__ import annotations

import io
import os
import pickle
import re
import zipfile
from pathlib import Path

import pytest
from google.protobuf import json_format, text_format
from onnx import ModelProto, TensorProto, helper, load_model_from_string
from onnx import printer as onnx_printer

from registry.contracts.catalogue.manifest import Format
from registry.inspection import onnx
from registry.inspection.detect import OM_MAGIC, by_ending, detect, folder_kind
from registry.inspection.external_data import MAX_COMPANIONS
from registry.inspection.facts import InspectionError, ModelFacts
from tests.support.models import onnx_models
from tests.support.models.protobuf import message
from tests.support.paths import LENET

SECRET = b"a secret of this host"


def inspected(folder: Path, content: bytes) -> ModelFacts:
    (folder / "model.onnx").write_bytes(content)
    return onnx.inspect(folder / "model.onnx")


def simple(shape: list[object], opset: int = 17, ir: int = 8, domain: str = "", op: str = "Relu") -> bytes:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]  # type: ignore[arg-type]
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y"], domain=domain)], "g", value[:1], value[1:])
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 3)] if domain else [])
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir).SerializeToString()


def test_the_committed_lenet_tells_all_that_publishing_needs() -> None:
    facts = onnx.inspect(LENET)
    assert detect(LENET) is Format.ONNX
    assert [(s.name, s.datatype, s.shape) for s in facts.inputs] == [("x", "FP32", (-1, 1, 28, 28))]
    assert [(s.name, s.datatype, s.shape) for s in facts.outputs] == [("y", "FP32", (-1, 10))]
    assert (facts.requirements.onnx_ir, facts.requirements.onnx_opsets) == (9, {"": 17})
    assert facts.companions == facts.warnings == ()


def test_weights_are_not_inputs(tmp_path: Path) -> None:
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], raw_data=bytes(4))
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "w", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", info[:2], info[2:], [weight])
    facts = inspected(tmp_path, helper.make_model(graph).SerializeToString())
    assert [spec.name for spec in facts.inputs] == ["x"]


@pytest.mark.parametrize("datatype", sorted(onnx_models.ONNX_TYPES))
def test_every_datatype_of_the_protocol_is_read(tmp_path: Path, datatype: str) -> None:
    facts = inspected(tmp_path, onnx_models.one_op("Identity", ["N", 3], datatype))
    assert facts.inputs[0].datatype == facts.outputs[0].datatype == datatype


def test_external_data_beside_the_model_belongs_to_the_artifact(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "w.bin").write_bytes(bytes(12))
    assert inspected(tmp_path, onnx_models.external("weights/w.bin")).companions == ("weights/w.bin",)


@pytest.mark.parametrize(
    ("location", "file"),
    [
        ("best model.onnx.data", "best model.onnx.data"),
        ("./weights.bin", "weights.bin"),
        ("sub folder//./weights.bin", "sub folder/weights.bin"),
        ("modèle#1 (final).données", "modèle#1 (final).données"),
        ("encoder.layer.0::weight", "encoder.layer.0::weight"),
        ("重み.bin", "重み.bin"),
    ],
)
def test_external_data_may_be_named_as_exporters_do(tmp_path: Path, location: str, file: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_bytes(bytes(12))
    assert inspected(tmp_path, onnx_models.external(location)).companions == (file,)


@pytest.mark.parametrize(
    "location",
    [
        "../secret",
        "/etc/passwd",
        "a/../../secret",
        ".hidden",
        "a\\b",
        "",
        "*/_ORT_MEM_ADDR_/*",
        "x" * 300,
        "a\0b",
    ],
)
def test_external_data_that_leaves_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "inside").mkdir()
    with pytest.raises(InspectionError, match="not a plain path below the model's folder"):
        inspected(tmp_path / "inside", onnx_models.external(location))


def test_external_data_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(SECRET)
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "soft").symlink_to("../secret")
    os.link(tmp_path / "secret", inside / "hard")
    (inside / "folder").symlink_to("..")
    os.mkfifo(inside / "pipe")
    for location, reason in (
        ("soft", "symbolic link"),
        ("folder/secret", "symbolic link"),
        ("hard", "hard links"),
        ("pipe", "not a regular file"),
        ("missing", "Put it beside the model"),
    ):
        with pytest.raises(InspectionError, match=reason):
            inspected(inside, onnx_models.external(location))


def test_external_data_that_is_too_short_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(11))
    with pytest.raises(InspectionError, match="has only 11"):
        inspected(tmp_path, onnx_models.external("w.bin", length=12))


def test_weights_in_more_files_than_an_artifact_has_are_refused(tmp_path: Path) -> None:
    weights = []
    for number in range(MAX_COMPANIONS + 1):
        (tmp_path / f"w{number}").write_bytes(bytes(4))
        weight = TensorProto(name=f"w{number}", data_type=TensorProto.FLOAT, dims=[1])
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=f"w{number}")
        weights.append(weight)
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["w0"], ["y"])], "g", [], [value], weights)
    with pytest.raises(InspectionError, match="all_tensors_to_one_file"):
        inspected(tmp_path, helper.make_model(graph).SerializeToString())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff" * 100, "not a readable ONNX file"),
        (bytes(100), "not a readable ONNX file"),
        (b"", "no graph"),
        (b"\x08\x09", "no graph"),
        (onnx_models.sequence_output(), "only tensors"),
        (onnx_models.one_op("Identity", [1] * 9), "9 dimensions"),
        (onnx_models.linear("N").replace(b"\x01x", b"\x01\0"), "NUL character"),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(InspectionError, match=reason):
        inspected(tmp_path, content)


def test_a_truncated_model_is_recognised_as_such(tmp_path: Path) -> None:
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(LENET.read_bytes()[:-1000])
    with pytest.raises(InspectionError, match="cut short"):
        detect(cut)
    with pytest.raises(InspectionError, match="not a readable"):
        onnx.inspect(cut)


def test_a_giant_file_is_refused_unread(tmp_path: Path) -> None:
    giant = tmp_path / "giant.onnx"
    with giant.open("wb") as file:
        file.truncate(onnx.MAX_FILE_BYTES + 1)
    with pytest.raises(InspectionError, match="save_as_external_data"):
        onnx.inspect(giant)


def test_warnings_say_what_may_surprise(tmp_path: Path) -> None:
    def warned(content: bytes) -> str:
        return " | ".join(inspected(tmp_path, content).warnings)

    assert "fixed at 1" in warned(simple([1, 3]))
    assert "dynamic dimensions but a fixed first one" in warned(simple([1, "width"]))
    assert "opset 99 is newer" in warned(simple(["N", 3], opset=99))
    assert "IR version 99 is newer" in warned(simple(["N", 3], ir=99))
    assert "operators of acme" in warned(simple(["N", 3], domain="acme", op="Odd"))
    assert not warned(simple(["N", 3]))


def test_a_domain_that_the_model_itself_defines_is_no_requirement(tmp_path: Path) -> None:
    function = helper.make_function(
        "mine", "Twice", ["x"], ["y"], [helper.make_node("Add", ["x", "x"], ["y"])], [helper.make_opsetid("", 17)]
    )
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Twice", ["x"], ["y"], domain="mine")], "g", value[:1], value[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    content = helper.make_model(graph, opset_imports=opsets, functions=[function]).SerializeToString()
    assert inspected(tmp_path, content).requirements.onnx_opsets == {"": 17}


def zipped(*names: str) -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return whole.getvalue()


def onnx_model() -> ModelProto:
    return load_model_from_string(simple(["N", 3]))


def node(name: str, operator: str) -> bytes:
    """A NodeDef of a TensorFlow graph."""
    return message(1, message(1, name) + message(2, operator))


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04rest", "a damaged zip archive, as PyTorch"),
        *(
            (zipped(*names), reason)
            for names, reason in (
                (("archive/data.pkl", "archive/code/net.py"), "a TorchScript archive"),
                (("archive/data.pkl", "archive/version"), "torch.save"),
                (("m/archive_format", "m/models/model.json"), "an exported program of PyTorch"),
                (("config.json", "model.weights.h5"), "a Keras model"),
                (("saved/saved_model.pb",), "SavedModel"),
                (("x.npy",), "arrays of NumPy"),
                (("readme.txt",), "a zip archive; unpack it"),
            )
        ),
        (b"GGUF\x03\0\0\0", "a GGUF file"),
        (b"\x89HDF\r\n\x1a\n", "Keras"),
        (b"\x18\0\0\0ORTM", "ORT format"),
        (b"\x93NUMPY\x01\0", "an array of NumPy"),
        (b"\x28\xb5\x2f\xfd", "zstd-compressed"),
        (b'<?xml version="1.0"?>\n<net name="lenet" version="11">\n\t<layers>', "an OpenVINO IR"),
        (b'<net name="lenet" version="11">', "an OpenVINO IR"),
        (b'<?xml version="1.0"?>\n<PMML version="4.4">', "a PMML model"),
        (onnx_printer.to_text(onnx_model()).encode(), "ONNX as text .onnx.printer"),
        (text_format.MessageToString(onnx_model()).encode(), "ONNX as text of protobuf"),
        (b"\xef\xbb\xbf" + json_format.MessageToJson(onnx_model()).encode(), "ONNX as JSON"),
        (b'node {\n  name: "x"\n  op: "Placeholder"\n}\nversions {\n}', "GraphDef as text"),
        (node("x", "Placeholder") + node("y", "Softmax"), "a TensorFlow GraphDef"),
        (node("x" * 70, "Placeholder") + message(4, b"\x08\x87\x08"), "a TensorFlow GraphDef"),
        (b"\x08\x01" + message(2, message(1, b"\n\x05serve\x12\x00") + message(2, b"x" * 20)), "SavedModel"),
        (b"\x08\x04" + message(2, b"\n\x03abc") + message(500, b"\n\x01x"), "a Core ML model"),
        (b'{"architectures": ["BertModel"], "model_type": "bert"}', "Hugging Face"),
        (b'{"format": "layers-model", "modelTopology": {}}', "TensorFlow.js"),
        (b'{"learner": {"attributes": {}}}', "XGBoost"),
        (b"tree\nversion=v4\n", "LightGBM"),
        (b"7767517\n75 83\n", "ncnn"),
        (b'name: "LeNet"\nlayer {\n', "Caffe"),
        (b"[net]\nbatch=1\n", "Darknet"),
        (b"\x7fELF\x02", "a program or library"),
        *((pickle.dumps({"w": [1.5]}, protocol), "pickle") for protocol in range(6)),
        *((pickle.dumps([1.5], protocol), "pickle") for protocol in range(6)),
        (b"\x1c\x00\x00\x00TFL3", "TensorFlow Lite"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"<!DOCTYPE html>", "download probably failed"),
    ],
)
def test_strangers_are_named_with_what_to_do(tmp_path: Path, head: bytes, reason: str) -> None:
    (tmp_path / "file").write_bytes(head)
    with pytest.raises(InspectionError, match=reason):
        detect(tmp_path / "file")


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (("saved_model.pb", "variables/variables.index"), "SavedModel"),
        (("lenet.xml", "lenet.bin"), "OpenVINO IR"),
        (("Manifest.json", "Data/x"), "Core ML package"),
        (("config.json", "model.safetensors"), "Hugging Face model"),
        (("__model__",), "PaddlePaddle"),
        (("model.onnx", "model.onnx.data"), "give the model's file: .*model.onnx"),
        ((), "a folder; give the model's file"),
    ],
)
def test_a_folder_is_named_for_what_it_holds(tmp_path: Path, files: tuple[str, ...], reason: str) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert re.search(reason, folder_kind(tmp_path))


def test_weights_beside_their_openvino_graph_are_named_for_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "lenet.bin").write_bytes(b"\x00\xff" * 100)
    (tmp_path / "lenet.xml").write_text("<net>")
    assert detect(tmp_path / "lenet.bin") is None
    assert "OpenVINO IR" in by_ending(tmp_path / "lenet.bin")


def test_other_formats_are_told_by_their_content(tmp_path: Path) -> None:
    mindir = b"\x0a\x050.1.0\x12\x09MindSpore\x1a\x052.4.0"
    checkpoint = b"\x0a\x0c\x0a\x04conv\x12\x04\x00\x00\x00\x00"
    for content, expected in (
        (OM_MAGIC + bytes(248), Format.OM),
        (mindir, Format.MINDIR),
        (checkpoint, Format.MINDSPORE_CKPT),
        (b"ftrt" + bytes(100), Format.TENSORRT_PLAN),
        (b"none" + bytes(100), None),
    ):
        (tmp_path / "file").write_bytes(content)
        assert detect(tmp_path / "file") is expected
