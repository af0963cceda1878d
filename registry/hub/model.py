"""`load`: a published model that predicts on this machine, through the best of its variants that runs here.

ONNX runs through ONNX Runtime, MindIR through the Python in MODELFLEET_MINDSPORE_PYTHON, or this one where it has
MindSpore, and so does a checkpoint whose network is in the catalogue; each in a process of its own. Accelerators first,
then the order of `contracts.fit.resolution`.

`load_weights` fills a network of the caller's with a checkpoint, called as `mindspore.hub.load_weights` of r0.7 was.
MindSpore is imported by that alone, and is the caller's. No code comes from the registry: a checkpoint is numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from registry.contracts.catalogue.manifest import Format, Manifest, Target, TensorSpec, Variant
from registry.contracts.fit.resolution import CPU_FORMAT_ORDER, FORMAT_ORDER, TARGET_ORDER
from registry.hub.casting import cast
from registry.hub.source import HubError, opened, require_text
from registry.mindspore_networks import table
from registry.running.process import CannotRunError, ModelProcess, ModelRunError, order_for

TARGETS = {
    "cpu": (Target.CPU,),
    "gpu": (Target.GPU,),
    "ascend": (Target.ASCEND910, Target.ASCEND310),
    "ascend910": (Target.ASCEND910,),
    "ascend310": (Target.ASCEND310,),
}
"""What `device_target` may be."""
KEYWORDS = ("device_target", "dataset", "version")


Array = NDArray[np.generic]


def load_weights(network: Any, network_name: str | None = None, force_reload: bool = True, **kwargs: Any) -> Any:
    """Fills `network` with the weights of a published checkpoint.

    Args:
        network: A mindspore.nn.Cell; its parameters' names and shapes must be the checkpoint's.
        network_name: The model's name in the registry. None: the name of the network's class, in small letters.
        force_reload: Ask the registry which version it is. False: what an earlier call with the same arguments got,
            without asking. Files that are in the cache and have their digest are never fetched again.
        **kwargs: device_target: `cpu`, `gpu` or `ascend`, in any case; a checkpoint for it is preferred, but weights
            are the same everywhere. dataset: the version's label `dataset`, or an alias of the model. version: a
            version or an alias; default: the newest that was neither yanked nor taken back by a rollout.
            allow_yanked: True takes also a version that was yanked.

    Returns:
        The network.

    Raises:
        HubError: `invalid`, `not_found`, `yanked`, `dataset_mismatch`, `ambiguous`, `unreachable`, `digest_mismatch`,
            `checkpoint_mismatch`, `mindspore_missing`, ... The network is unchanged then.
    """
    allow_yanked = kwargs.pop("allow_yanked", None)
    if allow_yanked not in (None, True, False):
        raise HubError("invalid", f"allow_yanked is True or False, not {allow_yanked!r}")
    _check_keywords(kwargs)
    targets = _targets(kwargs.get("device_target"))
    mindspore = _mindspore()
    if not isinstance(network, mindspore.nn.Cell):
        raise HubError("invalid", f"network is a {type(network).__name__}, not a mindspore.nn.Cell")
    model = network_name or type(network).__name__.lower()
    with opened() as source:
        manifest = source.manifest(
            model,
            kwargs.get("version"),
            kwargs.get("dataset"),
            ask=force_reload,
            allow_yanked=allow_yanked is True,
        )
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
        wrong = table.fill(mindspore, network, str(file))
    except ValueError as error:
        raise HubError("load_failed", f"MindSpore cannot read the checkpoint of {name}: {error}") from error
    if wrong:
        message = f"the checkpoint of {name} is not one of this {type(network).__name__}: {'; '.join(wrong)}"
        raise HubError("checkpoint_mismatch", message, "Build the network with the arguments it was trained with")


class Model:
    """One loaded model. Close it, or use it in `with`. One call at a time.

    Attributes: `name`, `version`, `variant` (its name), `backend` (what computes it), `inputs`,
    `optional_inputs` (that have a default) and `outputs`.
    """

    def __init__(self, manifest: Manifest, variant: Variant, process: ModelProcess) -> None:
        self.name, self.version, self.variant = manifest.model, manifest.version, variant.name
        self.backend = process.backend
        self.inputs, self.outputs = variant.inputs, variant.outputs
        self.optional_inputs = variant.optional_inputs
        self._process = process

    def predict(self, batch: ArrayLike | Mapping[str, ArrayLike]) -> Array | dict[str, Array]:
        """The answer to a batch.

        Args:
            batch: The only input as an array, or every input by name; those with a default may be left out. Fixed
                dimensions are the model's; numbers are converted by value to its types (`registry.hub.casting`).

        Returns:
            The only output, or every output by name.

        Raises:
            HubError: `wrong_shape`, `wrong_datatype`, `out_of_range`, `unknown_input`, `missing_input`, `run_failed`,
                `closed`.
        """
        feeds = self._feeds(batch)
        try:
            answer = self._process.run(feeds)
        except ModelRunError as error:
            raise HubError(error.code, error.message) from error
        return answer[self.outputs[0].name] if len(self.outputs) == 1 else answer

    def close(self) -> None:
        """Ends the model's process; again is allowed."""
        self._process.close()

    def __enter__(self) -> Model:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closed."""
        self.close()

    def _feeds(self, batch: ArrayLike | Mapping[str, ArrayLike]) -> dict[str, Array]:
        required = [spec.name for spec in self.inputs]
        specs = {spec.name: spec for spec in (*self.inputs, *self.optional_inputs)}
        names = list(specs)
        if not isinstance(batch, Mapping):
            if len(required) != 1:
                raise HubError("missing_input", f"the model has the inputs {', '.join(names)}: give them by name")
            batch = {required[0]: batch}
        for name in batch:
            if name not in names:
                raise HubError("unknown_input", f"the model has no input {name!r}; it has {', '.join(names)}")
        missing = [name for name in required if name not in batch]
        if missing:
            raise HubError("missing_input", f"input {missing[0]!r} is missing")
        return {name: _checked(specs[name], value) for name, value in batch.items()}


def load(name: str, version: str | None = None, *, allow_yanked: bool = False) -> Model:
    """A model that predicts here.

    Args:
        name: `lenet`, or `lenet@1.0.0`, `lenet@stable`.
        version: A version or an alias; default: what stands behind `@`, else the newest that was neither yanked nor
            taken back by a rollout.
        allow_yanked: Take also a version that was yanked.

    Raises:
        HubError: `not_found`, `yanked`, `unreachable`, `digest_mismatch`, `cannot_run` with each variant's reason, ...
    """
    require_text(name=name)
    model, _, said = name.partition("@")
    if version and said:
        raise HubError("invalid", f"{name!r} and version={version!r} name two versions")
    with opened() as source:
        manifest = source.manifest(model, version or said or None, None, allow_yanked=allow_yanked)
        reasons = []
        for variant in sorted(manifest.variants, key=_rank):
            sides = (*variant.inputs, *variant.optional_inputs), variant.outputs
            order = order_for(Path(variant.entry), variant.format, variant.target, *sides, network=variant.network)
            if not isinstance(order, str):  # it may run: it is worth fetching
                file = source.files(variant) / variant.entry
                try:
                    return Model(manifest, variant, ModelProcess(replace(order, file=file)))
                except CannotRunError as error:
                    order = error.message
            reasons.append(f"{variant.name}: {order}")
    raise HubError("cannot_run", f"{name} does not run on this machine: {'; '.join(reasons)}", "registry explain tells")


def _rank(variant: Variant) -> tuple[int, int, str]:
    formats = CPU_FORMAT_ORDER if variant.target is Target.CPU else FORMAT_ORDER
    return TARGET_ORDER.index(variant.target), formats.index(variant.format), variant.name


def _checked(spec: TensorSpec, value: Any) -> Array:
    """The value as the model takes it."""
    array = cast(spec.name, value, spec.datatype)
    shape = array.shape
    if spec.any_rank:
        return array
    if len(shape) != len(spec.shape) or any(
        want not in (-1, have) for want, have in zip(spec.shape, shape, strict=True)
    ):
        raise HubError("wrong_shape", f"input {spec.name!r} has shape {list(spec.shape)}, not {list(shape)}")
    return array
