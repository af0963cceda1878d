"""What the data path must know of the deployment that serves a model. Made by the control thread, never changed."""

from __future__ import annotations

from dataclasses import dataclass

from registry.contracts.catalogue.manifest import Classification, ImageInput, TensorSpec


@dataclass(frozen=True)
class Binding:
    """One active version of one model on this device."""

    model: str
    version: str
    manifest_digest: str
    variant: str
    variant_digest: str
    device: str
    format: str
    """Of the variant, as the manifest names it."""
    inputs: tuple[TensorSpec, ...]
    """As loaded by the worker: a dimension of -1 takes any size."""
    outputs: tuple[TensorSpec, ...]
    optional_inputs: tuple[TensorSpec, ...] = ()
    """Those that a request may leave out, because the model has a default for them."""
    rollout: str | None = None
    """Id of the rollout that put this version here, also after it ended; None: none did."""
    image: ImageInput | None = None
    classification: Classification | None = None
    max_payload: int = 64 << 20
    """Bytes of a request's payload; longer ones are refused (`too_large`)."""
    record_results: bool = False
    """True: a copy of every result also goes to the results topic."""
