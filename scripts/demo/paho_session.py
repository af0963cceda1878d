"""How a session of plain paho ends, for programs that speak MQTT below the client of devices."""

from __future__ import annotations

import paho.mqtt.client as mqtt


def end_session(client: mqtt.Client) -> None:
    """Disconnects and ends paho's thread, leaving nothing open.

    `loop_stop` leaves a pair of sockets that paho closes when the client is collected; without its callbacks the
    client is in no cycle, so that is at once.
    """
    client.disconnect()
    client.loop_stop()
    client.on_socket_open = client.on_connect = client.on_subscribe = None
    client.on_message = client.on_publish = client.on_disconnect = None
