"""`registry trust`: who signs what, and until when; keys replaced, revoked, delegated, and taken away.

What needs keys that were taken away is signed here with `--offline FILE`; these keys never reach the registry.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from registry.cli.output import CliError, time_text
from registry.cli.session import Session, command, confirm
from registry.cli.trust.offline import OfflineKeys, OfflineOption, read_offline
from registry.cli.trust.offline import offline as take_offline
from registry.client.errors import ClientError
from registry.contracts.api.trust import SignedFile, SignedFiles, TrustChange, TrustChanged, TrustChangeKind, TrustView
from registry.contracts.paths import trust_changes_path, trust_files_path, trust_path
from registry.contracts.texts import how_many

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner, Signer
    from tuf.api.metadata import Metadata

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="See who signs versions and orders, and change it: docs/trust.md.",
)
KEPT_OFFLINE = {("image", "root"): "image-root", ("image", "targets"): "targets", ("director", "root"): "director-root"}
"""Keys that are made where the offline keys are, by the role that they sign."""
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Repository = Literal["image", "director"]
RepositoryOption = Annotated[Repository, typer.Option("--repository", help="Whose role.")]
Role = Annotated[
    str,
    typer.Argument(
        metavar="ROLE",
        help="`root`, `targets`, `online` (snapshot and timestamp) or `models` (the registry's own key of models); of "
        "the director `root` or `targets` (desired documents).",
    ),
]


@app.command("status")
@command
def status(session: Session) -> None:
    """Show roles, keys and when what they signed expires.

    ```
    registry trust status
    ```
    """
    view = session.client.get(trust_path(), TrustView)
    if session.out.as_json:
        session.out.document(view)
        return
    out = session.out
    if view.problem:
        out.warn(view.problem)
    rows = (
        (
            f"{role.repository} {role.role}",
            role.version if role.version is not None else "-",
            "each document" if role.expires is None else time_text(role.expires),
            "-" if role.days_left is None else f"{role.days_left:.1f}",
            f"{role.here} of {len(role.keys)}" + (f", {role.threshold} needed" if role.threshold > 1 else ""),
        )
        for role in view.roles
    )
    out.table(("ROLE", ">VERSION", "EXPIRES", ">DAYS LEFT", "KEYS HERE"), rows, empty="Nothing is signed yet.")
    out.say("")
    keys = ((key.keyid[:12], key.kind, "here" if key.here else "elsewhere", _some(key.signs)) for key in view.keys)
    out.table(("KEY", "KIND", "PRIVATE KEY", "SIGNS"), keys, empty="")
    out.say(f"\nModels with a role of their own: {view.models}; keys elsewhere sign {view.models_elsewhere}.")
    out.say(f"The registry keeps its private keys in {view.folder}.")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


@app.command("rotate")
@command
def rotate(
    session: Session,
    role: Role,
    *,
    repository: RepositoryOption = "image",
    offline: OfflineOption = None,
    yes: YesOption = False,
) -> None:
    """Replace the key of a role by a new one, which the registry makes. The old key signs nothing any more.

    Devices follow by the next root. With --offline the change is signed here, by keys that were taken away; a new key
    of a root or of `targets` is then made here, too, and put into the same file before it is used.

    ```
    registry trust rotate online
    registry trust rotate targets --repository director
    registry trust rotate online --offline root.keys
    ```
    """
    confirm(session, f"Replace the key of {repository} {role}?", yes=yes)
    kept = read_offline(offline) if offline is not None else None
    new: tuple[CryptoSigner, ...] = ()
    if kept is not None and (name := KEPT_OFFLINE.get((repository, role))) is not None:
        new = (kept.add(name),)
    public = tuple(_public(signer) for signer in new)
    change = TrustChange(kind=TrustChangeKind.ROTATE, repository=repository, role=role, keys=public)
    _apply(session, change, kept, yes=yes)


@app.command("renew")
@command
def renew(
    session: Session,
    role: Role,
    *,
    repository: RepositoryOption = "image",
    offline: OfflineOption = None,
    yes: YesOption = False,
) -> None:
    """Sign a role again for a whole life, with the same keys. The registry does so by itself where it has the keys.

    ```
    registry trust renew root --offline root.keys
    ```
    """
    change = TrustChange(kind=TrustChangeKind.RENEW, repository=repository, role=role)
    _apply(session, change, read_offline(offline) if offline is not None else None, yes=yes)


@app.command("revoke")
@command
def revoke(
    session: Session,
    key: Annotated[str, typer.Argument(metavar="KEY", help="The key's id, or how it begins.")],
    *,
    offline: OfflineOption = None,
    yes: YesOption = False,
) -> None:
    """Let a key sign nothing any more. Where its role has no other, a new key of the registry takes its place.

    ```
    registry trust revoke 3f2a91c0d5e7
    ```
    """
    confirm(session, f"Revoke the key {key}?", yes=yes)
    kept = read_offline(offline) if offline is not None else None
    _apply(session, TrustChange(kind=TrustChangeKind.REVOKE, key=key), kept, yes=yes)


@app.command("delegate")
@command
def delegate(
    session: Session,
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    *,
    key: Annotated[
        list[Path] | None,
        typer.Option("--key", metavar="FILE", help="A private key of the publisher, PEM; may be repeated."),
    ] = None,
    threshold: Annotated[int, typer.Option("--threshold", min=1, max=16, help="So many of them have to sign.")] = 1,
    back: Annotated[bool, typer.Option("--back", help="To the registry's own key.")] = False,
    offline: OfflineOption = None,
    yes: YesOption = False,
) -> None:
    """Have a publisher's own keys sign the versions of a model. Afterwards only `registry publish --key` adds versions.

    The keys sign here what is listed now, and stay here: the registry gets their public part. `registry key new FILE`
    makes one. Variants that devices convert are not added to such a model.

    ```
    registry key new ci.key
    registry trust delegate lenet --key ci.key
    registry publish lenet lenet.onnx --version 1.1.0 --target cpu --key ci.key
    ```
    """
    from registry.publishing.model_signing import load_model_key  # noqa: PLC0415 - python-tuf: 0.1 s

    if back == bool(key):
        raise CliError("Give --key FILE, or --back", code="usage")
    signers = [load_model_key(path) for path in key or ()]
    files = _listed_now(session, model, signers) if signers else ()
    names = ", ".join(signer.public_key.keyid[:12] for signer in signers) or "the registry's own key"
    confirm(session, f"Have {names} sign the versions of {model}?", yes=yes)
    public = tuple(_public(signer) for signer in signers)
    change = TrustChange(kind=TrustChangeKind.DELEGATE, model=model, keys=public, threshold=threshold, files=files)
    _apply(session, change, read_offline(offline) if offline is not None else None, yes=yes)


def _public(signer: Signer) -> dict[str, Any]:
    return {"keyid": signer.public_key.keyid, **signer.public_key.to_dict()}


def _listed_now(session: Session, model: str, signers: Sequence[Signer]) -> tuple[SignedFile, ...]:
    """The model's role as it is, signed by its new keys; for a model without one, an empty list."""
    from tuf.api.metadata import Metadata, Targets  # noqa: PLC0415 - 0.1 s

    from registry.publishing.model_signing import fetch_metadata, signed_again  # noqa: PLC0415
    from registry.trust.names import model_role  # noqa: PLC0415

    role = model_role(model)
    found = fetch_metadata(session.client, f"{role}.json")
    metadata: Metadata[Any] = found or Metadata(Targets(version=1, targets={}))
    session.out.note(
        f"{model}: {how_many(len(metadata.signed.targets), 'version')} listed now; what is listed stays listed."
    )
    for path in sorted(metadata.signed.targets)[:20]:
        session.out.note(f"  {path}")
    version = metadata.signed.version + 1 if found is not None else 1
    return (signed_again(role, metadata, version, signers, session.now()),)


