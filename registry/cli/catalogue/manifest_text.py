"""What is known of a version, for people: its signature, its variants and what they need; what was measured of them."""

from __future__ import annotations

from collections.abc import Sequence

from registry.cli.listing import Listing
from registry.cli.output import Output, time_text
from registry.cli.session import Session
from registry.contracts.api.versions import ParityView, VersionView
from registry.contracts.catalogue.batching import batching_text
from registry.contracts.catalogue.manifest import Manifest, Parity, Requirements, TensorSpec, Variant, parity_figures
from registry.contracts.catalogue.networks import Value
from registry.contracts.evaluation import EvaluationView
from registry.contracts.paths import evaluations_path, parity_path
from registry.contracts.texts import size_text


def evaluations_of(session: Session, version: VersionView) -> list[EvaluationView]:
    """What is known of a version, newest first."""
    return session.client.items(evaluations_path(version.model, version.version), EvaluationView)


def parity_of(session: Session, version: VersionView) -> list[ParityView]:
    """By the publisher, then by device."""
    return session.client.items(parity_path(version.model, version.version), ParityView)


SCORES = Listing(
    of=EvaluationView,
    noun="score",
    columns=("DATASET", "METRIC", ">VALUE", ">ITEMS", "VARIANT", "DEVICE", "BACKEND", ">SECONDS", "MEASURED"),
    row=lambda view: (
        view.dataset, view.metric, f"{view.value:.4f}", view.items, view.variant, view.device or "-", view.backend,
        f"{view.seconds:.3g}", time_text(view.at),
    ),
    empty="Nothing was measured yet: registry evaluate MODEL@VERSION --dataset NAME",
    optional=("ITEMS", "SECONDS", "BACKEND", "VARIANT", "MEASURED"),
    orders={
        "measured": lambda view: view.at,
        "value": lambda view: view.value,
        "dataset": lambda view: view.dataset,
        "variant": lambda view: view.variant,
        "device": lambda view: view.device,
        "seconds": lambda view: view.seconds,
    },
    newest_first=True,
)  # fmt: skip
"""What a version scored."""


def show_evaluations(session: Session, found: Sequence[EvaluationView]) -> None:
    """As a table, or for programs."""
    session.out.listing(found, SCORES.columns, map(SCORES.row, found), SCORES.empty, optional=SCORES.optional)


def show_parity(out: Output, manifest: Manifest, found: Sequence[ParityView]) -> None:
    """The parity table, with the tolerance above it; nothing where the version has no golden vectors."""
    golden = manifest.golden
    if golden is None:
        return
    limit = golden.tolerance
    origin = f"made by {golden.reference}" if golden.reference else "given by the publisher"
    out.say(
        f"\nGolden vectors: {golden.cases}, {origin}; tolerance {limit.absolute:g} + {limit.relative:g} * |want|, "
        f"top class of {limit.top1_agreement:.2%}"
    )
    rows = [parity_row(view.variant or "?", view.device or "publisher", view.parity, view.backend) for view in found]
    rows += [
        (variant.name, "nowhere yet", *["-"] * 6)
        for variant in manifest.variants
        if variant.name not in {view.variant for view in found}
    ]
    out.table(
        ("VARIANT", "MEASURED ON", "BACKEND", ">MAX ABS", ">MAX REL", ">TOP-1", ">RUN", "PASSED"),
        rows,
        empty="-",
        optional=("RUN", "MAX REL", "BACKEND"),
    )


def parity_row(variant: str, where: str, parity: Parity, backend: str) -> tuple[str, ...]:
    """One row of the parity table."""
    passed = "yes" if parity.passed else f"NO: {parity.why}"
    return variant, where, backend or "-", *parity_figures(parity), passed


def show_variants(out: Output, manifest: Manifest) -> None:
    """The signature and the variants, as tables."""
    first = manifest.variants[0]
    out.say("")
    tensors = (("input", first.inputs), ("optional input", first.optional_inputs), ("output", first.outputs))
    rows = ((kind, *tensor_row(spec)) for kind, specs in tensors for spec in specs)
    out.table(("TENSOR", "NAME", "DATATYPE", "SHAPE"), rows, "No signature.")
    out.say("")
    out.table(
        ("VARIANT", "FORMAT", "TARGET", ">SIZE", "FILES", "NEEDS"),
        (_variant_row(variant) for variant in manifest.variants),
        empty="It has no variants.",
        optional=("FILES", "NEEDS"),
    )
    for variant in manifest.variants:
        out.say(f"  {variant.name}: {batching_text(variant.batching)}")


