"""What to type to install an extra: it names where this program came from, never a name on a public index."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from registry.installation import DISTRIBUTION, install_command, origin, requirements

DECLARED = [
    "httpx<1,>=0.28",
    'fastapi<1,>=0.115; extra == "server"',
    "psycopg[binary]<4,>=3.2 ; extra == 'postgresql'",
    'tomli>=2.2; python_version < "3.11"',
]


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({"url": "file:///src/my%20fleet", "dir_info": {"editable": True}}, (Path("/src/my fleet"), True)),
        ({"url": "file:///src/fleet", "dir_info": {}}, (Path("/src/fleet"), False)),
        ({"url": "file:///w/modelfleet-0.1.0-py3-none-any.whl", "archive_info": {}},
         (Path("/w/modelfleet-0.1.0-py3-none-any.whl"), False)),
        ({"url": "https://host/modelfleet.whl", "archive_info": {}}, (None, False)),
        ([], (None, False)),
    ],
)  # fmt: skip
def test_where_it_was_installed_from(said: object, found: tuple[Path | None, bool]) -> None:
    assert origin(json.dumps(said)) == found


def test_where_it_was_installed_from_is_not_known() -> None:
    assert origin(None) == origin("no json") == (None, False)


def test_the_packages_of_extras() -> None:
    assert requirements(DECLARED, ("server", "postgresql")) == ["fastapi<1,>=0.115", "psycopg[binary]<4,>=3.2"]
    assert requirements(DECLARED, ("agent",)) == []


def test_the_command_never_asks_an_index_for_this_distributions_name() -> None:
    command = install_command("server", "postgresql")
    assert "install" in command
    assert f"'{DISTRIBUTION}[" not in command
    assert f" {DISTRIBUTION}[" not in command
