"""Golden vectors as they are published: the file is what the manifest says, and of this model."""

from __future__ import annotations

from registry.blobs.base import BlobStore
from registry.contracts.catalogue.manifest import Manifest
from registry.contracts.golden_vectors import check_cases, read_cases
from registry.contracts.tensor_file import TensorFileError, header_end
from registry.errors import InvalidError


def require_golden(blobs: BlobStore, manifest: Manifest) -> None:
    """The version's golden vectors fit the signature of every variant; their blob is there. Only its header is read.

    Raises:
        InvalidError: they do not.
    """
    golden = manifest.golden
    if golden is None:
        return
    reader = blobs.open(golden.file.digest)
    try:
        end = header_end(reader.read_at(0, 8), reader.size)
        cases = read_cases(reader.read_at(0, end), reader.size)
        for variant in manifest.variants:
            if variant.inputs or variant.outputs:
                check_cases(cases, variant.inputs, variant.outputs, golden.cases)
    except TensorFileError as error:
        raise InvalidError(f"The golden vectors {golden.file.digest} are not of this version: {error}.") from None
    finally:
        reader.close()
