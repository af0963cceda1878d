"""What works and what does not, found out by trying: for a person who asks, not for a load balancer (`readiness`).

Every check has a deadline. A check that fails by itself is a result, not an error of the request.
"""

from __future__ import annotations

import stat
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

from sqlalchemy import func, select
from starlette.concurrency import run_in_threadpool

from registry.certificates import not_after
from registry.client.address import ADMIN_TOKEN_FILE
from registry.contracts.api.trust import TrustRoleView
from registry.contracts.api.upkeep import CheckState, CheckView, DiagnosisView
from registry.contracts.texts import how_many, size_text
from registry.db.catalog_rows import TokenRow
from registry.db.fleet_rows import DeviceRow
from registry.errors import RegistryError
from registry.server.composition import Services
from registry.server.readiness import WORKS
from registry.services.fleet.device_index import compare_index, index
from registry.services.trust.view import trust_view

DELIVERY_S = 5.0
INDEX_S = 10.0
"""For comparing the fleet's index with the devices."""
CLOCK_OFF_S = 2.0
CERTIFICATE_WARNING_S = 14 * 86400.0
SIGNATURE_WARNING_DAYS = 60.0
ONLINE = ("snapshot", "timestamp")
TOKEN_UNUSED = timedelta(days=90)
LOW_DISK = 2
"""So many times the reserve, and less is a warning."""
MAX_NAMED = 5
_S = CheckState


async def diagnose(services: Services) -> DiagnosisView:
    """Every check, one after another; the slowest takes DELIVERY_S or the patience of `readiness`."""
    found = await services.readiness.look()
    checks = [
        *await run_in_threadpool(_guarded, "database", lambda: _database(services, found.get("database", WORKS))),
        *await run_in_threadpool(_guarded, "fleet's index", lambda: _index(services)),
        *await run_in_threadpool(_guarded, "store", lambda: _store(services, found.get("blobs", WORKS))),
        *await run_in_threadpool(_guarded, "broker", lambda: _broker(services)),
        *await run_in_threadpool(_guarded, "keys", lambda: _keys(services)),
        *_access(services),
        *_shares(services),
        *await run_in_threadpool(_guarded, "signatures", lambda: _signatures(services)),
        *await run_in_threadpool(_guarded, "database clock", lambda: _clock(services)),
    ]
    return DiagnosisView(at=services.clock(), checks=tuple(checks))


def _guarded(name: str, look: Callable[[], Iterator[CheckView]]) -> list[CheckView]:
    done: list[CheckView] = []
    try:
        done.extend(look())
    except RegistryError as error:
        done.append(_failed(name, error.message, "See the registry's log, and registry code " + error.code))
    except OSError as error:
        done.append(_failed(name, f"{error}", "Check the rights and the disk of the data folder."))
    return done


def _ok(name: str, text: str) -> CheckView:
    return CheckView(name=name, state=_S.OK, text=text)


def _warning(name: str, text: str, advice: str) -> CheckView:
    return CheckView(name=name, state=_S.WARNING, text=text, advice=advice)


def _failed(name: str, text: str, advice: str) -> CheckView:
    return CheckView(name=name, state=_S.FAILED, text=text, advice=advice)


def _database(services: Services, writes: str) -> Iterator[CheckView]:
    database = services.database
    kind = "SQLite" if database.is_sqlite else "PostgreSQL"
    if writes == WORKS:
        yield _ok("database writes", f"{kind}: a write was committed")
    else:
        yield _failed("database writes", writes, "Mend its disk or its server; what only reads may still work.")
    began = time.monotonic()
    with database.read() as session:
        revision, size = database.schema(session), database.size_bytes(session)
    took_ms = (time.monotonic() - began) * 1000
    room = f", {size_text(size)}" if size is not None else ""
    yield _ok("database", f"{kind}, schema {revision}{room}, answers in {took_ms:.1f} ms")


def _index(services: Services) -> Iterator[CheckView]:
    end = time.monotonic() + INDEX_S
    found = compare_index(services.database, services.clock(), lambda: time.monotonic() > end)
    if found.wrong:
        with services.database.write() as session:
            index(session, found.wrong, services.clock())
            query = select(DeviceRow.name).where(DeviceRow.id.in_(found.wrong[:MAX_NAMED])).order_by(DeviceRow.name)
            names = ", ".join(session.scalars(query)) + (", ..." if len(found.wrong) > MAX_NAMED else "")
        text = (
            f"lists and counts said something wrong of {how_many(len(found.wrong), 'device')}, and are mended: {names}"
        )
        yield _warning("fleet's index", text, "No release should do this: please report it with the registry's log.")
    else:
        of = f"{found.compared:,} of {found.devices:,} devices" if found.compared < found.devices else "every device"
        yield _ok("fleet's index", f"says of {of} what follows from its rows")


