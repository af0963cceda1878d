"""A version that is published already and is published again: are its golden vectors what is asked for now?

What was measured or made on the publisher's machine differs from run to run, so vectors that were made are compared by
what was said of them.
"""

from __future__ import annotations

from registry.client.errors import ClientError
from registry.contracts.catalogue.batching import Basis, Batching
from registry.contracts.catalogue.golden import Tolerance
from registry.contracts.catalogue.manifest import Manifest
from registry.publishing.plan import Plan
from registry.publishing.request import GoldenSection


def declared(manifest: Manifest) -> Manifest:
    """What the publisher said: without what was measured or made here, which differs from run to run."""
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


def require_as_asked(plan: Plan, published: Manifest) -> None:
    """A published version whose golden vectors are not what is asked for now is other content.

    Vectors made here differ from run to run, so they are compared by what was said of them: tolerance and reference.

    Raises:
        ClientError: conflict.
    """
    section, theirs = plan.source.golden, published.golden
    tolerance = Tolerance.model_validate(section.tolerance.model_dump())
    faults: list[str] = []
    if theirs is None:
        if section.random != 0 and section != GoldenSection(tolerance=section.tolerance):
            faults.append("golden: has none; some are asked for")
    else:
        if section.random == 0:
            faults.append(f"golden: has {theirs.cases}; none are asked for")
        if tolerance != theirs.tolerance:
            faults.append(f"golden.tolerance: is {_said(theirs.tolerance)}; {_said(tolerance)} is asked for")
        for name, asked, there in (
            ("reference", section.reference, theirs.reference),
            ("of", section.of, theirs.of),
            ("compared_with", section.compare_with, theirs.compared_with),
        ):
            if asked not in (None, there):
                faults.append(f"golden.{name}: is {there}; {asked} is asked for")
    if faults:
        raise ClientError(
            f"{published.model}@{published.version} is published with other golden vectors, and a published version "
            "never changes",
            code="conflict",
            hint="Publish this as a new version: --version",
            errors=tuple(faults),
        )


def _said(tolerance: Tolerance) -> str:
    return f"absolute={tolerance.absolute:g},relative={tolerance.relative:g},top1={tolerance.top1_agreement:g}"
