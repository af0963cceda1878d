"""How people write versions (`MODEL@REF`), which version a reference means, its manifest, and its aliases."""

from __future__ import annotations

from registry.client.api import ApiClient
from registry.client.errors import ClientError, UsageFault
from registry.contracts.api.versions import AliasMove, AliasView, ModelView, VersionView
from registry.contracts.catalogue.manifest import Manifest
from registry.contracts.paths import alias_path, manifest_path, model_path, version_path
from registry.contracts.wire import digest_of


def split_reference(text: str) -> tuple[str, str | None]:
    """`MODEL@REF` as (model, version or alias); None where there is no `@`.

    Raises:
        UsageFault: a part is empty.
    """
    model, at, reference = text.partition("@")
    if not model or (at and not reference):
        raise UsageFault(f"{text!r} is not of the form MODEL or MODEL@VERSION", hint="For example lenet@1.0.0")
    return model, reference or None


def split_version(text: str) -> tuple[str, str]:
    """`MODEL@VERSION` or `MODEL@ALIAS`, of which the version is needed. Raises UsageFault."""
    model, version = split_reference(text)
    if version is None:
        raise UsageFault(f"Which version of {model}?", hint=f"For example {model}@1.0.0 or {model}@stable")
    return model, version


def find_version(client: ApiClient, model: str, reference: str | None) -> VersionView:
    """The version that a reference names; the newest when there is none, but for those that were yanked or taken back.

    Raises:
        ClientError: it is not there.
    """
    if reference is not None:
        return client.get(version_path(model, reference), VersionView)
    found = client.get(model_path(model), ModelView)
    if found.latest is not None:
        return found.latest
    if not found.versions:
        raise ClientError(f"Model {model} has no versions", code="not_found")
    raise ClientError(
        f"No version of {model} counts as the newest: each was yanked, or taken back by a rollout",
        code="not_found",
        hint=f"Name one, as MODEL@VERSION; registry show {model} lists them.",
    )


def find_usable(client: ApiClient, model: str, reference: str | None, *, allow_yanked: bool, how: str) -> VersionView:
    """The version that a reference names, for use; `how`: what a caller gives to get a yanked one, as `--yanked`.

    Raises:
        ClientError: it is not there, or it was yanked and `allow_yanked` is not set.
    """
    view = find_version(client, model, reference)
    if view.yanked is not None and not allow_yanked:
        alias = f"{model}@{reference} is {view.version}, which" if reference != view.version else f"{model}@{reference}"
        raise ClientError(
            f"{alias} was yanked by {view.yanked.by or 'anonymous'}: {view.yanked.reason}",
            code="yanked",
            hint=f"Take another version: registry show {model}. To take it all the same: {how}.",
        )
    return view


def fetch_manifest(client: ApiClient, version: VersionView) -> Manifest:
    """The manifest of a version, which has the digest that the registry says.

    Raises:
        ClientError: its bytes are others.
    """
    answer = client.call("GET", manifest_path(version.manifest), repeatable=True)
    if digest_of(answer.body) != version.manifest:
        raise ClientError(
            f"The manifest of {version.model}@{version.version} does not have its digest", code="digest_mismatch"
        )
    return answer.decode(Manifest)


def move_alias(client: ApiClient, model: str, alias: str, version: str) -> tuple[AliasView, bool]:
    """Move an alias by compare-and-set; False when it stood there already.

    Raises:
        ClientError: the version is not there, or somebody else moved the alias at the same time.
    """
    current = client.find(alias_path(model, alias), AliasView)
    if current is not None and current.version == version:
        return current, False
    condition = {"if-none-match": "*"} if current is None else {"if-match": f'"{current.revision}"'}
    answer = client.send("PUT", alias_path(model, alias), AliasMove(version=version), headers=condition)
    return answer.decode(AliasView), True
