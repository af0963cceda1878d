"""Golden vectors by another version: the ones that it carries, or ones that its model makes here."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from registry.cli.catalogue.pull import download
from registry.cli.progress import meter
from registry.cli.session import Session, split_reference
from registry.client.errors import ClientError, UsageFault
from registry.client.versions import fetch_manifest, find_version
from registry.contracts.catalogue.manifest import FileRef, Golden, Manifest
from registry.publishing.plan import Plan
from registry.publishing.request import ToleranceSection

ORDER_FOLDER = "compared"


@dataclass(frozen=True)
class Others:
    """The versions that a publishing refers to."""

    session: Session
    folder: Path
    of: Manifest | None = None
    """Whose golden vectors these are."""
    compared: Manifest | None = None
    """Whose model makes the outputs."""

    def vectors(self) -> Path | None:
        """The file of `of`'s golden vectors, fetched and verified; None: there is no `of`."""
        if self.of is None:
            return None
        golden = _golden_of(self.of)
        return self._fetched(golden.file, self.folder / f"of-{golden.file.digest[-16:]}.safetensors")

    def started(self, stack: ExitStack) -> Any:
        """A process of `compared`'s first variant that runs here. Raises ClientError(cannot_run): none does."""
        from registry.running.process import CannotRunError, ModelProcess  # noqa: PLC0415 - needs NumPy
        from registry.running.runtimes import order_for  # noqa: PLC0415 - as above

        assert self.compared is not None  # noqa: S101 - asked by whoever has it
        reasons = []
        for variant in self.compared.variants:
            folder = self.folder / ORDER_FOLDER / variant.name
            order = order_for(folder / variant.entry, variant.format, variant.target, variant.inputs, variant.outputs)
            if not isinstance(order, str):
                for file in variant.files:
                    self._fetched(file, folder / file.path)
                try:
                    return stack.enter_context(ModelProcess(order))
                except CannotRunError as error:
                    order = error.message
            reasons.append(f"{variant.name}: {order}")
        name = name_of(self.compared)
        raise ClientError(f"{name} cannot run here to be compared with", code="cannot_run", errors=tuple(reasons))

    def _fetched(self, file: FileRef, place: Path) -> Path:
        if not place.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            with meter(f"pulling {place.name}", file.size, quiet=self.session.out.as_json) as shown:
                download(self.session.client, file, place, shown.at, self.session.out.note)
        return place


def with_others(session: Session, plan: Plan, folder: Path) -> tuple[Plan, Others]:
    """The plan with the full names of the versions that its golden vectors come from, and these versions.

    The tolerance of `of` goes with its vectors, unless another is said.

    Raises:
        ClientError: such a version is not there, or has no golden vectors.
    """
    section = plan.source.golden
    of, compared = (_found(session, name) for name in (section.of, section.compare_with))
    update: dict[str, object] = {}
    if of is not None:
        update["of"] = name_of(of)
        if "tolerance" not in section.model_fields_set:
            update["tolerance"] = ToleranceSection.model_validate(_golden_of(of).tolerance.model_dump())
    if compared is not None:
        update["compare_with"] = name_of(compared)
    source = plan.source.model_copy(update={"golden": section.model_copy(update=update)})
    return replace(plan, source=source), Others(session, folder, of, compared)


def name_of(manifest: Manifest) -> str:
    """`lenet@1.0.0`."""
    return f"{manifest.model}@{manifest.version}"


def _found(session: Session, reference: str | None) -> Manifest | None:
    if reference is None:
        return None
    model, version = split_reference(reference)
    if version is None:
        raise UsageFault(f"Which version of {model}?", hint=f"For example {model}@1.0.0 or {model}@stable")
    return fetch_manifest(session.client, find_version(session.client, model, version))


def _golden_of(manifest: Manifest) -> Golden:
    if manifest.golden is None:
        raise ClientError(
            f"{name_of(manifest)} has no golden vectors",
            code="not_found",
            hint="--compare-with makes them with its model, where that runs here",
        )
    return manifest.golden
