"""Whose code an agent would run: everything but the very thing that a trusted key signed is refused, with its code."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

import pytest

from agent.adapters import signatures
from agent.config.settings import AgentConfig
from agent.core.fitness import why_none
from agent.errors import PermanentError
from registry.contracts.catalogue.entry_points import EntryCode
from registry.contracts.catalogue.manifest import Format, Target, TensorSpec, Variant
from registry.contracts.codes import DeploymentCode as Code
from registry.contracts.fit.platforms import BackendFacts, Platform
from registry.contracts.fit.resolution import resolve
from registry.contracts.tensors import Datatype
from registry.contracts.wire import digest_of
from registry.installation import install_command
from tests.support.models.signing import Signer, signed_manifest

OWNER, STRANGER = Signer(1), Signer(2)
CODE = EntryCode(module="network.py", function="create", arguments={"num_class": 3})
X = TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 4))
Y = TensorSpec(name="y", datatype=Datatype.FP32, shape=(-1, 3))
MANIFEST = signed_manifest(OWNER, b"weights", b"code", CODE, x=X, y=Y)
VARIANT = MANIFEST.variants[0]


def config(*keys: str, enabled: bool = True, inline: tuple[str, ...] = ()) -> AgentConfig:
    """Of an agent that trusts these keys."""
    settings = {"enabled": enabled, "trusted_keys": keys}
    return AgentConfig.model_validate(
        {"device": "edge-1", "entry_points": settings, "worker": {"inline_models": inline}}
    )


def refused(variant: Variant = VARIANT, model: str = "own", version: str = "1.0.0", **settings: object) -> str:
    """The code with which the agent refuses."""
    agent = settings.get("config", config(OWNER.text))
    assert isinstance(agent, AgentConfig)
    with pytest.raises(PermanentError, match=f"{model}@{version}: variant .* brings code") as error:
        signatures.verified(model, version, variant, agent)
    return error.value.code


def changed(**update: object) -> Variant:
    """The signed variant, its entry point with other fields and the old signature."""
    assert VARIANT.entry_point is not None
    return VARIANT.model_copy(update={"entry_point": VARIANT.entry_point.model_copy(update=update)})


def with_file(path: str, data: bytes) -> Variant:
    """The signed variant with another file and the old signature."""
    files = (f.model_copy(update={"digest": digest_of(data)}) if f.path == path else f for f in VARIANT.files)
    return VARIANT.model_copy(update={"files": tuple(files)})


def test_signed_code_of_a_trusted_key_is_what_was_signed() -> None:
    code = signatures.verified("own", "1.0.0", VARIANT, config(STRANGER.text, OWNER.text))
    assert code == ("network.py", "create", {"num_class": 3}, digest_of(b"code"))


def test_a_variant_without_code_needs_no_signature() -> None:
    bare = VARIANT.model_copy(update={"entry_point": None})
    assert signatures.verified("own", "1.0.0", bare, config(enabled=False)) is None


@pytest.mark.parametrize(
    "tampered",
    [
        lambda: with_file("network.py", b"other code"),
        lambda: with_file("model.safetensors", b"other weights"),
        lambda: changed(function="other"),
        lambda: changed(arguments={"num_class": 4}),
        lambda: changed(arguments={"num_class": 3.0}),
        lambda: changed(arguments={}),
        lambda: VARIANT.model_copy(update={"name": "another"}),
        lambda: VARIANT.model_copy(update={"entry": "network.py"}),
        lambda: changed(signature="A" * 86 + "=="),
        lambda: STRANGER.sign("own", "1.0.0", VARIANT, CODE).model_copy(
            update={"entry_point": changed(key=OWNER.id, signature=_strangers_signature()).entry_point}
        ),
    ],
)
def test_anything_but_what_was_signed_is_refused(tampered: Callable[[], Variant]) -> None:
    assert refused(tampered()) == Code.ENTRY_POINT_SIGNATURE


def _strangers_signature() -> str:
    signed = STRANGER.sign("own", "1.0.0", VARIANT, CODE).entry_point
    assert signed is not None
    return signed.signature


@pytest.mark.parametrize(("model", "version"), [("other", "1.0.0"), ("own", "1.0.1")])
def test_a_signature_cannot_be_moved_to_another_model_or_version(model: str, version: str) -> None:
    assert refused(model=model, version=version) == Code.ENTRY_POINT_SIGNATURE


def test_a_key_that_is_not_trusted_is_named() -> None:
    assert refused(config=config(STRANGER.text)) == Code.ENTRY_POINT_UNTRUSTED
    assert refused(STRANGER.sign("own", "1.0.0", VARIANT, CODE)) == Code.ENTRY_POINT_UNTRUSTED


def test_code_is_off_unless_switched_on_also_where_keys_are_set() -> None:
    assert AgentConfig(device="edge-1").entry_points.enabled is False
    assert refused(config=config(OWNER.text, enabled=False)) == Code.ENTRY_POINT_DISABLED


def test_code_never_runs_in_the_agents_own_process() -> None:
    assert refused(config=config(OWNER.text, inline=("own",))) == Code.ENTRY_POINT_DISABLED


def test_without_the_library_nothing_is_verified_and_so_nothing_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(OWNER.text)
    assert signatures.trusted(settings.entry_points) == (OWNER.id,)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    assert signatures.trusted(settings.entry_points) == ()
    with pytest.raises(PermanentError, match=re.escape(install_command("signing"))) as error:
        signatures.verified("own", "1.0.0", VARIANT, settings)
    assert error.value.code == Code.ENTRY_POINT_DISABLED


@pytest.mark.parametrize(
    ("keys", "pinned", "code"),
    [
        ((), False, Code.ENTRY_POINT_DISABLED),
        ((), True, Code.ENTRY_POINT_DISABLED),
        ((STRANGER.id,), True, Code.ENTRY_POINT_UNTRUSTED),
    ],
)
def test_a_deployment_that_only_code_keeps_from_fitting_says_so(
    keys: tuple[str, ...], code: Code, *, pinned: bool
) -> None:
    backend = BackendFacts(
        name="mindspore", usable=True, version="2.10.0", formats=(Format.MINDSPORE_CKPT,), targets=(Target.CPU,),
        entry_points=keys,
    )  # fmt: skip
    host = Platform(os="linux", arch="x86_64", backends=(backend,))
    assert why_none(resolve(MANIFEST, host), pinned=pinned) is code
    bare = host.model_copy(update={"backends": ()})
    assert why_none(resolve(MANIFEST, bare), pinned=pinned) not in (code, Code.ENTRY_POINT_DISABLED)
