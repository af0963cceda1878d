"""Every stable code that a person or a program can see: what it means, and what to do.

A code never changes its meaning; texts may. `docs/codes.md`, `registry code`, the hints of the command line and
`registry explain` are made from these tables. A code that two tables have says the same, seen from two sides.
"""

from __future__ import annotations

from collections.abc import Iterable

from .enums import StrEnum


class Code(StrEnum):
    """Base of the tables: a member is its code, and has two sentences."""

    meaning: str
    """What happened, and why."""
    action: str
    """What to do about it."""

    def __new__(cls, code: str, meaning: str = "", action: str = "") -> Code:
        """A row of a table; by its code alone, as `InferenceCode("overloaded")`, the row that is there."""
        member = str.__new__(cls, code)
        member._value_, member.meaning, member.action = code, meaning, action
        return member


# fmt: off
# One row of a table is a code, its meaning and what to do.


class InferenceCode(Code):
    """Why a request got an error result. Clients may retry those in `RETRYABLE`."""

    BAD_PAYLOAD = ("bad_payload",
        "The payload is not a request: no valid JSON, a wrong structure, nested too deeply, or a wrong header length.",
        "Build the request as docs/inference.md says.")
    UNSUPPORTED_CONTENT_TYPE = ("unsupported_content_type",
        "The content type of the message is none that the device takes.",
        "Send JSON, a binary request or a picture with the content type that docs/inference.md names.")
    TOO_LARGE = ("too_large",
        "The payload is over the limit of the agent or of the model.",
        "Send fewer items in a request, or raise limits.max_payload of the agent.")
    UNKNOWN_MODEL = ("unknown_model",
        "No such model is assigned to this device.",
        "Check the model's name; `registry deploy` assigns a model to a device.")
    UNKNOWN_VERSION = ("unknown_version",
        "The request asks for a version that this device does not serve.",
        "Leave the version out of the request, or deploy that version.")
    UNKNOWN_INPUT = ("unknown_input",
        "The request has an input that the model does not have.",
        "Compare the names with the manifest: `registry show MODEL@VERSION`.")
    MISSING_INPUT = ("missing_input",
        "The request lacks an input that the model needs.",
        "Send every input that the manifest lists.")
    UNKNOWN_OUTPUT = ("unknown_output",
        "The request asks for an output that the model does not have.",
        "Ask for outputs of the manifest, or leave `outputs` out to get all.")
    UNSUPPORTED_PARAMETER = ("unsupported_parameter",
        "The request has a parameter that would change the answer and is not supported, for instance shared memory.",
        "Send the request without this parameter.")
    WRONG_DATATYPE = ("wrong_datatype",
        "An input has another datatype than the model takes.",
        "Convert the input to the datatype that the manifest names.")
    WRONG_SHAPE = ("wrong_shape",
        "An input has another shape than the model takes.",
        "Send the shape that the manifest names; -1 there stands for any size.")
    SIZE_MISMATCH = ("size_mismatch",
        "The bytes that came are not as many as shape and datatype need.",
        "Send exactly the bytes of each tensor, and their number in the header.")
    BAD_IMAGE = ("bad_image",
        "The picture cannot be decoded, or is over a limit of pictures.",
        "Send a whole picture in a format and size that docs/inference.md allows.")
    NO_IMAGE_INPUT = ("no_image_input",
        "The manifest does not declare how this model takes pictures.",
        "Send tensors, or publish the version with an image input.")
    BAD_RESPONSE_TOPIC = ("bad_response_topic",
        "The response topic of the request may not be published to.",
        "Name a topic without wildcards, outside the topics that the fleet itself uses.")
    DEADLINE_EXCEEDED = ("deadline_exceeded",
        "The message expired before its turn came; it was not run.",
        "Send fewer requests at once, or give the message a longer expiry.")
    OVERLOADED = ("overloaded",
        "Queues, memory or processes for another request are used up now.",
        "Send the request again a little later, and fewer at once.")
    MODEL_NOT_READY = ("model_not_ready",
        "The model is assigned to this device, and nothing serves it now.",
        "Send the request again later; `registry devices show DEVICE` says what the deployment waits for.")
    RUN_FAILED = ("run_failed",
        "The runtime failed on this request, or the outputs are not what the manifest says of them.",
        "Read the message; try the same input with another variant or on another device.")
    OUT_OF_MEMORY = ("out_of_memory",
        "The run needs more memory than the worker may have, or than the host or its accelerator has.",
        "Send fewer items in a request, raise worker.memory_bytes of the agent, or deploy a smaller variant.")
    RUN_TIMEOUT = ("run_timeout",
        "The run took longer than the agent allows; its worker was ended.",
        "Send the request again; raise worker.run_timeout_s of the agent if the model is that slow.")
    WORKER_CRASHED = ("worker_crashed",
        "The process that runs the model ended during the request; it is started again.",
        "Send the request again; if that input ends it each time, look at the agent's log.")
    RESULT_TOO_LARGE = ("result_too_large",
        "The outputs do not fit the room for a result, or the broker's largest packet.",
        "Ask for fewer outputs or items, or raise the broker's packet size.")


