"""What every command says whose selector matches no device: the labels that there are."""

from __future__ import annotations

from registry.cli.output import CliError
from registry.cli.session import Session
from registry.client.errors import UsageFault
from registry.contracts.api.labels import LabelsView
from registry.contracts.paths import labels_path


def no_match(session: Session, selector: str) -> CliError:
    """The error of a command whose selector matches no device, with the labels that there are."""
    from registry.core.labels import no_match_text  # noqa: PLC0415 - only where it failed
    from registry.core.selectors import SelectorError, parse  # noqa: PLC0415

    try:
        wanted = parse(selector)
    except SelectorError as error:
        raise UsageFault(str(error)) from None
    there = session.client.get(labels_path(), LabelsView)
    keys = {each.key: list(each.values) for each in there.keys}
    hint = no_match_text(wanted, keys, {each.key: each.more for each in there.keys})
    return CliError(f"No device matches {selector!r}", code="not_found", hint=hint)
