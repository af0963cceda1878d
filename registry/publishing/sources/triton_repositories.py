"""Model repositories of Triton Inference Server: `<repository>/<model>/{config.pbtxt, <version>/model.onnx}`.

A folder is either a model, or a repository that holds one. The newest version is taken that the model's version policy
serves. `config.pbtxt` is read for what decides answers: whether requests may be joined (`dynamic_batching` is the
publisher's word that they may; a `max_batch_size` of 0 that they may not), labels, and what the graph of the file is
expected to take and give. Sources: Triton Inference Server, docs/user_guide/model_repository.md and
model_configuration.md; the names and types of `inference.ModelConfig` in model_config.proto.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from registry.contracts.catalogue.batching import MAX_JOINED
from registry.contracts.catalogue.manifest import Classification, Origin, Target
from registry.inspection.facts import ModelFacts
from registry.inspection.labels import read_labels
from registry.inspection.onnx import inspect
from registry.publishing.request import BatchingSection, near_name
from registry.publishing.sources.found import (
    FoundFile,
    FoundModel,
    SourceChoice,
    SourceError,
    SourceMissingError,
    SourceUsageError,
    inside,
    read_text,
)

CONFIG = "config.pbtxt"
_FILES = {"onnxruntime": "model.onnx", "tensorrt": "model.plan"}
"""What each backend that has a counterpart here loads, where the configuration names no file."""
_PLATFORMS = {"onnxruntime_onnx": "onnxruntime", "tensorrt_plan": "tensorrt"}
_UNSTORED = {
    "pytorch": "a TorchScript model: export it to ONNX (torch.onnx.export)",
    "tensorflow": "a TensorFlow model: convert it to ONNX (tf2onnx)",
    "openvino": "an OpenVINO model: publish the ONNX file that it was made from",
    "python": "Python code: publish the model that it calls",
    "ensemble": "an ensemble of other models: publish each of them",
}


def read_triton(folder: Path, choice: SourceChoice) -> FoundModel:
    """The model of a repository or of one of its folders. The choice is the number of its version's folder.

    Raises:
        InspectionError: there is none, more than one, or it is of a kind that is not served here.
    """
    folder = _model_folder(folder)
    config = _config(folder / CONFIG) if (folder / CONFIG).is_file() else None
    version = _version_folder(folder, choice.file, config)
    backend = _backend(config, version)
    name = (config and config.default_model_filename) or _FILES[backend]
    file = inside(version, name, CONFIG)
    if file.is_dir():  # the form for models with external data
        file = file / _FILES[backend]
    if not file.is_file():
        raise SourceError(f"{file} does not exist, or is not a file: {folder} has no model for version {version.name}")
    inside(version, file.relative_to(version).as_posix(), CONFIG)
    facts = None
    if config is not None and backend == "onnxruntime":
        facts = inspect(file)
        _require_tensors(config, facts, file.name)
    notes: list[str] = []
    target = Target.GPU if backend == "tensorrt" else None
    if config is not None:
        notes += _notes(config)
        kinds = {group.kind for group in config.instance_group}
        if target is None and kinds == {_KIND_GPU}:
            target = Target.GPU
        elif target is None and kinds == {_KIND_CPU}:
            target = Target.CPU
    return FoundModel(
        origin=Origin(kind="triton", source=folder.name[:512], revision=version.name),
        files=(FoundFile(file, (target,) if target else (), _batching(config), facts=facts),),
        name=near_name((config and config.name) or folder.name),
        version=version.name,
        classification=_classification(config, folder),
        notes=tuple(notes),
    )


def _model_folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise SourceMissingError(f"{folder} is not a folder")
    if (folder / CONFIG).is_file() or _versions(folder):
        return folder
    models = [
        path for path in sorted(folder.iterdir()) if path.is_dir() and ((path / CONFIG).is_file() or _versions(path))
    ]
    if not models:
        raise SourceError(
            f"{folder} is no model repository: no folder in it has {CONFIG} or a version's folder (1, 2, …)"
        )
    if len(models) > 1:
        names = ", ".join(path.name for path in models[:8])
        raise SourceUsageError(f"{folder} holds {len(models)} models ({names}): give the folder of one of them")
    return models[0]


def _versions(folder: Path) -> list[Path]:
    """Folders of versions, the newest last; Triton passes over names that are no number or begin with 0."""
    numbers = [p for p in folder.iterdir() if p.is_dir() and p.name.isascii() and p.name.isdigit() and p.name[0] != "0"]
    return sorted(numbers, key=lambda path: int(path.name))


def _version_folder(folder: Path, chosen: str | None, config: Any) -> Path:
    """The newest that the configuration's version policy serves, or the chosen one."""
    versions = _versions(folder)
    if config is not None and config.version_policy.HasField("specific"):
        served = {str(number) for number in config.version_policy.specific.versions}
        versions = [path for path in versions if path.name in served]
    if chosen is not None:
        versions = [path for path in versions if path.name == chosen]
    if not versions:
        which = f"version {chosen}" if chosen is not None else "version's folder (1, 2, …)"
        raise SourceMissingError(f"{folder} has no {which}")
    return versions[-1]