class DeploymentCode(Code):
    """Why a deployment on a device waits, or did not come to serve."""

    NO_FITTING_VARIANT = ("no_fitting_variant",
        "No variant of the version fits this host.",
        "`registry explain DEVICE MODEL` says what each needs; publish or convert a variant, or change the host.")
    REQUEST_TOO_LARGE = ("request_too_large",
        "No variant fits, because the smallest request is over the largest that this device's settings allow.",
        "Raise limits.max_payload of the agent.")
    FACTS_UNKNOWN = ("facts_unknown",
        "The facts of this host that decide are not known; the agent looks again.",
        "Wait; if it stays so, run `agent platform` on the device and read the reasons.")
    VARIANT_UNFIT = ("variant_unfit",
        "The chosen variant does not fit what this host is now.",
        "Compare with `registry explain DEVICE MODEL`; undo the change of the host, or choose another variant.")
    REGISTRY_UNREACHABLE = ("registry_unreachable",
        "The registry does not answer this device; it is tried again.",
        "Check registry.url of the agent, the network and the registry: `agent doctor`.")
    REGISTRY_REFUSED = ("registry_refused",
        "The registry refused: the version or file is not there, or this device may not have it.",
        "Read the message; publish what is missing, then deploy again with --retry.")
    CREDENTIAL_REFUSED = ("credential_refused",
        "The registry does not know this device's token; it is tried again with what the token's file then holds.",
        "Make a new token with `registry devices rotate DEVICE`, and put it into the token's file.")
    BAD_ANSWER = ("bad_answer",
        "The answer is not what the registry's contract says; it is tried again.",
        "Check registry.url and what stands in between: a proxy, a portal, a gateway.")
    MANIFEST_MISMATCH = ("manifest_mismatch",
        "The manifest is of another model or version than the desired state names.",
        "Check what stands between device and registry, then deploy again with --retry.")
    DIGEST_MISMATCH = ("digest_mismatch",
        "The bytes of a file are not those that its digest names; it is fetched again.",
        "If it repeats, publish the same version again: that replaces a damaged copy in the registry.")
    INSUFFICIENT_DISK = ("insufficient_disk",
        "The device's disk has no room for the files; it is tried again.",
        "Free space below data_dir of the agent, or put it on a larger disk.")
    DISK_ERROR = ("disk_error",
        "The device's disk refuses a read or a write; it is tried again.",
        "Check the disk and the rights of data_dir; the message names the file.")
    BACKEND_UNAVAILABLE = ("backend_unavailable",
        "The runtime that the variant needs does not work on this host.",
        "`agent doctor` on the device says why, and what to install; then deploy again with --retry.")
    LOAD_FAILED = ("load_failed",
        "The runtime could not load the model.",
        "Read the message; export the model again, or deploy another variant.")
    OUT_OF_MEMORY = ("out_of_memory",
        "Loading the model needs more memory than the worker may have, or than the host or its accelerator has.",
        "Raise worker.memory_bytes of the agent, free memory on the host, or deploy a smaller variant.")
    LOAD_TIMEOUT = ("load_timeout",
        "The model was not loaded, warmed up and checked in time.",
        "Raise worker.load_timeout_s of the agent, or look at what else the host does.")
    CHECKPOINT_MISMATCH = ("checkpoint_mismatch",
        "The checkpoint's parameters are not those of the network that the manifest names.",
        "Publish it with the network's name and arguments with which it was trained.")
    ENTRY_POINT_DISABLED = ("entry_point_disabled",
        "The variant brings code, and this host's settings do not let code of models run.",
        "Set entry_points.enabled of the agent (docs/backends.md), or deploy a variant without code.")
    ENTRY_POINT_UNTRUSTED = ("entry_point_untrusted",
        "The variant's code is signed with a key that this host does not trust.",
        "Add the key to entry_points.trusted_keys of the agent, or sign the code with a key that is trusted.")
    ENTRY_POINT_SIGNATURE = ("entry_point_signature",
        "The signature is not one of this code, these arguments and these files; nothing of it was run.",
        "Sign and publish the version again; if you did not change it, find out who did.")
    SIGNATURE_MISMATCH = ("signature_mismatch",
        "The loaded model's inputs or outputs are not those of the manifest.",
        "Publish the version with the inputs and outputs that the file has.")
    WORKER_CRASHED = ("worker_crashed",
        "The process that runs the model ended by itself; it is tried again.",
        "If it repeats, read the agent's log and look at the host's memory and drivers.")
    ATTEMPTS_EXHAUSTED = ("attempts_exhausted",
        "It was tried as often as is allowed; the message has the last failure.",
        "Mend the cause, then deploy again with --retry.")
    DESIRED_EXPIRED = ("desired_expired",
        "The desired state has expired, so nothing new is installed.",
        "Connect the device to the broker or the registry; it then gets a new one.")
    METADATA_STALE = ("metadata_stale",
        "The signed metadata of this device have expired, or its clock is not known; nothing new is installed.",
        "Connect the device to the registry and set its clock; it goes on by itself. `agent doctor` says what expired.")
    METADATA_REFUSED = ("metadata_refused",
        "What the registry, or somebody in its place, gave as signed metadata is refused; it is tried again.",
        "Read the message; `registry trust status` says who signs until when. Is a proxy in between?")
    MANIFEST_UNTRUSTED = ("manifest_untrusted",
        "No role that this device trusts lists the version's manifest; nothing of it is installed or loaded.",
        "`registry trust status` says who signs the model; publish the version with that key, then deploy it again.")
    GOLDEN_MISMATCH = ("golden_mismatch",
        "On this host the variant does not answer the version's golden vectors as the manifest says.",
        "Deploy another variant, or check the tolerance (docs/parity.md); --retry lifts the quarantine.")
    SHADOW_DISAGREES = ("shadow_disagrees",
        "Too few of the candidate's answers to live requests agreed with the active version's.",
        "Compare the two versions; where the difference is wanted, deploy without a shadow.")
    PROBATION_ERRORS = ("probation_errors",
        "In probation too many requests failed; the previous version is put back.",
        "See the errors by code with `registry health DEVICE`; mend the version, or lift the quarantine with --retry.")
    PROBATION_LATENCY = ("probation_latency",
        "In probation the version was slower than the policy allows; the previous version is put back.",
        "Compare the latencies; deploy a faster variant, or allow more in the policy.")
    PROBATION_NAN = ("probation_nan",
        "In probation too many results had NaN; the previous version is put back.",
        "Try the inputs on the publisher's machine; a variant of lower precision is often the cause.")
    PROBATION_CRASHES = ("probation_crashes",
        "In probation the worker or the agent ended too often; the previous version is put back.",
        "Read the agent's log; then mend the version, or lift the quarantine with --retry.")
    QUARANTINED = ("quarantined",
        "This device rolled this variant back or gave it up before.",
        "Mend the cause, then ask for another attempt with --retry.")
    ROLLBACK_FAILED = ("rollback_failed",
        "The previous version could not be started again; it is tried further.",
        "Look at the device: neither version serves. The message says what fails.")
    MEMORY_INSUFFICIENT = ("memory_insufficient",
        "There is no room beside the active version, and the policy forbids to stop that first.",
        "Deploy with a strategy that may stop the active version first, or free memory.")
    HELD = ("held",
        "Its rollout is paused: it goes no further than `staged`, or stays in `probation`.",
        "Resume the rollout, or roll it back.")
    MAINTENANCE_WINDOW = ("maintenance_window",
        "The device waits for its maintenance window.",
        "Wait for the window, or change policy.windows of the agent.")
    LEASE = ("lease",
        "A local program asked for a delay.",
        "Wait for the end of the lease; `agent lease list` on the device shows it.")
    METERED = ("metered",
        "The network costs by the byte, and this host's policy waits for another.",
        "Connect it to another network, or change policy.metered of the agent.")


