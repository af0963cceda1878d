"""Snapshots of Hugging Face repositories, as `huggingface_hub` keeps them in its cache, or any folder of that form.

In the cache `snapshots/<revision>/model.onnx` is a symbolic link into `blobs/`: links that stay inside the repository's
own folder are followed. `config.json` names the classes (`id2label`), `preprocessor_config.json` says how a picture
becomes the input; what of it cannot be done exactly as said is left out, with a note. Nothing is downloaded and no code
is run.
Sources: huggingface_hub, "Understand caching"; transformers, `PretrainedConfig.id2label` and `BaseImageProcessor`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from registry.contracts.catalogue.manifest import Classification, ImageInput, Origin, TensorSpec
from registry.inspection.facts import ModelFacts
from registry.inspection.onnx import inspect
from registry.publishing.request import DetectionSection, LayoutName, near_name
from registry.publishing.sources.found import (
    FoundFile,
    FoundModel,
    SourceChoice,
    SourceError,
    SourceMissingError,
    SourceUsageError,
    inside,
    only_one,
    read_object,
    read_text,
    version_from,
)

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


class _Processor(NamedTuple):
    """What a class of transformers does beside what its configuration says."""

    square: bool
    """A size that is one number is both edges; else the shorter one."""
    needed: tuple[str, ...] = ()
    """Keys whose default in the class is not the one of others."""


_PROCESSORS = {
    "ViT": _Processor(square=True),
    "Siglip": _Processor(square=True),
    "CLIP": _Processor(square=False, needed=("do_center_crop",)),
    "Bit": _Processor(square=False, needed=("do_center_crop",)),
    "MobileNetV1": _Processor(square=False, needed=("do_center_crop",)),
    "MobileNetV2": _Processor(square=False, needed=("do_center_crop",)),
    "RTDetr": _Processor(square=True),
}
"""Those that resize, crop the middle, rescale and normalise, and nothing else. Others (ConvNext's crop_pct,
EfficientNet's second normalisation, LeViT's 256 / 224) do what no configuration says."""
_KNOWN_KEYS = frozenset(
    {"image_processor_type", "feature_extractor_type", "processor_class", "do_resize", "do_center_crop", "do_rescale"}
    | {"do_normalize", "do_convert_rgb", "size", "crop_size", "resample", "rescale_factor", "image_mean", "image_std"}
    | {"do_convert_annotations", "format"}  # of boxes that a model is trained with
)
_DETECTORS: dict[str, LayoutName] = {
    **dict.fromkeys(("Detr", "Yolos", "TableTransformer"), "detr"),
    **dict.fromkeys(("RTDetr", "RTDetrV2", "DFine"), "rt-detr"),
}
"""Architectures for object detection, and how transformers reads their outputs (`post_process_object_detection`)."""
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""PIL's numbers for resampling filters, as `resample` gives them."""


def read_huggingface(source: str, choice: SourceChoice) -> FoundModel:
    """`ORG/NAME[@REVISION]` out of the cache, or a folder. The choice is the model's file inside it.

    Raises:
        InspectionError: it is not in the cache, holds no ONNX model, or more than one.
    """
    folder, repository, revision, root = _locate(source)
    preferred = [path for name in ("model.onnx", "onnx/model.onnx") if (path := folder / name).is_file()]
    found = preferred[:1] or sorted(
        path for path in (*folder.glob("*.onnx"), *folder.glob("onnx/*.onnx")) if path.is_file()
    )
    what = "no ONNX file; export the model: optimum-cli export onnx --model NAME FOLDER"
    file = only_one(found, folder, choice.file, what, root)
    if not file.resolve().is_relative_to(root.resolve()):
        raise SourceError(f"{file} is a link that leaves {root}")
    facts = inspect(file, root)
    config = _object(folder, "config.json", root)
    notes: list[str] = []
    pictures = _object(folder, "preprocessor_config.json", root)
    image = _image(pictures, facts, notes) if pictures else None
    card = inside(folder, "README.md", "the snapshot", root)
    return FoundModel(
        origin=Origin(kind="huggingface", source=repository[:512], revision=revision, url=_page(repository)),
        files=(FoundFile(file, links_within=root, facts=facts),),
        name=near_name(repository.rsplit("/", 1)[-1]),
        version=version_from(revision[:12]) if revision else None,
        licence=_licence(card) if card.is_file() else None,
        card=card if card.is_file() else None,
        image=image,
        classification=_classification(config, facts, notes),
        detection=_detection(config, facts, image, notes),
        notes=tuple(notes),
    )