def show_builds(out: Output, manifest: Manifest) -> None:
    """How variants were made from others, a line each."""
    names = {variant.canonical_digest(): variant.name for variant in manifest.variants}
    for variant in manifest.variants:
        build = variant.build
        if build is not None:
            versions = ", ".join(f"{name} {version}" for name, version in sorted(build.versions.items()))
            where = f"on {build.built_on}" if build.built_on else "by the publisher"
            out.say(
                f"  {variant.name}: made from {names.get(build.parent, '?')} with {build.tool} {where} ({versions})"
            )


def _variant_row(variant: Variant) -> tuple[object, ...]:
    files, needs = ", ".join(file.path for file in variant.files), requirement_text(variant.requirements)
    return variant.name, variant.format, variant.target, size_text(variant.size), files, needs


def tensor_row(spec: TensorSpec) -> tuple[str, str, str]:
    """Name, datatype and shape, with `?` for a dimension of any size."""
    return spec.name, spec.datatype, "[" + ", ".join("?" if d < 0 else str(d) for d in spec.shape) + "]"


def image_text(manifest: Manifest) -> str:
    """How pictures are taken, in a few words."""
    image = manifest.image
    if image is None:
        return ""
    how = "" if image.resize == "stretch" else f", {image.resize}"
    how += "" if image.filter == "bilinear" else f", {image.filter}"
    return f"{image.channels} {image.width}x{image.height}{how} into {image.input!r}"


def classes_text(manifest: Manifest) -> str:
    """How many classes the version knows by name, and which output holds their scores; empty: none."""
    said = manifest.classification
    return "" if said is None else f"{len(said.labels)} of {said.output!r}"


def detection_text(manifest: Manifest) -> str:
    """How boxes are found, in a few words; empty: none are."""
    said = manifest.detection
    if said is None:
        return ""
    nms = {"graph": "NMS in the graph", "class": "NMS by class", "agnostic": "NMS over all classes"}[said.nms]
    of = ", ".join(map(repr, said.outputs))
    return f"{len(said.labels)} classes of {of}, {said.format}, {nms}, score over {said.score_threshold:g}"


def origin_text(manifest: Manifest) -> str:
    """Where the version was imported from."""
    origin = manifest.origin
    if origin is None:
        return ""
    revision = f"@{origin.revision}" if origin.revision else ""
    return f"{origin.kind} {origin.source}{revision}" + (f", {origin.url}" if origin.url else "")


def requirement_text(need: Requirements) -> str:
    """What a host must have, in a few words."""
    parts = [need.os or "", "/".join(need.arch)]
    if need.onnx_ir is not None:
        parts.append(f"IR {need.onnx_ir}")
    parts += [f"{domain or 'opset'} {version}" for domain, version in sorted(need.onnx_opsets.items())]
    builds = (
        ("MindSpore ", need.mindspore_version),
        ("", need.soc_version),
        ("CANN ", need.cann_version),
        ("operator library ", need.opp_version),
        ("TensorRT ", need.tensorrt_version),
        ("compute capability ", need.compute_capability),
        ("hardware level ", need.hardware_compat),
    )
    parts += [f"{what}{version}" for what, version in builds if version is not None]
    if need.tensorrt_version_compatible:
        parts.append("or a compatible TensorRT")
    if need.memory_bytes is not None:
        parts.append(f"{size_text(need.memory_bytes)} memory")
    if need.disk_bytes is not None:
        parts.append(f"{size_text(need.disk_bytes)} disk")
    return ", ".join(part for part in parts if part)


def network_text(variant: Variant) -> str:
    """What builds the network, as it is called: `lenet5(num_class=10)`; empty: nothing does."""
    if variant.network is not None:
        return _call(variant.network.name, variant.network.arguments)
    if variant.entry_point is not None:
        code = variant.entry_point
        return f"{_call(f'{code.module}:{code.function}', code.arguments)}, signed with {code.key}"
    return ""


def _call(name: str, arguments: dict[str, Value]) -> str:
    return f"{name}({', '.join(f'{key}={value}' for key, value in arguments.items())})"
