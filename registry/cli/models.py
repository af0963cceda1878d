"""`registry models | show | record | delete`: what is published, and what happens to it."""

from __future__ import annotations

import sys
from enum import Enum
from typing import Annotated

import typer

from registry.cli.client import Client
from registry.cli.failures import CliError, ExitCode, UsageFault
from registry.cli.measured import evaluations_of, parity_of, show_evaluations, show_parity
from registry.cli.output import Output, short, size_text, time_text
from registry.cli.session import Session, command, split_reference
from registry.contracts.api.versions import ModelSettings, ModelView, VersionView
from registry.contracts.digest import digest_of
from registry.contracts.manifest import Manifest, Requirements, TensorSpec, Variant
from registry.contracts.paths import manifest_path, model_path, models_path, version_path, versions_path


class Switch(str, Enum):
    """`on` or `off`."""

    ON = "on"
    OFF = "off"


@command
def models(session: Session) -> None:
    """List the models with their newest version.

    ```
    registry models
    registry models --json | jq -r '.[].name'
    ```
    """
    found = session.client.items(models_path(), ModelView)
    if session.out.as_json:
        session.out.document(found)
        return
    session.out.table(
        ("MODEL", ">VERSIONS", "NEWEST", "VARIANTS", ">SIZE", "ALIASES", "PUBLISHED"),
        (_model_row(model) for model in found),
        empty="No models yet. Publish one: registry publish NAME MODEL.onnx --version 1.0.0 --target cpu",
    )


def _model_row(model: ModelView) -> tuple[object, ...]:
    newest = model.latest
    aliases = ", ".join(f"{alias}={version}" for alias, version in sorted(model.aliases.items()))
    if newest is None:
        return model.name, 0, "-", "-", "-", aliases, "-"
    variants = ", ".join(variant.name for variant in newest.variants)
    size, at = size_text(newest.size), time_text(newest.created_at)
    return model.name, model.versions, newest.version, variants, size, aliases, at


@command
def show(session: Session, reference: Annotated[str, typer.Argument(metavar="MODEL[@VERSION|@ALIAS]")]) -> None:
    """Show a model's versions, or all about one version: inputs, outputs, variants, parity, scores, labels.

    ```
    registry show lenet
    registry show lenet@1.0.0
    registry show lenet@stable --json
    ```
    """
    model, version = split_reference(reference)
    if version is None:
        _show_model(session, model)
    else:
        _show_version(session, model, version)


def find_version(client: Client, model: str, reference: str | None) -> VersionView:
    """The version that a reference names; the newest when there is none.

    Raises:
        CliError: it is not there.
    """
    if reference is not None:
        return client.get(version_path(model, reference), VersionView)
    latest = client.get(model_path(model), ModelView).latest
    if latest is None:
        raise CliError(f"Model {model} has no versions", code="not_found")
    return latest


def fetch_manifest(client: Client, version: VersionView) -> Manifest:
    """The manifest of a version, which has the digest that the registry says.

    Raises:
        CliError: its bytes are others.
    """
    answer = client.call("GET", manifest_path(version.manifest), repeatable=True)
    if digest_of(answer.body) != version.manifest:
        raise CliError(
            f"The manifest of {version.model}@{version.version} does not have its digest", code="digest_mismatch"
        )
    return answer.decode(Manifest)


def _show_model(session: Session, name: str) -> None:
    model = session.client.get(model_path(name), ModelView)
    versions = session.client.items(versions_path(name), VersionView)
    if session.out.as_json:
        session.out.document({"model": model, "versions": versions})
        return
    recording = f"on, kept {model.result_retention_hours} h" if model.record_results else "off"
    session.out.say(f"{model.name}: recording of results {recording}\n")
    session.out.table(
        ("VERSION", "ALIASES", "VARIANTS", ">SIZE", "MANIFEST", "PUBLISHED", "BY"),
        (_version_row(version) for version in versions),
        empty="It has no versions.",
    )


def _version_row(view: VersionView) -> tuple[object, ...]:
    aliases, variants = ", ".join(view.aliases), ", ".join(variant.name for variant in view.variants)
    size, at = size_text(view.size), time_text(view.created_at)
    return view.version, aliases, variants, size, short(view.manifest), at, view.created_by


def _show_version(session: Session, model: str, reference: str) -> None:
    view = find_version(session.client, model, reference)
    manifest = fetch_manifest(session.client, view)
    out, parity, evaluations = session.out, parity_of(session, view), evaluations_of(session, view)
    if out.as_json:
        out.document({"version": view, "manifest": manifest, "parity": parity, "evaluations": evaluations})
        return
    out.say(f"{view.model}@{view.version}, published {time_text(view.created_at)} by {view.created_by or 'anonymous'}")
    for label, text in (
        ("manifest", view.manifest),
        ("extended", f"{view.revision} times since it was published" if view.revision else ""),
        ("aliases", ", ".join(view.aliases)),
        ("licence", manifest.licence or ""),
        ("labels", ", ".join(f"{key}={value}" for key, value in sorted(manifest.labels.items()))),
        ("card", manifest.card.path if manifest.card else ""),
        ("image", image_text(manifest)),
    ):
        if text:
            out.say(f"  {label:<9} {text}")
    show_variants(out, manifest)
    show_builds(out, manifest)
    show_parity(out, manifest, parity)
    if evaluations:
        out.say("")
        show_evaluations(session, evaluations)


