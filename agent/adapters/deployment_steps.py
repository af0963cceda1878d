"""The slow parts of a deployment on the real disk, network and host. See `ports.Steps`.

Nothing here decides what comes next or tries again: it does one thing, or says why not.
"""

from __future__ import annotations

import contextlib
import mmap
import threading
import time
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from agent.adapters.disk.artifact_cache import ArtifactCache
from agent.adapters.disk.checked_files import PartFile, drop_changed, keep_sums
from agent.adapters.disk.damage import Damage
from agent.adapters.facts.hardware import memory
from agent.adapters.facts.process_stats import proportional_memory
from agent.adapters.network.registry_answers import UnreachableError
from agent.adapters.network.registry_client import RegistryClient
from agent.adapters.signatures import verified
from agent.config.settings import AgentConfig
from agent.core.fitness import Room, is_undecided, points_at_host, unfit, why_none
from agent.core.joining import joining
from agent.core.slots import Choice, SlotRecord
from agent.errors import AgentError, PermanentError, StepCancelledError, TransientError
from agent.worker.golden import measure_parity
from agent.worker.handle import start_worker
from agent.worker.measure import Measurement
from agent.worker.spec import Samples, Worker, WorkerSpec, arenas_for, checked_measurement
from registry.contracts.catalogue.batching import BatchingMode
from registry.contracts.catalogue.manifest import FileRef, ImageInput, Manifest, Parity, Variant
from registry.contracts.codes import DeploymentCode
from registry.contracts.device.messages import DesiredModel
from registry.contracts.enums import OLDER_READER
from registry.contracts.fit.platforms import Platform
from registry.contracts.fit.resolution import resolve
from registry.contracts.fit.room import held_bytes
from registry.contracts.golden_vectors import read_cases
from registry.contracts.wire import Digest

if TYPE_CHECKING:
    from agent.adapters.trust.metadata import TrustedMetadata  # Imports python-tuf: only where signatures are checked.

NEVER = threading.Event()
CLOSE_S = 3.0
"""For a worker that must not serve."""
SAMPLES = 3
"""Golden cases that a model is warmed up with, until one runs."""
PROBE_AGAIN_S = 60.0
"""Loads that fail one after the other cost one probe a minute."""