def _object(folder: Path, name: str, root: Path) -> dict[str, Any]:
    path = inside(folder, name, "the snapshot", root)
    return read_object(path) if path.is_file() else {}


def cache_folder() -> Path:
    """Where `huggingface_hub` keeps repositories, by its own variables."""
    if said := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(said).expanduser()
    home = os.environ.get("HF_HOME")
    base = (
        Path(home).expanduser()
        if home
        else Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "huggingface"
    )
    return base / "hub"


def _locate(source: str) -> tuple[Path, str, str | None, Path]:
    """The snapshot's folder, the repository, the revision, and the folder that links may not leave."""
    if (path := Path(source).expanduser()).is_dir():
        path = path.absolute()
        if path.parent.name == "snapshots":
            repository = path.parent.parent.name.removeprefix("models--").replace("--", "/")
            return path, repository, path.name[:128], path.parent.parent
        return path, path.name, None, path
    repository, _, revision = source.partition("@")
    if not _REPOSITORY.fullmatch(repository) or "/" in revision or revision in (".", ".."):
        raise SourceUsageError(f"{source[:200]!r} is neither a folder nor ORG/NAME[@REVISION]")
    root = cache_folder() / f"models--{repository.replace('/', '--')}"
    revision = revision or "main"
    snapshot = root / "snapshots" / revision
    if not snapshot.is_dir() and (reference := root / "refs" / revision).is_file():
        snapshot = root / "snapshots" / read_text(reference).strip()[:128]
    if not snapshot.is_dir():
        raise SourceMissingError(
            f"{repository}@{revision} is not in the cache {cache_folder()}: hf download {repository} first"
        )
    return snapshot, repository, snapshot.name[:128], root


def _page(repository: str) -> str | None:
    """Where people read about it; a folder of another name has no such page."""
    return f"https://huggingface.co/{repository}" if re.fullmatch(r"[\w.-]+/[\w.-]+", repository) else None


def _licence(card: Path) -> str | None:
    """`license:` of the card's front matter (YAML between two lines of ---), where it is one plain word."""
    matter = re.match(r"---\r?\n(.*?)\r?\n---\s", read_text(card) + "\n", re.DOTALL)
    said = (
        re.search(r"^licen[sc]e:[ \t]*[\"']?([\w.+-]{1,128})[\"']?[ \t]*$", matter[1], re.MULTILINE) if matter else None
    )
    return said[1] if said else None


def _architectures(config: dict[str, Any]) -> list[str]:
    said = config.get("architectures")
    return [str(name) for name in said] if isinstance(said, list) else []


def _labels(config: dict[str, Any], notes: list[str]) -> tuple[str, ...]:
    """Of `id2label`, by number; empty: there are none that can be used."""
    names = config.get("id2label")
    if not isinstance(names, dict):
        return ()
    try:
        by_number = {int(key): str(value) for key, value in names.items()}
    except ValueError:
        notes.append("config.json: id2label has keys that are no numbers; labels are left out")
        return ()
    if sorted(by_number) != list(range(len(by_number))):
        notes.append("config.json: id2label has gaps; labels are left out")
        return ()
    return tuple(by_number[number] for number in range(len(by_number)))


def _detection(
    config: dict[str, Any], facts: ModelFacts, image: ImageInput | None, notes: list[str]
) -> DetectionSection | None:
    """How boxes are made of `logits` and `pred_boxes`, where the model is of an architecture that is known."""
    heads = [name.removesuffix("ForObjectDetection") for name in _architectures(config) if "ObjectDetection" in name]
    if not heads:
        return None
    layout = next((found for name in heads if (found := _DETECTORS.get(name)) is not None), None)
    if layout is None:
        notes.append(f"config.json: how boxes are read of {heads[0][:64]} is not known here; [detection] is left out")
    elif not {"logits", "pred_boxes"} <= {spec.name for spec in facts.outputs}:
        notes.append("the model has no outputs `logits` and `pred_boxes`; [detection] is left out")
    elif image is None:
        notes.append("how pictures become the input is left out, and so is [detection]")
    elif labels := _labels(config, notes):
        return DetectionSection(layout=layout, labels=labels)
    return None


