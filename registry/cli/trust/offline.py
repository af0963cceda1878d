"""Keys that are taken away from the registry: into one file under a passphrase, and out of its folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from registry.cli.output import CliError, require_new_file
from registry.cli.session import Session, command, confirm
from registry.client.errors import ClientError
from registry.contracts.api.trust import TrustView
from registry.contracts.paths import trust_path
from registry.contracts.texts import how_many
from registry.private_files import sync_folder, write_whole
from registry.publishing.signing import PASSPHRASE_VARIABLE

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner

OFFLINE = ("image-root", "targets", "director-root")
"""The keys that a running registry does without."""
OfflineOption = Annotated[
    Path | None,
    typer.Option(
        "--offline",
        metavar="FILE",
        help="Sign here with the keys in this file, which `registry trust offline` wrote. The passphrase is asked "
        f"for, or taken from {PASSPHRASE_VARIABLE}.",
    ),
]


@command
def offline(
    session: Session,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the keys go; a new file.")],
    *,
    folder: Annotated[
        Path | None, typer.Option("--keys", metavar="FOLDER", help="The registry's folder of keys.  [default: it says]")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Take the keys of both roots and of `targets` away from the registry. Run it on the registry's host, as its user.

    The keys go into FILE, under a passphrase, and are removed from the registry's folder once FILE was read back. The
    registry goes on publishing and ordering without them. New models are then listed by the role `unclaimed`. Once a
    year, and when keys change, sign with `--offline FILE`. If FILE is lost, devices have to get new roots by hand.

    ```
    registry trust offline root.keys
    registry trust renew root --offline root.keys
    ```
    """
    from registry.trust.private_keys import offline_file, read_offline_file  # noqa: PLC0415 - 0.1 s

    require_new_file(file)
    here = folder or Path(session.client.get(trust_path(), TrustView).folder)
    try:
        found = {each.name: each.read_bytes() for each in sorted(here.glob("*.pem")) if _is_offline(each.name)}
    except OSError as error:
        raise ClientError(f"The keys in {here} cannot be read: {error.strerror}", code="forbidden",
                          hint="Run this on the registry's host, as the user that serves it.") from error  # fmt: skip
    if not found:
        raise ClientError(f"There are no keys to be taken away in {here}", code="not_found")
    confirm(session, f"Take {', '.join(found)} away from the registry?", yes=yes)
    passphrase = _passphrase(new=True)
    content = offline_file(found, passphrase)
    _write(file, content, replace=False)
    if read_offline_file(file.read_bytes(), passphrase).keys() != found.keys():
        raise ClientError(f"{file} is not what was written; nothing was removed", code="disk_error")
    for name in found:
        (here / name).unlink()
    sync_folder(here)
    text = f"{how_many(len(found), 'key')} moved into {file}, out of {here}. Bring the file to a safe place, twice."
    session.out.answer({"file": str(file), "keys": sorted(found)}, text)


@dataclass
class OfflineKeys:
    """The keys in a file that `offline` wrote."""

    file: Path
    passphrase: bytes
    signers: dict[str, CryptoSigner]
    """By the name that the key's file had."""

    def add(self, name: str) -> CryptoSigner:
        """A new key, in the file before it is used for anything. Raises ClientError."""
        from securesystemslib.signer import CryptoSigner  # noqa: PLC0415 - 0.1 s

        from registry.trust.private_keys import offline_file  # noqa: PLC0415

        signer = CryptoSigner.generate_ed25519()
        self.signers[f"{name}-{signer.public_key.keyid[:12]}.pem"] = signer
        content = offline_file({each: one.private_bytes for each, one in self.signers.items()}, self.passphrase)
        _write(self.file, content, replace=True)
        return signer


def read_offline(file: Path) -> OfflineKeys:
    """The keys in a file that `offline` wrote. Raises ClientError."""
    from registry.trust.private_keys import MAX_OFFLINE_BYTES, read_offline_file  # noqa: PLC0415 - 0.1 s

    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_OFFLINE_BYTES + 1)
    except OSError as error:
        raise ClientError(f"{file} cannot be read: {error.strerror}", code="not_found") from error
    passphrase = _passphrase(new=False)
    try:
        return OfflineKeys(file, passphrase, read_offline_file(data, passphrase))
    except ValueError as error:
        raise ClientError(f"The keys in {file} cannot be read: {error}", code="usage") from error


def _is_offline(name: str) -> bool:
    return name.rpartition("-")[0] in OFFLINE


def _passphrase(*, new: bool) -> bytes:
    given = os.environ.get(PASSPHRASE_VARIABLE)
    if not given:
        given = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=new, err=True)
    if new and len(str(given)) < 12:
        raise CliError("The passphrase has under 12 characters", code="usage")
    return str(given).encode()


def _write(file: Path, content: bytes, *, replace: bool) -> None:
    try:
        write_whole(file.absolute(), content, replace=replace)
    except OSError as error:
        raise ClientError(
            f"{file} cannot be written: {error.strerror}; nothing was removed", code="disk_error"
        ) from error
