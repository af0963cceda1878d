"""Asks the registry which version is meant, and brings a variant's files. URL and token as for the `registry` command:
MODELFLEET_REGISTRY and MODELFLEET_TOKEN, else this host's registry. What fails is a `HubError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from registry.client.address import find_address
from registry.client.api import ApiClient
from registry.client.errors import ClientError, action_of
from registry.client.transfers import download
from registry.client.versions import fetch_manifest, find_version
from registry.contracts.api.versions import ModelView, VersionView
from registry.contracts.catalogue.manifest import Manifest, Variant
from registry.contracts.paths import models_path, versions_path
from registry.contracts.wire import canonical_json
from registry.errors import RegistryError
from registry.hub.cache import Cache, default_bound, default_folder

DATASET_LABEL = "dataset"
"""The label of a version, or an alias of the model, that says what it was trained on."""
MAX_SEARCHED = 100
"""Newest versions in which a dataset is looked for."""


class HubError(Exception):
    """What could not be done, and why.

    Args:
        code: Stable, for programs: `not_found`, `unreachable`, `digest_mismatch`, `checkpoint_mismatch`, ...
        message: One sentence or a few.
        hint: What to do about it. Empty: what the table of the code says.
    """

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(f"{message}. {hint}" if hint else message)
        self.code = code
        self.message = message
        self.hint = hint or action_of(code)


@contextmanager
def as_hub_errors() -> Iterator[None]:
    """What the registry's client raises becomes a HubError with the same code."""
    try:
        yield
    except ClientError as error:
        raise HubError(error.code, "; ".join((error.what, *error.errors)), error.hint) from error
    except RegistryError as error:
        raise HubError(error.code, "; ".join((error.message, *error.errors))) from error
    except OSError as error:
        hint = "Free space, or set XDG_CACHE_HOME or MODELFLEET_HUB_CACHE_BYTES"
        raise HubError("disk_error", f"{error.filename or 'the cache'}: {error.strerror}", hint) from error


@dataclass(frozen=True)
class Listed:
    """One published model."""

    name: str
    version: str
    """The newest; empty when it has none."""
    variants: tuple[str, ...]
    aliases: dict[str, str]
    """Alias to version."""


def list_models() -> list[Listed]:
    """The published models, by name. Raises HubError."""
    with opened() as source:
        return [_listed(model) for model in source.client.items(models_path(), ModelView)]


def require_text(**named: object) -> None:
    """Raises HubError for an argument that is no text; which texts are names, the client and the registry say."""
    for argument, value in named.items():
        if not isinstance(value, str):
            raise HubError("invalid", f"{argument} is text, not {value!r}")


@contextmanager
def opened() -> Iterator[Source]:
    """A source for one call; whatever the registry or the disk refuses is a HubError."""
    with as_hub_errors():
        with ApiClient(find_address()) as client:
            yield Source(client, Cache(default_folder(), default_bound()))


class Source:
    """One registry and one cache."""

    def __init__(self, client: ApiClient, cache: Cache) -> None:
        self.client, self._cache = client, cache

    def manifest(self, model: str, reference: str | None, dataset: str | None, *, ask: bool = True) -> Manifest:
        """The version that is meant: `reference` (a version or an alias), else the newest of that dataset.

        `ask` False: what an earlier call with the same question got, where there was one, without the registry.
        """
        require_text(model=model)
        if reference is not None:
            require_text(version=reference)
        question = canonical_json([self.client.address.url, model, reference, dataset]).decode()
        kept = None if ask else self._cache.answer(question)
        if kept is not None:
            try:
                return Manifest.model_validate_json(kept)
            except ValidationError:
                pass  # spoilt, as a file in the cache may be: asked again
        found = self._named(model, reference, dataset)
        self._cache.keep_answer(question, found.canonical())
        return found

    def files(self, variant: Variant) -> Path:
        """The folder with the variant's verified files."""
        return self._cache.artifact(variant, partial(download, self.client))

    def _named(self, model: str, reference: str | None, dataset: str | None) -> Manifest:
        if reference is None and dataset is not None:
            return self._of_dataset(model, dataset)
        view = find_version(self.client, model, reference)
        manifest = fetch_manifest(self.client, view)
        if dataset is not None and not _is_of(manifest, view, dataset):
            said = manifest.labels.get(DATASET_LABEL, "no dataset")
            message = f"{model}@{view.version} says {said!r} of what it was trained on, not {dataset!r}"
            raise HubError(
                "dataset_mismatch", message, "Leave `version` or `dataset` out, or publish it with the label"
            )
        return manifest

    def _of_dataset(self, model: str, dataset: str) -> Manifest:
        views = self.client.items(versions_path(model), VersionView, limit=MAX_SEARCHED)
        for view in sorted(views, key=lambda view: view.created_at, reverse=True):
            manifest = fetch_manifest(self.client, view)
            if _is_of(manifest, view, dataset):
                return manifest
        hint = f"Publish it with --label {DATASET_LABEL}={dataset}, or point the alias {dataset} at a version"
        raise HubError("not_found", f"No version of {model} was trained on {dataset!r}", hint)


def _is_of(manifest: Manifest, view: VersionView, dataset: str) -> bool:
    return manifest.labels.get(DATASET_LABEL) == dataset or dataset in view.aliases


def _listed(model: ModelView) -> Listed:
    newest = model.latest
    variants = tuple(variant.name for variant in newest.variants) if newest else ()
    return Listed(model.name, newest.version if newest else "", variants, dict(model.aliases))