def _store(services: Services, writes: str) -> Iterator[CheckView]:
    if writes == WORKS:
        yield _ok("store writes", "a file was written, synced and removed")
    else:
        yield _failed("store writes", writes, "Mend the disk below blobs_url; uploads are refused until then.")
    free, reserve = services.blobs.free_bytes(), services.config.limits.disk_reserve_bytes
    if free is None:
        yield _ok("store room", "the store does not say how much room it has")
    elif free < LOW_DISK * reserve:
        text = f"{size_text(free)} free; uploads leave {size_text(reserve)} free (limits.disk_reserve_bytes)"
        advice = "registry disk shows what takes the room; delete versions that nobody needs, or enlarge the disk."
        yield (_failed if free <= reserve else _warning)("store room", text, advice)
    else:
        yield _ok("store room", f"{size_text(free)} free")
    damaged = services.checks.known_damaged
    if damaged:
        text = f"{how_many(damaged, 'blob')} that versions need: the copy is lost or damaged"
        yield _failed("blobs", text, "Publish these versions again: that replaces the copies. The log names them.")
    else:
        yield _ok("blobs", "none is known to be damaged")


def _broker(services: Services) -> Iterator[CheckView]:
    bridge, config = services.fleet.bridge, services.config.mqtt
    if bridge is None:
        yield CheckView(name="broker", state=_S.OFF, text="none is configured: devices poll over HTTP")
        return
    where = f"{config.host}:{config.effective_port}"
    if not bridge.connected or bridge.problem:
        text = f"{where}: {bridge.problem or 'not connected'}"
        yield _failed("broker", text, "Check mqtt.host, the credentials and the broker's log and access list.")
    else:
        yield _ok("broker", f"{where}: connected and subscribed as {config.client_id}")
    yield from _tls(services, where)
    if bridge.connected:
        came = bridge.test_delivery(DELIVERY_S)
        if isinstance(came, str):
            advice = f"The access list has to let this registry read and write {config.prefix}/devices/#."
            yield _failed("broker delivery", came, advice)
        else:
            yield _ok("broker delivery", f"a message came back in {came * 1000:.0f} ms")
        waits = bridge.waits_s
        if waits > 30:
            text = f"{how_many(bridge.queued, 'message')} of devices wait, the first for {waits:.0f} s"
            yield _warning("broker queue", text, "The database does not keep up, or takes no writes.")


def _tls(services: Services, where: str) -> Iterator[CheckView]:
    bridge, config = services.fleet.bridge, services.config.mqtt
    if not config.tls:
        if config.host not in ("127.0.0.1", "localhost", "::1"):
            text = f"the connection to {where} is not encrypted"
            yield _warning("broker TLS", text, "Set mqtt.tls, and mqtt.ca_file where its authority is your own.")
        return
    shown = bridge.certificate() if bridge is not None else None
    if shown is None:
        return
    left_s = not_after(shown) - services.clock().timestamp()
    text = f"the broker's certificate is valid for {left_s / 86400:.0f} days"
    if left_s < CERTIFICATE_WARNING_S:
        yield _warning("broker TLS", text, "Renew it; a reload of the broker is enough.")
    else:
        yield _ok("broker TLS", text)


def _keys(services: Services) -> Iterator[CheckView]:
    folder = services.config.data_dir
    yield from _private(folder, 0o700, "data folder")
    yield from _private(folder / ADMIN_TOKEN_FILE, 0o600, "administrator's token")
    now = services.clock()
    with services.database.read() as session:
        devices = session.scalar(select(func.count()).select_from(DeviceRow)) or 0
        kept = session.scalar(select(func.count()).where(TokenRow.device.is_not(None))) or 0
        people = select(TokenRow.name).where(TokenRow.device.is_(None), TokenRow.created_at < now - TOKEN_UNUSED)
        unused = (TokenRow.last_used.is_(None)) | (TokenRow.last_used < now - TOKEN_UNUSED)
        stale = session.scalars(people.where(unused).order_by(TokenRow.name).limit(MAX_NAMED)).all()
    if kept < devices:
        text = f"{how_many(devices - kept, 'device')} have no credential and cannot speak to the registry"
        yield _failed("device credentials", text, "Make new ones: registry devices rotate DEVICE")
    else:
        yield _ok("device credentials", f"each of {how_many(devices, 'device')} has one")
    if stale:
        text = f"unused for {TOKEN_UNUSED.days} days: {', '.join(stale)}"
        yield _warning("tokens", text, "Revoke what nobody needs: registry token revoke NAME")
    else:
        yield _ok("tokens", f"none is unused for {TOKEN_UNUSED.days} days")


