"""Who is signed in at the console: sessions of browsers, and links that open one once.

Both belong to a token and go with it. `token_hash` is that of the token when they were made: a token that was replaced
under the same name opens nothing any more.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from registry.db.base import WHO, Base, Numbered


class OfToken:
    """Rows of a token, which go with it."""

    token: Mapped[str] = mapped_column(WHO, ForeignKey("tokens.name", ondelete="CASCADE"), index=True)
    token_hash: Mapped[str] = mapped_column(String(64))


class ConsoleSessionRow(Numbered, OfToken, Base):
    """One browser that signed in. Only the hash of its cookie is kept."""

    __tablename__ = "console_sessions"

    secret_hash: Mapped[str] = mapped_column(String(64), unique=True)
    opened_at: Mapped[datetime]
    used_at: Mapped[datetime] = mapped_column(index=True)
    """About when a person last used it."""
    browser: Mapped[str] = mapped_column(String(200), default="")
    """What the browser says that it is."""
    address: Mapped[str] = mapped_column(String(64), default="")
    """From where it signed in."""
    said: Mapped[str] = mapped_column(Text, default="", server_default="")
    """What the next page tells: how the last action ended."""


class ConsoleLinkRow(OfToken, Base):
    """A link that signs in once. Only the hash of its code is kept."""

    __tablename__ = "console_links"

    secret_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    expires_at: Mapped[datetime] = mapped_column(index=True)
