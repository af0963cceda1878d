"""`registry disk` and `registry doctor`: what takes the registry's room; what does not work, and what to do."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import Annotated

import typer

from registry.cli.output import ExitCode, age_text, time_text
from registry.cli.session import Session, command, options_hint
from registry.client.errors import ClientError
from registry.client.local_service import find_service
from registry.contracts.api.answers import AboutView
from registry.contracts.api.upkeep import CheckState, CheckView, DiagnosisView, DiskView
from registry.contracts.paths import about_path, diagnosis_path, disk_path
from registry.contracts.texts import how_many, size_text

CLOCK_OFF_S = 2.0
PATIENCE_S = 60.0
"""For all checks of the registry together."""
_ORDER = (CheckState.FAILED, CheckState.WARNING)


@command
def disk(
    session: Session,
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, max=200, help="How many versions.")] = 20,
) -> None:
    """Show what takes the room on the registry's disk, and what collecting garbage would free, and when.

    OWN is what no other version has: deleting the version gives it back, once the grace time is over.

    ```
    registry disk
    registry disk --json | jq .unneeded
    ```
    """
    view = session.client.get(disk_path(), DiskView)
    if session.out.as_json:
        session.out.document(view)
        return
    out = session.out
    free = f"{size_text(view.free_bytes)} free" if view.free_bytes is not None else "free room not known"
    out.say(f"As of {time_text(view.at)} ({age_text(view.at, session.now())}): {free}.\n")
    damaged = f", {view.damaged} of them damaged" if view.damaged else ""
    for label, text in (
        ("blobs", f"{size_text(view.bytes)} in {how_many(view.blobs, 'blob')}{damaged}"),
        ("shared", f"{size_text(view.shared_bytes)} of them belong to several versions"),
        ("datasets", f"{size_text(view.dataset_bytes)} of them are validation sets"),
        ("unneeded", _unneeded(view)),
        ("uploads", f"{size_text(view.upload_bytes)} received by {how_many(view.uploads, 'upload')} in progress"),
        ("database", size_text(view.database_bytes) if view.database_bytes is not None else "- (it does not say)"),
    ):
        out.field(f"  {label:<9} ", text)
    out.say("")
    out.table(
        ("MODEL", "VERSION", ">SIZE", ">OWN", "NOTE"),
        (
            (each.model, each.version, size_text(each.bytes), size_text(each.own), "yanked" if each.yanked else "")
            for each in view.versions[:limit]
        ),
        empty="There are no versions.",
        optional=("NOTE",),
    )
    more = view.more_versions + max(0, len(view.versions) - limit)
    if more:
        out.say(f"and {how_many(more, 'version')} with less of their own.")


def _unneeded(view: DiskView) -> str:
    found = view.unneeded
    if not found.blobs:
        return "nothing: collecting garbage would free nothing"
    every = f"{view.collects_every_s / 60:.0f} min"
    text = f"{size_text(found.bytes)} in {how_many(found.blobs, 'blob')} that nobody needs"
    text += f": {size_text(found.due_bytes)} go with the next collection, within {every}"
    if found.due_blobs < found.blobs and found.last_due is not None:
        text += f", the rest by {time_text(found.last_due)} ({view.grace_s / 3600:g} h after the last use)"
    return text


@command
def doctor(session: Session) -> None:
    """Check the registry: address, token and clock from here; its database, store, broker and keys by itself.

    Each line says what was found and what to do. Exit code 0: nothing failed; 1: something did; 6: the registry does
    not answer.

    ```
    registry doctor
    registry doctor --json | jq '.checks[] | select(.state == "failed")'
    ```
    """
    checks, reached = _from_here(session)
    if reached:
        checks += _by_itself(session)
    failed = [check for check in checks if check.state is CheckState.FAILED]
    if session.out.as_json:
        session.out.document({"checks": checks, "failed": len(failed)})
    else:
        _tell(session, checks)
    if not reached:
        raise typer.Exit(ExitCode.UNREACHABLE)
    if failed:
        raise typer.Exit(ExitCode.FAILURE)


def _tell(session: Session, checks: list[CheckView]) -> None:
    width = max(len(check.name) for check in checks)
    for check in checks:
        session.out.field(f"{check.state.upper():<8} {check.name:<{width}}  ", check.text)
        if check.advice:
            session.out.field(f"{'':<8} {'':<{width}}  -> ", check.advice)
    counts = {state: sum(check.state is state for check in checks) for state in _ORDER}
    found = ", ".join(_counted(state, count) for state, count in counts.items() if count)
    session.out.say(f"\n{how_many(len(checks), 'check')}: {found or 'nothing to do'}.")


def _counted(state: CheckState, count: int) -> str:
    return how_many(count, "warning") if state is CheckState.WARNING else f"{count} {state}"


def _from_here(session: Session) -> tuple[list[CheckView], bool]:
    address = session.address
    began = time.time()
    try:
        answer = session.client.call("GET", about_path(), tries=1)
        about = answer.decode(AboutView)
    except ClientError as error:
        reached = error.code in {"unauthorized", "forbidden"}
        if reached:
            advice = options_hint(session.options) or error.hint
            return [_check("address", CheckState.OK, f"{address.url} answers"),
                    _check("token", CheckState.FAILED, error.what, advice)], True  # fmt: skip
        service = find_service() if address.is_loopback else None
        advice = f"systemctl status {service.unit.name}; journalctl -u {service.unit.name}" if service else error.hint
        return [_check("address", CheckState.FAILED, error.what, advice)], False
    ended = time.time()
    checks = [
        _check("address", CheckState.OK, f"{address.url} answers in {(ended - began) * 1000:.0f} ms"),
        _check("token", CheckState.OK, "is accepted" if address.token else "none is asked for"),
    ]
    if address.sends_token_in_clear:
        checks[-1] = _check("token", CheckState.WARNING, "goes unencrypted over the network", "Use https.")
    checks.append(_version(about))
    off = (about.now - datetime.fromtimestamp((began + ended) / 2, timezone.utc)).total_seconds()
    text = f"the registry's differs from this host's by {off:+.1f} s"
    state = CheckState.WARNING if abs(off) > CLOCK_OFF_S else CheckState.OK
    advice = "Synchronise both hosts (NTP)." if state is not CheckState.OK else ""
    checks.append(_check("clock of this host", state, text, advice))
    return checks, True


def _version(about: AboutView) -> CheckView:
    from importlib.metadata import version  # noqa: PLC0415 - only here

    own = version("modelfleet")
    since = f"up since {time_text(about.started_at)}"
    if own == about.version:
        return _check("version", CheckState.OK, f"{about.version}, {since}")
    text = f"the registry is {about.version}, this program {own}; {since}"
    return _check("version", CheckState.WARNING, text, "Install the same version on both.")


def _by_itself(session: Session) -> list[CheckView]:
    try:
        found = session.client.call("GET", diagnosis_path(), tries=1, timeout=PATIENCE_S).decode(DiagnosisView)
    except ClientError as error:
        if error.code in {"unauthorized", "forbidden"}:
            text = "what the registry checks by itself is for administrators"
            return [_check("registry", CheckState.WARNING, text, "Use a token with the role administrator.")]
        return [_check("registry", CheckState.FAILED, error.what, error.hint)]
    return list(found.checks)


def _check(name: str, state: CheckState, text: str, advice: str = "") -> CheckView:
    return CheckView(name=name, state=state, text=text, advice=advice)