class AgentCode(Code):
    """What is wrong with an agent as a whole, or with what is asked of it on its host."""

    TWO_AGENTS = ("two_agents",
        "Two agents run under one name: the registry hears two sessions in turn.",
        "Stop one of them, or give it a name and a token of its own.")
    DOCUMENT_REFUSED = ("document_refused",
        "A desired document was not believed: its signature, device or order is not right. It changed nothing.",
        "Find out who may write this device's topic at the broker; `registry devices show DEVICE` has the counts.")
    INTERNAL = ("internal",
        "The agent met a fault that was not foreseen.",
        "Report it with the agent's log; what serves goes on serving.")
    BAD_CONFIG = ("bad_config",
        "A setting of the agent, or a file that it names, cannot be used.",
        "Correct what the message names; docs/agent.toml has every setting.")
    ALREADY_RUNNING = ("already_running",
        "Another agent runs with this data_dir.",
        "Stop it, or give this one a data_dir of its own.")
    JOURNAL_TOO_NEW = ("journal_too_new",
        "A newer agent wrote the local state.",
        "Install that version again, or drop the local state with `agent reset`.")
    JOURNAL_CLOSED = ("journal_closed",
        "The local state is used while it is not open: a fault of the agent.",
        "Report it with the agent's log, and restart the agent.")
    BAD_LEASE = ("bad_lease",
        "The lease is too long, or its folder cannot be written.",
        "Ask for a shorter lease; run the command as the agent's user.")
    TOO_MANY_LEASES = ("too_many_leases",
        "As many leases are held as are allowed.",
        "Give some back: `agent lease list`.")
    NO_SUCH_LEASE = ("no_such_lease",
        "There is no lease of this id: it is over or was given back.",
        "See `agent lease list`.")


