"""The plan: who gets which variant, in which wave, and who gets nothing and why. Frozen under one digest.

Devices come as tuples and are resolved once per class of equal facts, so that 100,000 of them take seconds. A
hardware class, of which the canary has at least one device each, is coarser than equal facts: the variant, and the
kind of host it runs on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from registry.contracts.catalogue.manifest import Manifest, Variant
from registry.contracts.codes import DeploymentCode
from registry.contracts.fit.platforms import Platform
from registry.contracts.fit.resolution import FitOutcome, Resolution
from registry.contracts.rollout.spec import Rate, RolloutSpec
from registry.contracts.rollout.states import RolloutState
from registry.contracts.rollout.views import MAX_NAMED, PlanClass, PlanCollision, PlanGap, PlanView, PlanWave
from registry.contracts.wire import Digest, canonical_json, digest_of
from registry.core.rollouts import waves
from registry.core.rollouts.retries import in_words

QUARANTINED = DeploymentCode.QUARANTINED.value
IN_QUARANTINE = (
    "it took this version back, or gave it up, before: only another attempt brings it again (registry deploy with "
    "--retry, or a retry of the rollout)"
)
MAX_CLASSES = 1000
"""Shown; the digest and the waves have every device."""
Resolver = Callable[[Manifest, Platform], Resolution]


class Known(NamedTuple):
    """What the registry knows of one device of the fleet."""

    device: str
    facts: Digest | None
    """None: it has never reported."""
    current: bool = False
    """It serves the very manifest already."""
    online: bool = True
    labels: Mapping[str, str] = {}
    barred: Collection[str] = ()
    """Variants of the manifest that it has put into quarantine."""


class Placed(NamedTuple):
    """One device that will get it."""

    device: str
    wave: int
    variant: str
    bytes: int
    facts: Digest


class Other(NamedTuple):
    """A rollout of the same model that is not over, and which of these devices it has."""

    rollout: str
    name: str | None
    version: str
    state: RolloutState
    devices: Sequence[str]


@dataclass(frozen=True)
class RolloutPlan:
    """The view for people and the rows for the database."""

    view: PlanView
    placed: tuple[Placed, ...]
    """In the order of their turn."""
    current: tuple[str, ...]
    gaps: Mapping[str, str]
    """Device to the code of why it gets nothing."""


def plan(
    rollout: str,
    spec: RolloutSpec,
    manifest: Manifest,
    fleet: Iterable[Known],
    platforms: Mapping[Digest, Platform],
    *,
    resolver: Resolver,
    others: Sequence[Other] = (),
) -> RolloutPlan:
    """Work out what a rollout would do.

    Args:
        rollout: Its id: the order of the devices comes from it.
        fleet: Every device of `spec.fleet`, each once.
        platforms: The facts of every digest that the fleet names.
        resolver: `registry.contracts.fit.resolution.resolve`, with what was measured. Called once per facts digest.

    Raises:
        SelectorError: a wave's selector is none.
    """
    known = sorted(fleet)
    sorted_out = _sort_out(known, manifest, platforms, resolver)
    place = waves.assign(rollout, spec.waves, _members(sorted_out, platforms))
    turn = sorted(place.items(), key=lambda entry: (entry[1], waves.position(rollout, entry[0])))
    sizes = {variant.name: variant.size for variant in manifest.variants}
    placed = tuple(
        Placed(device, wave, variant, sizes[variant], facts)
        for device, wave in turn
        for facts, variant in (sorted_out.chosen[device],)
    )
    planned = _waves(spec, placed)
    view = PlanView(
        retries=tuple(in_words(spec.retries)),
        digest=_digest(spec, manifest, placed),
        model=manifest.model,
        version=manifest.version,
        manifest=manifest.canonical_digest(),
        devices=len(placed),
        classes=_classes(sorted_out, manifest, platforms),
        nothing=tuple(
            PlanGap(code=code, why=why, count=len(names), devices=tuple(names[:MAX_NAMED]))
            for (code, why), names in sorted(sorted_out.gaps.items())
        ),
        already_current=len(sorted_out.current),
        collisions=_collisions(others, sorted_out.chosen),
        total_bytes=sum(each.bytes for each in placed),
        expected_s=sum(wave.seconds for wave in planned),
        waves=planned,
        ties=tuple(sorted(sorted_out.ties)),
        offline=sum(1 for device in sorted_out.members if not device.online),
    )
    gaps = {device: code for (code, _), names in sorted_out.gaps.items() for device in names}
    return RolloutPlan(view, placed, tuple(sorted_out.current), gaps)


class _Sorted(NamedTuple):
    members: list[Known]
    chosen: dict[str, tuple[Digest, str]]
    """Device to its facts and variant."""
    current: list[str]
    gaps: dict[tuple[str, str], list[str]]
    resolutions: dict[Digest, Resolution]
    ties: set[str]


def _sort_out(
    known: Sequence[Known], manifest: Manifest, platforms: Mapping[Digest, Platform], resolver: Resolver
) -> _Sorted:
    """Each device to its variant, or to the reason why it gets none."""
    found = _Sorted([], {}, [], defaultdict(list), {}, set())
    why: dict[Digest, tuple[str, str]] = {}
    for device in known:
        facts = device.facts
        if device.current:
            found.current.append(device.device)
            continue
        if facts is None or facts not in platforms:
            found.gaps[DeploymentCode.FACTS_UNKNOWN, "it has not reported its facts yet; start its agent"].append(
                device.device
            )
            continue
        if facts not in found.resolutions:
            resolution = found.resolutions[facts] = resolver(manifest, platforms[facts])
            why[facts] = _why_not(resolution)
            if resolution.tie and resolution.chosen:
                found.ties.add(
                    f"{resolution.chosen} and {', '.join(resolution.tie)} fit equally well; what was published goes "
                    "before what was converted, then the name decides"
                )
        chosen = found.resolutions[facts].chosen
        if chosen is None:
            found.gaps[why[facts]].append(device.device)
        elif chosen in device.barred:
            found.gaps[QUARANTINED, IN_QUARANTINE].append(device.device)
        else:
            found.members.append(device)
            found.chosen[device.device] = (facts, chosen)
    return found


def _why_not(resolution: Resolution) -> tuple[str, str]:
    """The code that most variants failed with first, and the whole trace."""
    codes = [v.reasons[0].code.value for v in resolution.verdicts if v.outcome is not FitOutcome.PASS and v.reasons]
    code = max(sorted(set(codes)), key=codes.count) if codes else DeploymentCode.NO_FITTING_VARIANT
    return code, resolution.explain()[:4096]


def _kind(platform: Platform, variant: str) -> str:
    """The hardware class, in words."""
    chip = platform.ascend.soc if platform.ascend else ""
    gpu = f"{platform.cuda.name} {platform.cuda.compute_capability}".strip() if platform.cuda else ""
    return " ".join(part for part in (variant, "on", platform.os, platform.arch, chip, gpu) if part)


def _hosts(platform: Platform, resolution: Resolution, variant: str) -> str:
    """The hardware class with what tells two sorts of hosts of it apart: memory, and the runtime that would run it."""
    backend = next((verdict.backend for verdict in resolution.verdicts if verdict.variant == variant), None)
    versions = (f"{each.name} {each.version}" for each in platform.backends if each.name == backend and each.version)
    memory = f"{platform.memory_bytes / 1e9:.1f} GB" if platform.memory_bytes else ""
    return ", ".join(part for part in (_kind(platform, variant), memory, next(versions, "")) if part)


def _members(found: _Sorted, platforms: Mapping[Digest, Platform]) -> Iterable[waves.Member]:
    kinds = {facts: _kind(platforms[facts], r.chosen) for facts, r in found.resolutions.items() if r.chosen}
    for device in found.members:
        facts, _ = found.chosen[device.device]
        yield waves.Member(device.device, kinds[facts], device.online, device.labels)


def _classes(found: _Sorted, manifest: Manifest, platforms: Mapping[Digest, Platform]) -> tuple[PlanClass, ...]:
    counts: dict[Digest, int] = defaultdict(int)
    for facts, _ in found.chosen.values():
        counts[facts] += 1
    variants: dict[str, Variant] = {variant.name: variant for variant in manifest.variants}
    digests = {name: variant.canonical_digest() for name, variant in variants.items()}
    made = [
        PlanClass(
            facts=facts,
            count=count,
            variant=name,
            variant_digest=digests[name],
            bytes=variants[name].size,
            degraded=found.resolutions[facts].degraded,
            platform=_hosts(platforms[facts], found.resolutions[facts], name),
        )
        for facts, count in counts.items()
        if (name := found.resolutions[facts].chosen) is not None
    ]
    return tuple(sorted(made, key=lambda each: (-each.count, each.facts))[:MAX_CLASSES])


def _waves(spec: RolloutSpec, placed: Sequence[Placed]) -> tuple[PlanWave, ...]:
    devices, sizes = [0] * len(spec.waves), [0] * len(spec.waves)
    for each in placed:
        devices[each.wave] += 1
        sizes[each.wave] += each.bytes
    return tuple(
        PlanWave(
            index=index,
            label=waves.label(wave),
            devices=devices[index],
            bytes=sizes[index],
            seconds=_seconds(spec, devices[index], sizes[index], wave.soak_s),
        )
        for index, wave in enumerate(spec.waves)
    )


def _seconds(spec: RolloutSpec, devices: int, size: int, soak_s: float) -> float:
    """Release at the slower of both rates, then the last device's probation, then the soak."""
    if not devices:
        return 0.0
    shadow = spec.policy.shadow.duration_s if spec.policy.shadow else 0.0
    return round(release_s(spec.rate, devices, size) + shadow + spec.policy.probation_s + soak_s, 1)


def release_s(rate: Rate, devices: int, size: int) -> float:
    """Seconds to offer it to so many devices, that download so many bytes together."""
    by_devices = devices * 60 / rate.devices_per_minute if rate.devices_per_minute else 0.0
    return max(by_devices, size / rate.bytes_per_second if rate.bytes_per_second else 0.0)


def _collisions(others: Sequence[Other], chosen: Mapping[str, object]) -> tuple[PlanCollision, ...]:
    found = []
    for other in others:
        both = sorted(device for device in other.devices if device in chosen)
        if both:
            found.append(
                PlanCollision(
                    rollout=other.rollout,
                    name=other.name,
                    version=other.version,
                    state=other.state,
                    count=len(both),
                    devices=tuple(both[:MAX_NAMED]),
                )
            )
    return tuple(found)


def _digest(spec: RolloutSpec, manifest: Manifest, placed: Sequence[Placed]) -> Digest:
    """Over what the approver sees decided: the spec, the version, and every device with variant and wave."""
    rows = sorted((each.device, each.wave, each.variant) for each in placed)
    return digest_of(canonical_json([spec.to_json(), manifest.canonical_digest(), rows]))
