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
from typing import Any

from pydantic import ValidationError

from registry.contracts.catalogue.manifest import Classification, ImageInput, Origin, TensorSpec
from registry.inspection.facts import ModelFacts
from registry.inspection.onnx import inspect
from registry.publishing.sources.found import (
    FoundFile,
    FoundModel,
    SourceChoice,
    SourceError,
    SourceMissingError,
    SourceUsageError,
    name_from,
    only_one,
    read_object,
    read_text,
    version_from,
)

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
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
    config = _object(folder, "config.json")
    notes: list[str] = []
    pictures = _object(folder, "preprocessor_config.json") or _object(folder, "processor_config.json")
    card = folder / "README.md"
    return FoundModel(
        origin=Origin(kind="huggingface", source=repository[:512], revision=revision, url=_page(repository)),
        files=(FoundFile(file, links_within=root),),
        name=name_from(repository.rsplit("/", 1)[-1]),
        version=version_from(revision[:12]) if revision else None,
        licence=_licence(card) if card.is_file() else None,
        card=card if card.is_file() else None,
        image=_image(pictures, facts, notes) if pictures else None,
        classification=_classification(config, facts, notes),
        notes=tuple(notes),
    )


def _object(folder: Path, name: str) -> dict[str, Any]:
    return read_object(folder / name) if (folder / name).is_file() else {}


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


def _classification(config: dict[str, Any], facts: ModelFacts, notes: list[str]) -> Classification | None:
    """The labels, where the model classifies the whole input: one output of [N, classes]."""
    names = config.get("id2label")
    heads = [str(name) for name in config.get("architectures") or ()]
    if not isinstance(names, dict) or not any(
        name.endswith(("ForImageClassification", "ForSequenceClassification")) for name in heads
    ):
        return None
    try:
        by_number = {int(key): str(value) for key, value in names.items()}
    except ValueError:
        notes.append("config.json: id2label has keys that are no numbers; labels are left out")
        return None
    output = next((spec for spec in facts.outputs if spec.name == "logits"), facts.outputs[0])
    if sorted(by_number) != list(range(len(by_number))):
        notes.append("config.json: id2label has gaps; labels are left out")
    elif config.get("problem_type") in ("multi_label_classification", "regression"):
        notes.append(f"config.json: {config['problem_type']}, whose scores do not compete; labels are left out")
    elif len(output.shape) != 2 or output.shape[1] not in (-1, len(by_number)):
        shape = list(output.shape)
        notes.append(f"output {output.name!r} has the shape {shape} for {len(by_number)} labels; they are left out")
    elif len(by_number) < 2:
        notes.append("config.json names one class only; labels are left out")
    else:
        ends = facts.last_operators.get(output.name, "")
        labels = tuple(by_number[number] for number in range(len(by_number)))
        return Classification(
            output=output.name, softmax=ends not in ("Softmax", "Sigmoid"), labels=labels, top_k=min(5, len(labels))
        )
    return None


def _image(said: dict[str, Any], facts: ModelFacts, notes: list[str]) -> ImageInput | None:
    """How a picture becomes the input, where every step can be done as the file says it."""
    try:
        return ImageInput(input=facts.inputs[0].name, **_steps(said, facts.inputs))
    except (_NotExactError, ValidationError, TypeError, ValueError) as error:
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
    unknown = [key for key in said if key.startswith("do_") and said[key] and key not in _KNOWN_STEPS]
    if unknown:
        raise _NotExactError(f"{unknown[0]} has no counterpart")
    missing = [key for key in ("do_normalize", "resample", "size") if key not in said]
    if missing or not said.get("do_resize", True):
        raise _NotExactError(f"{missing[0]} is not said" if missing else "pictures are not resized")
    if said["resample"] not in _FILTERS:
        raise _NotExactError(f"resample {said['resample']} is no filter")
    layout = "NHWC" if shape[3] == 3 else "NCHW"
    made = {"channels": "RGB", "layout": layout, "filter": _FILTERS[said["resample"]], **_sizes(said)}
    made["scale"] = float(said.get("rescale_factor", 1 / 255)) if said.get("do_rescale", True) else 1.0
    if said["do_normalize"]:
        made["mean"], made["std"] = tuple(map(float, said["image_mean"])), tuple(map(float, said["image_std"]))
    size = (made["height"], made["width"])
    expected = (3, *size) if layout == "NCHW" else (*size, 3)
    if any(have not in (-1, want) for have, want in zip(shape[1:], expected, strict=True)):
        raise _NotExactError(f"it makes {list(expected)}, and the model takes {list(shape[1:])}")
    return made


def _sizes(said: dict[str, Any]) -> dict[str, Any]:
    """Resizing to a height and a width, or by the shorter edge with a crop of the middle."""
    size, crop = said["size"], _pair(said.get("crop_size")) if said.get("do_center_crop") else None
    if isinstance(size, dict):
        shorter = size.get("shortest_edge") if "longest_edge" not in size else None
    else:  # before processors said which edge, a number was the shorter one where a crop follows, else both
        shorter = size if crop else None
    if shorter is None:
        height, width = _pair(size)
        if crop not in (None, (height, width)):
            raise _NotExactError("it stretches the picture and crops it then")
        return {"resize": "stretch", "height": height, "width": width}
    if crop is None or said.get("crop_pct") is not None:
        raise _NotExactError("the size of its result depends on the picture, or on crop_pct")
    return {"resize": "crop", "shorter_edge": int(shorter), "height": crop[0], "width": crop[1]}


_KNOWN_STEPS = {"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"}


def _pair(size: Any) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    if isinstance(size, dict) and {"height", "width"} <= size.keys():
        return int(size["height"]), int(size["width"])
    raise _NotExactError("its size is not a height and a width")
