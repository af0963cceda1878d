"""What a manifest may not say of its own golden vectors, however it came to the registry. Pure.

A refusal, where `publish_warnings` warns: a version in which a variant is over the tolerance is not published.
"""

from __future__ import annotations

from registry.contracts.golden import MeasuredParity
from registry.contracts.manifest import Golden, Manifest


def publish_faults(manifest: Manifest) -> tuple[str, ...]:
    """One sentence per fault; empty: what is said of each variant's parity agrees with the golden vectors."""
    names = {variant.name for variant in manifest.variants}
    faults: list[str] = []
    for variant in manifest.variants:
        if variant.parity is not None:
            fault = _parity_fault(variant.parity, manifest.golden, names)
            faults += [f"variant {variant.name}: {fault}"] if fault else []
    return tuple(faults)


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
