"""OCI image layouts that hold a model: CNCF ModelPack and KitOps ModelKits, as oras, skopeo, modctl and kit write them.

Every blob is checked by its digest and size before anything of it is used. Layers are unpacked into a folder of
their own, bounded, and without links, devices and names that leave it. Sources: OCI Image Format, image-layout.md and
manifest.md; CNCF ModelPack model-spec, docs/spec.md, docs/config.md and docs/annotations.md; KitOps, ModelKit
specification.
"""

from __future__ import annotations

import gzip
import hashlib
import tarfile
import tempfile
import zlib
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import IO, Any

from registry.contracts.catalogue.manifest import Origin
from registry.publishing.request import near_name
from registry.publishing.sources.found import (
    FoundFile,
    FoundModel,
    SourceChoice,
    SourceError,
    SourceMissingError,
    SourceUsageError,
    inside,
    only_one,
    read_object,
    version_from,
)

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
TAG = "org.opencontainers.image.ref.name"
FILE_PATH = "org.cncf.model.filepath"
TITLE = "org.opencontainers.image.title"
_LAYERS = ("application/vnd.cncf.model.", "application/vnd.cnai.model.", "application/vnd.kitops.modelkit.")
_NEEDED = ("weight", "model", "doc")
"""Kinds of layers that are unpacked; code and data sets are not."""
MAX_DOCUMENT = 4 << 20
MAX_LAYERS = 256
MAX_MEMBERS = 10_000
MAX_RATIO = 64
UNPACKED_BYTES = 64 << 20
"""What a compressed layer may take: its size times the one, and the other."""
_PIECE = 1 << 20


def read_oci(source: str, choice: SourceChoice) -> FoundModel:
    """`FOLDER[:TAG]`. The choice is the model's file inside the unpacked layers.

    Raises:
        InspectionError: it is no layout, the tag is not there or not said, a blob is damaged, or no model is in it.
    """
    layout, tag = _layout(source)
    digest, tag = _manifest_digest(layout, tag)
    manifest = _document(layout, {"digest": digest})
    config = _document(layout, manifest.get("config") or {})
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="modelfleet-import-")))
        notes = _unpack(layout, manifest, folder)
        file = only_one(sorted(folder.rglob("*.onnx")), folder, choice.file, "no ONNX file in its layers")
        said = _description(config)
        card = next((path for path in sorted(folder.rglob("*")) if path.name.lower() == "readme.md"), None)
        name = said.get("name") or layout.resolve().name
        return FoundModel(
            origin=Origin(
                kind="oci", source=f"{layout.resolve().name}:{tag}"[:512], revision=digest[:128], url=_url(said)
            ),
            files=(FoundFile(file),),
            name=near_name(str(name)),
            version=version_from(str(said.get("version") or tag or "")),
            licence=_licence(said),
            card=card,
            notes=tuple(notes),
            keep=stack.pop_all(),
        )


def _layout(source: str) -> tuple[Path, str | None]:
    """A folder whose name has a colon is meant before a tag."""
    for path, tag in ((source, None), tuple(source.rpartition(":")[::2]) if ":" in source else ("", None)):
        if path and (Path(path) / "oci-layout").is_file():
            return Path(path), tag
    if not any(Path(folder).is_dir() for folder in (source, source.rpartition(":")[0]) if folder):
        raise SourceMissingError(f"{source} is not a folder")
    raise SourceError(f"{source} is no OCI image layout: it has no file oci-layout")


def _manifest_digest(layout: Path, tag: str | None) -> tuple[str, str]:
    """Of the manifest that the tag names, through at most one more index."""
    entries = _manifests(read_object(layout / "index.json"))
    tags = {entry["annotations"][TAG]: entry for entry in entries if TAG in (entry.get("annotations") or {})}
    if tag is not None and tag not in tags:
        raise SourceMissingError(f"{layout} has no tag {tag[:128]!r}; it has: {', '.join(sorted(tags)[:20]) or 'none'}")
    if tag is None and len(entries) != 1:
        raise SourceUsageError(
            f"{layout} holds {len(entries)} manifests: say one of the tags {', '.join(sorted(tags)[:20])} after a colon"
        )
    entry = tags[tag] if tag is not None else entries[0]
    tag = tag or next(iter(tags), "")
    if entry.get("mediaType") == INDEX:
        inner = _manifests(_document(layout, entry))
        if len(inner) != 1:
            raise SourceError(f"{layout}:{tag} is an index of {len(inner)} manifests; a model has one")
        entry = inner[0]
    return str(entry.get("digest")), str(tag)


def _manifests(index: dict[str, Any]) -> list[dict[str, Any]]:
    entries = index.get("manifests")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries) or len(entries) > 10_000:
        raise SourceError("the layout's index names no manifests")
    return entries


def _blob(layout: Path, descriptor: dict[str, Any]) -> Path:
    """The blob of a descriptor, whose digest and size are checked. Raises InspectionError."""
    algorithm, _, digest = str(descriptor.get("digest")).partition(":")
    if algorithm not in ("sha256", "sha512") or not digest.isalnum():
        raise SourceError(f"a descriptor has the digest {str(descriptor.get('digest'))[:128]!r}")
    path = inside(layout, f"blobs/{algorithm}/{digest}", "the layout")
    if not path.is_file():
        raise SourceError(f"the blob {path} cannot be read: it is not there, or not a file")
    try:
        with path.open("rb") as file:
            found = hashlib.new(algorithm)
            while piece := file.read(_PIECE):
                found.update(piece)
            size = file.tell()
    except OSError as error:
        raise SourceError(f"the blob {path} cannot be read: {error.strerror or error}") from None
    if found.hexdigest() != digest or size != descriptor.get("size", size):
        raise SourceError(f"the blob {path} is damaged: it is not what its digest and size say. Copy the layout again")
    return path


