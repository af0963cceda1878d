"""Which version a reference means, and its manifest: for the commands and for the Python client."""

from __future__ import annotations

from registry.client.api import Client
from registry.client.errors import ClientError
from registry.contracts.api.versions import ModelView, VersionView
from registry.contracts.catalogue.manifest import Manifest
from registry.contracts.digest import digest_of
from registry.contracts.paths import manifest_path, model_path, version_path


def find_version(client: Client, model: str, reference: str | None) -> VersionView:
    """The version that a reference names; the newest when there is none.

    Raises:
        ClientError: it is not there.
    """
    if reference is not None:
        return client.get(version_path(model, reference), VersionView)
    latest = client.get(model_path(model), ModelView).latest
    if latest is None:
        raise ClientError(f"Model {model} has no versions", code="not_found")
    return latest


def fetch_manifest(client: Client, version: VersionView) -> Manifest:
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
