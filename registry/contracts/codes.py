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
    UNSUPPORTED_PARAMETER = "unsupported_parameter"
    """A parameter of the protocol's extensions that would change the answer and is not had here: shared memory."""
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
    OUT_OF_MEMORY = "out_of_memory"
    """The run needs more memory than the worker may have, or the host or its accelerator has."""
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
    REQUEST_TOO_LARGE = "request_too_large"
    """No variant fits, because the smallest request is over the largest that this device's settings allow."""
    FACTS_UNKNOWN = "facts_unknown"
    """A look at this host failed, and what it would say decides: it is looked at again."""
    VARIANT_UNFIT = "variant_unfit"
    """The variant that the registry chose does not fit what this host is now."""
    REGISTRY_UNREACHABLE = "registry_unreachable"
    REGISTRY_REFUSED = "registry_refused"
    """The registry itself refused: the version or the blob is not there, or this device may not have it."""
    CREDENTIAL_REFUSED = "credential_refused"
    """The registry does not know this device's token. Tried again with what the token's file then holds."""
    BAD_ANSWER = "bad_answer"
    """The registry answered something that is not what its contract says."""
    MANIFEST_MISMATCH = "manifest_mismatch"
    DIGEST_MISMATCH = "digest_mismatch"
    INSUFFICIENT_DISK = "insufficient_disk"
    DISK_ERROR = "disk_error"
    BACKEND_UNAVAILABLE = "backend_unavailable"
    LOAD_FAILED = "load_failed"
    OUT_OF_MEMORY = "out_of_memory"
    """Loading the model needs more memory than the worker may have, or the host or its accelerator has."""
    LOAD_TIMEOUT = "load_timeout"
    CHECKPOINT_MISMATCH = "checkpoint_mismatch"
    """The checkpoint's parameters are not those of the network that the manifest names."""
    ENTRY_POINT_DISABLED = "entry_point_disabled"
    """The variant brings code, and this host's settings do not let code of models run, or not so."""
    ENTRY_POINT_UNTRUSTED = "entry_point_untrusted"
    """The variant's code is signed with a key that this host does not trust."""
    ENTRY_POINT_SIGNATURE = "entry_point_signature"
    """The signature is not one of this code, these arguments and these files; nothing of it was run."""
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
    """Its rollout is paused: it goes no further than `staged`, or stays in `probation`."""
    MAINTENANCE_WINDOW = "maintenance_window"
    LEASE = "lease"
    """A local program asked for a delay."""
    METERED = "metered"
    """The network costs by the byte, and this host's policy waits for another."""


QUARANTINES = frozenset(
    {
        DeploymentCode.QUARANTINED,
        DeploymentCode.GOLDEN_MISMATCH,
        DeploymentCode.SHADOW_DISAGREES,
        DeploymentCode.PROBATION_ERRORS,
        DeploymentCode.PROBATION_LATENCY,
        DeploymentCode.PROBATION_NAN,
        DeploymentCode.PROBATION_CRASHES,
    }
)
"""A device that ends a deployment so takes that version only when somebody asks for another attempt."""


class AgentCode(StrEnum):
    """What is wrong with an agent as a whole, whatever it serves."""

    TWO_AGENTS = "two_agents"
    """Two agents run under one name: the registry hears two sessions in turn."""


class JobCode(StrEnum):
    """Why a job did not succeed."""

    JOB_TIMEOUT = "job_timeout"
    JOB_EXPIRED = "job_expired"
    """The device did not take it up, or said nothing more of it, for too long."""
    JOB_CANCELLED = "job_cancelled"
    JOB_INTERRUPTED = "job_interrupted"
    """The agent ended in the middle of it, as often as it was tried."""
    JOB_NOT_KNOWN = "job_not_known"
    """This agent cannot do jobs of this kind."""
    BAD_OPTION = "bad_option"
    """The tool has no such option, or it does not go with the others."""
    CONVERSION_UNKNOWN = "conversion_unknown"
    """There is no way from this format to that one."""
    TOOL_MISSING = "tool_missing"
    """The converter is not on this host, or cannot run here."""
    TOOL_FAILED = "tool_failed"
    TOOL_TIMEOUT = "tool_timeout"
    """It did not end in time and was killed."""
    TOOL_NO_OUTPUT = "tool_no_output"
    """It said that it succeeded, and its file is not there or is not of the format."""
    GOLDEN_MISMATCH = "golden_mismatch"
    """What was made does not answer the version's golden vectors as the manifest says."""


class ResolutionCode(StrEnum):
    """Why a variant does not fit a platform."""

    FORMAT_UNKNOWN = "format_unknown"
    """The agent is too old to know this format, or this kind of target."""
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
    CANN_TOO_OLD = "cann_too_old"
    """The host's CANN is older than the one that built the file."""
    CANN_TOO_NEW = "cann_too_new"
    """The host's CANN is more than four release cycles newer than the one that built the file."""
    OPP_MISMATCH = "opp_mismatch"
    """The host's operator library is another than the one that the file was built with."""
    NETWORK_MISSING = "network_missing"
    """A checkpoint whose manifest names no network: nothing can be filled with it."""
    NETWORK_UNKNOWN = "network_unknown"
    """The host's catalogue has no network of the checkpoint's name."""
    ENTRY_POINT_DISABLED = "entry_point_disabled"
    """The variant brings code, which this host runs of nobody."""
    ENTRY_POINT_UNTRUSTED = "entry_point_untrusted"
    """The variant's code is signed with a key that this host does not trust."""
    SM_MISMATCH = "sm_mismatch"
    """The engine was built for a GPU of another compute capability."""
    TRT_VERSION = "trt_version"
    """The host's TensorRT does not run engines of the one that built it."""
    IR_TOO_NEW = "ir_too_new"
    OPSET_TOO_NEW = "opset_too_new"
    OP_DOMAIN_MISSING = "op_domain_missing"
    MEM_INSUFFICIENT = "mem_insufficient"
    DISK_INSUFFICIENT = "disk_insufficient"
    REQUEST_TOO_LARGE = "request_too_large"
    """Its smallest request is over the largest that this device's settings allow."""
    SOURCE_ONLY = "source_only"
    """The format cannot run anywhere; it is there to be converted."""
    FACT_UNKNOWN = "fact_unknown"
    PIN_EXCLUDES_ALL = "pin_excludes_all"
    """Variants fit, but not the one that a person chose."""
