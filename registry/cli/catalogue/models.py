"""`registry models | show | record | delete | alias`: what is published, under which names, and what happens to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import typer

from registry.cli.catalogue.manifest_text import (
    classes_text,
    detection_text,
    evaluations_of,
    image_text,
    origin_text,
    parity_of,
    show_builds,
    show_evaluations,
    show_parity,
    show_variants,
)
from registry.cli.listing import LimitOption, Listing, fetch_list, print_list, show_list, sort_option
from registry.cli.output import CliError, short, time_text
from registry.cli.session import Session, command, confirm
from registry.cli.withdrawn import withdrawn_text
from registry.client.errors import UsageFault
from registry.client.versions import fetch_manifest, find_version, move_alias, split_reference
from registry.contracts.api.versions import AliasView, ModelSettings, ModelView, VersionView
from registry.contracts.paths import (
    alias_history_path,
    alias_path,
    aliases_path,
    model_path,
    models_path,
    version_path,
    versions_path,
)
from registry.contracts.texts import size_text

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Manage movable names for versions, such as `stable`. The history says who moved an alias and when.",
)

Model = Annotated[str, typer.Argument(metavar="MODEL")]
Alias = Annotated[str, typer.Argument(metavar="ALIAS")]


_ALIAS_ORDERS: dict[str, Callable[[AliasView], object]] = {
    "alias": lambda alias: alias.alias,
    "moved": lambda alias: alias.moved_at,
    "version": lambda alias: alias.version,
}


_VERSION_ORDERS: dict[str, Callable[[VersionView], object]] = {
    "published": lambda version: version.created_at,
    "size": lambda version: version.size,
}


@app.command("list")
@command
def list_aliases(
    session: Session,
    model: Model,
    *,
    limit: LimitOption = None,
    sort: Annotated[str | None, sort_option(_ALIAS_ORDERS, "alias")] = None,
) -> None:
    """List a model's aliases.

    ```
    registry alias list lenet
    registry alias list lenet --sort moved
    ```
    """
    listing = _aliases(f"Model {model} has no aliases. Set one: registry alias set {model} stable VERSION")
    path = aliases_path(model)
    show_list(session, listing, path, limit=limit, sort=sort)


@app.command("set")
@command
def set_alias(
    session: Session, model: Model, alias: Alias, version: Annotated[str, typer.Argument(metavar="VERSION")]
) -> None:
    """Point an alias at a version. Refused when somebody else moves it at the same time.

    ```
    registry alias set lenet stable 1.0.0
    ```
    """
    view, moved = move_alias(session.client, model, alias, version)
    text = f"{model}@{alias} is now {version}." if moved else f"{model}@{alias} is {version} already; nothing to do."
    session.out.answer(view, text)


@app.command("remove")
@command
def remove_alias(session: Session, model: Model, alias: Alias) -> None:
    """Remove an alias. Its history stays.

    ```
    registry alias remove lenet beta
    ```
    """
    current = session.client.get(alias_path(model, alias), AliasView)
    if current.version is None:
        raise CliError(f"{model}@{alias} was removed already", code="not_found")
    session.client.send("DELETE", alias_path(model, alias), headers={"if-match": f'"{current.revision}"'})
    told = {"removed": f"{model}@{alias}", "was": current.version}
    session.out.answer(told, f"Removed {model}@{alias}, which was {current.version}.")


@app.command("history")
@command
def history(session: Session, model: Model, alias: Alias, *, limit: LimitOption = None) -> None:
    """Show where an alias has pointed, newest first.

    ```
    registry alias history lenet stable
    ```
    """
    path = alias_history_path(model, alias)
    listing = _aliases("It was never set.", "move")
    show_list(session, listing, path, limit=limit)


def _aliases(empty: str, noun: str = "") -> Listing[AliasView]:
    return Listing(
        of=AliasView,
        noun=noun or "alias",
        nouns="" if noun else "aliases",
        columns=("ALIAS", "VERSION", ">REVISION", "MOVED", "BY"),
        row=lambda a: (a.alias, a.version or "(removed)", a.revision, time_text(a.moved_at), a.moved_by),
        empty=empty,
        optional=("REVISION", "BY"),
        orders=_ALIAS_ORDERS,
        newest_first=bool(noun),
    )


def _model_row(model: ModelView) -> tuple[object, ...]:
    newest = model.latest
    aliases = ", ".join(f"{alias}={version}" for alias, version in sorted(model.aliases.items())) or "-"
    if newest is None:
        return model.name, model.versions, "withdrawn" if model.versions else "-", "-", "-", aliases, "-"
    variants = ", ".join(variant.name for variant in newest.variants)
    size, at = size_text(newest.size), time_text(newest.created_at)
    return model.name, model.versions, newest.version, size, at, aliases, variants


_MODELS = Listing(
    of=ModelView,
    noun="model",
    columns=("MODEL", ">VERSIONS", "NEWEST", ">SIZE", "PUBLISHED", "ALIASES", "VARIANTS"),
    row=_model_row,
    empty="No models yet. Publish one: registry publish NAME MODEL.onnx --version 1.0.0 --target cpu",
    optional=("VARIANTS", "SIZE", "PUBLISHED", "ALIASES"),
    orders={
        "name": lambda model: model.name,
        "published": lambda model: model.latest.created_at if model.latest else None,
        "size": lambda model: model.latest.size if model.latest else None,
        "versions": lambda model: model.versions,
    },
)


@command
def models(
    session: Session,
    *,
    limit: LimitOption = None,
    sort: Annotated[str | None, sort_option(_MODELS.orders, "name")] = None,
) -> None:
    """List the models with their newest version, of those that were neither yanked nor taken back by a rollout.

    ```
    registry models
    registry models --sort published --limit 10
    registry models --json | jq -r '.[].name'
    ```
    """
    show_list(session, _MODELS, models_path(), limit=limit, sort=sort)


@command
def show(
    session: Session,
    reference: Annotated[str, typer.Argument(metavar="MODEL[@VERSION|@ALIAS]")],
    *,
    limit: LimitOption = None,
    sort: Annotated[str | None, sort_option(_VERSION_ORDERS, "the newest first")] = None,
) -> None:
    """Show a model's versions, or all about one version: inputs, outputs, variants, parity, scores, labels.

    ```
    registry show lenet
    registry show lenet --sort size --limit 10
    registry show lenet@1.0.0
    registry show lenet@stable --json
    ```
    """
    model, version = split_reference(reference)
    if version is None:
        _show_model(session, model, limit, sort)
    elif limit is not None or sort is not None:
        raise UsageFault("--limit and --sort are for a list of versions; leave the version out")
    else:
        _show_version(session, model, version)


def _show_model(session: Session, name: str, limit: int | None, sort: str | None) -> None:
    model = session.client.get(model_path(name), ModelView)
    listing = Listing(
        of=VersionView,
        noun="version",
        columns=("VERSION", "STATE", ">SIZE", "PUBLISHED", "ALIASES", "MANIFEST", "BY", "VARIANTS"),
        row=lambda version: _version_row(version, model),
        empty="It has no versions.",
        optional=("MANIFEST", "BY", "VARIANTS", "SIZE", "PUBLISHED"),
        orders=_VERSION_ORDERS,
        newest_first=True,
    )
    page = fetch_list(session, listing, versions_path(name), limit=limit, sort=sort)
    if session.out.as_json:
        session.out.document({"model": model, "versions": page.shown})
        return
    recording = f"on, kept {model.result_retention_hours} h" if model.record_results else "off"
    session.out.say(f"{model.name}: recording of results {recording}\n")
    print_list(session.out, listing, page)
    for version in page.shown:
        if text := withdrawn_text(version):
            session.out.say(f"\n{version.version} was {text}")


def _version_row(view: VersionView, model: ModelView) -> tuple[object, ...]:
    aliases, variants = ", ".join(view.aliases), ", ".join(variant.name for variant in view.variants)
    size, at = size_text(view.size), time_text(view.created_at)
    state = "yanked" if view.yanked else "taken back" if view.taken_back else ""
    if model.latest is not None and model.latest.version == view.version:
        state = "newest"
    return view.version, state, size, at, aliases, short(view.manifest), view.created_by, variants


def _show_version(session: Session, model: str, reference: str) -> None:
    view = find_version(session.client, model, reference)
    manifest = fetch_manifest(session.client, view)
    out, parity, evaluations = session.out, parity_of(session, view), evaluations_of(session, view)
    if out.as_json:
        out.document({"version": view, "manifest": manifest, "parity": parity, "evaluations": evaluations})
        return
    out.say(f"{view.model}@{view.version}, published {time_text(view.created_at)} by {view.created_by or 'anonymous'}")
    if text := withdrawn_text(view):
        out.say(f"  it was {text}")
    for label, text in (
        ("manifest", view.manifest),
        ("extended", f"{view.revision} times since it was published" if view.revision else ""),
        ("aliases", ", ".join(view.aliases)),
        ("licence", manifest.licence or ""),
        ("labels", ", ".join(f"{key}={value}" for key, value in sorted(manifest.labels.items()))),
        ("card", manifest.card.path if manifest.card else ""),
        ("image", image_text(manifest)),
        ("classes", classes_text(manifest)),
        ("boxes", detection_text(manifest)),
        ("origin", origin_text(manifest)),
    ):
        if text:
            out.say(f"  {label:<9} {text}")
    show_variants(out, manifest)
    show_builds(out, manifest)
    show_parity(out, manifest, parity)
    if evaluations:
        out.say("")
        show_evaluations(session, evaluations)


@command
def record(
    session: Session,
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    switch: Annotated[
        Literal["on", "off"], typer.Argument(help="Keep the results of this model in the registry, or not.")
    ],
    retention_hours: Annotated[
        int | None, typer.Option("--retention-hours", min=1, max=8760, help="How long results are kept.")
    ] = None,
) -> None:
    """Switch the recording of a model's results on or off. `registry results` shows them.

    ```
    registry record lenet on --retention-hours 48
    registry record lenet off
    ```
    """
    settings = ModelSettings(record_results=switch == "on", result_retention_hours=retention_hours)
    view = session.client.change("PATCH", model_path(model), settings, ModelView, repeatable=True)
    recording = f"on, kept {view.result_retention_hours} h" if view.record_results else "off"
    session.out.answer(view, f"Recording of {model}'s results is {recording}.")


@command
def delete(
    session: Session,
    reference: Annotated[str, typer.Argument(metavar="MODEL[@VERSION]")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a version, or a model with all its versions. Refused while a device serves it.

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
    session.out.answer({"deleted": reference}, f"Deleted {_described(view)}.")


def _described(view: VersionView | ModelView) -> str:
    if isinstance(view, VersionView):
        return f"{view.model}@{view.version} ({size_text(view.size)})"
    return f"model {view.name} with {'its only version' if view.versions == 1 else f'all {view.versions} versions'}"
