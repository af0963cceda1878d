"""A checkpoint with an entry point and keys to sign it with, as `registry publish` makes them."""

from __future__ import annotations

import base64

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from registry.contracts.catalogue.entry_points import EntryCode, EntryPoint, key_id, key_text
from registry.contracts.catalogue.manifest import FileRef, Format, Manifest, Target, TensorSpec, Variant
from registry.contracts.catalogue.signed_bytes import signed_bytes
from registry.contracts.wire import digest_of


class Signer:
    """A key pair that is the same in every run."""

    def __init__(self, seed: int) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        self.raw = self._private.public_key().public_bytes_raw()
        self.id = key_id(self.raw)
        self.text = key_text(self.raw)

    def sign(self, model: str, version: str, variant: Variant, code: EntryCode) -> Variant:
        """The variant with this code, signed."""
        signature = self._private.sign(signed_bytes(model, version, variant, code))
        said = {**code.to_json(), "key": self.id, "signature": base64.b64encode(signature).decode()}
        return Variant.model_validate({**variant.to_json(), "entry_point": EntryPoint.model_validate(said).to_json()})


def signed_manifest(
    signer: Signer, checkpoint: bytes, module: bytes, code: EntryCode, *, x: TensorSpec, y: TensorSpec
) -> Manifest:
    """own@1.0.0 with one variant for CPUs: `model.safetensors` and the module."""
    blobs = {"model.safetensors": checkpoint, code.module: module}
    files = tuple(FileRef(path=path, digest=digest_of(data), size=len(data)) for path, data in blobs.items())
    bare = Variant(
        name="ckpt-cpu", format=Format.MINDSPORE_CKPT, target=Target.CPU, entry="model.safetensors", files=files,
        inputs=(x,), outputs=(y,),
    )  # fmt: skip
    return Manifest(model="own", version="1.0.0", variants=(signer.sign("own", "1.0.0", bare, code),))
