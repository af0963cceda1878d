"""What a manifest may not say or leave out, however it came to the registry. Pure.

A refusal, where `publish_warnings` warns: a version in which a variant is over the tolerance is not published, nor a
compiled one that does not say what it was compiled for, nor one for a target that no backend serves: nobody could say
where it runs. Nor is a network that no catalogue has; who publishes for agents with a newer one upgrades the registry
first. Nor is one whose pictures or classes a device could not make from the inputs and outputs that it declares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from registry.contracts.catalogue import networks
from registry.contracts.catalogue.classes import classification_faults
from registry.contracts.catalogue.manifest import Format, Golden, Manifest, MeasuredParity, Target, Variant
from registry.contracts.fit.fitting import BUILT_FOR
from registry.contracts.fit.releases import cann_release, numbers
from registry.contracts.fit.room import room_faults
from registry.core.picture_faults import picture_faults

TARGETS: Mapping[Format, tuple[Target, ...]] = {
    Format.MINDIR: (Target.CPU, Target.GPU, Target.ASCEND910),
    Format.OM: (Target.ASCEND310, Target.ASCEND910),
    Format.TENSORRT_PLAN: (Target.GPU,),
}
"""Of formats that do not run on every kind of platform. AIR runs nowhere, whatever its target; a checkpoint for any of
them is of use without a backend, too: `registry.hub` loads its weights."""
_COMPARED: Mapping[str, tuple[Callable[[str], object], str]] = {
    "cann_version": (cann_release, "8.0.RC1"),
    "tensorrt_version": (numbers, "10.13.3.9"),
}
"""Requirements that are compared as numbers: how they are read, and an example."""


def publish_faults(manifest: Manifest) -> tuple[str, ...]:
    """One sentence per fault; empty: nothing is missing, and each variant's parity agrees with the golden vectors."""
    names = {variant.name for variant in manifest.variants}
    faults: list[str] = []
    for variant in manifest.variants:
        faults += [f"variant {variant.name}: {fault}" for fault in variant_faults(variant)]
        faults += [f"variant {variant.name}: {fault}" for fault in room_faults(variant, manifest.image)]
        if variant.parity is not None:
            fault = _parity_fault(variant.parity, manifest.golden, names)
            faults += [f"variant {variant.name}: {fault}"] if fault else []
    return (*faults, *picture_faults(manifest), *classification_faults(manifest))


def variant_faults(variant: Variant) -> Iterator[str]:
    """Of one variant by itself, published or added."""
    able = TARGETS.get(variant.format)
    if able is not None and variant.target not in able:
        yield f"{variant.format} does not run on the target {variant.target}, only on {' or '.join(able)}"
    for name, (read, example) in _COMPARED.items():
        said = getattr(variant.requirements, name)
        if said is not None and read(said) is None:
            yield f"{name} {said!r} is no version that can be compared; it is written as {example}"
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
