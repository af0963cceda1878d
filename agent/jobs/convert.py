"""The conversion job: bring the source, run the tool, measure what came out, give it to the registry.

Built once per class of hosts: what this device compiled becomes a variant of the version, and the next device with the
same facts pulls it. Where this host can run the result, it is measured against the version's golden vectors first; one
that does not pass is not offered.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from agent.adapters.disk.durable import disk_error
from agent.adapters.network.offers import give_variant
from agent.conversion.base import SOURCE, ConversionRequest, Tools
from agent.conversion.convert import Converted, convert, plan_for
from agent.conversion.quantize import CALIBRATION
from agent.conversion.tool import CancelledError
from agent.errors import PermanentError, StepCancelledError, TransientError
from agent.jobs.context import CLOSE_S, JobContext, bring_file, bring_variant, job_manifest, load_beside
from agent.worker.golden import measure_parity
from registry.contracts.catalogue.conversions import GOALS, source_for
from registry.contracts.catalogue.manifest import Format, Golden, Manifest, MeasuredParity, Variant
from registry.contracts.codes import DeploymentCode, JobCode
from registry.contracts.device.deployments import Job
from registry.contracts.fit.platforms import Platform
from registry.contracts.fit.resolution import FitOutcome, judge
from registry.contracts.golden_vectors import read_cases
from registry.contracts.tensors import NUMPY_NAME, RAW, Datatype

_NEEDED = {
    Format.OM: (("soc_version", "soc", "ascend"), ("cann_version", "cann", "cann")),
    Format.TENSORRT_PLAN: (("compute_capability", "compute_capability", "cuda"),),
}
"""By what is made: the option, the field of Tools that stands for it, and the fact of the host that this comes from."""


def handle_conversion(job: Job, context: JobContext) -> dict[str, Any]:
    """As `agent.jobs.context` says of handlers. The result: `variant`, `manifest`, `measured` (or why not)."""
    if not isinstance(job.to, Format):
        raise PermanentError(JobCode.CONVERSION_UNKNOWN, f"this agent cannot make {job.to or 'nothing'}: update it")
    manifest = job_manifest(job, context)
    source = _source(job, manifest)
    request = ConversionRequest(
        source=source,
        to=job.to,
        tools=host_tools(context),
        options=job.options,
        calibration=manifest.golden is not None and source.format is Format.ONNX and job.to is Format.ONNX,
    )
    require_facts(request, context.facts())
    plan = plan_for(request)
    name = plan.name
    if manifest.variant(name) is not None:
        raise PermanentError(
            JobCode.BAD_OPTION,
            f"{job.model}@{job.version} has a variant {name} already, and variants never change: give this one "
            "another name (option name=...)",
        )
    context.progress(0.05, f"bringing {source.name}")
    bring_variant(source, context.folder / SOURCE, context)
    golden = bring_file(manifest.golden.file, context.folder / "golden", context) if manifest.golden else None
    if golden is not None and request.calibration:
        write_calibration(golden, context.folder / CALIBRATION)
    context.progress(0.2, f"{plan.tool} makes {name}")
    try:
        made = convert(request, context.folder, timeout_s=job.timeout_s, cancel=context.cancel)
    except CancelledError:
        raise StepCancelledError from None
    except OSError as error:
        raise disk_error(error, context.folder) from error
    context.progress(0.7, f"measuring {name}")
    variant, why = _measured(made, manifest.golden, golden, context, job.model)
    context.progress(0.8, f"giving {name} to the registry")
    size = max(variant.size, 1)
    digest = give_variant(
        context.registry,
        context.id,
        variant,
        made.folder,
        cancel=context.cancel,
        tell=lambda sent: context.progress(0.8 + 0.2 * min(sent / size, 1.0), f"uploading {name}"),
    )
    parity = variant.parity.to_json() if variant.parity is not None else why
    return {"variant": _summary(variant), "manifest": digest, "measured": parity}


def require_facts(request: ConversionRequest, facts: Platform) -> None:
    """A look that failed is no fact: raises TransientError where the tool needs what it should have found."""
    for option, field, fact in _NEEDED.get(request.to, ()):
        if not request.option(option, getattr(request.tools, field)) and fact in facts.failed():
            why = facts.evidence[fact].reason
            raise TransientError(DeploymentCode.FACTS_UNKNOWN, f"the last look at this host's {fact} failed: {why}")


def host_tools(context: JobContext) -> Tools:
    """What this host converts with, from its facts and settings."""
    facts, settings = context.facts(), context.config.worker
    mindspore = settings.interpreters.get("mindspore")
    has_mindspore = any(backend.name == "mindspore" and backend.usable for backend in facts.backends)
    return Tools(
        python=str(settings.python("onnxruntime")),
        mindspore=str(mindspore) if mindspore else sys.executable if has_mindspore else None,
        atc=shutil.which("atc"),
        trtexec=shutil.which("trtexec"),
        soc=facts.ascend.soc if facts.ascend else "",
        cann=facts.cann.version if facts.cann else "",
        compute_capability=facts.cuda.compute_capability if facts.cuda else "",
        device=context.config.device,
    )


def write_calibration(golden: Path, target: Path) -> None:
    """The golden inputs as an .npz, `case/name`, for tools that want to see data. Raises TensorFileError."""
    content = memoryview(golden.read_bytes())
    arrays = {
        f"{number}/{name}": np.frombuffer(content[span.begin : span.end], NUMPY_NAME[span.datatype]).reshape(span.shape)
        for number, case in enumerate(read_cases(content, len(content)))
        for name, span in case.inputs.items()
        if span.datatype is not Datatype.BYTES and span.datatype not in RAW
    }
    with target.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]  # its stub knows only positional arrays


def _source(job: Job, manifest: Manifest) -> Variant:
    if job.source is not None:
        source = manifest.variant(job.source)
    else:
        found = (source_for(manifest, goal) for goal in GOALS.values() if goal.format is job.to)
        source = next((variant for variant in found if variant is not None), None)
    if source is None:
        raise PermanentError(
            JobCode.CONVERSION_UNKNOWN, f"{job.model}@{job.version} has no variant that leads to {job.to}"
        )
    return source


def _measured(
    made: Converted, golden: Golden | None, file: Path | None, context: JobContext, model: str
) -> tuple[Variant, str]:
    """The variant with its parity; or as it was, with the reason. Raises PermanentError(golden_mismatch)."""
    variant = made.variant
    if golden is None or file is None:
        return variant, "the version has no golden vectors"
    verdict = judge(variant, context.facts())
    if verdict.outcome is not FitOutcome.PASS:
        return variant, "this host cannot run it: " + "; ".join(f"{r.code}: needs {r.need}" for r in verdict.reasons)
    worker = load_beside(variant, verdict.backend, made.folder, context, model)
    try:
        parity = measure_parity(worker, file, golden, check=context.check)
        backend = f"{worker.backend}/{worker.provider}"
    finally:
        worker.close(CLOSE_S)
    if not parity.passed:
        raise PermanentError(
            JobCode.GOLDEN_MISMATCH,
            f"{variant.name} does not answer the golden vectors as the manifest says: {parity.why}; largest error "
            f"{parity.max_abs:.3g}, relative {parity.max_rel:.3g}. It was not given to the registry",
        )
    measured = MeasuredParity(parity=parity, backend=backend, reference=golden.reference)
    return variant.model_copy(update={"parity": measured}), ""


def _summary(variant: Variant) -> dict[str, Any]:
    """The variant for the report, without a command line that may be longer than a report takes."""
    document = variant.to_json()
    command = document.get("build", {}).get("command", [])
    if sum(len(part) for part in command) > 4096:
        document["build"]["command"] = []
    return document
