"""Validation sets: a name for a blob that is checked once, when it is published. A name never changes its blob."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.blobs.base import BlobStore
from registry.contracts.catalogue.manifest import TensorSpec
from registry.contracts.evaluation.datasets import Dataset, DatasetCreate, DatasetView, read_dataset, require_classes
from registry.contracts.tensor_file import TensorFileError, header_end
from registry.db.catalog_rows import BlobRow
from registry.db.engine import Database
from registry.db.evaluation_rows import DatasetRow
from registry.errors import ConflictError, InvalidError
from registry.services.queries import found


class Datasets:
    """The use cases of validation sets. Thread-safe."""

    def __init__(self, database: Database, blobs: BlobStore) -> None:
        self._database = database
        self._blobs = blobs

    def publish(self, name: str, body: DatasetCreate, by: str, now: datetime) -> tuple[DatasetView, bool]:
        """Give a blob a name; whether it is new.

        Raises:
            InvalidError: the blob is not there, has another size, or is no validation set.
            ConflictError: the name is that of another blob.
        """
        with self._database.write() as session:
            row = session.get(DatasetRow, name)
            if row is not None and row.digest == body.digest:
                return _view(row), False
            if row is not None:
                raise ConflictError(
                    f"The validation set {name!r} is {row.digest}, and a set never changes; publish this under "
                    "another name, or remove the old one first."
                )
            blob = session.get(BlobRow, body.digest)
            if blob is None or blob.size != body.size or self._blobs.size_of(body.digest) != body.size:
                raise InvalidError(f"There is no blob {body.digest} of {body.size} bytes; upload it first.")
            blob.used_at = now
            found = self._read(body)
            row = DatasetRow(
                name=name,
                digest=body.digest,
                size=body.size,
                items=found.items,
                tensors=[spec.model_dump(mode="json") for spec in found.specs()],
                created_at=now,
                created_by=by,
            )
            session.add(row)
            session.flush()
            return _view(row), True

    def get(self, name: str) -> DatasetView:
        """One by its name. Raises NotFoundError."""
        with self._database.read() as session:
            return _view(find_dataset(session, name))

    def page(self, after: str, limit: int) -> list[DatasetView]:
        """Up to `limit` by name, after the name `after`."""
        query = select(DatasetRow).where(DatasetRow.name > after).order_by(DatasetRow.name).limit(limit)
        with self._database.read() as session:
            return [_view(row) for row in session.scalars(query)]

    def delete(self, name: str, now: datetime) -> None:
        """Remove it; what was measured on it stays, and the sweep collects its blob. Raises NotFoundError."""
        with self._database.write() as session:
            row = find_dataset(session, name)
            blob = session.get_one(BlobRow, row.digest)
            blob.used_at = now
            session.delete(row)

    def _read(self, body: DatasetCreate) -> Dataset:
        reader = self._blobs.open(body.digest)
        try:
            found = read_dataset(reader.read_at(0, header_end(reader.read_at(0, 8), reader.size)), reader.size)
            if found.labels is not None:
                begin, end = found.labels.begin, found.labels.end
                require_classes(found.labels.datatype, reader.read_at(begin, end - begin))
        except TensorFileError as error:
            raise InvalidError(f"The blob {body.digest} is no validation set: {error}.") from None
        finally:
            reader.close()
        return found


def find_dataset(session: Session, name: str) -> DatasetRow:
    """The row. Raises NotFoundError."""
    return found(session.get(DatasetRow, name), f"There is no validation set named {name!r}.")


def _view(row: DatasetRow) -> DatasetView:
    return DatasetView(
        name=row.name,
        digest=row.digest,
        size=row.size,
        items=row.items,
        tensors=tuple(TensorSpec.model_validate(spec) for spec in row.tensors),
        created_at=row.created_at,
        created_by=row.created_by,
    )
