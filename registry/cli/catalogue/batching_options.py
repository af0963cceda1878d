"""`--batching`, `--max-batch`, `[variant.batching]`: may requests be joined? What the publisher says over the graph."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from registry.client.errors import UsageFault
from registry.contracts.catalogue.batching import MAX_JOINED, Basis, Batching
from registry.inspection.facts import ModelFacts
from registry.publishing.request import BatchingSection

BATCHING_PANEL = "Joining requests (docs/batching.md)"


class BatchingChoice(str, Enum):
    """What the publisher says of the items of one run."""

    AUTO = "auto"
    INDEPENDENT = "independent"
    OFF = "off"


BatchingOption = Annotated[
    BatchingChoice | None,
    typer.Option(
        "--batching",
        help="auto: as an ONNX graph proves. independent: you declare that items do not influence each other. "
        "off: one request at a time.",
        rich_help_panel=BATCHING_PANEL,
    ),
]
MaxBatchOption = Annotated[
    int | None,
    typer.Option(
        "--max-batch",
        min=1,
        max=MAX_JOINED,
        help="Most requests in one run; default: what a device finds best.",
        rich_help_panel=BATCHING_PANEL,
    ),
]


def batching_section(choice: BatchingChoice | None, max_batch: int | None) -> BatchingSection:
    """The options as a publish file says them."""
    said = None if choice in (None, BatchingChoice.AUTO) else choice is BatchingChoice.INDEPENDENT
    return BatchingSection(independent=said, max_size=max_batch)


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
        if section.max_size is None or found is None or not found.independent:
            return found, ""
        return found.model_copy(update={"max_size": section.max_size}), ""
    stated = Batching(independent=True, basis=Basis.PUBLISHER, axis=section.axis, max_size=section.max_size)
    if section.axis != 0:
        return stated, f"requests are joined along axis 0 only: with axis {section.axis} they run one at a time"
    if found is not None and not found.independent and found.why:
        return stated, f"you declare that items are independent; the graph does not prove it: {found.why}"
    return stated, ""
