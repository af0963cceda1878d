"""What a manifest may not say or leave out, however it came to the registry. Pure.

A refusal, where `publish_warnings` warns: a version in which a variant is over the tolerance is not published, nor a
compiled one that does not say what it was compiled for: nobody could say where it runs. Nor is a network that no
catalogue has; who publishes for agents with a newer one upgrades the registry first.
"""

from __future__ import annotations

from collections.abc import Iterator

from registry.contracts import networks
from registry.contracts.fitting import BUILT_FOR
from registry.contracts.golden import MeasuredParity
from registry.contracts.manifest import Format, Golden, Manifest, Variant


def publish_faults(manifest: Manifest) -> tuple[str, ...]:
    """One sentence per fault; empty: nothing is missing, and each variant's parity agrees with the golden vectors."""
    names = {variant.name for variant in manifest.variants}
    faults: list[str] = []
    for variant in manifest.variants:
        faults += [f"variant {variant.name}: {fault}" for fault in variant_faults(variant)]
        if variant.parity is not None:
            fault = _parity_fault(variant.parity, manifest.golden, names)
            faults += [f"variant {variant.name}: {fault}"] if fault else []
    return tuple(faults)


def variant_faults(variant: Variant) -> Iterator[str]:
    """Of one variant by itself, published or added."""
    missing = [name for name in BUILT_FOR.get(variant.format, ()) if getattr(variant.requirements, name) is None]
    if missing:
        yield f"a {variant.format} must say the {' and '.join(missing)} that it was built for"
    if variant.network is None:
        return
    if variant.format is not Format.MINDSPORE_CKPT:
        yield f"a network is for checkpoints, and {variant.format} brings its own"
        return
    try:
        networks.arguments(variant.network)
    except networks.NetworkError as error:
        yield str(error)


def _parity_fault(measured: MeasuredParity, golden: Golden | None, names: set[str]) -> str:
    parity = measured.parity
    if golden is None:
        return "was measured by golden vectors, but the version has none"
    if not parity.passed:
        return f"is over the tolerance: {parity.why or 'it did not pass'}"
    if parity.cases != golden.cases:
        return f"was measured by {parity.cases} golden vectors, the version has {golden.cases}"
    if measured.reference is not None and measured.reference not in names:
        return f"was measured against {measured.reference}, which is no variant"
    least = golden.tolerance.top1_agreement
    if parity.top1_agreement is not None and parity.top1_agreement < least:
        return f"passed, it says, with a top class of {parity.top1_agreement:g}; the tolerance asks for {least:g}"
    return ""