class JobCode(Code):
    """Why a job did not succeed."""

    JOB_TIMEOUT = ("job_timeout",
        "The job took longer than its limit and was stopped.",
        "Start it again with a longer limit, or on a faster device.")
    JOB_EXPIRED = ("job_expired",
        "The device did not take the job up, or said nothing more of it, for too long.",
        "Check that the device is online: `registry devices`; then start the job again.")
    JOB_CANCELLED = ("job_cancelled",
        "Somebody cancelled the job.",
        "Start it again if it is still wanted.")
    JOB_INTERRUPTED = ("job_interrupted",
        "The agent ended in the middle of the job, as often as it was tried.",
        "Look at the agent's log and at the host's memory, then start the job again.")
    JOB_NOT_KNOWN = ("job_not_known",
        "This agent cannot do jobs of this kind.",
        "Upgrade the agent, or choose another device.")
    BAD_OPTION = ("bad_option",
        "The tool has no such option, or it does not go with the model or the other options.",
        "Read the message: it names what is allowed.")
    CONVERSION_UNKNOWN = ("conversion_unknown",
        "There is no way from this format to that one.",
        "docs/conversion.md lists the ways; convert over ONNX where there is one.")
    TOOL_MISSING = ("tool_missing",
        "The tool is not on this host, or cannot run here.",
        "Install what the message names, or do it on a device that has it.")
    TOOL_FAILED = ("tool_failed",
        "The tool ended with a failure; the message has its last words.",
        "Read them; docs/conversion.md has the usual causes.")
    TOOL_TIMEOUT = ("tool_timeout",
        "The tool did not end in time and was killed.",
        "Give it more time, or a faster host.")
    TOOL_NO_OUTPUT = ("tool_no_output",
        "The tool said that it succeeded, and its file is not there or is not of the format.",
        "Check the options; try another version of the tool.")
    GOLDEN_MISMATCH = ("golden_mismatch",
        "What was made does not answer the version's golden vectors as the manifest says.",
        "Convert with a higher precision, or allow the difference (docs/parity.md).")


class ConversionCode(Code):
    """Why a converter said no; it stands in the message of `tool_failed`."""

    NOTHING_QUANTISED = ("nothing_quantised",
        "The quantised model computes as before: none of its operators was quantised.",
        "Choose the other mode (static or dynamic), or leave the model as it is.")
    TENSORRT_REFUSED = ("tensorrt_refused",
        "TensorRT refuses the model or the build.",
        "Read its words in the message; another precision or workspace may help.")


