"""Entry points: the function is looked for without running its module, and the module is signed.

Signatures are Ed25519 (RFC 8032) by the package cryptography, imported on use. A key's file is what `registry key new`
or `openssl genpkey -algorithm ed25519` writes: PKCS #8 in PEM, without a password. Whoever can read it decides what
runs on every device that trusts it, so a file that others can read is refused.

Of functions only what certainly lacks is refused, which else only a device would find. A name may come into a module by
a definition, an assignment or an import, behind any `if` or `try`, or in ways that only running would show: a star
import, `exec`, `globals()["create"]`.
"""

from __future__ import annotations

import ast
import base64
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from registry.client.errors import ClientError, UsageFault
from registry.contracts.catalogue.entry_points import MAX_MODULE_BYTES, EntryCode, key_id, key_text
from registry.contracts.catalogue.manifest import Variant
from registry.contracts.catalogue.signed_bytes import signed_bytes
from registry.contracts.wire import Digest
from registry.installation import install_command

_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


PASSPHRASE_VARIABLE = "MODELFLEET_KEY_PASSPHRASE"  # noqa: S105 - the name of a variable
MAX_KEY_FILE_BYTES = 1 << 14
OTHERS = 0o077


def require_function(path: Path, function: str) -> None:
    """Raises UsageFault: the file at `path` is no Python that is read here, or binds no such name at its top level."""
    with path.open("rb") as file:
        source = file.read(MAX_MODULE_BYTES + 1)
    if len(source) > MAX_MODULE_BYTES:
        raise UsageFault(f"The entry point {path} is over {MAX_MODULE_BYTES} bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its style
            module = ast.parse(source)
    except SyntaxError as error:
        where = f", line {error.lineno}" if error.lineno else ""
        raise UsageFault(f"The entry point {path}{where}: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise UsageFault(f"The entry point {path} is no Python: {str(error) or 'nested too deeply'}") from None
    if not _may_bind(module, function):
        raise UsageFault(
            f"The entry point {path} has no function {function!r} at its top level",
            hint="--entry-point FILE.py:FUNCTION, or `function` in the publish file",
        )


def _may_bind(module: ast.Module, name: str) -> bool:
    if any(_binds_from_afar(node, name) for node in ast.walk(module)):
        return True
    left: list[ast.AST] = [*module.body]
    while left:
        node = left.pop()
        if _binds(node, name):
            return True
        if not isinstance(node, _SCOPES):
            left += ast.iter_child_nodes(node)
    return False


def _binds(node: ast.AST, name: str) -> bool:
    """At the top level: as a definition, an import or an assignment."""
    if isinstance(node, ast.alias):
        return (node.asname or node.name.partition(".")[0]) in (name, "*")
    if isinstance(node, ast.Name):
        return node.id == name and isinstance(node.ctx, ast.Store)
    return getattr(node, "name", None) in (name, "__getattr__")  # a definition, or what a pattern takes


def _binds_from_afar(node: ast.AST, name: str) -> bool:
    """At any depth: in ways that reach the top level from elsewhere."""
    if isinstance(node, ast.Global):
        return name in node.names
    if isinstance(node, ast.Attribute):
        return node.attr == name and isinstance(node.ctx, ast.Store)
    if isinstance(node, ast.Constant):
        return bool(node.value == name)
    return isinstance(node, ast.Name) and node.id == "exec"


if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


class Signer:
    """Holds one private key."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self._public = private.public_key().public_bytes_raw()

    @property
    def key(self) -> Digest:
        """The public key's id, as it stands in manifests."""
        return key_id(self._public)

    @property
    def public_key(self) -> str:
        """The public key, as it stands in an agent's settings."""
        return key_text(self._public)

    def signed(self, model: str, version: str, variant: Variant, code: EntryCode) -> Variant:
        """The variant with its entry point. Raises ValidationError: such a variant cannot be."""
        signature = self._private.sign(signed_bytes(model, version, variant, code))
        said = {**code.to_json(), "key": self.key, "signature": base64.b64encode(signature).decode("ascii")}
        return Variant.model_validate({**variant.to_json(), "entry_point": said})


def new_key() -> tuple[Signer, str]:
    """A new key, and its file's content. Raises ClientError: the library is missing."""
    require_library()
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415

    private = Ed25519PrivateKey.generate()
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return Signer(private), private.private_bytes(*form).decode("ascii").strip()


def load_signer(path: Path) -> Signer:
    """The key in a file.

    Raises:
        ClientError: the library is missing, or the file is not there or can be read by others.
        UsageFault: it holds no Ed25519 private key without a password.
    """
    require_library()
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    try:
        with path.open("rb") as file:
            mode, data = path.stat().st_mode, file.read(MAX_KEY_FILE_BYTES)
    except OSError as error:
        raise ClientError(f"The signing key {path} cannot be read: {error.strerror}", code="not_found") from error
    if mode & OTHERS:
        raise ClientError(
            f"The signing key {path} can be read by others", code="forbidden", hint=f"chmod 600 {path}; or a new key"
        )
    try:
        private = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageFault(
            f"{path} holds no private key that can be used: {error}", hint="registry key new FILE"
        ) from None
    if not isinstance(private, Ed25519PrivateKey):
        raise UsageFault(f"{path} holds a key of another kind than Ed25519", hint="registry key new FILE")
    return Signer(private)


def require_library() -> None:
    """Raises ClientError: the library is missing."""
    try:
        import cryptography  # noqa: F401, PLC0415 - only who signs needs it
    except ImportError as error:
        raise ClientError(
            "Signing needs the package cryptography, which is not installed here",
            code="tool_missing",
            hint=install_command("signing"),
        ) from error
