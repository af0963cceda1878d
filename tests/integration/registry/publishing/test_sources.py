"""Models from where they lie: what a source says is taken over, or left out and said; what leaves its folder, is
damaged or would have to be run is refused."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from registry.client.errors import UsageFault
from registry.contracts.catalogue.batching import Basis
from registry.contracts.catalogue.manifest import ImageInput, Target, TensorSpec
from registry.errors import RegistryError
from registry.inspection import onnx as onnx_inspection
from registry.inspection.facts import InspectionError
from registry.pictures.decode import decode
from registry.pictures.steps import steps_of
from registry.publishing.plan import PublishPlan, make_plan
from registry.publishing.request import PublishRequest, VariantSection
from registry.publishing.sources.found import SourceChoice
from registry.publishing.sources.hub_snapshots import _steps
from registry.publishing.sources.read import read_source, request_of
from tests.support.models import onnx_models
from tests.support.models.detectors import detector
from tests.support.paths import DATA, LENET
from tests.support.programs.cli import Cli
from tests.support.programs.registry_process import RegistryProcess

SOURCES = DATA / "sources"


def planned(
    *sources: str, file: str | None = None, version: str | None = None, targets: Sequence[Target] = ()
) -> PublishPlan:
    """Inspected as publishing does it; no registry is asked."""
    found = read_source(sources, SourceChoice(file))
    with found.keep:
        return make_plan(request_of(found, model=None, version=version, targets=targets), found.inspected)


@pytest.mark.parametrize("kind", ["triton", "mlflow", "hf", "plain"])
def test_an_onnx_file_is_inspected_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    folder = tmp_path / "linear"
    if kind == "triton":
        source = triton(folder, 'name: "linear"')
    else:
        folder.mkdir()
        (folder / "model.onnx").write_bytes(onnx_models.linear())
        (folder / "MLmodel").write_text("flavors: {onnx: {data: model.onnx}}")
        (folder / "config.json").write_text("{}")
        source = str(folder / "model.onnx") if kind == "plain" else f"{kind}:{folder}"
    seen = []
    real = onnx_inspection.survey
    monkeypatch.setattr(onnx_inspection, "survey", lambda model: seen.append(model) or real(model))
    plan = planned(source, version="1.0.0", targets=(Target.CPU, Target.GPU))
    assert [variant.name for variant in plan.variants] == ["onnx-cpu", "onnx-gpu"]
    assert len(seen) == 1


# Files


def classifier(path: Path, classes: int = 3, last: str = "Softmax", **props: str) -> str:
    """As ultralytics exports one."""
    said = {"task": "classify", "stride": "1", "imgsz": "[8, 8]", "names": "{0: 'cat', 1: 'dog', 2: 'fish'}", **props}
    x = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, classes])
    y = helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, classes])
    graph = helper.make_graph([helper.make_node(last, ["images"], ["output0"])], "g", [x], [y])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(made, said)
    path.write_bytes(made.SerializeToString())
    return str(path)


def test_a_classifier_of_ultralytics_brings_its_classes(tmp_path: Path) -> None:
    plan = planned(classifier(tmp_path / "yolo.onnx"), version="1.0.0")
    said = plan.request.classification
    assert said is not None
    assert (said.output, said.labels, said.softmax) == ("output0", ("cat", "dog", "fish"), False)
    assert plan.variants[0].facts.described is not None
    assert plan.variants[0].facts.described.size == (8, 8)
    assert plan.request.image is None


@pytest.mark.parametrize(
    "other", [{"classes": 4}, {"last": "Relu"}, {"task": "detect"}, {"names": "{0: 'cat', 1: 'dog'}"}, {"names": "?"}]
)
def test_classes_that_are_not_surely_those_of_the_output_are_left_out(tmp_path: Path, other: dict[str, Any]) -> None:
    plan = planned(classifier(tmp_path / "yolo.onnx", **other), version="1.0.0")
    assert plan.request.classification is None
    assert plan.variants[0].facts.described is not None


# Triton


def triton(folder: Path, config: str | None, versions: Sequence[str] = ("1",), file: str = "model.onnx") -> str:
    for version in versions:
        (folder / version).mkdir(parents=True)
        (folder / version / file).write_bytes(onnx_models.linear())
    if config is not None:
        (folder / "config.pbtxt").write_text(config)
    return f"triton:{folder}"


BATCHED = """
name: "Linear_Model"
backend: "onnxruntime"
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 3 ] } ]
output [ { name: "y", data_type: TYPE_FP32, dims: [ 2 ], label_filename: "labels.txt" } ]
instance_group [ { count: 2 kind: KIND_GPU gpus: [ 0, 1 ] } ]
dynamic_batching { preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 100 }
optimization { execution_accelerators { gpu_execution_accelerator : [ { name : "tensorrt" } ] } }
"""


def test_a_triton_model_brings_its_newest_version_batching_labels_and_target(tmp_path: Path) -> None:
    (tmp_path / "linear").mkdir()
    (tmp_path / "linear" / "labels.txt").write_text("cat\ndog\n")
    plan = planned(triton(tmp_path / "linear", BATCHED, ("2", "10", "007")))
    (variant,) = plan.variants
    assert (plan.request.model, plan.version, variant.section.target) == ("linear_model", "10", Target.GPU)
    assert variant.batching is not None
    assert (variant.batching.max_size, variant.batching.basis) == (8, Basis.PUBLISHER)
    assert plan.request.classification is not None
    assert (plan.request.classification.labels, plan.request.classification.softmax) == (("cat", "dog"), False)
    assert plan.request.origin is not None
    assert (plan.request.origin.kind, plan.request.origin.source, plan.request.origin.revision) == (
        "triton",
        "linear",
        "10",
    )


def test_a_triton_repository_with_one_model_stands_for_it_and_a_version_can_be_chosen(tmp_path: Path) -> None:
    triton(tmp_path / "linear", None, ("1", "2"))
    plan = planned(f"triton:{tmp_path}", file="1")
    assert (plan.request.model, plan.version) == ("linear", "1")


def test_the_version_that_the_policy_serves_is_taken(tmp_path: Path) -> None:
    source = triton(tmp_path / "m", 'backend: "onnxruntime"\nversion_policy { specific { versions: [1] } }', ("1", "2"))
    assert planned(source).version == "1"


def test_a_triton_model_without_a_batch_dimension_runs_one_request_at_a_time(tmp_path: Path) -> None:
    source = triton(tmp_path / "m", 'platform: "onnxruntime_onnx"\nmax_batch_size: 0\n')
    (variant,) = planned(source).variants
    assert variant.batching is not None
    assert not variant.batching.independent


def test_of_a_triton_model_without_dynamic_batching_the_graph_is_asked(tmp_path: Path) -> None:
    source = triton(tmp_path / "m", 'platform: "onnxruntime_onnx"\nmax_batch_size: 4\n')
    (variant,) = planned(source).variants
    assert variant.batching is not None
    assert variant.batching.basis is Basis.GRAPH


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ('backend: "python"', "Python code"),
        ('platform: "ensemble"', "an ensemble"),
        ('platform: "tensorflow_savedmodel"', "tf2onnx"),
        ('backend: "onnxruntime"\ndefault_model_filename: "../../../etc/passwd"', "outside"),
        ('backend: "onnxruntime"\nsequence_batching { }', "keeps state"),
        ("this is { no configuration", "not a model configuration"),
        ("name: 5 max_batch_size: {}", "not a model configuration"),
        ('backend: "onnxruntime"\nmax_batch_size: -3', "max_batch_size is -3"),
        ('backend: "onnxruntime"\ninput { name: "other" }', "has: x"),
        ('backend: "onnxruntime"\nversion_policy { specific { versions: [7] } }', "no version"),
    ],
)
def test_a_triton_model_of_another_kind_is_named_for_what_it_is(tmp_path: Path, config: str, said: str) -> None:
    with pytest.raises(InspectionError, match=said):
        planned(triton(tmp_path / "m", config))


def test_a_folder_that_is_no_model_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InspectionError, match="no model repository"):
        planned(f"triton:{tmp_path}")
    triton(tmp_path / "a", None)
    triton(tmp_path / "b", None)
    with pytest.raises(InspectionError, match=r"2 models \(a, b\)"):
        planned(f"triton:{tmp_path}")


# Hugging Face


def hf_cache(cache: Path, files: dict[str, bytes], revision: str = "0123456789abcdef") -> Path:
    """As huggingface_hub lays a repository out: blobs, a reference, and a snapshot of links. The snapshot's folder."""
    root = cache / "models--acme--digits"
    snapshot = root / "snapshots" / revision
    (root / "blobs").mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(revision)
    for name, content in files.items():
        blob = root / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        link = snapshot / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path(*[".."] * (len(link.relative_to(root).parts) - 1)) / "blobs" / blob.name)
    return snapshot