def show_variants(out: Output, manifest: Manifest) -> None:
    """The signature and the variants, as tables."""
    first = manifest.variants[0]
    out.say("")
    tensors = [("input", spec) for spec in first.inputs] + [("output", spec) for spec in first.outputs]
    out.table(("TENSOR", "NAME", "DATATYPE", "SHAPE"), ((kind, *tensor_row(s)) for kind, s in tensors), "No signature.")
    out.say("")
    out.table(
        ("VARIANT", "FORMAT", "TARGET", ">SIZE", "FILES", "NEEDS"),
        (_variant_row(variant) for variant in manifest.variants),
        empty="It has no variants.",
    )


def show_builds(out: Output, manifest: Manifest) -> None:
    """How variants were made from others, a line each."""
    names = {variant.canonical_digest(): variant.name for variant in manifest.variants}
    for variant in manifest.variants:
        build = variant.build
        if build is not None:
            versions = ", ".join(f"{name} {version}" for name, version in sorted(build.versions.items()))
            where = f"on {build.built_on}" if build.built_on else "by the publisher"
            out.say(
                f"  {variant.name}: made from {names.get(build.parent, '?')} with {build.tool} {where} ({versions})"
            )


def _variant_row(variant: Variant) -> tuple[object, ...]:
    files, needs = ", ".join(file.path for file in variant.files), requirement_text(variant.requirements)
    return variant.name, variant.format, variant.target, size_text(variant.size), files, needs


def tensor_row(spec: TensorSpec) -> tuple[str, str, str]:
    """Name, datatype and shape, with `?` for a dimension of any size."""
    return spec.name, spec.datatype, "[" + ", ".join("?" if d < 0 else str(d) for d in spec.shape) + "]"


def image_text(manifest: Manifest) -> str:
    """How pictures are taken, in a few words."""
    image = manifest.image
    if image is None:
        return ""
    classes = f", answers {len(manifest.classification.labels)} labels" if manifest.classification else ""
    return f"{image.channels} {image.width}x{image.height} into {image.input!r}{classes}"


def requirement_text(need: Requirements) -> str:
    """What a host must have, in a few words."""
    parts = [need.os or "", "/".join(need.arch)]
    if need.onnx_ir is not None:
        parts.append(f"IR {need.onnx_ir}")
    parts += [f"{domain or 'opset'} {version}" for domain, version in sorted(need.onnx_opsets.items())]
    builds = (
        ("MindSpore ", need.mindspore_version),
        ("", need.soc_version),
        ("CANN ", need.cann_version),
        ("operator library ", need.opp_version),
        ("TensorRT ", need.tensorrt_version),
        ("compute capability ", need.compute_capability),
        ("hardware level ", need.hardware_compat),
    )
    parts += [f"{what}{version}" for what, version in builds if version is not None]
    if need.tensorrt_version_compatible:
        parts.append("or a compatible TensorRT")
    if need.memory_bytes is not None:
        parts.append(f"{size_text(need.memory_bytes)} memory")
    if need.disk_bytes is not None:
        parts.append(f"{size_text(need.disk_bytes)} disk")
    return ", ".join(part for part in parts if part)


@command
def record(
    session: Session,
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    switch: Annotated[Switch, typer.Argument(help="Keep the results of this model in the registry, or not.")],
    retention_hours: Annotated[
        int | None, typer.Option("--retention-hours", min=1, max=8760, help="How long results are kept.")
    ] = None,
) -> None:
    """Switch on or off that the registry keeps a model's results; `registry results` shows them.

    ```
    registry record lenet on --retention-hours 48
    registry record lenet off
    ```
    """
    settings = ModelSettings(record_results=switch is Switch.ON, result_retention_hours=retention_hours)
    view = session.client.change("PATCH", model_path(model), settings, ModelView, repeatable=True)
    if session.out.as_json:
        session.out.document(view)
    else:
        kept = f", kept {view.result_retention_hours} h" if view.record_results else ""
        session.out.say(f"Recording of {model}'s results is {'on' if view.record_results else 'off'}{kept}.")


@command
def delete(
    session: Session,
    reference: Annotated[str, typer.Argument(metavar="MODEL[@VERSION]")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a version, or a model with all its versions. What a device serves is refused.

    ```
    registry delete lenet@0.9.0
    registry delete lenet --yes
    ```
    """
    model, version = split_reference(reference)
    path = model_path(model) if version is None else version_path(model, version)
    view: VersionView | ModelView = (
        session.client.get(path, ModelView) if version is None else session.client.get(path, VersionView)
    )
    if isinstance(view, VersionView) and view.version != version:
        raise UsageFault(f"{version!r} is an alias of {view.version}; name the version itself to delete it")
    confirm(session, f"Delete {_described(view)}? This cannot be undone.", yes=yes)
    session.client.send("DELETE", path)
    if session.out.as_json:
        session.out.document({"deleted": reference})
    else:
        session.out.say(f"Deleted {_described(view)}.")


def _described(view: VersionView | ModelView) -> str:
    if isinstance(view, VersionView):
        return f"{view.model}@{view.version} ({size_text(view.size)})"
    return f"model {view.name} with {'its only version' if view.versions == 1 else f'all {view.versions} versions'}"


def confirm(session: Session, question: str, *, yes: bool) -> None:
    """Ask a person; a program has to say --yes.

    Raises:
        UsageFault: nobody is there to ask.
        typer.Exit: the answer is no, or Ctrl-C.
    """
    if yes:
        return
    if session.out.as_json or not sys.stdin.isatty():
        raise UsageFault("This asks before it acts, and nobody is there to answer", hint="Say --yes")
    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort:  # left to typer it would end as a failure
        session.out.note("\nNothing was changed.")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    if not agreed:
        session.out.note("Nothing was changed.")
        raise typer.Exit(0)
