"""A rollout as it is asked for: which version, to which devices, in which waves, and what stops it; groups of devices.

Every threshold names its denominator. Only `committed` is success, and only when the device was also seen serving
the digest. What the registry answers stands in `registry.contracts.rollout.views`, the states in
`registry.contracts.rollout.states`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from pydantic import AwareDatetime, Field, field_validator, model_validator

from registry.contracts.codes import DeploymentCode, DeviceReasonCode
from registry.contracts.device.deployments import DeploymentPolicy
from registry.contracts.device.messages import Profile
from registry.contracts.enums import StrEnum
from registry.contracts.wire import Integer, Name, VersionName, Wire

MAX_WAVES = 32
MAX_LISTED_DEVICES = 10_000
"""Named one by one in a spec or a group; larger fleets are selected by label."""
MAX_SELECTOR_CHARS = 2048
MAX_VALID_S = 30 * 86400
"""A rollout without `valid_until` ends this long after it was submitted."""
MIN_YEAR, MAX_YEAR = 2000, 9000
"""Of times in a spec: far enough from what calendars and databases can keep."""

DAY_S = 86400.0
Percent = Annotated[float, Field(ge=0, le=100)]
Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0, le=90 * DAY_S)]
Timeout = Annotated[float, Field(gt=0, le=90 * DAY_S)]
SelectorText = Annotated[str, Field(max_length=MAX_SELECTOR_CHARS)]
"""`site=paris,ring!=canary`, `key`, `!key`, `key in (a,b)`, `key notin (a,b)`; a comma is and; `*` is all devices."""


class Hold(StrEnum):
    """What a pause does with devices that have begun."""

    BEFORE_SWITCH = "before_switch"
    """Downloads finish; nothing switches, and what has switched is not committed: it stays in probation, watched."""
    NONE = "none"
    """What has begun may finish."""


class OnFailure(StrEnum):
    """What a failed gate does. Inconclusive always pauses."""

    PAUSE = "pause"
    """The rollout stops where it is and waits for a person."""
    ROLLBACK = "rollback"
    """Every device that has the version returns to its last good one."""


class OfflinePolicy(StrEnum):
    """What is done with devices that are offline when their turn comes."""

    WAIT = "wait"
    """The wave waits for them, until its deadline."""
    FOLLOW_LATER = "follow_later"
    """After `grace_s` the wave goes on without them; they join the tail wave when they are back."""
    COUNT_FAILED = "count_failed"
    """After `grace_s` they count as failed."""


class Fleet(Wire):
    """The devices: all that the selector matches, all of the groups, and those that are named."""

    selector: SelectorText = ""
    """Over labels: `site=paris,ring!=canary`; `*`: all. Empty: none by label."""
    groups: Annotated[tuple[Name, ...], Field(max_length=64)] = ()
    """Names of groups."""
    devices: Annotated[tuple[Name, ...], Field(max_length=MAX_LISTED_DEVICES)] = ()
    """Names of devices."""

    @model_validator(mode="after")
    def _names_somebody(self) -> Fleet:
        if not (self.selector.strip() or self.groups or self.devices):
            raise ValueError("fleet: say which devices: a selector such as site=paris (or * for all), groups, devices")
        return self


class WaveSpec(Wire):
    """One wave, by exactly one of percent, count, selector. Percent and count are cumulative over the fleet."""

    percent: Annotated[float, Field(gt=0, le=100)] | None = None
    """10: with this wave a tenth of the fleet has been offered it, the earlier waves included."""
    count: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """50: with this wave 50 devices have been offered it, the earlier waves included."""
    selector: SelectorText | None = None
    """Every device that matches and is in no earlier wave."""
    soak_s: Seconds = 1800.0
    """How long it is watched after enough have committed."""
    min_committed: Annotated[int, Field(ge=0, le=10_000_000)] = 1
    """At least so many must have committed before it may pass; a smaller wave needs all of its devices."""

    @model_validator(mode="after")
    def _is_one_kind(self) -> WaveSpec:
        given = [kind for kind in ("percent", "count", "selector") if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(
                f"a wave has one of percent, count, selector; this one has {' and '.join(given) or 'none'}"
            )
        return self


class HealthMetric(StrEnum):
    """What a health rule compares: the wave's devices against those that still serve their previous version."""

    ERROR_SHARE = "error_share"
    """Failed requests of all answered; the difference, 0.02 = two more of a hundred."""
    RUN_P99_RATIO = "run_p99_ratio"
    """Median over devices of the 99th percentile of a run, as a ratio; 2 = twice as slow."""
    NAN_SHARE = "nan_share"
    """Answers with a NaN or an infinity of all answered; the difference."""