LABELS = {"architectures": ["AcmeForImageClassification"], "id2label": {str(n): f"digit {n}" for n in range(10)}}
CARD = b"---\nlanguage: en\nlicense: apache-2.0\n---\n# Digits\n"


def test_a_snapshot_is_read_through_the_links_of_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = onnx_models.external("model.onnx_data")
    hf_cache(tmp_path, {"onnx/model.onnx": content, "onnx/model.onnx_data": bytes(12), "README.md": CARD})
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    plan = planned("hf:acme/digits")
    (variant,) = plan.variants
    assert set(variant.files) == {"model.onnx", "model.onnx_data"}
    assert (plan.request.model, plan.version, plan.request.licence) == ("digits", "0123456789ab", "apache-2.0")
    assert plan.request.origin is not None
    assert plan.request.origin.url == "https://huggingface.co/acme/digits"
    assert planned(f"hf:{tmp_path}/models--acme--digits/snapshots/0123456789abcdef").request == plan.request


def test_a_link_that_leaves_the_cache_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    snapshot = hf_cache(tmp_path / "cache", {"model.onnx": onnx_models.external("weights"), "weights": bytes(12)})
    (tmp_path / "secret").write_bytes(bytes(12))
    (snapshot / "weights").unlink()
    (snapshot / "weights").symlink_to(tmp_path / "secret")
    with pytest.raises(InspectionError, match="leaves"):
        planned("hf:acme/digits")
    (snapshot / "model.onnx").unlink()
    (snapshot / "model.onnx").symlink_to(LENET)
    with pytest.raises(InspectionError, match="leaves"):
        planned("hf:acme/digits")


