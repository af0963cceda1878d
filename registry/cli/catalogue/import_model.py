"""`registry import`: models from where they already lie, published with what their source says of them."""

from __future__ import annotations

from typing import Annotated

import typer

from registry.cli.catalogue.publish import (
    AliasOption,
    CardOption,
    DryRunOption,
    LabelOption,
    LicenceOption,
    parse_targets,
    publish_request,
    tensor_specs,
)
from registry.cli.output import end_well
from registry.cli.session import Session, command, parse_labels
from registry.contracts.catalogue.manifest import Target
from registry.publishing.sources.found import SourceChoice
from registry.publishing.sources.read import read_source, request_of

SourcesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...",
        help="mlflow:FOLDER, hf:ORG/NAME[@REVISION] or hf:FOLDER, triton:FOLDER, oci:FOLDER[:TAG], sklearn:FILE, "
        "torch:FILE; or files of one model.",
    ),
]
ModelOption = Annotated[str | None, typer.Option("--model", help="The model's name. Default: the source's own.")]
VersionOption = Annotated[
    str | None, typer.Option("--version", help="The version's name. Default: the revision or version of the source.")
]
TargetsOption = Annotated[
    str | None,
    typer.Option(
        "--target",
        metavar="TARGET[,TARGET]",
        help=f"A variant for each: {', '.join(Target)}. Default: as the source says, else cpu.",
    ),
]
FileOption = Annotated[
    str | None,
    typer.Option("--file", metavar="NAME", help="Which file of the source; of triton: the number of its version."),
]
PicturesOption = Annotated[bool, typer.Option("--pictures/--no-pictures", help="Take over how pictures become inputs.")]
ClassesOption = Annotated[bool, typer.Option("--classes/--no-classes", help="Take over the names of classes.")]


InputOption = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME:TYPE:DIMS",
        help="An input of a PyTorch model that does not say it: x:FP32:-1,3,224,224 (-1: any size). In their order.",
    ),
]
TrustOption = Annotated[
    bool,
    typer.Option("--trust-pickle", help="Read a pickle, which runs its author's code, in a sandbox. Default: refuse."),
]


@command
def import_model(
    session: Session,
    sources: SourcesArgument,
    *,
    model: ModelOption = None,
    version: VersionOption = None,
    target: TargetsOption = None,
    file: FileOption = None,
    label: LabelOption = None,
    licence: LicenceOption = None,
    card: CardOption = None,
    alias: AliasOption = None,
    pictures: PicturesOption = True,
    classes: ClassesOption = True,
    model_input: InputOption = None,
    trust_pickle: TrustOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Publish a model from where it already lies.

    Reads what the source says of the model (name, version, licence, labels, pictures, batching), publishes it as
    `registry publish` does, and records where it came from. What cannot be done exactly as the source says is left out,
    with a warning. Nothing is downloaded. No code of the source is run; a pickle only with --trust-pickle.

    - **mlflow:** a model folder with the flavour onnx, sklearn or pytorch.
    - **hf:** a snapshot in the cache of huggingface_hub, or a folder: the ONNX file, the classes of config.json, the
      steps of preprocessor_config.json, the model card and its licence.
    - **triton:** a model repository or a model's folder: the newest version, batching and labels of config.pbtxt.
    - **oci:** an image layout with a CNCF ModelPack or a ModelKit; every blob is checked.
    - **sklearn:** a .skops, .pkl or .joblib file, exported by skl2onnx and compared with the model itself.
    - **torch:** a TorchScript archive, an exported program (.pt2) or a pickled module, exported by torch.onnx and
      compared with the model itself. The two last only with --trust-pickle.
    - **files:** several files of one model become its variants.

    ```
    registry import hf:microsoft/resnet-50 --dry-run        # what would be published, and what was left out
    registry import triton:/models/densenet --target gpu,cpu
    registry import mlflow:mlruns/1/8f3c/artifacts/model --version 3 --alias stable
    registry import oci:./layout:v2 --model digits
    registry import torch:resnet18.pt --version 1.0.0 --input x:FP32:-1,3,224,224
    registry import digits.onnx digits-int8.onnx --version 1.0.0
    ```
    """
    end_well()
    found = read_source(sources, SourceChoice(file, trust_pickle, tensor_specs(model_input)))
    with found.keep:
        request = request_of(found, model=model, version=version, targets=parse_targets(target))
        said = {
            "licence": licence or request.licence,
            "card": card or request.card,
            "labels": parse_labels(label or []),
            "aliases": tuple(dict.fromkeys(alias or ())),
            "image": request.image if pictures else None,
            "classification": request.classification if classes else None,
            "detection": request.detection if classes and pictures else None,
        }
        publish_request(
            session, request.model_copy(update=said), dry_run=dry_run, notes=found.notes, inspected=found.inspected
        )
