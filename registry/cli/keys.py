"""`registry key`: keys that sign entry points, code that comes with a checkpoint. The registry never sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from registry.cli.output import require_new_file, write_secret
from registry.cli.session import Session, command
from registry.publishing.signing import Signer, load_signer, new_key

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Manage keys that sign entry points. Keys are kept in your files only; the registry stores none.",
)
KeyFile = Annotated[Path, typer.Argument(metavar="FILE", help="The private key, PEM.")]


@app.command("new")
@command
def new(session: Session, file: KeyFile) -> None:
    """Create a private key (Ed25519, mode 600), and print its public key for the agents' settings.

    Whoever has the file decides which code runs on every device that trusts the key. Do not store it on those devices
    or on the registry's host. See docs/hub.md.

    ```
    registry key new release.key
    registry publish own own.ckpt --version 1.0.0 --target cpu --entry-point network.py:create \\
        --signing-key release.key --input x:FP32:-1,4 --output y:FP32:-1,3
    ```
    """
    require_new_file(file)
    signer, content = new_key()
    write_secret(file, content, hint="Name another file.")
    session.out.note(f"The private key is in {file}.")
    _tell(session, file, signer)


@app.command("show")
@command
def show(session: Session, file: KeyFile) -> None:
    """Print the public key of a private key, for the agents' settings.

    ```
    registry key show release.key
    ```
    """
    _tell(session, file, load_signer(file))


def _tell(session: Session, file: Path, signer: Signer) -> None:
    if session.out.as_json:
        session.out.document({"file": str(file), "public_key": signer.public_key, "key": signer.key})
        return
    session.out.note(f"Its id is {signer.key}. For agent.toml, where its code may run:")
    session.out.say(f'[entry_points]\nenabled = true\ntrusted_keys = ["{signer.public_key}"]')