@pytest.mark.parametrize("name", ["README.md", "config.json", "preprocessor_config.json"])
def test_a_small_file_that_is_a_link_out_of_the_cache_is_refused(tmp_path: Path, name: str) -> None:
    snapshot = hf_cache(tmp_path / "cache", {"model.onnx": onnx_models.linear()})
    (tmp_path / "secret").write_text("{}")
    (snapshot / name).symlink_to(tmp_path / "secret")
    with pytest.raises(InspectionError, match="outside"):
        planned(f"hf:{snapshot}")


def test_without_a_source_that_allows_it_links_beside_a_model_are_refused_still(tmp_path: Path) -> None:
    snapshot = hf_cache(tmp_path, {"model.onnx": onnx_models.external("weights"), "weights": bytes(12)})
    with pytest.raises(InspectionError, match="symbolic link"):
        make_plan(
            PublishRequest(
                model="m", version="1", variant=(VariantSection(file=snapshot / "model.onnx", target=Target.CPU),)
            )
        )


def test_classes_and_pictures_are_taken_over(tmp_path: Path) -> None:
    processor = json.loads((SOURCES / "clip-preprocessors.json").read_text())["stretch"]
    config, steps = json.dumps(LABELS).encode(), json.dumps(processor).encode()
    graph = onnx_models.one_op("Relu", ["N", 3, 12, 13])
    snapshot = hf_cache(tmp_path, {"model.onnx": graph, "config.json": config, "preprocessor_config.json": steps})
    request = planned(f"hf:{snapshot}").request
    assert request.image is not None
    assert (request.image.resize, request.image.filter, request.image.height) == ("stretch", "bicubic", 12)
    assert request.classification is None  # the output is no [N, classes]
    (snapshot / "model.onnx").unlink()
    (snapshot / "model.onnx").write_bytes(LENET.read_bytes())
    request = planned(f"hf:{snapshot}").request
    assert request.classification is not None
    assert request.classification.labels[3] == "digit 3"
    assert request.image is None  # 3 channels of 12x13 are no input of LeNet


