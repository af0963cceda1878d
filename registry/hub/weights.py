"""`load_weights`: a published checkpoint into a MindSpore network, called as `mindspore.hub.load_weights` of r0.7 was.

MindSpore is imported here only, and is the caller's. No code comes from the registry: a checkpoint is numbers, and the
network is the caller's own.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

from registry.contracts.catalogue.manifest import Format, Manifest, Target, Variant
from registry.hub.source import HubError, opened
from registry.mindspore_networks import parameters

TARGETS = {
    "cpu": (Target.CPU,),
    "gpu": (Target.GPU,),
    "ascend": (Target.ASCEND910, Target.ASCEND310),
    "ascend910": (Target.ASCEND910,),
    "ascend310": (Target.ASCEND310,),
}
"""What `device_target` may be."""
KEYWORDS = ("device_target", "dataset", "version")


def load_weights(network: Any, network_name: str | None = None, force_reload: bool = True, **kwargs: Any) -> Any:
    """Fills `network` with the weights of a published checkpoint.

    Args:
        network: A mindspore.nn.Cell; its parameters' names and shapes must be the checkpoint's.
        network_name: The model's name in the registry. None: the name of the network's class, in small letters.
        force_reload: Ask the registry which version it is. False: what an earlier call with the same arguments got,
            without asking. Files that are in the cache and have their digest are never fetched again.
        **kwargs: device_target: `cpu`, `gpu` or `ascend`, in any case; a checkpoint for it is preferred, but weights
            are the same everywhere. dataset: the version's label `dataset`, or an alias of the model. version: a
            version or an alias; default: the newest.

    Returns:
        The network.

    Raises:
        HubError: `invalid`, `not_found`, `dataset_mismatch`, `ambiguous`, `unreachable`, `digest_mismatch`,
            `checkpoint_mismatch`, `mindspore_missing`, ... The network is unchanged then.
    """
    _check_keywords(kwargs)
    targets = _targets(kwargs.get("device_target"))
    mindspore = _mindspore()
    if not isinstance(network, mindspore.nn.Cell):
        raise HubError("invalid", f"network is a {type(network).__name__}, not a mindspore.nn.Cell")
    model = network_name or type(network).__name__.lower()
    with opened() as source:
        manifest = source.manifest(model, kwargs.get("version"), kwargs.get("dataset"), ask=force_reload)
        variant = choose(manifest, targets)
        file = source.files(variant) / variant.entry
    _fill(mindspore, network, file, f"{manifest.model}@{manifest.version}")
    return network


def choose(manifest: Manifest, targets: tuple[Target, ...]) -> Variant:
    """The checkpoint of a version, for one of the targets where there is such a one. Raises HubError."""
    name = f"{manifest.model}@{manifest.version}"
    found = [variant for variant in manifest.variants if variant.format is Format.MINDSPORE_CKPT]
    if not found:
        have = ", ".join(f"{variant.name} ({variant.format})" for variant in manifest.variants)
        raise HubError("not_found", f"{name} has no checkpoint; it has {have}", "hub.load runs the other forms")
    fitting = [variant for variant in found if variant.target in targets] or found
    if len({tuple(file.digest for file in variant.files) for variant in fitting}) > 1:
        have = ", ".join(f"{variant.name} for {variant.target}" for variant in fitting)
        raise HubError("ambiguous", f"{name} has several checkpoints: {have}", "Give device_target")
    return fitting[0]


def _check_keywords(kwargs: dict[str, Any]) -> None:
    for key, value in kwargs.items():
        if key not in KEYWORDS:
            near = get_close_matches(key, KEYWORDS, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(KEYWORDS)}"
            raise HubError("invalid", f"load_weights has no argument {key!r}", hint)
        if value is not None and (not isinstance(value, str) or not value):
            raise HubError("invalid", f"{key} is text, not {value!r}")


def _targets(device_target: str | None) -> tuple[Target, ...]:
    if device_target is None:
        return ()
    found = TARGETS.get(device_target.lower())
    if found is None:
        raise HubError("invalid", f"device_target {device_target!r} is none of {', '.join(TARGETS)}")
    return found


def _mindspore() -> Any:
    try:
        import mindspore  # noqa: PLC0415 - heavy, and only this function needs it
    except ImportError as error:
        hint = 'Install it beside this package: pip install mindspore "numpy<2"'
        raise HubError("mindspore_missing", f"mindspore cannot be imported: {error}", hint) from error
    return mindspore


def _fill(mindspore: Any, network: Any, file: Path, name: str) -> None:
    try:
        wrong = parameters.fill(mindspore, network, str(file))
    except ValueError as error:
        raise HubError("load_failed", f"MindSpore cannot read the checkpoint of {name}: {error}") from error
    if wrong:
        message = f"the checkpoint of {name} is not one of this {type(network).__name__}: {'; '.join(wrong)}"
        raise HubError("checkpoint_mismatch", message, "Build the network with the arguments it was trained with")