class ResolutionCode(Code):
    """Why a variant does not fit a platform."""

    FORMAT_UNKNOWN = ("format_unknown",
        "The agent is too old to know this format, or this kind of target.",
        "Upgrade the agent.")
    OS_MISMATCH = ("os_mismatch",
        "The variant is for another operating system.",
        "Publish a variant for this host's operating system.")
    ARCH_MISMATCH = ("arch_mismatch",
        "The variant is for another kind of processor.",
        "Publish a variant for this host's processor.")
    RT_MISSING = ("rt_missing",
        "The host has no usable backend for the format.",
        "`agent doctor` on the device says what to install.")
    DEVICE_MISSING = ("device_missing",
        "The target's accelerator is not on this host, or does not work.",
        "Publish a variant for cpu, or mend the accelerator: `agent doctor`.")
    RT_TOO_OLD = ("rt_too_old",
        "The runtime is older than the one that wrote the file.",
        "Upgrade the runtime on the host, or export the file with an older one.")
    SOC_MISMATCH = ("soc_mismatch",
        "The file was built for another Ascend chip.",
        "Convert it for this chip: `registry convert MODEL@VERSION --to om`.")
    CANN_TOO_OLD = ("cann_too_old",
        "The host's CANN is older than the one that built the file.",
        "Upgrade CANN on the host, or convert with its version.")
    CANN_TOO_NEW = ("cann_too_new",
        "The host's CANN is more than four release cycles newer than the one that built the file.",
        "Convert the model again with a newer CANN.")
    OPP_MISMATCH = ("opp_mismatch",
        "The host's operator library is another than the one that the file was built with.",
        "Convert the model again with this operator library.")
    NETWORK_MISSING = ("network_missing",
        "The manifest of a checkpoint names no network, so nothing can be filled with it.",
        "Publish it with a network, or with an entry point.")
    NETWORK_UNKNOWN = ("network_unknown",
        "The host's catalogue has no network of the checkpoint's name.",
        "Upgrade the agent, or publish another format.")
    ENTRY_POINT_DISABLED = ("entry_point_disabled",
        "The variant brings code, and this host runs no code of models.",
        "Set entry_points.enabled of the agent (docs/backends.md), or publish a variant without code.")
    ENTRY_POINT_UNTRUSTED = ("entry_point_untrusted",
        "The variant's code is signed with a key that this host does not trust.",
        "Add the key to entry_points.trusted_keys of the agent, or sign the code with a key that is trusted.")
    SM_MISMATCH = ("sm_mismatch",
        "The engine was built for a GPU of another compute capability.",
        "Convert the model on this kind of GPU.")
    TRT_VERSION = ("trt_version",
        "The host's TensorRT does not run engines of the one that built it.",
        "Convert the model again with the host's TensorRT.")
    IR_TOO_NEW = ("ir_too_new",
        "The file's ONNX IR version is newer than the host's runtime reads.",
        "Upgrade the runtime on the host, or export with an older IR version.")
    OPSET_TOO_NEW = ("opset_too_new",
        "The file's ONNX opset is newer than the host's runtime knows.",
        "Upgrade the runtime on the host, or export with an older opset.")
    OP_DOMAIN_MISSING = ("op_domain_missing",
        "The file uses operators that are not built in.",
        "Export it without custom operators.")
    MEM_INSUFFICIENT = ("mem_insufficient",
        "The host has less memory than the variant needs.",
        "Publish a smaller variant, for instance a quantised one.")
    DISK_INSUFFICIENT = ("disk_insufficient",
        "The agent's disk is too small for the files.",
        "Put data_dir of the agent on a larger disk, or publish a smaller variant.")
    REQUEST_TOO_LARGE = ("request_too_large",
        "The variant's smallest request is over the largest that this device's settings allow.",
        "Raise limits.max_payload of the agent.")
    SOURCE_ONLY = ("source_only",
        "The format cannot run anywhere; it is there to be converted.",
        "Convert it: `registry convert`.")
    FACT_UNKNOWN = ("fact_unknown",
        "The agent does not report a fact that decides.",
        "Upgrade the agent, and see `agent platform` on the device.")
    PIN_EXCLUDES_ALL = ("pin_excludes_all",
        "Variants fit, but not the one that a person chose.",
        "Deploy without --variant, or with one that fits.")


class ReasonCode(Code):
    """Why a rollout is where it is."""

    NEW = ("new",
        "The rollout was made and not submitted.",
        "Submit it: `registry rollout submit`.")
    PLANNING = ("planning",
        "The registry works out which device gets which variant.",
        "Wait; it goes on by itself.")
    PLAN_FAILED = ("plan_failed",
        "The plan could not be made; the text says why.",
        "Mend what the text names, then submit it again.")
    NEEDS_APPROVAL = ("needs_approval",
        "The plan waits for a person.",
        "Look at the plan, then approve or deny it.")
    DENIED = ("denied",
        "Somebody denied the plan.",
        "Change the rollout and submit it again.")
    NOT_YET_TIME = ("not_yet_time",
        "Its start time has not come.",
        "Wait; it starts by itself.")
    RELEASING = ("releasing",
        "Devices of the wave get the version.",
        "Wait; it goes on by itself.")
    SOAKING = ("soaking",
        "The devices of the wave have the version and are watched.",
        "Wait until the soak time is over.")
    TAIL = ("tail",
        "The waves are over; it waits for devices that were offline.",
        "Bring the devices online, or end the rollout.")
    BY_COMMAND = ("by_command",
        "A person asked for it.",
        "Read the text: it says who and why.")
    FAILED_BUDGET = ("failed_budget",
        "More devices failed than the gate allows.",
        "Look at the failed devices, mend the cause, then retry, resume or roll back.")
    UNKNOWN_BUDGET = ("unknown_budget",
        "More devices fell silent than the gate allows.",
        "Bring the devices online, then retry or resume.")
    TOO_FEW_COMMITTED = ("too_few_committed",
        "So many devices of the wave failed or fell silent that too few can still commit.",
        "Look at the devices that did not, then retry or roll back.")
    UNAVAILABLE_BUDGET = ("unavailable_budget",
        "As many devices as `max_unavailable` allows failed and are not back.",
        "Bring them back, or resume to go on without them.")
    REGRESSED = ("regressed",
        "In a wave that had passed, too many devices no longer serve the version.",
        "Find out who changed these devices, then retry or roll back.")
    HEALTH = ("health",
        "A health figure of the updated devices is worse than the gate allows.",
        "Compare the two versions, then resume or roll back.")
    ACCURACY = ("accuracy",
        "The version's score is worse than the gate allows.",
        "Compare the evaluations, then resume or roll back.")
    SHADOW = ("shadow",
        "The candidate's answers agree less with the active version's than the gate allows.",
        "Compare the two versions, then resume or roll back.")
    YANKED = ("yanked",
        "Somebody yanked the version while the rollout ran.",
        "Roll back or abort; after `registry yank MODEL@VERSION --undo`, resume.")
    INCONCLUSIVE = ("inconclusive",
        "The wave can neither pass nor fail: nothing moves any more, or the figures do not decide.",
        "Read the text, then resume, retry or roll back.")
    WAVE_DEADLINE = ("wave_deadline",
        "The wave took longer than it may.",
        "Look at the devices that are not ready, then resume or roll back.")
    EXPIRED = ("expired",
        "The rollout was valid only until a time that has passed.",
        "Make a new one with a later `valid_until`.")
    ROLLBACK_BUDGET = ("rollback_budget",
        "More devices failed to go back than is allowed.",
        "Look at these devices; they may serve neither version.")
    ROLLBACK_DEADLINE = ("rollback_deadline",
        "Devices did not go back in time.",
        "Look at these devices; the rollback goes on when they are online.")
    DONE = ("done",
        "Every device that could get the version was seen serving it.",
        "Nothing.")
    EXCEPTIONS = ("exceptions",
        "It ended, and some devices do not serve what they should.",
        "Look at these devices; retry brings it to them.")