RT_DETR = {
    "image_processor_type": "RTDetrImageProcessor", "do_resize": True, "size": {"height": 32, "width": 32},
    "resample": 2, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": False, "do_pad": False,
    "do_convert_annotations": True, "format": "coco_detection", "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
}  # fmt: skip


def detection_of(tmp_path: Path, layout: str, **changed: Any) -> tuple[PublishRequest, str]:
    """The request, and what was left out, of a model that finds boxes as a model of transformers does."""
    files: dict[str, Any] = {
        "config.json": {"architectures": ["RTDetrForObjectDetection"], "id2label": {"0": "cat", "1": "dog"}},
        "preprocessor_config.json": RT_DETR,
    }
    documents = {name: json.dumps(found | changed.get(name[:6], {})).encode() for name, found in files.items()}
    snapshot = hf_cache(tmp_path, {"model.onnx": detector(layout, 32).SerializeToString(), **documents})
    found = read_source([f"hf:{snapshot}"])
    request = request_of(found, model=None, version="1", targets=())
    make_plan(request, found.inspected)
    return request, " ".join(found.notes)


def test_a_detector_of_transformers_is_taken_over(tmp_path: Path) -> None:
    request, left_out = detection_of(tmp_path, "rt-detr")
    assert left_out == ""
    assert request.image is not None
    assert (request.image.resize, request.image.mean) == ("stretch", ())
    assert request.detection is not None
    assert (request.detection.layout, request.detection.labels) == ("rt-detr", ("cat", "dog"))


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"config": {"architectures": ["AcmeForObjectDetection"]}}, "boxes are read of Acme is not known"),
        ({"config": {"id2label": {"0": "cat", "2": "dog"}}}, "id2label has gaps"),
        ({"prepro": {"do_pad": True}}, "and so is [detection]"),
    ],
)
def test_a_detector_that_is_not_understood_as_a_whole_is_published_without_boxes(
    tmp_path: Path, changed: dict[str, Any], why: str
) -> None:
    request, left_out = detection_of(tmp_path, "rt-detr", **{name[:6]: each for name, each in changed.items()})
    assert request.detection is None
    assert why in left_out
    request, left_out = detection_of(tmp_path / "other", "yolov8")
    assert request.detection is None
    assert "no outputs `logits` and `pred_boxes`" in left_out


@pytest.mark.parametrize("kind", ["crop", "stretch"])
@pytest.mark.parametrize("number", range(4))
def test_pictures_become_what_the_processor_of_transformers_makes_of_them(kind: str, number: int) -> None:
    """Within 3e-7, which is the last bit: that library normalises in single precision."""
    said = json.loads((SOURCES / "clip-preprocessors.json").read_text())[kind]
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1, 3, 12, 13))
    image = ImageInput(input="x", **_steps(said, [spec]))
    with np.load(SOURCES / "clip-preprocessed.npz") as data:
        made = np.frombuffer(decode(steps_of(image, "FP32"), data[f"{number}/picture"].tobytes()).data, "<f4")
        assert np.abs(made.reshape(3, 12, 13) - data[f"{number}/{kind}"]).max() <= 3e-7


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"do_pad": True}, "do_pad"),
        ({"crop_pct": 0.9}, "crop_pct"),
        ({"resample": 9}, "no filter"),
        ({"do_center_crop": False}, "size of its result"),
        ({"size": {"shortest_edge": 16, "longest_edge": 32}}, "not a height and a width"),
        ({"size": {"shortest_edge": 8}}, "not as expected"),
        ({"do_normalize": None}, "do_normalize is not said"),
        ({"image_processor_type": "EfficientNetImageProcessor", "include_top": True}, "EfficientNet"),
        ({"image_processor_type": "LevitImageProcessor"}, "Levit"),
        ({"image_processor_type": None}, "no processor"),
        ({"rescale_offset": True}, "rescale_offset"),
        ({"keep_aspect_ratio": True}, "keep_aspect_ratio"),
        ({"do_center_crop": None}, "do_center_crop is not said"),
        ({"size": 224.9}, "no whole number"),
        ({"image_std": [0.0, 1.0, 1.0]}, "not as expected"),
        ({"image_mean": [float("nan"), 0.5, 0.5]}, "not as expected"),
        ({"image_mean": "half"}, "not as expected"),
    ],
)
def test_steps_that_cannot_be_done_exactly_are_left_out_and_said(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    processor = json.loads((SOURCES / "clip-preprocessors.json").read_text())["crop"] | change
    files = {"model.onnx": onnx_models.one_op("Relu", ["N", 3, 12, 13])}
    snapshot = hf_cache(tmp_path, files | {"preprocessor_config.json": json.dumps(processor).encode()})
    found = read_source([f"hf:{snapshot}"])
    assert found.image is None
    assert said in " ".join(found.notes)


def test_what_is_not_in_the_cache_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InspectionError, match="hf download acme/digits"):
        planned("hf:acme/digits")
    for hostile in ("hf:../../etc", "hf:acme/digits@../../..", "hf:acme/../x"):
        with pytest.raises(InspectionError):
            planned(hostile)


