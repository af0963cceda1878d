"""What may surprise about a version that is being published, seen against the fleet as it is. Pure.

Warnings, not refusals: a device that fits may come tomorrow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from registry.contracts.catalogue.manifest import Manifest, Variant
from registry.contracts.codes import ResolutionCode as Code
from registry.contracts.fit.platforms import Platform
from registry.contracts.fit.resolution import SOURCE_ONLY, FitOutcome, Reason, judge, ties
from registry.contracts.texts import how_many
from registry.core.picture_faults import picture_warnings

TOLD_FIRST = (Code.OPSET_TOO_NEW, Code.IR_TOO_NEW, Code.SOC_MISMATCH, Code.SM_MISMATCH, Code.TRT_VERSION)
"""Of several reasons the one that says most about the file."""
SHOWN = 4
"""Different things that devices have instead."""

Classes = Sequence[tuple[Platform, int]]
"""The facts of each class of hosts, and how many devices have them."""


def publish_warnings(manifest: Manifest, fleet: Classes) -> tuple[str, ...]:
    """Pictures that become next to nothing, ties between variants, and variants that no known device can run; nothing
    about a fleet without facts."""
    told = [
        f"variants {', '.join(group)} rank the same and have other files: a device runs the one that it measured to be "
        f"faster, else {group[0]}, by its name. Publish one of them, or give them requirements that differ"
        for group in ties(manifest)
    ]
    told += picture_warnings(manifest)
    for variant in manifest.variants:
        if fleet and variant.format not in SOURCE_ONLY:
            told.extend(_unfit(variant, fleet, pictures=manifest.image is not None))
    return tuple(told)


def _unfit(variant: Variant, fleet: Classes, *, pictures: bool) -> list[str]:
    reasons: list[tuple[Reason, int]] = []
    for facts, devices in fleet:
        verdict = judge(variant, facts, pictures=pictures)
        if verdict.outcome is FitOutcome.PASS:
            return []
        reasons += [(reason, devices) for reason in verdict.reasons]
    code = _main_code(reasons)
    needs = next(reason.need for reason, _ in reasons if reason.code is code)
    have = Counter[str]()
    for reason, devices in reasons:
        if reason.code is code:
            have[reason.have] += devices
    found = "; ".join(f"{text} ({how_many(number, 'device')})" for text, number in have.most_common(SHOWN))
    count = sum(devices for _, devices in fleet)
    what = f"variant {variant.name}{_made_for(variant)} fits none of the {how_many(count, 'known device')}"
    return [f"{what}: {code}: needs {needs}, they have {found}"]


def _main_code(reasons: list[tuple[Reason, int]]) -> Code:
    codes = Counter[Code]()
    for reason, devices in reasons:
        codes[reason.code] += devices
    return next((code for code in TOLD_FIRST if code in codes), codes.most_common(1)[0][0])


def _made_for(variant: Variant) -> str:
    need = variant.requirements
    if need.soc_version is not None:
        return f" (built for {need.soc_version})"
    if need.compute_capability is not None:
        return f" (built for compute capability {need.compute_capability})"
    return ""