def _backend(config: Any, version: Path) -> str:
    said = "" if config is None else config.backend or _PLATFORMS.get(config.platform, config.platform.split("_")[0])
    if not said:  # Triton completes it from the file's name
        said = next((backend for backend, name in _FILES.items() if (version / name).exists()), "")
    if said in _FILES:
        return str(said)
    what = _UNSTORED.get(said, f"a model of the backend {said[:64]!r}" if said else "no model.onnx and no model.plan")
    raise SourceError(f"{version.parent} is {what}")


def _batching(config: Any) -> BatchingSection:
    """Triton joins requests only where dynamic batching is configured: whoever did so declares that it is right."""
    if config is None:
        return BatchingSection()
    if config.max_batch_size < 0:
        raise SourceError(f"{CONFIG}: max_batch_size is {config.max_batch_size}")
    if config.max_batch_size == 0:
        return BatchingSection(independent=False)
    if config.HasField("dynamic_batching"):
        return BatchingSection(independent=True, max_size=min(config.max_batch_size, MAX_JOINED))
    return BatchingSection()


def _classification(config: Any, folder: Path) -> Classification | None:
    """Triton's classification extension gives an output's own values with the labels of its file."""
    labelled = [] if config is None else [output for output in config.output if output.label_filename]
    if len(labelled) != 1:
        return None
    labels = read_labels(inside(folder, labelled[0].label_filename, CONFIG))
    return Classification(output=labelled[0].name, softmax=False, labels=labels, top_k=min(5, len(labels)))


def _require_tensors(config: Any, facts: ModelFacts, name: str) -> None:
    """Triton loads no model whose configuration names other tensors than its file."""
    for kind, said, specs in (
        ("input", config.input, (*facts.inputs, *facts.optional_inputs)),
        ("output", config.output, facts.outputs),
    ):
        names = {spec.name for spec in specs}
        if unknown := sorted({tensor.name for tensor in said} - names):
            have = ", ".join(sorted(names)[:8])
            raise SourceError(f"{CONFIG} names the {kind} {unknown[0][:100]!r}, and {name} has: {have}")


def _notes(config: Any) -> list[str]:
    notes = []
    if config.cc_model_filenames:
        notes.append(f"{CONFIG} names other files for some GPUs (cc_model_filenames); only one file is taken")
    if any(tensor.HasField("reshape") for tensor in (*config.input, *config.output)):
        notes.append(f"{CONFIG} reshapes tensors; requests here have the shapes of the model's own file")
    if config.HasField("sequence_batching"):
        raise SourceError(f"{config.name or 'the model'} keeps state between requests (sequence_batching)")
    if len([output for output in config.output if output.label_filename]) > 1:
        notes.append(f"{CONFIG} has labels for several outputs; say which one classifies with a publish file")
    return notes


_KIND_CPU, _KIND_GPU = 2, 1


def _config(path: Path) -> Any:
    from google.protobuf import text_format  # noqa: PLC0415 - it comes with the package that reads ONNX

    config = _messages()()
    try:
        text_format.Parse(read_text(path), config, allow_unknown_field=True)
    except (text_format.ParseError, RecursionError, ValueError) as error:
        raise SourceError(f"{path} is not a model configuration: {str(error)[:300]}") from None
    return config


@cache
def _messages() -> Any:
    """The message of `inference.ModelConfig`, with the fields that are read here. In text form a field is known by its
    name, so that the numbers are of no account."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # noqa: PLC0415

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="modelfleet/triton_model_config.proto", package="modelfleet.triton", syntax="proto2"
    )

    def message(message_name: str, fields: dict[str, Any]) -> None:
        made = file.message_type.add(name=message_name)
        for number, (name, kind) in enumerate(fields.items(), 1):
            of = kind[0] if isinstance(kind, list) else kind
            label = kinds.LABEL_REPEATED if isinstance(kind, list) else kinds.LABEL_OPTIONAL
            added = made.field.add(name=name, number=number, label=label)
            if isinstance(of, int):
                added.type = of
            else:
                added.type = kinds.TYPE_ENUM if of == "Kind" else kinds.TYPE_MESSAGE
                added.type_name = f".modelfleet.triton.{of}"

    kind = file.enum_type.add(name="Kind")
    for number, name in enumerate(("KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL")):
        kind.value.add(name=name, number=number)
    text, count = kinds.TYPE_STRING, kinds.TYPE_INT64
    message("Empty", {})
    message("Reshape", {"shape": [count]})
    message("Tensor", {"name": text, "dims": [count], "reshape": "Reshape", "label_filename": text})
    message("Group", {"name": text, "kind": "Kind", "count": count})
    message("Named", {"key": text, "value": text})
    message("Specific", {"versions": [count]})
    message("Policy", {"specific": "Specific"})
    scalars = {"name": text, "platform": text, "backend": text, "default_model_filename": text, "max_batch_size": count}
    lists = {"input": ["Tensor"], "output": ["Tensor"], "instance_group": ["Group"]}
    message(
        "ModelConfig",
        {
            **scalars,
            **lists,
            "dynamic_batching": "Empty",
            "sequence_batching": "Empty",
            "version_policy": "Policy",
            "cc_model_filenames": ["Named"],
        },
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("modelfleet.triton.ModelConfig"))