def _document(layout: Path, descriptor: dict[str, Any]) -> dict[str, Any]:
    path = _blob(layout, descriptor)
    if path.stat().st_size > MAX_DOCUMENT:
        raise SourceError(f"{path} has over {MAX_DOCUMENT} bytes: not a manifest or configuration")
    return read_object(path)


def _unpack(layout: Path, manifest: dict[str, Any], folder: Path) -> list[str]:
    """The layers with weights and documents. What was passed over is told."""
    layers = manifest.get("layers")
    if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers) or len(layers) > MAX_LAYERS:
        raise SourceError(f"the manifest has no layers, or more than {MAX_LAYERS}")
    passed, models = [], 0
    for layer in layers:
        kind = str(layer.get("mediaType"))
        inner = next((kind.removeprefix(prefix) for prefix in _LAYERS if kind.startswith(prefix)), None)
        if inner is None:
            continue
        models += 1
        if inner.split(".")[0] not in _NEEDED:
            passed.append(inner.split(".")[0])
            continue
        blob, form = _blob(layout, layer), inner.rsplit(".", 1)[-1]
        if "tar" in form:
            _untar(blob, form, folder)
        else:
            _place(blob, layer, folder)
    if not models:
        raise SourceError("no layer is of a model (ModelPack or ModelKit): it is an image of something else")
    return [f"layers with {what} are left out" for what in sorted(set(passed))]


def _place(blob: Path, layer: dict[str, Any], folder: Path) -> None:
    """A layer that is one file, which its annotation names."""
    notes = layer.get("annotations") or {}
    name = str(notes.get(FILE_PATH) or notes.get("org.cnai.model.filepath") or notes.get(TITLE) or "")
    target = _inside(folder, name)
    target.parent.mkdir(parents=True, exist_ok=True)
    with blob.open("rb") as source:
        _copy(source, target)


def _untar(blob: Path, form: str, folder: Path) -> None:
    with ExitStack() as stack:
        raw: Any = stack.enter_context(blob.open("rb"))
        if form.endswith(("gzip", "gz")):
            raw = _Bounded(gzip.GzipFile(fileobj=raw), blob.stat().st_size)
        elif form.endswith("zstd"):
            raw = _Bounded(_zstd(raw), blob.stat().st_size)
        try:
            archive = stack.enter_context(tarfile.open(fileobj=raw, mode="r|"))
            for number, member in enumerate(archive):
                if number >= MAX_MEMBERS:
                    raise SourceError(f"a layer has over {MAX_MEMBERS} files")
                plain = member.isfile() and not member.issparse()
                source = archive.extractfile(member) if plain else None
                if source is None and not member.isdir():
                    raise SourceError(f"a layer holds {member.name[:200]!r}, which is a link, a device, or has holes")
                if source is not None:
                    target = _inside(folder, member.name)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    _copy(source, target)
        except (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile, ValueError) as error:
            raise SourceError(f"a layer is not a whole tar archive: {error}") from None


class _Bounded:
    """What is unpacked from `size` bytes: weights hardly get smaller, and more than this is made to fill a disk."""

    def __init__(self, raw: Any, size: int) -> None:
        self._raw, self._left = raw, UNPACKED_BYTES + MAX_RATIO * size

    def read(self, count: int = -1) -> bytes:
        """As a file's. Raises InspectionError."""
        data: bytes = self._raw.read(count)
        self._left -= len(data)
        if self._left < 0:
            raise SourceError(f"a layer unpacks to over {MAX_RATIO} times its size")
        return data


def _zstd(raw: IO[bytes]) -> Any:
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore] # noqa: PLC0415 - Python 3.14
    except ModuleNotFoundError:
        raise SourceError(
            "a layer is compressed with zstd, which needs Python 3.14; pack it as tar or tar+gzip"
        ) from None
    return zstd.open(raw)


def _inside(folder: Path, name: str) -> Path:
    path = PurePosixPath(name)
    parts = [part for part in path.parts if part != "."]
    if not parts or path.is_absolute() or ".." in parts or "\0" in name or len(parts) > 16:
        raise SourceError(f"a layer holds a file of the name {name[:200]!r}, which is no path inside it")
    return folder.joinpath(*parts)


def _copy(source: IO[bytes], target: Path) -> None:
    """A new file, never over another layer's. Raises InspectionError: the disk is full."""
    try:
        with target.open("xb") as file:
            while piece := source.read(_PIECE):
                file.write(piece)
    except FileExistsError:
        raise SourceError(f"two layers hold the file {target.name!r}") from None
    except OSError as error:
        raise SourceError(
            f"{target} cannot be written: {error.strerror or error}; TMPDIR names another place"
        ) from None


def _description(config: dict[str, Any]) -> dict[str, Any]:
    """Of ModelPack (`descriptor`) or of a Kitfile (`package`)."""
    found = config.get("descriptor") or config.get("package")
    return found if isinstance(found, dict) else {}


def _licence(said: dict[str, Any]) -> str | None:
    licences = said.get("licenses")
    one = licences[0] if isinstance(licences, list) and len(licences) == 1 else said.get("license")
    return one[:128] if isinstance(one, str) and one else None


def _url(said: dict[str, Any]) -> str | None:
    url = said.get("sourceURL") or said.get("docURL")
    return url if isinstance(url, str) and url.startswith(("https://", "http://")) and len(url) <= 512 else None
