"""What `agent doctor` finds out, by trying, with a deadline for everything; and the facts of this host as `agent
platform` prints them: value, source, age, and the reason for every "no".
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from agent.adapters import signatures
from agent.app.agent import mqtt_settings, probe, registry_client, utc_now
from agent.app.broker_visit import BrokerVisit
from agent.app.status import is_running, read_status, trust_line
from agent.config.sections import EntryPointSettings
from agent.config.settings import AgentConfig
from agent.errors import AgentError, PermanentError
from registry.contracts.codes import DeploymentCode
from registry.contracts.fit.platforms import FactRow, Platform

MIB, GIB = 1 << 20, 1 << 30
HEADINGS = ("FACT", "VALUE", "SOURCE", "AGE")


def fact_documents(facts: Platform, now: datetime) -> list[dict[str, Any]]:
    """One object a fact, for `--json`; `age_s` is None where the time is not known."""
    return [
        {
            "name": row.name,
            "value": row.value,
            "source": row.evidence.source,
            "observed_at": row.evidence.observed_at.isoformat() if row.evidence.observed_at else None,
            "age_s": age_s(row, now),
            "reason": row.evidence.reason,
            "failed": row.evidence.failed,
        }
        for row in facts.rows()
    ]


def fact_lines(facts: Platform, now: datetime) -> list[str]:
    """A table; below a fact that is missing, why."""
    rows = list(facts.rows())
    cells = [HEADINGS, *((row.name, value_text(row), row.evidence.source, age_text(row, now)) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADINGS))]
    lines = [_line(cells[0], widths)]
    for row, line in zip(rows, cells[1:], strict=True):
        lines.append(_line(line, widths))
        if row.evidence.failed:
            of = "not known" if row.value is None else f"of {age_text(row, now)} ago"
            lines.append(f"{'':{widths[0]}}  {of}, the last look failed: {row.evidence.reason}")
        elif row.evidence.reason and (row.value is None or "." not in row.name):
            lines.append(f"{'':{widths[0]}}  {row.evidence.reason}")
    return lines


def age_s(row: FactRow, now: datetime) -> float | None:
    """Seconds since it was found out."""
    at = row.evidence.observed_at
    return None if at is None else max(0.0, round((now - at).total_seconds(), 1))


def age_text(row: FactRow, now: datetime) -> str:
    """For people: 3 s, 12 min, 5 h, 2 d."""
    age = age_s(row, now)
    if age is None:
        return "?"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if age >= size:
            return f"{age / size:.0f} {unit}"
    return f"{age:.0f} s"


def value_text(row: FactRow) -> str:
    """For people: sizes with a unit, "no" for what is not there."""
    value = row.value
    if value is None and row.evidence.failed:
        return "unknown"
    if value is None or value is False:
        return "no"
    if value is True:
        return "yes"
    if row.name.endswith("_bytes"):
        return f"{value / GIB:.1f} GiB" if value >= GIB else f"{value / MIB:.0f} MiB"
    return f"{value} of them" if row.name == "cpu_features" else str(value)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()


@dataclass(frozen=True)
class Check:
    """One thing that was tried."""

    name: str
    ok: bool
    text: str
    advice: str = ""
    """What to do when it is not ok."""
    needed: bool = True
    """False: the agent can do its work without."""
    source: str = ""
    """What said so, and how long ago."""


def examine(config: AgentConfig) -> list[Check]:
    """All checks, in the order in which things are needed."""
    return [
        *_host(config),
        _entry_points(config.entry_points),
        _trust(config),
        _disk(config.data_dir),
        *_broker(config),
        _registry(config),
    ]


def _host(config: AgentConfig) -> Iterator[Check]:
    facts = probe(config, fresh=True)
    memory = f"{(facts.memory_free_bytes or 0) >> 20} of {(facts.memory_bytes or 0) >> 20} MiB memory free"
    yield Check("host", True, f"{facts.os} {facts.arch}, {facts.libc}, {facts.cpu_count} processors, {memory}")
    yield from _vendors(facts)
    usable = any(backend.usable for backend in facts.backends)
    for backend in facts.backends:
        where = f"{backend.version} on {', '.join(backend.targets)} ({', '.join(backend.providers)})"
        yield Check(
            f"backend {backend.name}",
            backend.usable,
            f"{where}, {', '.join(backend.formats)}" if backend.usable else "not usable",
            advice=backend.reason,
            needed=not usable,
            source=_source(facts, f"backend.{backend.name}"),
        )


def _vendors(facts: Platform) -> Iterator[Check]:
    """Chips, GPUs and what drives them; a host without has a reason, not a fault."""
    for name, found in (("ascend", facts.ascend), ("cann", facts.cann), ("cuda", facts.cuda)):
        said = found.to_json() if found else {}
        there = bool(said) and any(said.get(key) for key in ("chips", "gpus", "version"))
        text = ", ".join(f"{key} {value}" for key, value in said.items())
        evidence = facts.evidence.get(name)
        yield Check(
            name, there, text or "none", advice=evidence.reason if evidence else "", needed=False,
            source=_source(facts, name),
        )  # fmt: skip


def _entry_points(settings: EntryPointSettings) -> Check:
    keys = settings.keys()
    if not keys:
        return Check("entry points", True, "off: no code of a model runs here")
    missing = not signatures.trusted(settings)
    text = f"on, for {len(keys)} trusted keys" + (", but no signature can be verified" if missing else "")
    return Check("entry points", not missing, text, advice=signatures.missing(), needed=False)


def _trust(config: AgentConfig) -> Check:
    """Loudly, where nothing is checked: it is needed nowhere, and missed when it is too late."""
    file = config.trust.root
    if file is None:
        advice = "take the trust.json that `registry devices add --out` writes, and set trust.root"
        text = "unsigned: this device follows and loads whatever comes in the name of its registry"
        return Check("trust", False, text, advice=advice, needed=False)
    from agent.adapters.trust.opening import read_root_file  # noqa: PLC0415 - python-tuf takes 0.2 s to import

    try:
        read_root_file(file)
    except AgentError as error:
        return Check("trust", False, error.message, advice="without its roots the agent does not start")
    said = ((read_status(config.data_dir) or {}).get("reported") or {}).get("trust")
    if said is None or said.get("state") == "unsigned":
        return Check("trust", True, f"the roots in {file}; no agent has run with them yet")
    advice = "connect it to the registry, and set its clock; what serves goes on"
    return Check("trust", said.get("state") == "signed", trust_line(said), advice=advice, needed=False)


def _source(facts: Platform, name: str) -> str:
    row = next((row for row in facts.rows() if row.name == name or row.name.startswith(f"{name}.")), None)
    evidence = facts.evidence.get(name)
    if row is None:
        return evidence.source if evidence else ""
    return f"{row.evidence.source}, {age_text(row, utc_now())} ago" if row.evidence.source else ""


def _disk(data_dir: Path) -> Check:
    running = is_running(data_dir)
    folder = data_dir
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    writable = os.access(folder, os.W_OK | os.X_OK)
    text = f"{data_dir}, {'an agent runs there' if running else 'no agent runs there'}"
    return Check("data directory", writable, text, advice=f"make {folder} writable, or set data_dir")


def _broker(config: AgentConfig) -> Iterator[Check]:
    where = f"{config.mqtt.host}:{config.mqtt.port}" + (", TLS" if config.mqtt.tls else "")
    connected = is_running(config.data_dir) and (read_status(config.data_dir) or {}).get("connected")
    if config.mqtt.cert_file is not None and connected:
        # A broker that takes the client id from the certificate would end the agent's connection for this visit.
        yield Check("broker", True, f"{where}: the agent that runs is connected; its topics are not tried beside it")
        return
    visit = BrokerVisit(config, mqtt_settings(config, b""))
    try:
        fault = visit.connect()
    except (AgentError, OSError, ValueError) as error:
        fault = f"{type(error).__name__}: {error}"
    advice = "is it running, and are mqtt.host, mqtt.port, tls and the credentials right?"
    yield Check("broker", not fault, f"{where}: {fault}" if fault else where, advice)
    if fault:
        return
    try:
        fault, desired = visit.pass_on(), visit.finds_desired()
    finally:
        visit.leave()
    user = config.mqtt.username or "a client without a user name"
    advice = f"let {user} read and write {visit.topics}/# in the broker's access list (ACL)"
    yield Check("broker topics", not fault, fault or f"the broker passes on {visit.topics}/#", advice)
    if config.registry.url is not None and not fault:
        text = "publishes" if desired else "does not publish"
        advice = (
            f"is the registry connected to this broker, with the prefix {config.mqtt.prefix!r}, and is this device "
            "registered there? Until then the agent polls the registry over HTTP"
        )
        text = f"the registry {text} {visit.topics}/desired there"
        yield Check("registry on broker", desired, text, advice, needed=False)


def _registry(config: AgentConfig) -> Check:
    url = config.registry.url
    if url is None:
        return Check("registry", False, "none is configured", advice="set registry.url to install models", needed=False)
    try:
        client = registry_client(config)
        if client is not None:
            client.desired(None)
            client.close()
    except PermanentError as error:
        advice = f"is {config.device!r} registered there, and is this its credential?"
        return Check("registry", False, f"{url}: {error.message}", advice)
    except AgentError as error:
        refused = error.code == DeploymentCode.CREDENTIAL_REFUSED
        advice = "create a new token for this device" if refused else "is it running, and is registry.url right?"
        return Check("registry", False, f"{url}: {error.message}", advice)
    return Check("registry", True, f"{url} knows {config.device}")