def _shares(services: Services) -> Iterator[CheckView]:
    """Who was refused something lately because he had all of his part."""
    lately = services.shares.lately()
    if not lately:
        yield _ok("shares", "no caller was refused more than its part in the last hour")
    else:
        named = [f"{each.caller} ({each.what}, {each.count:,} times)" for each in lately[:MAX_NAMED]]
        more = f", and {len(lately) - MAX_NAMED} more" if len(lately) > MAX_NAMED else ""
        text = f"refused more than their part in the last hour: {', '.join(named)}{more}"
        yield _warning("shares", text, "Look at what they do; revoke a token that is not used as meant.")
    for places in services.places:
        text = f"{places.open} of {places.total} are open, {places.each} may be of one address"
        if places.total < services.config.limits.connections:
            wanted = services.config.limits.connections
            advice = f"The setting is {wanted}: raise the limit of open files (LimitNOFILE of the unit, ulimit -Hn)."
            yield _warning("connections", text, advice)
        else:
            yield _ok("connections", text)


def _access(services: Services) -> Iterator[CheckView]:
    if services.config.access.open_reading:
        text = "everybody who can send a request reads everything without a token (access.open_reading)"
        yield _warning(
            "reading", text, "Set access.open_reading = false, and give readers tokens with the role viewer."
        )
    else:
        yield _ok("reading", "needs a token")


def _signatures(services: Services) -> Iterator[CheckView]:
    """Signed metadata: whether all can be signed, and what expires without somebody's doing."""
    yield from _private(services.trust.keys.folder, 0o700, "folder of keys")
    with services.database.read() as session:
        view = trust_view(services.trust, session, services.clock())
    if view.problem:
        yield _failed("signatures", view.problem, "Put the folder of keys back from its backup; see docs/trust.md.")
    unable = [f"{role.repository} {role.role}" for role in view.roles if _has_to_sign(role)]
    if unable:
        text = f"no key here for {', '.join(unable)}: devices install nothing new once what is signed expires"
        yield _failed("signing keys", text, "Put the folder of keys back from its backup; see docs/trust.md.")
    soon = [role for role in view.roles if role.days_left is not None and role.days_left < _warn_below(role)]
    for role in soon:
        why = "was not signed again; see the log" if role.here >= role.threshold else "its keys are elsewhere"
        text = f"{role.repository} {role.role} expires in {role.days_left:.1f} days: {why}"
        yield _warning("signatures", text, "Have it signed again: docs/trust.md.")
    if not (view.problem or unable or soon):
        first = min((role.days_left for role in view.roles if role.days_left is not None), default=0.0)
        yield _ok("signatures", f"{how_many(len(view.roles), 'role')} signed; the first expires in {first:.1f} days")


def _has_to_sign(role: TrustRoleView) -> bool:
    """The registry itself signs this all the time, and cannot."""
    of_documents = (role.repository, role.role) == ("director", "targets")
    return (role.role in ONLINE or of_documents) and role.here < role.threshold


def _warn_below(role: TrustRoleView) -> float:
    """Days; the registry signs again what it can at half of the life."""
    return {"timestamp": 0.25, "snapshot": 2.0}.get(role.role, SIGNATURE_WARNING_DAYS)


def _private(path: Path, most: int, what: str) -> Iterator[CheckView]:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        if path.name == ADMIN_TOKEN_FILE:
            yield _ok(what, "not in the data folder: it was given in the settings")
        return
    if mode & ~most & 0o077:
        yield _warning(what, f"{path} has mode {mode:04o}: others on this host may use it", f"chmod {most:o} {path}")
    else:
        yield _ok(what, f"{path} has mode {mode:04o}")


def _clock(services: Services) -> Iterator[CheckView]:
    before = services.clock()
    with services.database.read() as session:
        theirs = services.database.clock(session)
    after = services.clock()
    if theirs is None:
        return
    off = (theirs - (before + (after - before) / 2)).total_seconds()
    text = f"the database server's differs by {off:+.1f} s"
    if abs(off) > CLOCK_OFF_S:
        yield _warning("database clock", text, "Synchronise both hosts (NTP).")
    else:
        yield _ok("database clock", text)