class DeploymentSteps:
    """Thread-safe: keeps nothing but the facts of the host."""

    def __init__(
        self,
        config: AgentConfig,
        cache: ArtifactCache,
        registry: RegistryClient | None,
        probe: Callable[[], Platform],
        *,
        probe_again: Callable[[], Platform] | None = None,
        tell_facts: Callable[[Platform], None] = lambda _: None,
        damage: Damage | None = None,
        metadata: TrustedMetadata | None = None,
    ) -> None:
        """`probe` finds out what this host is; it is called once.

        Args:
            config: The agent's settings.
            cache: Where artifacts lie.
            registry: None: none is configured.
            probe: May take its answer from an earlier start on the same host.
            probe_again: Never does; None: as `probe`. Called when a load fails as if the host had changed.
            tell_facts: Called, from the thread of a step, with facts that are other than before.
            damage: Where damaged files are counted.
            metadata: Says which manifests are signed. None: this host checks no signatures.
        """
        self._config = config
        self._cache = cache
        self._registry = registry
        self._probe = probe
        self._probe_again = probe_again or probe
        self._tell_facts = tell_facts
        self._damage = damage or Damage()
        self._metadata = metadata
        self._facts: Platform | None = None
        self._probing = threading.Lock()
        self._probed_again = float("-inf")

    def facts(self) -> Platform:
        """What this host is; probed once, until `look_again`."""
        with self._probing:
            if self._facts is None:
                self._facts = self._probe()
            return self._facts

    def look_again(self) -> Platform:
        """What this host is by now."""
        with self._probing:
            self._facts = self._probe()
            return self._facts

    def resolve(self, model: str, desired: DesiredModel, cancel: threading.Event) -> Choice:
        """Fetches the manifest, which a trusted role lists, and chooses the variant for this host.

        Raises:
            TransientError: the manifest cannot be had now.
            PermanentError: it is not what was desired, no variant fits this host, or its code is not to be run here.
        """
        manifest = self._manifest(model, desired)
        facts = self.facts()
        resolution = resolve(manifest, facts, desired.variant)
        if is_undecided(resolution, facts):
            text = f"{model}@{desired.version}: not known whether a variant fits: {resolution.explain()}"
            raise TransientError(DeploymentCode.FACTS_UNKNOWN, text)
        variant = manifest.variant(resolution.chosen) if resolution.chosen else None
        if variant is None:
            code = why_none(resolution, pinned=desired.variant is not None)
            why = resolution.explain() or f"the version has no variant {desired.variant}"
            raise PermanentError(code, f"{model}@{desired.version}: no variant fits this host: {why}")
        verified(model, desired.version, variant, self._config)
        return Choice(
            model=model,
            version=desired.version,
            manifest=desired.manifest,
            variant=variant,
            variant_digest=variant.canonical_digest(),
            backend=next(verdict.backend for verdict in resolution.verdicts if verdict.variant == variant.name),
            profile=desired.profile,
            batching=desired.policy.batching,
            rollout=desired.rollout,
            record_results=desired.record_results,
            image=manifest.image,
            classification=manifest.classification,
            detection=manifest.detection,
            golden=manifest.golden,
            degraded=resolution.degraded,
        )

    def download(self, choice: Choice, keep: Set[Digest], cancel: threading.Event) -> None:
        """Brings the files and golden vectors of the choice into the cache, but for those that are there already.

        Raises:
            TransientError: network, disk, or other bytes than the manifest says.
            PermanentError: the registry refuses.
        """
        variant, digest = choice.variant, choice.variant_digest
        missing = self._cache.missing(variant, digest)
        golden = choice.golden.file if choice.golden is not None else None
        if missing:
            self._cache.make_room(variant, digest, keep, extra=golden.size if golden is not None else 0)
        for ref in missing:
            with self._cache.receiving(ref, cancel):
                if self._cache.lacks(digest, ref):  # another model of the same bytes may have brought it
                    with self._whole(ref, cancel) as part:
                        self._cache.admit(part, digest)
        self._cache.complete(variant, digest)
        if golden is not None:
            with self._cache.receiving(golden, cancel):
                if not self._cache.has_golden(digest, golden):
                    with self._whole(golden, cancel) as part:
                        self._cache.admit_golden(part, digest)

    def received(self, choice: Choice) -> int:
        """Bytes of the choice that are on this disk."""
        return choice.variant.size - self._cache.outstanding(choice.variant, choice.variant_digest)

    def verify(self, choice: Choice, cancel: threading.Event) -> None:
        """Reads every byte in the cache and compares it with its digest."""
        self._cache.verify(choice.variant, choice.variant_digest, cancel)
        self._cache.used(choice.variant_digest)

    def warm(self, choice: Choice, measured: Measurement | None, cancel: threading.Event) -> Worker:
        """Starts a worker. A load cannot be cancelled: its time is bounded, its worker is then discarded."""
        limits, settings = self._config.limits, self._config.worker
        folder = self._cache.files(choice.variant_digest)
        self._require_trusted(choice)
        spec = replace(
            variant_spec(
                self._config,
                choice.model,
                choice.variant,
                choice.backend,
                folder,
                mode=choice.batching,
                image=choice.image,
                slots=limits.slots,
                arenas=limits.arenas,
            ),
            entry_point=verified(choice.model, choice.version, choice.variant, self._config),
            requirements=choice.variant.requirements,
            settings=settings.options.get(choice.backend, {}),
            engines=str(self._engines(choice)),
            profile="latency" if (settings.profile or choice.profile) == "latency" else "throughput",
            cores=self._config.cores,
            samples=self._samples(choice, cancel) if measured is None else None,
            execution="inline" if choice.model in settings.inline_models else "process",
        )
        if measured is not None and measured.cap == spec.max_batch:
            with contextlib.suppress(TypeError, ValueError):  # The settings have changed since: measured again.
                spec = replace(spec, known=checked_measurement(measured, spec))
        return self._start(choice, spec)

    def _samples(self, choice: Choice, cancel: threading.Event) -> Samples | None:
        """Requests of the golden vectors to warm up with; None: there are none, or they are not as they should be,
        which `compare` then says."""
        golden = choice.golden
        if golden is None:
            return None
        path = self._cache.checked_golden(choice.variant_digest, golden.file, cancel)
        try:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                view = memoryview(content)
                try:
                    cases = read_cases(view, len(view))[:SAMPLES]
                finally:
                    view.release()
        except (OSError, ValueError):
            return None
        return Samples(
            str(path),
            tuple(
                {name: (str(span.datatype), span.shape, span.begin, span.end) for name, span in case.inputs.items()}
                for case in cases
            ),
        )

    def _start(self, choice: Choice, spec: WorkerSpec) -> Worker:
        """Only what fits this host as it is now; a load that fails as if it had changed looks at it again.

        Facts are a forecast: where they are not known yet, or a look has failed, the load itself tells. A "no" counts
        once this host was looked at again.
        The files are hashed again once the worker has read them, so that no other bytes came between check and use.
        """
        if self._facts is not None and unfit(choice, self._facts):
            self._check_fits(choice, self._new_facts(), "")
        for name in drop_changed(self._engines(choice)):
            self._damage.note("engines", f"{choice.version}: {name} is not what was compiled; it is compiled again")
        try:
            worker = start_worker(spec)
        except AgentError as error:
            self._cache.verify(choice.variant, choice.variant_digest, NEVER)  # damaged since: no fault of the version
            if points_at_host(error.code, choice.variant.target):
                self._check_fits(choice, self._new_facts(), f" (it failed with {error.code}: {error.message})")
            raise
        try:
            self._cache.verify(choice.variant, choice.variant_digest, NEVER)
        except BaseException:
            worker.close(CLOSE_S)
            raise
        keep_sums(self._engines(choice))
        return worker

    def _engines(self, choice: Choice) -> Path:
        return self._cache.files(choice.variant_digest).resolve().with_name("engines")

    @staticmethod
    def _check_fits(choice: Choice, facts: Platform, after: str) -> None:
        why = unfit(choice, facts)
        if why:
            what = f"{choice.model}@{choice.version}: variant {choice.variant.name} does not fit this host any more"
            raise PermanentError(DeploymentCode.VARIANT_UNFIT, f"{what}: {why}{after}")

    def _new_facts(self) -> Platform:
        before = self.facts()
        with self._probing:
            now = time.monotonic()
            if now - self._probed_again < PROBE_AGAIN_S:
                return self._facts or before
            self._probed_again = now
            self._facts = found = self._probe_again()
        if found.facts_digest() != before.facts_digest():
            self._tell_facts(found)
        return found

    def compare(self, choice: Choice, worker: Worker, cancel: threading.Event) -> Parity:
        """How the worker answers the version's golden vectors.

        Raises:
            TransientError: digest_mismatch: the file on disk is not the published one; it is thrown away.
            PermanentError: it is no file of golden vectors.
        """
        golden = choice.golden
        if golden is None:
            raise PermanentError("internal", f"{choice.version} has no golden vectors")
        path = self._cache.checked_golden(choice.variant_digest, golden.file, cancel)

        def check() -> None:
            if cancel.is_set():
                raise StepCancelledError

        return measure_parity(worker, path, golden, check=check)

    def room(self, active: Worker | None) -> Room:
        """The memory that is free, and what the active worker takes."""
        if active is None or active.execution == "inline":
            return Room(memory()[1])
        return Room(memory()[1], proportional_memory([active.pid]))

    def sweep(self, slots: Sequence[SlotRecord]) -> None:
        """Removes from the cache what no slot needs."""
        places = [place for slot in slots for place in slot.places()]
        manifests = {place.manifest for place in places} | {slot.desired.manifest for slot in slots if slot.desired}
        candidates = [slot.candidate for slot in slots if slot.candidate]
        parts = {ref.digest for choice in candidates for ref in choice.variant.files}
        parts |= {choice.golden.file.digest for choice in candidates if choice.golden}
        if self._metadata is not None:
            self._metadata.keep_only({slot.model for slot in slots})
        self._cache.sweep({place.variant_digest for place in places}, manifests, parts)

    def _require_trusted(self, choice: Choice) -> None:
        """What is about to be loaded is what the manifest says that a trusted role lists. Raises AgentError."""
        if self._metadata is None:
            return
        data = self._manifest_bytes(choice.manifest)
        self._metadata.require_trusted(choice.model, choice.version, choice.manifest, len(data))
        manifest = _parsed(data, choice.manifest)
        said = (manifest.variant(choice.variant.name), manifest.image, manifest.classification, manifest.detection)
        if said != (choice.variant, choice.image, choice.classification, choice.detection):
            raise PermanentError(
                DeploymentCode.MANIFEST_UNTRUSTED,
                f"{choice.model}@{choice.version}: variant {choice.variant.name} is not as its signed manifest says",
            )

    def _manifest_bytes(self, digest: Digest) -> bytes:
        data = self._cache.manifest(digest)
        if data is None:
            data = self._source().manifest(digest)
            self._cache.keep_manifest(data)
        return data

    def _manifest(self, model: str, desired: DesiredModel) -> Manifest:
        data = self._manifest_bytes(desired.manifest)
        if self._metadata is not None:
            self._metadata.require_listed(model, desired.version, desired.manifest, len(data))
        manifest = _parsed(data, desired.manifest)
        if (manifest.model, manifest.version) != (model, desired.version):
            raise PermanentError(
                DeploymentCode.MANIFEST_MISMATCH,
                f"manifest {desired.manifest} is of {manifest.model}@{manifest.version}, not {model}@{desired.version}",
            )
        return manifest

    @contextlib.contextmanager
    def _whole(self, ref: FileRef, cancel: threading.Event) -> Iterator[PartFile]:
        """The file, received to its end and hashed. A wrong digest is a TransientError."""
        with self._cache.part(ref) as part:
            part.resume(cancel)
            if part.offset < ref.size:
                self._source().download(part, cancel)
            part.check()
            yield part

    def _source(self) -> RegistryClient:
        if self._registry is None:
            raise UnreachableError("no registry is configured: set registry.url")
        return self._registry


