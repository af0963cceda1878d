"""What is answered to metadata requests: from what serves, and from what the control thread last reported. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agent.dataplane.slot import ModelSlot, Serving
from registry.contracts.catalogue.manifest import TensorSpec
from registry.contracts.codes import InferenceCode
from registry.contracts.device.messages import ReportedModel
from registry.contracts.device.metadata import (
    EXTENSIONS,
    SERVER_NAME,
    ClassificationMetadata,
    ModelMetadata,
    ModelParameters,
    ServedModel,
    ServerMetadata,
    ServerParameters,
    TensorMetadata,
    TensorParameters,
    platform_of,
)

Reports = Mapping[str, ReportedModel]
"""By model."""


def server_metadata(device: str, agent_version: str, slots: Sequence[ModelSlot], reports: Reports) -> ServerMetadata:
    """What the device serves; `slots` are the models that are assigned to it."""
    return ServerMetadata(
        name=SERVER_NAME,
        version=agent_version,
        extensions=EXTENSIONS,
        models=tuple(_served(slot, reports) for slot in sorted(slots, key=lambda slot: slot.model)),
        parameters=ServerParameters(device=device),
    )


def _served(slot: ModelSlot, reports: Reports) -> ServedModel:
    version = slot.active.binding.version if slot.active is not None else None
    code, reason = why_not_ready(slot, reports)
    return ServedModel(
        name=slot.model,
        version=version,
        ready=version is not None,
        code=code,
        reason=reason,
        desired_version=_desired(slot, reports),
    )


def model_metadata(device: str, pools: Sequence[str], slot: ModelSlot, reports: Reports) -> ModelMetadata:
    """One model that is assigned to the device; `pools` are those in which it takes requests to it."""
    serving = slot.active
    if serving is not None:
        return _of_serving(device, pools, serving, _desired(slot, reports))
    code, reason = why_not_ready(slot, reports)
    parameters = ModelParameters(
        device=device,
        pools=tuple(pools),
        ready=False,
        code=code,
        reason=reason,
        desired_version=_desired(slot, reports),
    )
    return ModelMetadata(name=slot.model, versions=(), platform="", inputs=(), outputs=(), parameters=parameters)


def _of_serving(device: str, pools: Sequence[str], serving: Serving, desired: str | None) -> ModelMetadata:
    binding, worker = serving.binding, serving.worker
    classes = binding.classification
    parameters = ModelParameters(
        device=device,
        pools=tuple(pools),
        ready=True,
        desired_version=desired,
        variant=binding.variant,
        variant_digest=binding.variant_digest,
        manifest=binding.manifest_digest,
        backend=f"{worker.backend}/{worker.provider}",
        rollout=binding.rollout,
        image=binding.image,
        classification=(
            ClassificationMetadata(output=classes.output, labels=len(classes.labels), top_k=classes.top_k)
            if classes is not None
            else None
        ),
        max_batch=serving.max_batch,
        batching=worker.batching,
        queue_limit=serving.queue_limit,
        max_request_bytes=binding.max_payload,
    )
    optional = TensorParameters(optional=True)
    return ModelMetadata(
        name=binding.model,
        versions=(binding.version,),
        platform=platform_of(worker.backend, binding.format),
        inputs=(*map(_tensor, binding.inputs), *(_tensor(spec, optional) for spec in binding.optional_inputs)),
        outputs=tuple(map(_tensor, binding.outputs)),
        parameters=parameters,
    )


def _tensor(spec: TensorSpec, parameters: TensorParameters = TensorParameters()) -> TensorMetadata:  # noqa: B008 - frozen
    if spec.any_rank:
        parameters = parameters.model_copy(update={"any_rank": True})
    return TensorMetadata(name=spec.name, datatype=str(spec.datatype), shape=spec.shape, parameters=parameters)


def why_not_ready(slot: ModelSlot, reports: Reports) -> tuple[str, str]:
    """(code, sentence) why nothing serves the model; empty when something does."""
    if slot.active is not None:
        return "", ""
    report = reports.get(slot.model)
    said = f"{slot.model} is assigned but nothing serves it yet"
    if report is None:
        return str(InferenceCode.MODEL_NOT_READY), said
    if report.fault is not None and report.fault.code:
        return report.fault.code, report.fault.message
    progress = report.deployment
    if progress is not None and progress.code:
        return progress.code, progress.message
    if progress is not None:
        said = f"{slot.model} {progress.version} is on its way: {progress.phase}"
    return str(InferenceCode.MODEL_NOT_READY), said


def _desired(slot: ModelSlot, reports: Reports) -> str | None:
    """The version that should serve, where it is not the one that does."""
    report = reports.get(slot.model)
    desired = report.desired_version if report is not None else None
    serves = slot.active.binding.version if slot.active is not None else None
    return desired if desired != serves else None
