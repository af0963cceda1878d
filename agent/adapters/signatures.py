"""Whose code runs here: the signature of an entry point is verified by the agent, before a worker process is started.

Ed25519 (RFC 8032) by the package cryptography, which only hosts that switch entry points on need. Nothing of a module
is read, imported or run here. What is verified are digests: that the files have them is checked when they come
(`artifact_cache`), and of the module once more by the worker that compiles it.
"""

from __future__ import annotations

import base64
from importlib.util import find_spec

from agent.backends.base import VerifiedEntryPoint
from agent.config.sections import EntryPointSettings
from agent.config.settings import AgentConfig
from agent.errors import PermanentError
from registry.contracts.catalogue.manifest import Variant
from registry.contracts.catalogue.signed_bytes import signed_bytes
from registry.contracts.codes import DeploymentCode
from registry.contracts.wire import Digest, Name, VersionName
from registry.installation import install_command

LIBRARY = "cryptography"


def missing() -> str:
    """What is missing where signatures cannot be verified, and what installs it."""
    return f"the package {LIBRARY} is missing: {install_command('signing')}"


def trusted(settings: EntryPointSettings) -> tuple[Digest, ...]:
    """Ids of the keys whose code runs here: none when it is switched off, or when nothing could be verified."""
    return tuple(sorted(settings.keys())) if find_spec(LIBRARY) is not None else ()


def verified(model: Name, version: VersionName, variant: Variant, config: AgentConfig) -> VerifiedEntryPoint | None:
    """The variant's code, which somebody whom this host trusts has signed; None when it brings none.

    Raises:
        PermanentError: entry_point_disabled, entry_point_untrusted or entry_point_signature.
    """
    code = variant.entry_point
    if code is None:
        return None
    what = f"{model}@{version}: variant {variant.name} brings code ({code.module}:{code.function})"
    keys = config.entry_points.keys()
    if not keys:
        why = "entry_points.enabled is off in this host's settings; with it on, signed code would run"
        raise PermanentError(DeploymentCode.ENTRY_POINT_DISABLED, f"{what}, and {why}")
    if model in config.worker.inline_models:
        why = "which runs only in a worker process: take the model out of worker.inline_models"
        raise PermanentError(DeploymentCode.ENTRY_POINT_DISABLED, f"{what}, {why}")
    if find_spec(LIBRARY) is None:
        raise PermanentError(
            DeploymentCode.ENTRY_POINT_DISABLED,
            f"{what}, which cannot be verified: {missing()}",
        )
    key = keys.get(code.key)
    if key is None:
        why = f"signed with the key {code.key}, which is none of entry_points.trusted_keys in this host's settings"
        raise PermanentError(DeploymentCode.ENTRY_POINT_UNTRUSTED, f"{what}, {why}")
    if not _is_signed(key, code.signature, signed_bytes(model, version, variant, code)):
        why = "its signature is not one of this model, version, variant, function, arguments and files"
        raise PermanentError(DeploymentCode.ENTRY_POINT_SIGNATURE, f"{what}, and {why}; nothing of it was run")
    digest = next(file.digest for file in variant.files if file.path == code.module)
    return VerifiedEntryPoint(code.module, code.function, dict(code.arguments), digest)


def _is_signed(key: bytes, signature: str, content: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - only hosts that allow code have it
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415

    try:
        Ed25519PublicKey.from_public_bytes(key).verify(base64.b64decode(signature), content)
    except (InvalidSignature, ValueError):
        return False
    return True