def test_one_of_several_files_has_to_be_chosen(tmp_path: Path) -> None:
    files = {"onnx/model_fp16.onnx": onnx_models.linear(), "onnx/model_int8.onnx": onnx_models.linear(4)}
    snapshot = hf_cache(tmp_path, files)
    with pytest.raises(InspectionError, match="2 models"):
        planned(f"hf:{snapshot}")
    (variant,) = planned(f"hf:{snapshot}", file="onnx/model_int8.onnx").variants
    assert variant.section.file.name == "model_int8.onnx"
    with pytest.raises(InspectionError, match="outside"):
        planned(f"hf:{snapshot}", file="../../../../../etc/passwd")


# MLflow


def mlflow(folder: Path, described: str | None = None) -> str:
    folder.mkdir()
    (folder / "MLmodel").write_text(described if described is not None else (SOURCES / "MLmodel").read_text())
    (folder / "model.onnx").write_bytes(onnx_models.linear())
    return f"mlflow:{folder}"


def test_an_mlflow_model_is_published_and_a_signature_that_disagrees_is_said(tmp_path: Path) -> None:
    source = mlflow(tmp_path / "iris")
    found = read_source([source])
    assert (found.name, found.origin.revision) == ("iris", "86e564a1490f4317b0d7ecbccbf1e568")
    assert found.notes == ()  # ranks and datatypes agree; the sizes are the file's own
    assert [v.name for v in planned(source, version="1").variants] == ["onnx-cpu"]
    other = (SOURCES / "MLmodel").read_text().replace('"float32"', '"float64"')
    assert "float64" in " ".join(read_source([mlflow(tmp_path / "other", other)]).notes)


