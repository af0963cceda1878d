"""What is checked of a version that is published, and of a variant that is added to one. Pure.

A refusal: a version in which a variant is over the tolerance is not published, nor a compiled one that does not say
what it was compiled for, nor one for a target that no backend serves: nobody could say where it runs. Nor is a network
that no catalogue has; who publishes for agents with a newer one upgrades the registry first. Nor is one whose pictures
(the steps are those of the agent's decoder) or classes a device could not make from the inputs and outputs that it
declares. A warning is what may surprise, seen against the fleet as it is: a device that fits may come tomorrow.

The registry cannot run a variant that is added, so it does not believe one, either: what can be checked without running
it is checked here, so that a device that was given one job cannot add whatever it likes for a whole fleet. What cannot
be checked, the figures of a parity themselves, every device measures again at warm-up before it serves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import isfinite

from registry.contracts.catalogue import networks
from registry.contracts.catalogue.batching import Basis
from registry.contracts.catalogue.classes import classification_faults
from registry.contracts.catalogue.detection import OutputForm, detection_faults
from registry.contracts.catalogue.manifest import (
    Format,
    Golden,
    ImageInput,
    Manifest,
    MeasuredParity,
    Target,
    TensorSpec,
    Variant,
)
from registry.contracts.catalogue.picture_inputs import item_shape, request_shape
from registry.contracts.codes import ResolutionCode as Code
from registry.contracts.device.deployments import Job
from registry.contracts.fit.fitting import BUILT_FOR
from registry.contracts.fit.platforms import Platform
from registry.contracts.fit.releases import cann_release, numbers
from registry.contracts.fit.resolution import SOURCE_ONLY, FitOutcome, Reason, judge, ties
from registry.contracts.fit.room import room_faults
from registry.contracts.tensors import Datatype
from registry.contracts.texts import how_many

_LARGEST = {Datatype.FP16: 65504.0, Datatype.FP32: 3.4028234663852886e38, Datatype.BF16: 3.3895313892515355e38}
_INTEGERS = frozenset(kind for kind in Datatype if "INT" in kind)


def picture_faults(manifest: Manifest) -> tuple[str, ...]:
    """Why a device would refuse every picture, one sentence each, by what the variants declare."""
    image = manifest.image
    if image is None:
        return ()
    found: list[str] = []
    for variant in manifest.variants:
        if variant.inputs:
            found += [f"image: {fault}" for fault in _picture_faults(image, variant.inputs)]
    return tuple(dict.fromkeys(found))


def picture_warnings(manifest: Manifest) -> tuple[str, ...]:
    """What a device would do, though hardly anybody means it."""
    image = manifest.image
    for spec in manifest.variants[0].inputs if image is not None else ():
        if image is not None and spec.name == image.input and spec.datatype in _INTEGERS:
            values = [value for channel in _extremes(image) for value in channel]
            low, high = min(values), max(values)
            if high - low < 2:
                said = f"image: its scale, mean and std leave values from {low:g} to {high:g}"
                return (f"{said}, which are rounded to {spec.datatype}: for the pixels as they are, scale = 1",)
    return ()


def _picture_faults(image: ImageInput, inputs: tuple[TensorSpec, ...]) -> Iterator[str]:
    names = ", ".join(spec.name for spec in inputs)
    spec = next((spec for spec in inputs if spec.name == image.input), None)
    if spec is None:
        yield f"there is no input {image.input!r}; the model has: {names}"
        return
    if len(inputs) != 1:
        yield f"{image.input!r} must be the only input, and the model has: {names}"
    if spec.datatype in (Datatype.BOOL, Datatype.BYTES):
        yield f"a picture cannot become {spec.datatype}"
    item = item_shape(image)
    if not spec.any_rank and request_shape(item, spec.shape) is None:
        yield f"a picture makes {list(item)}, with any dimensions of 1, and input {spec.name!r} is {list(spec.shape)}"
    largest = _LARGEST.get(spec.datatype)
    if largest is not None and any(abs(value) > largest for channel in _extremes(image) for value in channel):
        yield f"its scale, mean and std make values that {spec.datatype} cannot hold"


def _extremes(image: ImageInput) -> list[tuple[float, float]]:
    """What pixels of 0 and 255 become, by channel."""
    channels = 1 if image.channels == "L" else 3
    pairs = zip(image.mean or (0.0,) * channels, image.std or (1.0,) * channels, strict=True)
    return [((0 * image.scale - mean) / std, (255 * image.scale - mean) / std) for mean, std in pairs]


TOLD_FIRST = (Code.OPSET_TOO_NEW, Code.IR_TOO_NEW, Code.SOC_MISMATCH, Code.SM_MISMATCH, Code.TRT_VERSION)
"""Of several reasons the one that says most about the file."""
SHOWN = 4
"""Different things that devices have instead."""

Classes = Sequence[tuple[Platform, int]]
"""The facts of each class of hosts, and how many devices have them."""


def publish_warnings(manifest: Manifest, fleet: Classes) -> tuple[str, ...]:
    """Pictures that become next to nothing, ties between variants, and variants that no known device can run; nothing
    about a fleet without facts."""
    told = [
        f"variants {', '.join(group)} rank the same and have other files: a device runs the one that it measured to be "
        f"faster, else {group[0]}, by its name. Publish one of them, or give them requirements that differ"
        for group in ties(manifest)
    ]
    told += picture_warnings(manifest)
    for variant in manifest.variants:
        if fleet and variant.format not in SOURCE_ONLY:
            told.extend(_unfit(variant, fleet, pictures=manifest.image is not None))
    return tuple(told)


def _unfit(variant: Variant, fleet: Classes, *, pictures: bool) -> list[str]:
    reasons: list[tuple[Reason, int]] = []
    for facts, devices in fleet:
        verdict = judge(variant, facts, pictures=pictures)
        if verdict.outcome is FitOutcome.PASS:
            return []
        reasons += [(reason, devices) for reason in verdict.reasons]
    code = _main_code(reasons)
    needs = next(reason.need for reason, _ in reasons if reason.code is code)
    have = Counter[str]()
    for reason, devices in reasons:
        if reason.code is code:
            have[reason.have] += devices
    found = "; ".join(f"{text} ({how_many(number, 'device')})" for text, number in have.most_common(SHOWN))
    count = sum(devices for _, devices in fleet)
    what = f"variant {variant.name}{_made_for(variant)} fits none of the {how_many(count, 'known device')}"
    return [f"{what}: {code}: needs {needs}, they have {found}"]


def _main_code(reasons: list[tuple[Reason, int]]) -> Code:
    codes = Counter[Code]()
    for reason, devices in reasons:
        codes[reason.code] += devices
    return next((code for code in TOLD_FIRST if code in codes), codes.most_common(1)[0][0])


def _made_for(variant: Variant) -> str:
    need = variant.requirements
    if need.soc_version is not None:
        return f" (built for {need.soc_version})"
    if need.compute_capability is not None:
        return f" (built for compute capability {need.compute_capability})"
    return ""


TARGETS: Mapping[Format, tuple[Target, ...]] = {
    Format.MINDIR: (Target.CPU, Target.GPU, Target.ASCEND910),
    Format.OM: (Target.ASCEND310, Target.ASCEND910),
    Format.TENSORRT_PLAN: (Target.GPU,),
}
"""Of formats that do not run on every kind of platform. AIR runs nowhere, whatever its target; a checkpoint for any of
them is of use without a backend, too: `registry.hub` loads its weights."""
_COMPARED: Mapping[str, tuple[Callable[[str], object], str]] = {
    "cann_version": (cann_release, "8.0.RC1"),
    "tensorrt_version": (numbers, "10.13.3.9"),
}
"""Requirements that are compared as numbers: how they are read, and an example."""


def publish_faults(manifest: Manifest) -> tuple[str, ...]:
    """One sentence per fault; empty: nothing is missing, and each variant's parity agrees with the golden vectors."""
    names = {variant.name for variant in manifest.variants}
    faults: list[str] = []
    for variant in manifest.variants:
        faults += [f"variant {variant.name}: {fault}" for fault in variant_faults(variant)]
        faults += [f"variant {variant.name}: {fault}" for fault in room_faults(variant, manifest.image)]
        if variant.parity is not None:
            fault = _parity_fault(variant.parity, manifest.golden, names)
            faults += [f"variant {variant.name}: {fault}"] if fault else []
    return (*faults, *picture_faults(manifest), *classification_faults(manifest), *detector_faults(manifest))


