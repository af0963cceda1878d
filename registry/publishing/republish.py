"""A version that is published again: is there the same under its name, and are its golden vectors what is asked for?

What was measured or made on the publisher's machine differs from run to run. So it is left out of the comparison, and
golden vectors that were made are compared by what was said of them: tolerance and origin.
"""

from __future__ import annotations

from registry.client.api import ApiClient
from registry.client.errors import ClientError
from registry.client.versions import fetch_manifest
from registry.contracts.api.versions import VersionView
from registry.contracts.catalogue.batching import Basis, Batching
from registry.contracts.catalogue.golden import Tolerance
from registry.contracts.catalogue.manifest import Manifest
from registry.contracts.paths import version_path
from registry.core.differences import differences
from registry.publishing.request import GoldenSection


def find_published(client: ApiClient, manifest: Manifest) -> Manifest | None:
    """The published version when it is there with the same content, None when it is not there.

    Raises:
        ClientError: it is there with other content (conflict).
    """
    view = client.find(version_path(manifest.model, manifest.version), VersionView)
    if view is None or view.version != manifest.version:  # an alias of that name
        return None
    published = fetch_manifest(client, view)
    there, offered = _declared(published).to_json(), _declared(manifest).to_json()
    if there != offered:
        raise _conflict(manifest, "content", differences(there, offered))
    return published


def require_as_asked(asked: GoldenSection, published: Manifest) -> None:
    """A published version whose golden vectors are not what is asked for now is other content.

    Raises:
        ClientError: conflict.
    """
    theirs = published.golden
    faults: list[str] = []
    if theirs is None:
        if asked.random != 0 and asked.says_more:
            faults.append("golden: has none; some are asked for")
    else:
        if asked.random == 0:
            faults.append(f"golden: has {theirs.cases}; none are asked for")
        if asked.tolerance != theirs.tolerance:
            faults.append(f"golden.tolerance: is {_said(theirs.tolerance)}; {_said(asked.tolerance)} is asked for")
        for name, wanted, there in (
            ("reference", asked.reference, theirs.reference),
            ("of", asked.of, theirs.of),
            ("compared_with", asked.compare_with, theirs.compared_with),
        ):
            if wanted not in (None, there):
                faults.append(f"golden.{name}: is {there}; {wanted} is asked for")
    if faults:
        raise _conflict(published, "golden vectors", tuple(faults))


def _conflict(manifest: Manifest, what: str, errors: tuple[str, ...]) -> ClientError:
    return ClientError(
        f"{manifest.model}@{manifest.version} is published with other {what}, and a published version never changes",
        code="conflict",
        hint="Publish this as a new version: --version",
        errors=errors,
    )


def _declared(manifest: Manifest) -> Manifest:
    """What the publisher said: without what was measured or made here."""
    variants = tuple(
        variant.model_copy(update={"parity": None, "batching": _said_by_publisher(variant.batching)})
        for variant in manifest.variants
    )
    golden = manifest.golden
    if golden is not None and (golden.reference or golden.of or golden.compared_with):
        golden = None
    return manifest.model_copy(update={"variants": variants, "golden": golden})


def _said_by_publisher(batching: Batching | None) -> Batching | None:
    """What a graph proves may change with the program that reads it; the largest size is the publisher's."""
    if batching is None or batching.basis is Basis.PUBLISHER:
        return batching
    return batching.model_copy(update={"why": ""}) if batching.max_size is not None else None


def _said(tolerance: Tolerance) -> str:
    return f"absolute={tolerance.absolute:g},relative={tolerance.relative:g},top1={tolerance.top1_agreement:g}"
