"""May requests be joined? What the publisher says of one variant, over what its graph says. Pure."""

from __future__ import annotations

from registry.client.errors import UsageFault
from registry.contracts.catalogue.batching import Basis, Batching
from registry.inspection.facts import ModelFacts
from registry.publishing.request import BatchingSection


def decided(section: BatchingSection, facts: ModelFacts) -> tuple[Batching | None, str]:
    """What the manifest will say, and a warning or nothing.

    Raises:
        UsageFault: it contradicts itself.
    """
    found = facts.batching
    if section.axis != 0 and section.independent is not True:
        raise UsageFault("batching: an axis is of items that are declared independent: independent = true")
    if section.independent is False:
        if section.max_size is not None:
            raise UsageFault("batching: one request at a time has no largest size")
        return Batching(basis=Basis.PUBLISHER), ""
    if section.independent is None:
        if section.max_size is not None and found is not None and found.independent:
            found = found.model_copy(update={"max_size": section.max_size})
        return found, ""
    stated = Batching(independent=True, basis=Basis.PUBLISHER, axis=section.axis, max_size=section.max_size)
    if section.axis != 0:
        return stated, f"requests are joined along axis 0 only: with axis {section.axis} they run one at a time"
    if found is not None and not found.independent and found.why:
        return stated, f"you declare that items are independent; the graph does not prove it: {found.why}"
    return stated, ""