def _classification(config: dict[str, Any], facts: ModelFacts, notes: list[str]) -> Classification | None:
    """The labels, where the model classifies the whole input: one output of [N, classes]."""
    if not any(
        name.endswith(("ForImageClassification", "ForSequenceClassification")) for name in _architectures(config)
    ):
        return None
    labels = _labels(config, notes)
    if not labels:
        return None
    output = next((spec for spec in facts.outputs if spec.name == "logits"), facts.outputs[0])
    if config.get("problem_type") in ("multi_label_classification", "regression"):
        notes.append(f"config.json: {config['problem_type']}, whose scores do not compete; labels are left out")
    elif len(output.shape) != 2 or output.shape[1] not in (-1, len(labels)):
        shape = list(output.shape)
        notes.append(f"output {output.name!r} has the shape {shape} for {len(labels)} labels; they are left out")
    elif len(labels) < 2:
        notes.append("config.json names one class only; labels are left out")
    else:
        ends = facts.last_operators.get(output.name, "")
        return Classification(
            output=output.name, softmax=ends not in ("Softmax", "Sigmoid"), labels=labels, top_k=min(5, len(labels))
        )
    return None


def _image(said: dict[str, Any], facts: ModelFacts, notes: list[str]) -> ImageInput | None:
    """How a picture becomes the input, where every step can be done as the file says it."""
    try:
        return ImageInput(input=facts.inputs[0].name, **_steps(said, facts.inputs))
    except (_NotExactError, ValidationError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        text = str(error) if isinstance(error, _NotExactError) else "its values are not as expected"
        notes.append(f"preprocessor_config.json: {text}; [image] is left out")
        return None


class _NotExactError(Exception):
    """A step that cannot be done exactly as it is said."""


def _steps(said: dict[str, Any], inputs: Sequence[TensorSpec]) -> dict[str, Any]:
    """The fields of ImageInput. A key whose default depends on the processor's class must be there."""
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        raise _NotExactError(f"the model takes {len(inputs)} inputs, or one that does not have 4 dimensions")
    shape = inputs[0].shape
    said = {key: value for key, value in said.items() if value is not None}
    kind = str(said.get("image_processor_type") or said.get("feature_extractor_type") or "no processor")
    kind = kind.removesuffix("Fast").removesuffix("ImageProcessor").removesuffix("FeatureExtractor")
    if kind not in _PROCESSORS:
        raise _NotExactError(f"the steps of {kind} are not known here")
    unknown = sorted(key for key in said if key not in _KNOWN_KEYS and said[key] is not False)
    missing = [key for key in ("do_normalize", "resample", "size", *_PROCESSORS[kind].needed) if key not in said]
    if unknown or missing:
        raise _NotExactError(f"{unknown[0]} has no counterpart" if unknown else f"{missing[0]} is not said")
    if not said.get("do_resize", True):
        raise _NotExactError("pictures are not resized")
    if said["resample"] not in _FILTERS:
        raise _NotExactError(f"resample {said['resample']} is no filter")
    layout = "NHWC" if shape[3] == 3 else "NCHW"
    made = {
        "channels": "RGB",
        "layout": layout,
        "filter": _FILTERS[said["resample"]],
        **_sizes(said, _PROCESSORS[kind]),
    }
    made["scale"] = float(said.get("rescale_factor", 1 / 255)) if said.get("do_rescale", True) else 1.0
    if said["do_normalize"]:
        made["mean"], made["std"] = tuple(map(float, said["image_mean"])), tuple(map(float, said["image_std"]))
    size = (made["height"], made["width"])
    expected = (3, *size) if layout == "NCHW" else (*size, 3)
    if any(have not in (-1, want) for have, want in zip(shape[1:], expected, strict=True)):
        raise _NotExactError(f"it makes {list(expected)}, and the model takes {list(shape[1:])}")
    return made


def _sizes(said: dict[str, Any], processor: _Processor) -> dict[str, Any]:
    """Resizing to a height and a width, or by the shorter edge with a crop of the middle."""
    size, crop = said["size"], _pair(said.get("crop_size")) if said.get("do_center_crop") else None
    if isinstance(size, dict):
        shorter = size.get("shortest_edge") if "longest_edge" not in size else None
    else:
        shorter = None if processor.square else size
    if shorter is None:
        height, width = _pair(size)
        if crop not in (None, (height, width)):
            raise _NotExactError("it stretches the picture and crops it then")
        return {"resize": "stretch", "height": height, "width": width}
    if crop is None:
        raise _NotExactError("the size of its result depends on the picture")
    return {"resize": "crop", "shorter_edge": _whole(shorter), "height": crop[0], "width": crop[1]}


def _pair(size: Any) -> tuple[int, int]:
    if isinstance(size, dict) and size.keys() == {"height", "width"}:
        return _whole(size["height"]), _whole(size["width"])
    if isinstance(size, dict):
        raise _NotExactError("its size is not a height and a width")
    return _whole(size), _whole(size)


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise _NotExactError(f"the size {value!r} is no whole number")
    return value