app.command("offline")(take_offline)


def _apply(session: Session, change: TrustChange, kept: OfflineKeys | None, *, yes: bool) -> None:
    """Make the change; where keys are needed that are not in the registry, sign it here."""
    changed = session.client.change("POST", trust_changes_path(), change, TrustChanged)
    if not changed.done:
        if kept is None:
            roles = ", ".join(f"{file.repository} {file.role}" for file in changed.unsigned)
            raise ClientError(
                f"Nothing was changed: keys that are not in the registry have to sign {roles}", code="key_offline",
                hint="Give --offline FILE, the file that `registry trust offline` wrote",
            )  # fmt: skip
        for line in changed.lines:
            session.out.note(line)
        confirm(session, "Sign this with the offline keys?", yes=yes)
        files = [_signed(file, list(kept.signers.values())) for file in changed.unsigned]
        body = SignedFiles(files=(*files, *change.files))
        changed = session.client.change("POST", trust_files_path(), body, TrustChanged, repeatable=True)
    session.out.answer(changed, "\n".join(changed.lines) or "Nothing had to be changed.")


def _signed(file: SignedFile, signers: Sequence[Signer]) -> SignedFile:
    from tuf.api.metadata import Metadata  # noqa: PLC0415 - 0.1 s

    metadata: Metadata[Any] = Metadata.from_dict(json.loads(json.dumps(file.metadata)))
    for signer in signers:
        metadata.sign(signer, append=True)
    return file.model_copy(update={"metadata": metadata.to_dict()})
