"""The registry's own loop for paho replaces one that paho has."""

from __future__ import annotations

import inspect

import paho.mqtt.client as paho

from registry.server.mqtt.polling import PollingClient


def test_paho_has_the_loop_that_is_replaced() -> None:
    theirs = inspect.getsource(paho.Client._loop)
    assert "select.select(" in theirs
    assert "loop_read" in theirs
    assert "loop_write" in theirs
    assert "loop_misc" in theirs
    assert "_sockpairR" in theirs
    assert "self._loop(timeout)" in inspect.getsource(paho.Client.loop_forever)
    ours = inspect.signature(PollingClient._loop)
    assert list(ours.parameters) == list(inspect.signature(paho.Client._loop).parameters)
