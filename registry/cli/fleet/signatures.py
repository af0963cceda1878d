"""What a device says of the signatures that it checks, as text."""

from __future__ import annotations

from registry.cli.output import time_text
from registry.contracts.api.devices import DeviceView
from registry.contracts.device.messages import TrustState


def trust_text(view: DeviceView) -> str:
    """What the device says of the signatures that it checks; empty: it has not reported yet."""
    if view.reported is None:
        return ""
    trust = view.reported.trust
    if trust is None or trust.state is TrustState.UNSIGNED:
        return (
            "unsigned: it believes whoever speaks for the registry; give it trust.json and `[trust] root` "
            f"(registry devices rotate {view.name} --out FOLDER writes them)"
        )
    told = f"signed, until {time_text(trust.expires)}" if trust.expires is not None else "signed"
    if trust.state is TrustState.STALE:
        since = f"metadata stale since {time_text(trust.stale_since)}" if trust.stale_since is not None else "stale"
        told = f"{since}: {trust.why}"
    refused = ", ".join(f"{count} {cause}" for cause, count in sorted(trust.refused.items()))
    return told + (f"; documents refused: {refused}" if refused else "")
