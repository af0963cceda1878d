"""Stable error codes. A code never changes its meaning; texts may."""

from __future__ import annotations

from registry.contracts.enums import StrEnum


class InferenceCode(StrEnum):
    """Why a request got an error result. Clients may retry those in `RETRYABLE`."""

    BAD_PAYLOAD = "bad_payload"
    """Not JSON, wrong structure, too deeply nested, header length wrong."""
    UNSUPPORTED_CONTENT_TYPE = "unsupported_content_type"
    TOO_LARGE = "too_large"
    """The payload is over the agent's or the model's limit."""
    UNKNOWN_MODEL = "unknown_model"
    """No such model is assigned to this device."""
    UNKNOWN_VERSION = "unknown_version"
    """The request asks for a version that this device does not serve."""
    UNKNOWN_INPUT = "unknown_input"
    MISSING_INPUT = "missing_input"
    UNKNOWN_OUTPUT = "unknown_output"
    WRONG_DATATYPE = "wrong_datatype"
    WRONG_SHAPE = "wrong_shape"
    SIZE_MISMATCH = "size_mismatch"
    """The bytes that came are not the bytes that shape and datatype say."""
    BAD_IMAGE = "bad_image"
    NO_IMAGE_INPUT = "no_image_input"
    """The manifest does not declare how this model takes pictures."""
    BAD_RESPONSE_TOPIC = "bad_response_topic"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    OVERLOADED = "overloaded"
    MODEL_NOT_READY = "model_not_ready"
    RUN_FAILED = "run_failed"
    RUN_TIMEOUT = "run_timeout"
    WORKER_CRASHED = "worker_crashed"
    RESULT_TOO_LARGE = "result_too_large"
    """The outputs do not fit the room that the model's slot has for them."""


RETRYABLE = frozenset(
    {
        InferenceCode.OVERLOADED,
        InferenceCode.MODEL_NOT_READY,
        InferenceCode.WORKER_CRASHED,
        InferenceCode.RUN_TIMEOUT,
    }
)


class DeploymentCode(StrEnum):
    """Why a deployment on a device did not come to serve."""

    NO_FITTING_VARIANT = "no_fitting_variant"
    VARIANT_UNFIT = "variant_unfit"
    """The variant that the registry chose does not fit what this host is now."""
    REGISTRY_UNREACHABLE = "registry_unreachable"
    REGISTRY_REFUSED = "registry_refused"
    """The registry answered 4xx: the credential, the version or the blob is not there."""
    BAD_ANSWER = "bad_answer"
    """The registry answered something that is not what its contract says."""
    MANIFEST_MISMATCH = "manifest_mismatch"
    DIGEST_MISMATCH = "digest_mismatch"
    INSUFFICIENT_DISK = "insufficient_disk"
    DISK_ERROR = "disk_error"
    BACKEND_UNAVAILABLE = "backend_unavailable"
    LOAD_FAILED = "load_failed"
    LOAD_TIMEOUT = "load_timeout"
    SIGNATURE_MISMATCH = "signature_mismatch"
    """The loaded model's inputs or outputs are not those of the manifest."""
    WORKER_CRASHED = "worker_crashed"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    DESIRED_EXPIRED = "desired_expired"
    GOLDEN_MISMATCH = "golden_mismatch"
    """On this host the variant does not answer the version's golden vectors as the manifest says."""
    SHADOW_DISAGREES = "shadow_disagrees"
    """Too few of the candidate's answers to live requests agreed with the active version's."""
    PROBATION_ERRORS = "probation_errors"
    PROBATION_LATENCY = "probation_latency"
    PROBATION_NAN = "probation_nan"
    PROBATION_CRASHES = "probation_crashes"
    QUARANTINED = "quarantined"
    """This device rolled this variant back or gave it up before; only another attempt brings it again."""
    ROLLBACK_FAILED = "rollback_failed"
    """The previous version could not be brought back."""
    MEMORY_INSUFFICIENT = "memory_insufficient"
    """Beside the active one there is no room, and the policy forbids to stop it first."""
    HELD = "held"
    """The rollout holds it before the switch."""
    MAINTENANCE_WINDOW = "maintenance_window"
    LEASE = "lease"
    """A local program asked for a delay."""
    METERED = "metered"
    """The network costs by the byte, and this host's policy waits for another."""


class ResolutionCode(StrEnum):
    """Why a variant does not fit a platform."""

    OS_MISMATCH = "os_mismatch"
    ARCH_MISMATCH = "arch_mismatch"
    RT_MISSING = "rt_missing"
    """No usable backend for the format."""
    DEVICE_MISSING = "device_missing"
    """The target's accelerator is not on this host."""
    RT_TOO_OLD = "rt_too_old"
    """The runtime is older than the one that wrote the file."""
    SOC_MISMATCH = "soc_mismatch"
    """The file was built for another Ascend chip."""
    IR_TOO_NEW = "ir_too_new"
    OPSET_TOO_NEW = "opset_too_new"
    OP_DOMAIN_MISSING = "op_domain_missing"
    MEM_INSUFFICIENT = "mem_insufficient"
    SOURCE_ONLY = "source_only"
    """The format cannot run anywhere; it is there to be converted."""
    FACT_UNKNOWN = "fact_unknown"