class HealthRule(Wire):
    """At most `success` passes, more than `failure` fails, between them is inconclusive."""

    metric: HealthMetric
    """What is compared."""
    success: Annotated[float, Field(ge=0, le=1000)]
    """At most this passes."""
    failure: Annotated[float, Field(ge=0, le=1000)]
    """More than this fails."""
    min_requests: Annotated[int, Field(ge=1, le=1_000_000_000)] = 100
    """Answered by the wave's devices; fewer say nothing."""
    required: bool = False
    """Too few requests: True waits for more until the wave's deadline; False passes, and the verdict says so."""
    dry_run: bool = False
    """Only reported."""

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> HealthRule:
        if self.failure < self.success:
            raise ValueError(f"{self.metric}: failure ({self.failure}) must not be below success ({self.success})")
        return self


DEFAULT_HEALTH = (
    HealthRule(metric=HealthMetric.ERROR_SHARE, success=0.02, failure=0.05),
    HealthRule(metric=HealthMetric.RUN_P99_RATIO, success=2.0, failure=3.0),
    HealthRule(metric=HealthMetric.NAN_SHARE, success=0.0, failure=0.0),
)


class AccuracyRule(Wire):
    """Of the golden vectors as the devices measured them: share of items with the right top class."""

    max_drop: Share = 0.01
    """Below the mean of the devices that were not yet updated; below 1.0 where none of them measured it."""
    min_devices: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """Of the wave, that measured it."""
    required: bool = False
    """As in a health rule."""


class ShadowRule(Wire):
    """Of live requests that the candidate answered beside the active version, over the whole wave."""

    min_agreement: Share = 0.99
    """The least share of compared answers that agree."""
    min_compared: Annotated[int, Field(ge=1, le=1_000_000_000)] = 20
    """Fewer compared answers say nothing."""
    required: bool = False
    """As in a health rule."""


class Gate(Wire):
    """When a wave passes and when it stops the rollout. None switches a rule off."""

    min_attempted: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    """Devices that began; before so many did, percentages of failed and unknown stop nothing. A smaller wave: all."""
    max_failed_pct: Percent | None = 5.0
    """(failed + rolled back + rejected + regressed) / attempted."""
    max_failed_abs: Annotated[int, Field(ge=0, le=10_000_000)] | None = None
    """More than this many failed stop it at once, whatever was attempted."""
    max_unknown_pct: Percent | None = 5.0
    """Timed out / attempted: the silent devices are the dangerous ones."""
    min_committed_pct: Percent = 90.0
    """Committed / (wave - excluded)."""
    min_coverage_pct: Percent = 50.0
    """Devices that reported anything / wave, excluded ones included: 3 of 100 that are online prove nothing."""
    health: Annotated[tuple[HealthRule, ...], Field(max_length=16)] = DEFAULT_HEALTH
    """Each of them must pass."""
    accuracy: AccuracyRule | None = None
    """None: accuracy is not judged."""
    shadow: ShadowRule | None = None
    """None: the shadow is not judged."""
    deadline_s: Timeout = DAY_S
    """A wave that has not passed so long after it began is inconclusive."""


