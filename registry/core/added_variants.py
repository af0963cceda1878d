"""What may be added to a published version. Pure: the manifest, the variant and, from a device, the job and its facts.

The registry cannot run a variant, so it does not believe one, either: what can be checked without running it is checked
here, so that a device that was given one job cannot add whatever it likes for a whole fleet. What cannot be checked,
the figures of a parity themselves, every device measures again at warm-up before it serves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import isfinite

from registry.contracts.catalogue.batching import Basis
from registry.contracts.catalogue.manifest import Format, Golden, Manifest, MeasuredParity, Variant
from registry.contracts.device.jobs import Job
from registry.contracts.fit.fitting import BUILT_FOR
from registry.contracts.fit.platforms import Platform
from registry.core.publish_faults import variant_faults


def faults(manifest: Manifest, variant: Variant) -> tuple[str, ...]:
    """Why the variant cannot be added, whoever made it; empty when it can."""
    return tuple(_faults(manifest, variant))


def job_faults(
    job: Job, facts: Platform | None, variant: Variant, before: Manifest, newest: Manifest
) -> tuple[str, ...]:
    """Why this is not what the job was to make; empty when it is.

    Args:
        job: The conversion.
        facts: What the device told of itself; None: nothing yet.
        variant: What it offers.
        before: The manifest that the job names.
        newest: The version's manifest now.
    """
    return tuple(_job_faults(job, facts, variant, before, newest))


def _faults(manifest: Manifest, variant: Variant) -> Iterator[str]:
    parent = _parent(manifest, variant)
    if parent is None:
        yield "its build does not name the variant of this version that it was made from"
        return
    if (parent.inputs and not variant.inputs) or (parent.outputs and not variant.outputs):
        yield f"it does not say its inputs or outputs, which {parent.name} has"
    yield from variant_faults(variant)
    said = variant.batching
    if said is not None and said.independent and said.basis is not Basis.GRAPH and said != parent.batching:
        yield f"it says that its items are independent, which the publisher did not declare of {parent.name}"
    if said is not None and said.independent and said.basis is Basis.GRAPH and variant.format is not Format.ONNX:
        yield f"it says that its graph proves its items independent, and graphs of {variant.format} are not read"
    if variant.parity is not None:
        yield from _parity_faults(manifest.golden, variant.parity)


def _parity_faults(golden: Golden | None, measured: MeasuredParity) -> Iterator[str]:
    found = measured.parity
    if golden is None:
        yield "it says how it answers golden vectors, and the version has none"
        return
    if not found.passed:
        yield (
            f"it does not answer the golden vectors as the manifest says (largest error {found.max_abs:.3g}, relative "
            f"{found.max_rel:.3g})"
        )
    agreement = 1.0 if found.top1_agreement is None else found.top1_agreement
    whole = found.cases == golden.cases and measured.reference == golden.reference
    sound = all(isfinite(figure) and figure >= 0 for figure in (found.max_abs, found.max_rel))
    if found.passed and not (whole and sound and agreement >= golden.tolerance.top1_agreement and not found.why):
        yield "its parity contradicts itself: it passed, and its figures are not those of all golden vectors"


def _job_faults(
    job: Job, facts: Platform | None, variant: Variant, before: Manifest, newest: Manifest
) -> Iterator[str]:
    parent = _parent(before, variant)
    if parent is None or (job.source is not None and parent.name != job.source):
        yield f"it was not made from {job.source or 'a variant'} that the job names"
    for option, made in (("name", variant.name), ("target", variant.target)):
        if job.options.get(option, made) != made:
            yield f"the job asked for the {option} {job.options[option]}, and it has {made}"
    chips = (
        ("soc_version", job.options.get("soc_version") or (facts.ascend.soc if facts and facts.ascend else None)),
        ("compute_capability", facts.cuda.compute_capability if facts and facts.cuda else None),
    )
    for name, real in chips:
        if name in BUILT_FOR.get(variant.format, ()) and real and getattr(variant.requirements, name) != real:
            yield f"it was built for the {name} {getattr(variant.requirements, name)}, and should be for {real}"
    earlier = _made_since(before.variants, newest.variants, variant)
    if earlier is not None and "name" not in job.options:
        yield f"a job makes one variant, and this one made {earlier.name} already"


def _parent(manifest: Manifest, variant: Variant) -> Variant | None:
    if variant.build is None:
        return None
    return next((known for known in manifest.variants if known.canonical_digest() == variant.build.parent), None)


def _made_since(before: Iterable[Variant], newest: Iterable[Variant], variant: Variant) -> Variant | None:
    """Another variant that the same device made of the same parent in the same format since the job was given."""
    known = {each.name for each in before}
    return next(
        (
            each
            for each in newest
            if each.name not in known
            and each.name != variant.name
            and each.format is variant.format
            and each.build is not None
            and variant.build is not None
            and (each.build.parent, each.build.built_on) == (variant.build.parent, variant.build.built_on)
        ),
        None,
    )