@pytest.mark.parametrize(
    ("described", "said"),
    [
        ("flavors:\n  sklearn:\n    pickled_model: model.onnx\n  python_function: {}\n", "--trust-pickle"),
        ("flavors:\n  pytorch: {}\n  python_function: {}\n", "none of model.pth"),
        ("flavors:\n  xgboost: {}\n  python_function: {}\n", "onnxmltools"),
        ("flavors:\n  python_function:\n    loader_module: mine\n", "a pickle or code"),
        ("flavors:\n  onnx:\n    data: ../../../etc/passwd\n", "outside"),
        ("flavors:\n  onnx:\n    data: gone.onnx\n", "does not exist"),
        ("flavors: [", "not valid YAML"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
        ("just text", "not the description"),
        ("", "not the description"),
    ],
)
def test_an_mlflow_model_that_is_code_or_nonsense_is_refused(tmp_path: Path, described: str, said: str) -> None:
    with pytest.raises(InspectionError, match=said):
        planned(mlflow(tmp_path / "m", described), version="1")


# OCI


class Layout:
    """An OCI image layout that is written blob by blob."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "blobs" / "sha256").mkdir(parents=True)
        (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def blob(self, content: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        (self.folder / "blobs" / "sha256" / digest).write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content), **more}

    def model(self, layers: list[dict[str, Any]], tag: str = "v2", description: dict[str, Any] | None = None) -> str:
        said = {"descriptor": description or {"name": "Digits", "version": "2.1", "licenses": ["MIT"]}}
        config = self.blob(json.dumps(said).encode(), "application/vnd.cncf.model.config.v1+json")
        manifest = {"schemaVersion": 2, "config": config, "layers": layers}
        media = "application/vnd.oci.image.manifest.v1+json"
        entry = self.blob(json.dumps(manifest).encode(), media, annotations={"org.opencontainers.image.ref.name": tag})
        index = self.folder / "index.json"
        known = json.loads(index.read_text())["manifests"] if index.exists() else []
        index.write_text(json.dumps({"schemaVersion": 2, "manifests": [*known, entry]}))
        return f"oci:{self.folder}"


def tar(members: dict[str, bytes], link: str = "") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        if link:
            info = tarfile.TarInfo("model.onnx_data")
            info.type, info.linkname = tarfile.SYMTYPE, link
            archive.addfile(info)
    return packed.getvalue()


WEIGHT, DOC = "application/vnd.cncf.model.weight.v1", "application/vnd.cncf.model.doc.v1"


def test_a_model_pack_brings_its_weights_card_licence_and_digest(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    weights = tar({"./m/model.onnx": onnx_models.external("model.data"), "./m/model.data": bytes(12)})
    layers = [
        layout.blob(gzip.compress(weights), f"{WEIGHT}.tar+gzip"),
        layout.blob(b"# Card", f"{DOC}.raw", annotations={"org.cncf.model.filepath": "README.md"}),
        layout.blob(
            b"rm -rf /", "application/vnd.cncf.model.code.v1.raw", annotations={"org.cncf.model.filepath": "run.sh"}
        ),
    ]
    source = layout.model(layers)
    found = read_source([source])
    with found.keep:
        assert (found.name, found.version, found.licence) == ("digits", "2.1", "MIT")
        assert found.origin.source == "layout:v2"
        assert found.origin.revision is not None
        assert found.origin.revision.startswith("sha256:")
        assert "code" in " ".join(found.notes)
        unpacked = found.files[0].file
        plan = make_plan(request_of(found, model=None, version=None, targets=(Target.CPU, Target.GPU)))
        assert [variant.name for variant in plan.variants] == ["onnx-cpu", "onnx-gpu"]
        assert set(plan.variants[0].files) == {"model.onnx", "model.data"}
    assert not unpacked.exists()


def test_a_tag_has_to_be_said_where_there_are_several(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layer = layout.blob(onnx_models.linear(), f"{WEIGHT}.raw", annotations={"org.cncf.model.filepath": "m.onnx"})
    layout.model([layer], "v1", {"name": "digits"})
    source = layout.model([layer], "v2", {"name": "digits"})
    with pytest.raises(InspectionError, match="v1, v2"):
        planned(source)
    assert planned(f"{source}:v1").version == "v1"
    with pytest.raises(InspectionError, match="no tag 'v3'"):
        planned(f"{source}:v3")


@pytest.mark.parametrize(
    ("packed", "said"),
    [
        (tar({"../../evil.onnx": b"x"}), "no path inside"),
        (tar({"/etc/evil.onnx": b"x"}), "no path inside"),
        (tar({"model.onnx": onnx_models.linear()}, link="/etc/passwd"), "a link, a device"),
        (tar({"model.onnx": onnx_models.linear()})[:700], "not a whole tar"),
        (b"no archive at all" * 100, "not a whole tar"),
        (tar({"a/model.onnx": b"1", "./a/model.onnx": b"2"}), "two layers hold"),
        (tar({"weights.bin": b"x"}), "no ONNX file"),
    ],
)
def test_a_layer_that_leaves_its_folder_or_is_damaged_is_refused(tmp_path: Path, packed: bytes, said: str) -> None:
    layout = Layout(tmp_path / "layout")
    with pytest.raises(InspectionError, match=said):
        planned(layout.model([layout.blob(packed, f"{WEIGHT}.tar")]))


def test_a_compressed_layer_that_is_damaged_inside_is_refused(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(tar({"model.onnx": onnx_models.linear() * 50})))
    packed[20:60] = bytes(40)
    layout = Layout(tmp_path / "layout")
    with pytest.raises(InspectionError, match="not a whole tar"):
        planned(layout.model([layout.blob(bytes(packed), f"{WEIGHT}.tar+gzip")]))


def test_a_layer_that_unpacks_to_far_more_than_it_is_refused(tmp_path: Path) -> None:
    bomb = gzip.compress(tar({"model.onnx": bytes(96 << 20)}))
    layout = Layout(tmp_path / "gzip")
    with pytest.raises(InspectionError, match="over 64 times"):
        planned(layout.model([layout.blob(bomb, f"{WEIGHT}.tar+gzip")]))
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("model.onnx")
        info.size = 4
        info.pax_headers = {"GNU.sparse.map": "0,4", "GNU.sparse.size": str(3 << 30), "GNU.sparse.name": "model.onnx"}
        archive.addfile(info, io.BytesIO(b"abcd"))
    layout = Layout(tmp_path / "sparse")
    with pytest.raises(InspectionError, match="holes"):
        planned(layout.model([layout.blob(packed.getvalue(), f"{WEIGHT}.tar")]))


def test_a_blob_that_is_no_file_is_refused(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layer = layout.blob(onnx_models.linear(), f"{WEIGHT}.raw", annotations={"org.cncf.model.filepath": "m.onnx"})
    source = layout.model([layer])
    blob = tmp_path / "layout" / "blobs" / "sha256" / layer["digest"].partition(":")[2]
    blob.unlink()
    os.mkfifo(blob)
    with pytest.raises(InspectionError, match="not a file"):
        planned(source)
    blob.unlink()
    blob.symlink_to("/dev/zero")
    with pytest.raises(InspectionError, match="outside"):
        planned(source)


def test_descriptions_of_another_kind_than_expected_refuse_the_source(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layer = layout.blob(onnx_models.linear(), f"{WEIGHT}.raw", annotations=["x"])
    with pytest.raises(InspectionError, match="not described as expected"):
        planned(layout.model([layer]))
    aliases = "\n".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 9))
    described = f"l0: &l0 [x]\n{aliases}\nrun_id: *l8\n" + (SOURCES / "MLmodel").read_text()
    assert read_source([mlflow(tmp_path / "m", described)]).origin.revision == "86e564a1490f4317b0d7ecbccbf1e568"
    with pytest.raises(UsageFault):
        planned("x" * 400, version="1")
    with pytest.raises(InspectionError):
        planned("mlflow:\0", version="1")


def test_a_blob_that_is_not_what_its_digest_says_is_refused(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layer = layout.blob(onnx_models.linear(), f"{WEIGHT}.raw", annotations={"org.cncf.model.filepath": "m.onnx"})
    source = layout.model([layer])
    blob = tmp_path / "layout" / "blobs" / "sha256" / layer["digest"].partition(":")[2]
    content = bytearray(blob.read_bytes())
    content[100] ^= 1
    blob.write_bytes(content)
    with pytest.raises(InspectionError, match="damaged"):
        planned(source)
    blob.unlink()
    with pytest.raises(InspectionError, match="cannot be read"):
        planned(source)


def test_an_image_of_something_else_is_no_model(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    with pytest.raises(InspectionError, match="no layer is of a model"):
        planned(layout.model([layout.blob(b"x", "application/vnd.oci.image.layer.v1.tar")]))
    with pytest.raises(InspectionError, match="no OCI image layout"):
        planned(f"oci:{tmp_path}")


# Files, folders and the command


def test_files_become_variants_and_a_folder_is_known_by_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "My Model.onnx").write_bytes(onnx_models.linear())
    plan = planned(str(tmp_path / "My Model.onnx"), version="1", targets=(Target.CPU, Target.GPU))
    assert (plan.request.model, [v.name for v in plan.variants]) == ("my-model", ["onnx-cpu", "onnx-gpu"])
    (tmp_path / "int8.onnx").write_bytes(onnx_models.linear())
    plan = planned(str(tmp_path / "My Model.onnx"), str(tmp_path / "int8.onnx"), version="1")
    assert [v.name for v in plan.variants] == ["my-model", "int8"]
    triton(tmp_path / "repo", BATCHED.replace(', label_filename: "labels.txt"', ""))
    assert planned(str(tmp_path / "repo")).request.origin.kind == "triton"  # type: ignore[union-attr]
    for wrong in (str(tmp_path), str(tmp_path / "gone"), "mlflow:", "s3:bucket"):
        with pytest.raises((RegistryError, UsageFault)) as raised:
            planned(wrong, version="1")
        assert str(raised.value)


def test_the_command_publishes_and_shows_where_the_version_came_from(server: RegistryProcess, tmp_path: Path) -> None:
    cli = Cli(tmp_path, server.url, server.admin_token)
    processor = json.loads((SOURCES / "clip-preprocessors.json").read_text())["crop"] | {"do_pad": True}
    files = {"model.onnx": LENET.read_bytes(), "config.json": json.dumps(LABELS).encode(), "README.md": CARD}
    hf_cache(tmp_path / "cache", files | {"preprocessor_config.json": json.dumps(processor).encode()})
    words = ("import", "hf:acme/digits", "--model", "hf-digits", "--target", "cpu,gpu", "--alias", "stable")
    ran = cli(*words, HF_HUB_CACHE=str(tmp_path / "cache"))
    assert "Published hf-digits@0123456789ab" in ran.out
    assert "do_pad has no counterpart" in ran.err
    assert "classes  10 of 'y'" in ran.err
    tried = cli(*words, "--dry-run", "--json", HF_HUB_CACHE=str(tmp_path / "cache")).document
    assert any("do_pad has no counterpart" in warning for warning in tried["warnings"])
    shown = cli("show", "hf-digits@stable").out
    assert re.search(r"classes +10 of 'y'", shown)
    assert "huggingface acme/digits@0123456789abcdef, https://huggingface.co/acme/digits" in shown
    manifest = cli("--json", "show", "hf-digits@stable").document["manifest"]
    assert (manifest["origin"]["kind"], manifest["licence"]) == ("huggingface", "apache-2.0")
    assert "nothing to do" in cli(*words, HF_HUB_CACHE=str(tmp_path / "cache")).out
    wrong = cli("import", "hf:acme/digits", "--target", "tpu", code=2, HF_HUB_CACHE=str(tmp_path / "cache"))
    assert "cpu, gpu" in wrong.err


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (["triton:nowhere", "--version", "1"], 3, "nowhere is not a folder"),
        (["triton:linear", "--file", "2"], 3, "has no version 2"),
        (["hf:acme/nothing"], 3, "hf download acme/nothing"),
        (["mlflow:nowhere"], 3, "nowhere is not a folder"),
        (["oci:nowhere:v1"], 3, "nowhere:v1 is not a folder"),
        (["sklearn:nowhere.pkl"], 3, "nowhere.pkl does not exist"),
        (["triton:"], 2, "No folder after triton:"),
        (["a.onnx", "b.onnx"], 2, "--version 1.0.0"),
        (["a.onnx", "linear/1/a.onnx", "--version", "1"], 2, "Two of the files"),
        (["hf:plain"], 2, "--version 1.0.0"),
        (["mlflow:linear"], 1, "no model folder of MLflow"),
    ],
)
def test_a_failed_import_ends_with_the_exit_code_and_hint_that_fit(
    tmp_path: Path, arguments: list[str], exit_code: int, said: str
) -> None:
    triton(tmp_path / "linear", None)
    for name in ("a.onnx", "b.onnx", "linear/1/a.onnx", "plain/model.onnx"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(onnx_models.linear())
    ended = Cli(tmp_path, "http://127.0.0.1:1", None)("import", *arguments, code=exit_code)
    assert said in ended.err
    assert "export it again" not in ended.err
    assert "[[variant]]" not in ended.err
    assert "list commands" not in ended.err