class Rate(Wire):
    """How fast devices are offered it. A token bucket of ten seconds' worth."""

    devices_per_minute: Annotated[float, Field(ge=0.001, le=10_000_000)] | None = 600.0
    """None: as many at once as the other limits allow."""
    bytes_per_second: Annotated[float, Field(ge=1, le=1e12)] | None = None
    """Of artifacts that the offered devices will download."""
    max_unavailable: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Devices that have begun and are not done, and those that failed and are not back."""


class RollbackSpec(Wire):
    """A rollback has its own rate and its own stop: a bad rollback must end too."""

    rate: Rate = Rate(devices_per_minute=6000.0)
    """How fast devices are told to go back."""
    max_failed_pct: Percent = 20.0
    """Of those that were told to go back and have answered, once there are 10."""
    deadline_s: Timeout = DAY_S
    """Seconds after which a rollback that is not complete ends as `rollback_incomplete`."""


class Offline(Wire):
    """Devices that are offline when their turn comes."""

    policy: OfflinePolicy = OfflinePolicy.FOLLOW_LATER
    """What is done with them."""
    grace_s: Seconds = 900.0
    """Offline for so long, counted from its wave's begin or from when it was last seen, whichever is later."""
    follow_s: Timeout = 7 * DAY_S
    """The tail wave waits for them so long after the last wave passed; who is not back is an exception."""


class Timeouts(Wire):
    """Longest silence in each phase of one device, in seconds; after it the device counts as unknown."""

    offered: Timeout = 3600.0
    """While the device has not answered the offer."""
    deferred: Timeout = 7 * DAY_S
    """While the host's own policy holds it back."""
    downloading: Timeout = 6 * 3600.0
    """While it fetches the files."""
    verified: Timeout = 3600.0
    """While it checks the files and goes on by itself."""
    staged: Timeout = 7 * DAY_S
    """Not counted while a pause holds it there; so it is with `probation`. Afterwards it counts from the beginning."""
    warming: Timeout = 1800.0
    """While it loads the candidate and answers the golden vectors."""
    shadowing: Timeout = 900.0
    """On top of the shadow's own duration."""
    switching: Timeout = 900.0
    """While it switches."""
    probation: Timeout = 900.0
    """On top of the probation's own duration."""
    rolling_back: Timeout = 1800.0
    """While it puts the previous version back."""
    confirming: Timeout = 600.0
    """While no report shows that it serves what it committed."""


class RetryRule(Wire):
    """Devices that failed with one of these codes are tried again, without anybody asking."""

    codes: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=64)], ...], Field(min_length=1, max_length=32)]
    """Of `DeploymentCode`, or `silent`. A code that puts a version into quarantine is tried all the same when named."""
    times: Annotated[int, Field(ge=1, le=20)] = 2
    """At most, of one device in one generation of the rollout; tries for other codes count, too."""
    pause_s: Seconds = 300.0
    """From the failure to the first try."""
    factor: Annotated[float, Field(ge=1, le=10)] = 2.0
    """Each pause is so many times the one before."""
    max_pause_s: Seconds = 3600.0
    """The longest pause."""

    @field_validator("codes")
    @classmethod
    def _codes_are_known(cls, codes: tuple[str, ...]) -> tuple[str, ...]:
        unknown = sorted(set(codes) - {code.value for code in DeploymentCode} - {DeviceReasonCode.SILENT})
        if unknown:
            raise ValueError(f"retries: no device fails with {', '.join(unknown)}")
        return codes


DEFAULT_WAVES = (
    WaveSpec(percent=1, soak_s=1800),
    WaveSpec(percent=10, soak_s=3600),
    WaveSpec(percent=100, soak_s=600),
)


