"""What an agent writes: journal, outbox, artifacts, small files. Each thing is said once it is done."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.adapters.disk.artifact_cache import ArtifactCache
from agent.adapters.disk.damage import Damage
from agent.adapters.disk.durable import write_atomically
from agent.adapters.disk.journal import SqliteJournal
from agent.adapters.disk.outbox import EVENT, RESULT, NewMessage, Outbox
from agent.core.slots import SlotRecord
from agent.errors import AgentError
from registry.contracts.catalogue.manifest import FileRef, Variant
from registry.contracts.wire import digest_of
from tests.fakes.registry_simulator import one_file_manifest

NEVER = threading.Event()
Say = Callable[..., None]


def content(seed: int) -> bytes:
    """The same for the same seed; up to 60 kB."""
    chance = random.Random(seed)
    return chance.randbytes(chance.randrange(1, 60_000))


def variant_of(seed: int) -> Variant:
    """Of two files."""
    first, second = content(seed), content(-seed)
    variant = one_file_manifest(first).variants[0]
    beside = FileRef(path="sub/weights", digest=digest_of(second), size=len(second))
    return variant.model_copy(update={"files": (*variant.files, beside)})


def opened_cache(folder: Path) -> ArtifactCache:
    cache = ArtifactCache(folder / "cache", limit=1 << 40, reserve=0)
    cache.open()
    return cache


def write(folder: Path, chance: random.Random, say: Say) -> None:
    """Until it is killed."""
    journal, cache = SqliteJournal(folder), opened_cache(folder)
    journal.open()
    outbox = Outbox(folder / "outbox.db")
    number = int(journal.get("number") or b"0")
    while True:
        number += 1
        journal.put("number", b"%d" % number)
        say("number", number)
        journal.save(SlotRecord(model=f"m{number % 3}", generation=number))
        say("slot", number % 3, number)
        payload = b"%d:" % number + content(number)[:3000]
        outbox.add([NewMessage(chance.choice((EVENT, RESULT)), b"t", b"", payload)])
        say("message", number)
        if chance.random() < 0.3:
            first = outbox.after(0, 1)[0]
            say("removing", int(first.payload.partition(b":")[0]))
            outbox.remove([first.id])
        write_atomically(folder / "status.json", b"%d" % number * 2000)
        say("status", number)
        if number % 3 == 0:
            install(cache, number)
            say("artifact", number)


def install(cache: ArtifactCache, seed: int) -> None:
    """As a download does it."""
    variant = variant_of(seed)
    for ref, data in zip(variant.files, (content(seed), content(-seed)), strict=True):
        source = iter([data])

        def fill(room: memoryview, source: Any = source) -> int:
            part = next(source, b"")
            room[: len(part)] = part
            return len(part)

        with cache.part(ref) as part:
            part.resume(NEVER)
            part.receive(fill, NEVER)
            part.check()
            cache.admit(part, variant.canonical_digest())
    cache.complete(variant, variant.canonical_digest())
    cache.keep_manifest(content(seed))


def check(folder: Path, say: Say) -> None:
    """Says everything that is there and right; `wrong` for what is there and not."""
    damage = Damage()
    journal, cache = SqliteJournal(folder, damage), opened_cache(folder)
    journal.open()
    number = int(journal.get("number") or b"0")
    say("number", number)
    for model, record in journal.slots().items():
        say("slot", int(model[1:]), record.generation)
    outbox = Outbox(folder / "outbox.db", damage=damage)
    for message in outbox.after(0, 100_000):
        told, _, rest = message.payload.partition(b":")
        say("message" if rest == content(int(told))[:3000] else "wrong", int(told))
    status = (folder / "status.json").read_bytes() if (folder / "status.json").exists() else b"0" * 2000
    text = status[: len(status) // 2000]
    say("status" if text * 2000 == status else "wrong", int(text))
    for seed in range(3, number + 4, 3):
        variant = variant_of(seed)
        if cache.has(variant.canonical_digest()):
            try:
                cache.verify(variant, variant.canonical_digest(), NEVER)
            except AgentError as error:
                say("wrong", f"artifact {seed}: {error}")
                continue
            if cache.manifest(digest_of(content(seed))) is not None:
                say("artifact", seed)
    say("damage", damage.counts().get("journal", 0) + damage.counts().get("outbox", 0))
    journal.close()
    outbox.close()