def detector_faults(manifest: Manifest) -> tuple[str, ...]:
    """Why a device could not detect as the manifest says, one sentence each, by what its variants declare."""
    declared = manifest.detection
    if declared is None:
        return ()
    found: list[str] = []
    for variant in manifest.variants:
        forms = {
            each.name: OutputForm(each.datatype, None if each.any_rank else each.shape) for each in variant.outputs
        }
        found += [f"detection: {fault}" for fault in (detection_faults(declared, forms) if forms else ())]
    return tuple(dict.fromkeys(found))


def variant_faults(variant: Variant) -> Iterator[str]:
    """Of one variant by itself, published or added."""
    able = TARGETS.get(variant.format)
    if able is not None and variant.target not in able:
        yield f"{variant.format} does not run on the target {variant.target}, only on {' or '.join(able)}"
    for name, (read, example) in _COMPARED.items():
        said = getattr(variant.requirements, name)
        if said is not None and read(said) is None:
            yield f"{name} {said!r} is no version that can be compared; it is written as {example}"
    missing = [name for name in BUILT_FOR.get(variant.format, ()) if getattr(variant.requirements, name) is None]
    if missing:
        yield f"a {variant.format} must say the {' and '.join(missing)} that it was built for"
    if variant.network is None:
        return
    if variant.format is not Format.MINDSPORE_CKPT:
        yield f"a network is for checkpoints, and {variant.format} brings its own"
        return
    try:
        networks.arguments(variant.network)
    except networks.NetworkError as error:
        yield str(error)


