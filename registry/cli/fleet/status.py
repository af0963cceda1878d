"""`registry status`: how the fleet is, on one screen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from registry.cli.fleet.selection import count_text, fleet_line
from registry.cli.output import Output, age_text, time_text
from registry.cli.session import Session, command
from registry.client.errors import ProblemError
from registry.client.fleet import fleet_summary
from registry.contracts.api.answers import AboutView, Scope, TokenView
from registry.contracts.api.fleet import ConnectionState, FleetSummary, SlotState
from registry.contracts.codes import places_of
from registry.contracts.paths import about_path, rollouts_path, tokens_path
from registry.contracts.rollout.states import RolloutState
from registry.contracts.rollout.views import RolloutView
from registry.contracts.texts import how_many, size_text

MAX_ROWS = 12
"""Of each table; a screen has no room for more."""
MAX_ROLLOUTS = 200
"""The newest; those among them that are not over are shown."""
MAX_HOSTS = 5
"""Columns of hardware."""
UNUSED = timedelta(days=90)
RENEW = timedelta(days=14)
"""As `registry doctor` warns."""
_CERTIFICATES = {
    "broker": "broker's certificate",
    "broker_authority": "broker's authority",
    "broker_client": "client certificate for the broker",
    "devices_broker_authority": "devices' authority of the broker",
    "devices_broker_client": "devices' client certificates",
    "devices_registry_authority": "devices' authority of the registry",
}
OVER = frozenset({
    RolloutState.SUCCEEDED, RolloutState.COMPLETED_WITH_EXCEPTIONS, RolloutState.ROLLED_BACK, RolloutState.ABORTED,
    RolloutState.ROLLBACK_INCOMPLETE, RolloutState.DENIED,
})  # fmt: skip
SERVING_TEXT: dict[SlotState, str] = {
    SlotState.SERVING: "serve what they should",
    SlotState.IDLE: "have nothing to serve",
    SlotState.ASSIGNED: "have not answered yet",
    SlotState.WAITING: "wait",
    SlotState.DOWNLOADING: "download",
    SlotState.TRYING: "try a version",
    SlotState.RECOVERING: "start a worker again",
    SlotState.LEAVING: "still serve what they should no longer",
    SlotState.ROLLING_BACK: "roll back",
    SlotState.WENT_BACK: "went back",
    SlotState.QUARANTINED: "refuse a version in quarantine",
    SlotState.FAILING: "fail",
    SlotState.DOWN: "are down",
}


@command
def status(session: Session) -> None:
    """Show the fleet on one screen: who is there, what serves on which hardware, what fails, rollouts, storage, tokens.

    Devices are counted as of the time in the first line. A device counts once, by the worst of its models.

    ```
    registry status
    registry status --json | jq .fleet.failing
    ```
    """
    summary = fleet_summary(session.client)
    newest = session.client.items(rollouts_path(), RolloutView, MAX_ROLLOUTS)
    rollouts = [view for view in newest if view.state not in OVER]
    tokens = _tokens(session)
    about = session.client.get(about_path(), AboutView)
    if session.out.as_json:
        told = {"fleet": summary, "rollouts": rollouts, "tokens": tokens, "open_reading": about.open_reading}
        session.out.document(told)
        return
    out, now = session.out, session.now()
    out.field("", f"{fleet_line(summary)}. As of {time_text(summary.as_of)}.")
    if about.open_reading:
        out.warn("everybody who can send this registry a request reads without a token (access.open_reading)")
    for label, text in (
        ("serving", _serving_line(summary)),
        ("rollouts", _rollouts_line(summary)),
        ("storage", _storage_line(summary)),
        ("tokens", _tokens_line(tokens, now)),
        ("keys", _keys_line(summary, now)),
    ):
        out.field(f"  {label:<9} ", text)
    _tell_failures(out, summary)
    _tell_versions(out, summary)
    _tell_rollouts(out, rollouts, now)


def _tokens(session: Session) -> list[TokenView] | None:
    """None: this token may not see them."""
    try:
        return session.client.items(tokens_path(), TokenView)
    except ProblemError as problem:
        if problem.code != "forbidden":
            raise
        return None


def _serving_line(summary: FleetSummary) -> str:
    counts = [f"{number:,} {text}" for state, text in SERVING_TEXT.items() if (number := summary.serving.get(state, 0))]
    away = sum(summary.connection.get(state, 0) for state in (ConnectionState.SILENT, ConnectionState.OFFLINE))
    note = f"; as last reported: {away:,} of them cannot be heard now" if away else ""
    return ", ".join(counts) + note if counts else "no devices yet: registry devices add NAME"


def _rollouts_line(summary: FleetSummary) -> str:
    counts = [f"{number:,} {state.value.replace('_', ' ')}" for state, number in summary.rollouts.items()]
    return ", ".join(counts) or "none"


def _storage_line(summary: FleetSummary) -> str:
    found = summary.storage
    damaged = f", {found.damaged} of them damaged: registry doctor" if found.damaged else ""
    free = "free room not known" if found.free_bytes is None else f"{size_text(found.free_bytes)} free"
    return f"{size_text(found.bytes)} in {count_text(found.blobs, 'blob')}{damaged}; {free}"


def _keys_line(summary: FleetSummary, now: datetime) -> str:
    """Certificates by days left, the one that ends first first."""
    ends = sorted(summary.certificates.items(), key=lambda each: each[1])
    return ", ".join(f"{_CERTIFICATES.get(name, name)} {_left_text(at - now)}" for name, at in ends) or (
        "no certificate that the registry knows of"
    )


def _left_text(left: timedelta) -> str:
    if left <= timedelta(0):
        return "EXPIRED"
    days = how_many(left // timedelta(days=1), "day")
    return f"{days} left" + (": RENEW" if left < RENEW else "")


def _roles(token: TokenView) -> list[str]:
    """Of an older registry, which tells of none: its scope."""
    return sorted({each.role.value for each in token.grants}) or [token.scope.value]


def _tokens_line(tokens: Sequence[TokenView] | None, now: datetime) -> str:
    if tokens is None:
        return "not shown: that needs an administrator's token"
    people = [token for token in tokens if token.scope is not Scope.DEVICE]
    roles = Counter(role for token in people for role in _roles(token))
    counts = ", ".join(f"{number} {role}" for role, number in roles.items())
    idle = [token.name for token in people if now - (token.last_used or token.created_at) > UNUSED]
    more = f" and {len(idle) - 3} more" if len(idle) > 3 else ""
    unused = f"; not used for {UNUSED.days} days: {', '.join(idle[:3])}{more}" if idle else ""
    return f"{counts or 'none'}{unused}"


def _tell_failures(out: Output, summary: FleetSummary) -> None:
    if not summary.failing:
        return
    out.say("")
    found = list(summary.failing.items())
    out.table((">DEVICES", "FAIL WITH", "MEANING"), _failures(found[:MAX_ROWS]), empty="")
    _tell_more(out, len(found) - MAX_ROWS, "code")
    out.say(f"Which they are: registry devices list --failing {found[0][0]}")


def _failures(found: Sequence[tuple[str, int]]) -> Iterator[tuple[object, ...]]:
    for code, number in found:
        row = next(iter(places_of(code)), None)
        yield f"{number:,}", code, row.meaning if row is not None else "-"


def _tell_versions(out: Output, summary: FleetSummary) -> None:
    """What serves, by hardware."""
    rows: dict[str, Counter[str]] = {}
    hosts: Counter[str] = Counter()
    for each in summary.versions:
        title = f"{each.model}@{each.version}" if each.version else f"{each.model}: nothing serves"
        host = each.hardware or "unknown"
        rows.setdefault(title, Counter())[host] += each.devices
        hosts[host] += each.devices
    if not rows:
        return
    columns = [host for host, _ in hosts.most_common(MAX_HOSTS)]
    rest = len(hosts) - len(columns)
    out.say("")
    by_number = sorted(rows.items(), key=lambda row: (row[0].partition("@")[0], -row[1].total(), row[0]))
    lines = []
    for title, found in by_number[:MAX_ROWS]:
        other = [_number(found.total() - sum(found[host] for host in columns))] if rest else []
        lines.append((title, *(_number(found[host]) for host in columns), *other, f"{found.total():,}"))
    other_column = [">other"] if rest else []
    optional = (*(["other"] if rest else []), *reversed(columns))
    headings = ("SERVES", *(f">{host}" for host in columns), *other_column, ">ALL")
    out.table(headings, lines, empty="", optional=optional)
    _tell_more(out, len(rows) - MAX_ROWS, "version")
    if summary.versions_left_out:
        out.say(f"Not counted here: {summary.versions_left_out:,} further combinations of version, state and hardware.")


def _number(number: int) -> str:
    return f"{number:,}" if number else "-"


def _tell_rollouts(out: Output, rollouts: Sequence[RolloutView], now: datetime) -> None:
    if not rollouts:
        return
    out.say("")
    lines = [
        (view.spec.name or view.id, f"{view.spec.model}@{view.version}", view.state, age_text(view.since, now),
         view.reason.text or view.reason.code)
        for view in rollouts[:MAX_ROWS]
    ]  # fmt: skip
    out.table(("ROLLOUT", "VERSION", "STATE", "SINCE", "WHY"), lines, empty="", optional=("SINCE", "WHY"))
    _tell_more(out, len(rollouts) - MAX_ROWS, "rollout")


def _tell_more(out: Output, number: int, noun: str) -> None:
    if number > 0:
        out.say(f"and {count_text(number, noun)} more")