class DeviceReasonCode(Code):
    """Why a device is where it is, where the registry says it and not the device (`DeploymentCode`)."""

    SILENT = ("silent",
        "Nothing was heard of the device in time.",
        "Bring it online; a late report is still believed, and retry asks again.")
    OFFLINE = ("offline",
        "The device was offline when its turn came.",
        "Bring it online; what then happens is said by `offline` of the rollout.")
    NO_ROOM = ("no_room",
        "The device's desired state has no room for another model.",
        "Remove a model from the device: `registry undeploy`.")
    NOT_REGISTERED = ("not_registered",
        "The rollout names a device that the registry does not have.",
        "Check the name, or add the device.")
    UNEXPLAINED = ("unexplained",
        "The device failed to serve what it should, and gave no code.",
        "See what it says of it: `registry devices show`, `registry events`.")


class ProblemCode(Code):
    """Why the registry refused a request; `code` of its problem documents (RFC 9457)."""

    NOT_FOUND = ("not_found",
        "What was named is not there.",
        "Check the name; the list commands show what is there.")
    CONFLICT = ("conflict",
        "It exists with other content, or is in another state than the request needs.",
        "Do what the message allows. Where it lists differences in content, publish a new version; one never changes.")
    YANKED = ("yanked",
        "The version was yanked: no device, rollout or alias gets it any more.",
        "Take another version; `registry yank MODEL@VERSION --undo` lets it be deployed again.")
    IN_USE = ("in_use",
        "A device serves it, or may return to it.",
        "Take it from the users that are listed, then repeat the command.")
    KEY_OFFLINE = ("key_offline",
        "A signature is needed, and the key for it is not in this registry: it is offline, or somebody else's.",
        "Sign it where the key is: `registry publish --key FILE`, or `registry trust` with --offline FILE.")
    PRECONDITION_FAILED = ("precondition_failed",
        "Somebody changed it in between.",
        "Look at it again, then repeat the command.")
    INVALID = ("invalid",
        "The request breaks a rule.",
        "Correct each fault that is listed.")
    DIGEST_MISMATCH = ("digest_mismatch",
        "The bytes that came are not the blob that was announced.",
        "Repeat the upload; if it repeats, check the disk and the network.")
    OFFSET_MISMATCH = ("offset_mismatch",
        "The next byte of the upload is another one.",
        "Go on at the offset that the answer names.")
    TOO_LARGE = ("too_large",
        "It is over a limit that the message names.",
        "Send less, or raise the limit in the registry's settings.")
    INSUFFICIENT_STORAGE = ("insufficient_storage",
        "The registry's disk has no room.",
        "Free space on the registry's disk; `registry delete MODEL@VERSION` removes what is unused.")
    READ_ONLY = ("read_only",
        "The registry's database or disk takes no writes now; what only reads may work.",
        "Mend the disk or the database server of the registry, then repeat.")
    STORAGE_FAILED = ("storage_failed",
        "The registry's database or disk fails: an input or output error, damage, or no permission.",
        "Read the registry's log, and mend its disk or database.")
    UNAUTHORIZED = ("unauthorized",
        "The request has no token, or one that the registry does not know.",
        ("Give a token with --token-file FILE or MODELFLEET_TOKEN. On the registry's own host the administrator's "
         "token is found by itself when you run as the user that serves the registry."))
    FORBIDDEN = ("forbidden",
        "The token lacks the role that this needs, or has it for other models or devices.",
        "An administrator can make a token with the role: registry token create NAME --role ROLE")
    NEEDS_APPROVAL = ("needs_approval",
        "This registry asks for a second person, and nobody has approved this yet. Nothing was changed.",
        "Another person approves it: registry approvals. Then do the same again. Or make a rollout.")
    BLOB_DAMAGED = ("blob_damaged",
        "The registry's copy of a file is lost or damaged.",
        "Publish the same version again: that replaces it.")
    BUSY = ("busy",
        "The registry has too much to do, or its database server is away.",
        "Try again a little later.")
    OVER_SHARE = ("over_share",
        "You have all that one caller may have of what is for all: connections, bodies, uploads, streams, reports.",
        "Let something of yours end, or wait as long as Retry-After says. `registry uploads` lists open uploads.")
    TIMEOUT = ("timeout",
        "The request's bytes came too slowly.",
        "Send it again; an upload goes on where it stopped.")
    RANGE_NOT_SATISFIABLE = ("range_not_satisfiable",
        "The range that was asked for is outside the file.",
        "Ask for a range within its size.")
    METHOD_NOT_ALLOWED = ("method_not_allowed",
        "The address has no such method.",
        "docs/openapi.json has the methods of each address.")
    INTERNAL = ("internal",
        "The registry met a fault that was not foreseen.",
        "Report it with the incident's lines of the registry's log.")