def _parity_fault(measured: MeasuredParity, golden: Golden | None, names: set[str]) -> str:
    parity = measured.parity
    if golden is None:
        return "was measured by golden vectors, but the version has none"
    if not parity.passed:
        return f"is over the tolerance: {parity.why or 'it did not pass'}"
    if parity.cases != golden.cases:
        return f"was measured by {parity.cases} golden vectors, the version has {golden.cases}"
    if measured.reference is not None and measured.reference not in names:
        return f"was measured against {measured.reference}, which is no variant"
    least = golden.tolerance.top1_agreement
    if parity.top1_agreement is not None and parity.top1_agreement < least:
        return f"passed, it says, with a top class of {parity.top1_agreement:g}; the tolerance asks for {least:g}"
    return ""


def added_faults(manifest: Manifest, variant: Variant) -> Iterator[str]:
    """Why the variant cannot be added, whoever made it; nothing when it can."""
    parent = _parent(manifest, variant)
    if parent is None:
        yield "its build does not name the variant of this version that it was made from"
        return
    if (parent.inputs and not variant.inputs) or (parent.outputs and not variant.outputs):
        yield f"it does not say its inputs or outputs, which {parent.name} has"
    yield from variant_faults(variant)
    said = variant.batching
    if said is not None and said.independent and said.basis is not Basis.GRAPH and said != parent.batching:
        yield f"it says that its items are independent, which the publisher did not declare of {parent.name}"
    if said is not None and said.independent and said.basis is Basis.GRAPH and variant.format is not Format.ONNX:
        yield f"it says that its graph proves its items independent, and graphs of {variant.format} are not read"
    if variant.parity is not None:
        yield from _added_parity_faults(manifest.golden, variant.parity)


def _added_parity_faults(golden: Golden | None, measured: MeasuredParity) -> Iterator[str]:
    found = measured.parity
    if golden is None:
        yield "it says how it answers golden vectors, and the version has none"
        return
    if not found.passed:
        yield (
            f"it does not answer the golden vectors as the manifest says (largest error {found.max_abs:.3g}, relative "
            f"{found.max_rel:.3g})"
        )
    agreement = 1.0 if found.top1_agreement is None else found.top1_agreement
    whole = found.cases == golden.cases and measured.reference == golden.reference
    sound = all(isfinite(figure) and figure >= 0 for figure in (found.max_abs, found.max_rel))
    if found.passed and not (whole and sound and agreement >= golden.tolerance.top1_agreement and not found.why):
        yield "its parity contradicts itself: it passed, and its figures are not those of all golden vectors"


def job_faults(job: Job, facts: Platform | None, variant: Variant, before: Manifest, newest: Manifest) -> Iterator[str]:
    """Why this is not what the job was to make; nothing when it is.

    Args:
        job: The conversion.
        facts: What the device told of itself; None: nothing yet.
        variant: What it offers.
        before: The manifest that the job names.
        newest: The version's manifest now.
    """
    parent = _parent(before, variant)
    if parent is None or (job.source is not None and parent.name != job.source):
        yield f"it was not made from {job.source or 'a variant'} that the job names"
    for option, made in (("name", variant.name), ("target", variant.target)):
        if job.options.get(option, made) != made:
            yield f"the job asked for the {option} {job.options[option]}, and it has {made}"
    chips = (
        ("soc_version", job.options.get("soc_version") or (facts.ascend.soc if facts and facts.ascend else None)),
        ("compute_capability", facts.cuda.compute_capability if facts and facts.cuda else None),
    )
    for name, real in chips:
        if name in BUILT_FOR.get(variant.format, ()) and real and getattr(variant.requirements, name) != real:
            yield f"it was built for the {name} {getattr(variant.requirements, name)}, and should be for {real}"
    earlier = _made_since(before.variants, newest.variants, variant)
    if earlier is not None and "name" not in job.options:
        yield f"a job makes one variant, and this one made {earlier.name} already"


def _parent(manifest: Manifest, variant: Variant) -> Variant | None:
    if variant.build is None:
        return None
    return next((known for known in manifest.variants if known.canonical_digest() == variant.build.parent), None)


def _made_since(before: Iterable[Variant], newest: Iterable[Variant], variant: Variant) -> Variant | None:
    """Another variant that the same device made of the same parent in the same format since the job was given."""
    known = {each.name for each in before}
    return next(
        (
            each
            for each in newest
            if each.name not in known
            and each.name != variant.name
            and each.format is variant.format
            and each.build is not None
            and variant.build is not None
            and (each.build.parent, each.build.built_on) == (variant.build.parent, variant.build.built_on)
        ),
        None,
    )
