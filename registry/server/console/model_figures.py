"""What pages of models draw: who serves which version, scores over versions, differences from golden vectors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from registry.contracts.api.fleet import FleetSummary
from registry.contracts.api.over_time import Adoption
from registry.contracts.api.versions import ParityView, VersionView
from registry.contracts.catalogue.manifest import Golden, Manifest, Variant
from registry.contracts.texts import size_text
from registry.services.evaluations import VersionScore


@dataclass
class Served:
    """Devices of one version of a model."""

    serves: int = 0
    """Answer with it."""
    should: int = 0
    """Should serve it."""
    hardware: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Of those that serve it, by class of hardware."""


def served(summary: FleetSummary, model: str) -> dict[str, Served]:
    """By version."""
    found: dict[str, Served] = defaultdict(Served)
    for each in summary.versions:
        if each.model != model:
            continue
        if each.version:
            found[each.version].serves += each.devices
            found[each.version].hardware[each.hardware or "not known"] += each.devices
        if each.desired:
            found[each.desired].should += each.devices
    return found


def served_by_model(summary: FleetSummary) -> dict[str, int]:
    """Devices that serve any version, by model."""
    found: dict[str, int] = defaultdict(int)
    for each in summary.versions:
        if each.version:
            found[each.model] += each.devices
    return found


def hardware_of(found: dict[str, Served]) -> list[str]:
    """The columns of the matrix: classes of hardware, the most devices first."""
    total: dict[str, int] = defaultdict(int)
    for each in found.values():
        for name, devices in each.hardware.items():
            total[name] += devices
    return sorted(total, key=lambda name: (-total[name], name))


def adoption_plot(found: Adoption) -> dict[str, Any] | None:
    """Devices of each version over time. None: nobody looked yet."""
    if not found.by:
        return None
    series = [{"label": each.version or "others", "values": each.devices} for each in found.by]
    return {"x": [at.timestamp() for at in found.starts], "time": True, "series": series}


def score_plot(versions: Sequence[VersionView], scores: Iterable[VersionScore]) -> dict[str, Any] | None:
    """A line for each validation set and metric, over the versions from old to new. None: there is no score."""
    order = [view.version for view in reversed(versions)]
    lines: dict[str, dict[str, float]] = defaultdict(dict)
    for score in scores:
        lines[f"{score.metric} on {score.dataset}"][score.version] = score.best
    if not lines:
        return None
    series = [{"label": name, "values": [values.get(each) for each in order]} for name, values in sorted(lines.items())]
    return {"x": list(range(len(order))), "labels": order, "series": series, "name": "version", "zoomed": True}


def parity_plot(found: Sequence[ParityView], golden: Golden | None) -> dict[str, Any] | None:
    """How far each variant's answers were from the golden ones: the largest error of each measurement, of which the
    smallest, the median and the largest are dots. None: nothing differed."""
    values: dict[str, list[float]] = defaultdict(list)
    for each in found:
        if 0 < each.parity.max_abs < float("inf"):
            values[each.variant or "not said"].append(each.parity.max_abs)
    if not values:
        return None
    names = sorted(values)
    several = any(len(each) > 1 for each in values.values())
    of: dict[str, Callable[[list[float]], float]] = (
        {"largest": max, "median": median, "smallest": min} if several else {"error": max}
    )
    series = [{"label": label, "values": [pick(values[name]) for name in names]} for label, pick in of.items()]
    allowed = golden.tolerance.absolute if golden else 0
    limits = [{"at": allowed, "text": "absolute tolerance"}] if allowed else []
    return {"x": list(range(len(names))), "labels": names, "series": series, "log": True, "dots": True,
            "limits": limits, "name": "variant"}  # fmt: skip


def parents(manifest: Manifest) -> dict[str, str]:
    """Name of a variant to that of the one that it was made from; another version's: its digest."""
    names = {variant.canonical_digest(): variant.name for variant in manifest.variants}
    return {
        variant.name: names.get(variant.build.parent, variant.build.parent)
        for variant in manifest.variants
        if variant.build is not None
    }


def needs(variant: Variant) -> list[str]:
    """What a host must have, in words."""
    said = variant.requirements.model_dump(exclude_none=True, exclude_defaults=True)
    return [f"{name.replace('_', ' ').removesuffix(' bytes')}: {_need(name, value)}" for name, value in said.items()]


def _need(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{domain or 'ai.onnx'} {opset}" for domain, opset in value.items())
    if isinstance(value, (tuple, list)):
        return ", ".join(map(str, value))
    return size_text(value) if name.endswith("_bytes") else str(value)
