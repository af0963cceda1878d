"""Why signed data are refused."""

from __future__ import annotations

from registry.contracts.enums import StrEnum


class TrustFault(StrEnum):
    """What is wrong, as it is counted and reported."""

    UNSIGNED = "unsigned"
    """It has no signature at all."""
    SIGNATURE = "signature"
    """Too few of the role's keys signed these bytes."""
    FORM = "form"
    """It is no such metadata or document, or is longer than it may be."""
    DEVICE = "device"
    """It was signed for another device."""
    ROLLBACK = "rollback"
    """It is older than what was accepted before."""
    CONFLICT = "conflict"
    """It has the place of what was accepted before, and says something else."""
    EXPIRED = "expired"
    """Its time is over, or that of what it rests on."""
    MISMATCH = "mismatch"
    """It is not what the metadata above it lists: its version, length or digest."""
    NOT_LISTED = "not_listed"
    """No trusted role lists this manifest."""


class TrustRefusedError(Exception):
    """Signed data were not accepted. Nothing of them may be used."""

    def __init__(self, fault: TrustFault, message: str) -> None:
        super().__init__(message)
        self.fault = fault
        self.message = message