class StartCode(Code):
    """Why the registry does not start; `read_only`, `storage_failed` and `insufficient_storage` may stand here, too."""

    DATABASE_URL = ("database_url",
        "The setting database_url is no URL of a database that the registry takes.",
        "Correct it: docs/registry.toml shows the forms.")
    DATABASE_NEWER = ("database_newer",
        "A newer version of the registry has used the database.",
        "Upgrade the registry, or restore the backup from before.")
    DATABASE_PRERELEASE = ("database_prerelease",
        "The database was made before the first release and cannot be upgraded.",
        "Start with an empty database: move the file away, or name another one in database_url.")
    DATABASE_UNREACHABLE = ("database_unreachable",
        "The database server does not answer, or is busy.",
        "Start the server, or correct address, user and password in database_url.")
    DATABASE_UNUSABLE = ("database_unusable",
        "The database is there and cannot be used.",
        "Read the message; restore the backup if it is damaged.")
    BLOBS_URL = ("blobs_url",
        "The setting blobs_url is no URL of a store that the registry knows.",
        "Correct it: docs/registry.toml shows the forms.")
    DRIVER_MISSING = ("driver_missing",
        "The driver for PostgreSQL does not load.",
        "Install the extra `postgresql`, as the message says.")
    DATA_FOLDER = ("data_folder",
        "The data folder cannot be made or used, or another registry uses it.",
        "Check data_dir, its rights and its disk; stop the other registry.")
    TOKEN_FILE = ("token_file",
        "The file of the administrator's token has no token, or cannot be read or written.",
        "Check admin_token_file and its rights.")
    ADDRESS = ("address",
        "The registry cannot listen on its address.",
        "Stop what listens there, or choose another host or port.")
    MQTT_TLS = ("mqtt_tls",
        "The certificates for the broker cannot be used.",
        "Correct the files that [mqtt] of the registry's settings names.")
    TRACING = ("tracing",
        "Traces are wanted, and the packages for them are not installed.",
        "Install the extra `otel`, as the message says, or set tracing = false.")


