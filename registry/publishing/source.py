"""Where the golden vectors of a version come from, where that is another version in the registry."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from registry.client.api import ApiClient
from registry.client.download import download
from registry.client.errors import ClientError, UsageFault
from registry.client.references import split_reference
from registry.client.versions import fetch_manifest, find_version
from registry.contracts.catalogue.manifest import FileRef, Manifest, Variant
from registry.publishing.observer import Observer
from registry.publishing.request import GoldenSection
from registry.running.process import ModelProcess
from registry.running.variants import LocalVariants


class GoldenSource:
    """What is asked for, with the versions that it names.

    Args:
        client: The registry.
        asked: What the publisher says.
        folder: Where files are fetched to; whoever makes it removes it.
        observer: Told of downloads.

    Raises:
        ClientError: such a version is not there, or has no golden vectors.
    """

    def __init__(self, client: ApiClient, asked: GoldenSection, folder: Path, observer: Observer) -> None:
        self._client, self.folder, self._observer = client, folder, observer
        update: dict[str, object] = {}
        self.given = asked.file
        """The file of golden vectors that the publisher gave, or of the version `of`; None: they are made."""
        self.compared = self._found(asked.compare_with)
        """The version whose model makes the outputs."""
        if self.compared is not None:
            update["compare_with"] = name_of(self.compared)
        if (of := self._found(asked.of)) is not None:
            if of.golden is None:
                hint = "--compare-with makes them with its model, where that runs here"
                raise ClientError(f"{name_of(of)} has no golden vectors", code="not_found", hint=hint)
            self.given = self._fetched(of.golden.file, folder / f"of-{of.golden.file.digest[-16:]}.safetensors")
            update["of"] = name_of(of)
            if "tolerance" not in asked.model_fields_set:
                update["tolerance"] = of.golden.tolerance
        self.asked = asked.model_copy(update=update)
        """What the publisher says, with the full names of versions; the tolerance of `of` goes with its vectors."""

    def started(self, stack: ExitStack) -> ModelProcess:
        """The first variant of `compared` that runs here. Raises ClientError(cannot_run): none does."""
        assert self.compared is not None  # noqa: S101 - asked by whoever has it
        variants = LocalVariants(self.compared.variants, self._brought, stack)
        found = variants.first()
        if found is None:
            text = f"{name_of(self.compared)} cannot run here to be compared with"
            raise ClientError(text, code="cannot_run", errors=variants.reasons())
        return found[1]

    def _brought(self, variant: Variant) -> Path:
        folder = self.folder / "compared" / variant.name
        for file in variant.files:
            self._fetched(file, folder / file.path)
        return folder / variant.entry

    def _fetched(self, file: FileRef, place: Path) -> Path:
        place.parent.mkdir(parents=True, exist_ok=True)
        with self._observer.progress(f"pulling {place.name}", file.size) as at:
            download(self._client, file, place, at, self._observer.note)
        return place

    def _found(self, reference: str | None) -> Manifest | None:
        if reference is None:
            return None
        model, version = split_reference(reference)
        if version is None:
            raise UsageFault(f"Which version of {model}?", hint=f"For example {model}@1.0.0 or {model}@stable")
        return fetch_manifest(self._client, find_version(self._client, model, version))


def name_of(manifest: Manifest) -> str:
    """`lenet@1.0.0`."""
    return f"{manifest.model}@{manifest.version}"