def _parsed(data: bytes, digest: Digest) -> Manifest:
    try:
        return Manifest.model_validate_json(data, context=dict(OLDER_READER))
    except ValidationError as error:
        raise PermanentError(DeploymentCode.BAD_ANSWER, f"manifest {digest}: {error}") from None


def variant_spec(
    config: AgentConfig,
    model: str,
    variant: Variant,
    backend: str,
    folder: Path,
    *,
    mode: BatchingMode,
    image: ImageInput | None = None,
    slots: int,
    arenas: int,
) -> WorkerSpec:
    """How a variant whose files are below `folder` is loaded, within the bounds of this agent's settings; on one core.

    `arenas`: at most as many.
    """
    limits, settings = config.limits, config.worker
    allowed = joining(variant.batching, limit=limits.max_batch, mode=mode, off_here=model in settings.one_at_a_time)
    held = held_bytes(variant.inputs, variant.outputs, image)
    arenas, arena_bytes = arenas_for(arenas, limits.arena_bytes, limits.max_payload, held)
    return WorkerSpec(
        model=model,
        backend=backend,
        directory=str(folder.resolve()),
        entry=variant.entry,
        inputs=variant.inputs,
        outputs=variant.outputs,
        optional_inputs=variant.optional_inputs,
        network=variant.network,
        target=str(variant.target),
        interpreter=str(settings.python(backend)),
        memory_bytes=settings.memory_bytes,
        load_timeout_s=settings.load_timeout_s,
        run_timeout_s=settings.run_timeout_s,
        slots=slots,
        max_batch=allowed.cap,
        joining=allowed.why,
        independent=variant.batching is not None and variant.batching.allows,
        arenas=arenas,
        arena_bytes=arena_bytes,
    )
