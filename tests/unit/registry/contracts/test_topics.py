"""Topics are built and taken apart in one place, and a client cannot make an agent write into the fleet's tree."""

from __future__ import annotations

import pytest

from registry.contracts.topics import Topics

TOPICS = Topics("fleet/v1")


def test_a_device_topic_is_parsed_as_it_was_built() -> None:
    assert TOPICS.parse_device(TOPICS.device("edge-1", "health")) == ("edge-1", "health", "")
    assert TOPICS.parse_device(TOPICS.infer("edge-1", "lenet")) == ("edge-1", "infer", "lenet")
    assert TOPICS.parse_device("other/devices/edge-1/health") is None
    assert TOPICS.parse_device("fleet/v1/devices/a/b/c/d") is None


@pytest.mark.parametrize(
    "topic",
    [
        "reply/1",
        "a",
        "fleet/v10/x",
        "modelfleet-replies/app/1",
        "my/devices/x/answers",
        "devices/a",
        "ü/ß",
        "😀",
        "/".join("a" * 64),
    ],
)
def test_a_reply_may_go_anywhere_outside_the_fleets_tree(topic: str) -> None:
    assert TOPICS.allows_reply(topic)


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "$SYS/x",
        "$share/g/x",
        "a/+/b",
        "a/#",
        "a\0b",
        "fleet/v1",
        "fleet/v1/devices/edge-1/desired",
        "modelfleet/v1/infer/lenet",
        "modelfleet/anything",
        "another/fleet/devices/edge-1/desired",
        "another/devices/edge-1/infer/lenet",
        "another/devices/edge-1/reported",
        "x" * 1025,
        "ü" * 600,
        "/".join("a" * 65),
        "/" * 201,
        "a\x01b",
        "a\x85b",
        "a\ufdd0b",
        "a\ufffeb",
        "a\U0001fffeb",
        "a\ud800b",
    ],
)
def test_a_reply_topic_that_could_do_harm_is_refused(topic: str) -> None:
    assert not TOPICS.allows_reply(topic)


@pytest.mark.parametrize("prefix", ["", "/a", "a/", "a//b", "a/+", "#", "$a", "a\0"])
def test_a_bad_prefix_is_refused_at_once(prefix: str) -> None:
    with pytest.raises(ValueError, match="prefix"):
        Topics(prefix)
