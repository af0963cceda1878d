"""`registry console`: a link that signs in at the web console."""

from __future__ import annotations

from registry.cli.output import time_text
from registry.cli.session import Session, command
from registry.contracts.api.answers import ConsoleLink
from registry.contracts.paths import console_links_path


@command
def console(session: Session) -> None:
    """Print a link that signs you in at the registry's web console, once, within 15 minutes.

    You are then who the token of this command is. On the registry's host that is the administrator, for whoever can
    read the token in the data folder. The session ends when nobody uses it for 30 minutes, after 12 hours, or when the
    token is revoked.

    ```
    registry console
    registry console --token-file anna.token
    ```
    """
    link = session.client.change("POST", console_links_path(), None, ConsoleLink)
    url = session.address.url + link.path
    if session.out.as_json:
        session.out.document({"url": url, **link.model_dump(mode="json", exclude={"path"})})
        return
    session.out.say(url)
    session.out.note(f"It signs in once, as {link.token}, until {time_text(link.expires_at)}.")
