"""What to do with a desired document that came in, by epoch and generation. Pure.

Within an epoch the generation only rises. An epoch that is not known means that the registry's database was put back
from a backup, or that somebody else wrote the document: only what the registry itself answered over HTTP is believed.
A document without an epoch is of an older registry, and judged by its generation alone.
"""

from __future__ import annotations

import enum


class EpochVerdict(enum.Enum):
    """Of a document."""

    TAKE = "take"
    RESTORED = "restored"
    """Take it: the registry says that its database is another one than before."""
    KNOWN = "known"
    """It says nothing new."""
    STALE = "stale"
    """A newer one was seen."""
    ASK = "ask"
    """Not to be believed from the broker: the registry is to be asked over HTTP."""


def judge(
    known: tuple[str, int] | None, epoch: str, generation: int, *, from_registry: bool, same: bool = True
) -> EpochVerdict:
    """What becomes of a document.

    Args:
        known: Epoch and generation of the newest document that was taken; None: none was.
        epoch, generation: Of the document.
        same: Where its generation is the known one: it says the same. Another text of one generation is not to be, but
            for a database that was put back, and went on before anybody noticed.
        from_registry: The registry itself answered with it, over HTTP.
    """
    if known is None:
        return EpochVerdict.TAKE
    known_epoch, known_generation = known
    other_epoch = bool(epoch and known_epoch and epoch != known_epoch)
    if other_epoch or (generation == known_generation and not same):
        return EpochVerdict.RESTORED if from_registry else EpochVerdict.ASK
    if generation > known_generation:
        return EpochVerdict.TAKE
    return EpochVerdict.KNOWN if generation == known_generation else EpochVerdict.STALE