class ClientCode(Code):
    """What `registry` commands and `registry.hub` report beside the registry's own codes."""

    FAILED = ("failed",
        "The command failed; the message says why.",
        "Read the message; the command prints more with --debug.")
    USAGE = ("usage",
        "The command line or the publish file is wrong.",
        "Correct what the message names; --help has the form.")
    UNREACHABLE = ("unreachable",
        "The registry does not answer.",
        "Check --registry or MODELFLEET_REGISTRY, and that the registry runs.")
    DEADLINE = ("deadline",
        "The time of --timeout passed before it was decided; it goes on.",
        "Look later, or repeat the command with a longer --timeout.")
    BAD_ANSWER = ("bad_answer",
        "The answer is not the registry's, or is not what its contract says.",
        "Check the address and what stands in between: a proxy, a portal.")
    BAD_PROXY = ("bad_proxy",
        "A variable of the environment names a proxy that cannot be used.",
        "Correct HTTPS_PROXY, HTTP_PROXY or ALL_PROXY, or list the registry in NO_PROXY.")
    BAD_AUTHORITIES = ("bad_authorities",
        "The list of certificate authorities cannot be read.",
        "See SSL_CERT_FILE and SSL_CERT_DIR.")
    DIGEST_MISMATCH = ("digest_mismatch",
        "What was received does not have its digest.",
        "Repeat the command; if it repeats, publish the version again.")
    DISK_ERROR = ("disk_error",
        "The disk of this machine refuses a read or a write.",
        "Check the path that the message names: its rights and its free space.")
    INSUFFICIENT_DISK = ("insufficient_disk",
        "The disk of this machine has no room for the files.",
        "Free space, or choose another folder.")
    FILE_UNREADABLE = ("file_unreadable",
        "A file cannot be read, or is not a regular file.",
        "Check the path and its rights.")
    FILE_CHANGED = ("file_changed",
        "A file changed while it was read.",
        "Repeat the command when nothing writes the file.")
    INVALID_MODEL = ("invalid_model",
        "The file is not a model of its format, or is damaged.",
        "Read the message, and export it again.")
    INVALID_SOURCE = ("invalid_source",
        "The source of an import holds nothing that can be published as it is.",
        "The message says what to do; docs/publishing.md says what is read of each source.")
    INVALID_GOLDEN = ("invalid_golden",
        "Golden vectors cannot be made or compared with.",
        "Compare inputs, outputs and their types with those of the model.")
    GOLDEN_MISMATCH = ("golden_mismatch",
        "A variant does not answer the golden vectors as the manifest says.",
        "Export the variant again, or allow the difference (docs/parity.md).")
    CANNOT_RUN = ("cannot_run",
        "The model cannot be run on this machine.",
        "The reasons are listed; install the runtime, or choose another variant.")
    RUN_FAILED = ("run_failed",
        "The model runs here, but not on this request.",
        "Check the inputs; the message has the runtime's words.")
    CLOSED = ("closed",
        "The model was closed before.",
        "Load it again.")
    OUT_OF_RANGE = ("out_of_range",
        "A value does not fit the input's datatype.",
        "Scale or clip the values, or publish a model with a wider datatype.")
    AMBIGUOUS = ("ambiguous",
        "The version has several checkpoints.",
        "Give device_target.")
    DATASET_MISMATCH = ("dataset_mismatch",
        "The version was not trained on the data set that was asked for.",
        "Leave `version` or `dataset` out, or publish it with the label.")
    MINDSPORE_MISSING = ("mindspore_missing",
        "The package mindspore cannot be imported.",
        "Install MindSpore, or use hub.load, which needs none.")


class RequestCode(Code):
    """What a client of devices (`registry.client.devices`) reports beside the codes that the devices answer with."""

    NO_SUCH_DEVICE = ("no_such_device",
        "Nobody takes requests under that name, and no agent of that name ever said that it is there.",
        "Check the device's name and the prefix of the topics; `registry devices list` has the names.")
    DEVICE_OFFLINE = ("device_offline",
        "The device's agent is not connected to the broker.",
        "Send the request when the device is back, or wait for it with when_offline=\"wait\".")
    NO_POOL_MEMBER = ("no_pool_member",
        "No agent takes requests of a pool to that model.",
        "Check the model's name, and that agents list it in their setting `pools`.")
    NOT_CONNECTED = ("not_connected",
        "The broker cannot be reached, or the connection ended and did not come back in time.",
        "Check the broker's address, the network and the TLS files; the message has the reason.")
    CONNECTION_REFUSED = ("connection_refused",
        "The broker is there and refuses this client.",
        "Check user name, password or certificate, and the broker's rules for this client.")
    CONNECTION_LOST = ("connection_lost",
        "The connection to the broker ended before the answer came; the request may have been run.",
        "Send the request again with the same request id, or let the client do it: qos=1 and retries.")
    PUBLICATION_REFUSED = ("publication_refused",
        "The broker does not take the request.",
        "Check the broker's rules for the topic, and its limits of size and rate.")
    NO_ANSWER = ("no_answer",
        "No answer came within the time-out; the request may have been run.",
        "Give a longer time-out, send fewer requests at once, or look at the device with `registry health`.")
    BAD_REPLY = ("bad_reply",
        "What came is not an answer of the protocol.",
        "Check who else may publish to this client's reply topic, and the version of the agent.")
    NO_METADATA = ("no_metadata",
        "The device does not say what the model takes.",
        "Give arrays of the input's own datatype, or update the agent.")
    OUT_OF_RANGE = ("out_of_range",
        "A value does not fit the input's datatype.",
        "Scale or clip the values, or publish a model with a wider datatype.")
    CLIENT_CLOSED = ("client_closed",
        "The client was closed, is not connected yet, or was made in another process.",
        "Use a client inside its `with` or `async with`; after a fork, make one in each process.")


# fmt: on
RETRYABLE = frozenset(
    {
        InferenceCode.OVERLOADED,
        InferenceCode.MODEL_NOT_READY,
        InferenceCode.WORKER_CRASHED,
        InferenceCode.RUN_TIMEOUT,
    }
)
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
ON_DEVICE = (DeploymentCode, AgentCode)
"""The tables of the codes that a device gives with a deployment."""


def known(code: str, tables: Iterable[type[Code]]) -> Code | None:
    """The row of a code that came as text, from the first of `tables` that has it."""
    return next((row for table in tables for row in table if row == code), None)


def places_of(code: str) -> list[Code]:
    """The rows of a code in all tables, in the order of the tables; empty where no table has it."""
    return [row for table in Code.__subclasses__() for row in table if row == code]