class RolloutSpec(Wire):
    """POST body: a new version to a fleet. Left out, everything but model, version and fleet is the safe choice."""

    name: Name | None = None
    """Unique; `rollout apply` finds it again by this."""
    model: Name
    """The model to update."""
    version: VersionName
    """Or an alias, resolved once, when it is created."""
    fleet: Fleet
    """Who gets it."""
    waves: Annotated[tuple[WaveSpec, ...], Field(min_length=1, max_length=MAX_WAVES)] = DEFAULT_WAVES
    """In this order; the last one is 100 %."""
    gate: Gate = Gate()
    """When each wave passes."""
    rate: Rate = Rate()
    """How fast devices are offered it."""
    offline: Offline = Offline()
    """What is done with devices that are away."""
    newcomers: bool = True
    """Devices that begin to match while it runs join the tail wave."""
    policy: DeploymentPolicy = DeploymentPolicy()
    """How each device carries it out."""
    profile: Profile = Profile.THROUGHPUT
    """How the backends use the cores."""
    hold: Hold = Hold.BEFORE_SWITCH
    """How far devices that have begun go on during a pause."""
    timeouts: Timeouts = Timeouts()
    """How long a device may be silent in each phase."""
    retries: Annotated[tuple[RetryRule, ...], Field(max_length=16)] = ()
    """Failed devices that are tried again by themselves; the first rule with the code counts. None: none are."""
    on_failure: OnFailure = OnFailure.PAUSE
    """What a failed gate does."""
    rollback: RollbackSpec = RollbackSpec()
    """How a rollback goes."""
    requires_approval: bool = False
    """A person has to approve the plan before it starts."""
    approved_by_another: bool = True
    """Where it requires approval: not by the one who submitted it."""
    start_at: AwareDatetime | None = None
    """Not before this. None: at once."""
    valid_until: AwareDatetime | None = None
    """None: MAX_VALID_S after it was submitted."""
    note: Annotated[str, Field(max_length=2048)] = ""
    """For people."""

    @model_validator(mode="after")
    def _waves_reach_everybody(self) -> RolloutSpec:
        last = self.waves[-1]
        if last.percent != 100:
            raise ValueError(
                "waves: the last one must be 100%, or the rest of the fleet would wait for ever; to update"
                " only a part, select a smaller fleet"
            )
        for kind in ("percent", "count"):
            steps = [getattr(wave, kind) for wave in self.waves if getattr(wave, kind) is not None]
            if any(after <= before for before, after in pairwise(steps)):
                raise ValueError(f"waves: {kind} is cumulative and must rise: {', '.join(map(str, steps))}")
        return self

    @model_validator(mode="after")
    def _times_are_ordered(self) -> RolloutSpec:
        for name, at in (("start_at", self.start_at), ("valid_until", self.valid_until)):
            if at is not None and not MIN_YEAR <= at.year < MAX_YEAR:
                raise ValueError(f"{name} must lie in the years {MIN_YEAR} to {MAX_YEAR - 1}")
        if self.policy.hold:
            raise ValueError("policy.hold is the registry's: pausing a rollout sets it, resuming takes it away")
        if self.start_at and self.valid_until and self.valid_until <= self.start_at:
            raise ValueError("valid_until must be after start_at")
        if self.gate.shadow is not None and self.policy.shadow is None:
            raise ValueError("gate.shadow needs policy.shadow: without it no device compares anything")
        return self


class GroupBody(Wire):
    """PUT body: devices by name, by selector, or both."""

    selector: SelectorText = ""
    """Over labels. Empty: none by label."""
    devices: Annotated[tuple[Name, ...], Field(max_length=MAX_LISTED_DEVICES)] = ()
    """Names of devices."""
    note: Annotated[str, Field(max_length=2048)] = ""
    """For people."""


class GroupView(Wire):
    """A named set of devices."""

    name: Name
    """Unique."""
    selector: str = ""
    """Over labels. Empty: none by label."""
    devices: tuple[Name, ...] = ()
    """Those that are named."""
    note: str = ""
    """For people."""
    count: Integer = 0
    """Devices in it now."""
    changed_at: AwareDatetime
    """UTC."""
