"""The door to this package for the agent: load a model, probe a backend.

worker = start_worker(WorkerSpec(...))      blocks, with a deadline; from the control thread
worker.layout, worker.memory, worker.lanes  what the data path works with
worker.close(timeout_s)                     when the data path has let go of it
"""

from __future__ import annotations

import sys
import time

from agent.backends.catalog import CATALOG
from agent.errors import AgentError, TransientError
from agent.worker.inline import InlineWorker
from agent.worker.process import ProcessWorker, start_process
from agent.worker.spawn import WorkerProcess, printable
from agent.worker.spec import Worker, WorkerSpec
from registry.contracts.catalogue.manifest import Format
from registry.contracts.codes import DeploymentCode
from registry.contracts.fit.platforms import BackendFacts

__all__ = ["Worker", "WorkerSpec", "probe_backend", "start_worker"]


def start_worker(spec: WorkerSpec) -> Worker:
    """Loads a model as `spec.execution` says: in a process, or inline.

    At most `spec.load_timeout_s` and a moment. Raises PermanentError (load_failed, signature_mismatch,
    backend_unavailable) or TransientError (load_timeout, worker_crashed, disk_error); nothing is left behind then.
    """
    worker: ProcessWorker | InlineWorker = InlineWorker(spec) if spec.execution == "inline" else start_process(spec)
    return worker


def probe_backend(name: str, interpreter: str = sys.executable, timeout_s: float = 20.0) -> BackendFacts:
    """What a backend is on this host, found by using it in a process of its own. Never raises for what is missing.

    Only what the backend itself answers is a fact; when its process does not start, stalls, is killed or talks
    nonsense, the result is `unknown`.
    """
    formats = tuple(Format(each) for each in CATALOG[name].formats)
    try:
        process = WorkerProcess(interpreter, name)
    except AgentError as error:
        return BackendFacts(name=name, usable=False, unknown=True, reason=error.message, formats=formats)
    try:
        facts = process.ask("probe", {"backend": name}, "probed", deadline=time.monotonic() + timeout_s)
        return BackendFacts.model_validate({**facts, "name": name, "formats": formats})
    except TransientError as error:
        stalled = error.code == DeploymentCode.LOAD_TIMEOUT
        reason = f"no answer within {timeout_s:.0f} s" if stalled else printable(error.message, 1000)
        return BackendFacts(name=name, usable=False, unknown=True, reason=reason, formats=formats)
    except (AgentError, ValueError) as error:
        reason = printable(str(error), 1000)
        return BackendFacts(name=name, usable=False, unknown=True, reason=reason, formats=formats)
    finally:
        process.end(0.5)
