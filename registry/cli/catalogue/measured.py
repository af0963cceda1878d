"""What was measured of a version, as tables: how its variants answer the golden vectors, what they score."""

from __future__ import annotations

from collections.abc import Sequence

from registry.cli.output import Output, time_text
from registry.cli.session import Session
from registry.contracts.api.versions import ParityView, VersionView
from registry.contracts.catalogue.manifest import Manifest, Parity, parity_figures
from registry.contracts.evaluation.datasets import EvaluationView
from registry.contracts.paths import evaluations_path, parity_path


def evaluations_of(session: Session, version: VersionView) -> list[EvaluationView]:
    """What is known of a version, newest first."""
    return session.client.items(evaluations_path(version.model, version.version), EvaluationView)


def parity_of(session: Session, version: VersionView) -> list[ParityView]:
    """By the publisher, then by device."""
    return session.client.items(parity_path(version.model, version.version), ParityView)


def show_evaluations(session: Session, found: Sequence[EvaluationView]) -> None:
    """As a table, or for programs."""
    if session.out.as_json:
        session.out.document(found)
        return
    session.out.table(
        ("DATASET", "METRIC", ">VALUE", ">ITEMS", "VARIANT", "DEVICE", "BACKEND", ">SECONDS", "MEASURED"),
        (
            (
                view.dataset,
                view.metric,
                f"{view.value:.4f}",
                view.items,
                view.variant,
                view.device or "-",
                view.backend,
                f"{view.seconds:.2f}",
                time_text(view.at),
            )
            for view in found
        ),
        empty="Nothing was measured yet: registry evaluate MODEL@VERSION --dataset NAME",
    )


def show_parity(out: Output, manifest: Manifest, found: Sequence[ParityView]) -> None:
    """The parity table, with the tolerance above it; nothing where the version has no golden vectors."""
    golden = manifest.golden
    if golden is None:
        return
    limit = golden.tolerance
    origin = f"made by {golden.reference}" if golden.reference else "given by the publisher"
    out.say(
        f"\nGolden vectors: {golden.cases}, {origin}; tolerance {limit.absolute:g} + {limit.relative:g} * |want|, "
        f"top class of {limit.top1_agreement:.2%}"
    )
    rows = [parity_row(view.variant or "?", view.device or "publisher", view.parity, view.backend) for view in found]
    rows += [
        (variant.name, "nowhere yet", *["-"] * 6)
        for variant in manifest.variants
        if variant.name not in {view.variant for view in found}
    ]
    out.table(
        ("VARIANT", "MEASURED ON", "BACKEND", ">MAX ABS", ">MAX REL", ">TOP-1", ">RUN", "PASSED"), rows, empty="-"
    )


def parity_row(variant: str, where: str, parity: Parity, backend: str) -> tuple[str, ...]:
    """One row of the parity table."""
    passed = "yes" if parity.passed else f"NO: {parity.why}"
    return variant, where, backend or "-", *parity_figures(parity), passed
