"""Settings of Eclipse Mosquitto 2 for a fleet (mosquitto.conf(5)). Pure.

Two listeners, each with an authority and access rules of its own. On the one for devices the broker takes the
certificate's common name as user name and as client id: a device can neither act as another nor take its session.
"""

from __future__ import annotations

from collections.abc import Iterable

from registry.brokers.access import BrokerAccess, BrokerSettings
from registry.brokers.grants import ME, REGISTRY, Grant, application_grants, device_grants, registry_grants
from registry.contracts.topics import Topics

CONFIG, DEVICE_RULES, SERVICE_RULES = "mosquitto.conf", "devices.acl", "services.acl"
SERVER_CERTIFICATE, SERVER_KEY = "broker.pem", "broker.key"
DEVICES_AUTHORITY, SERVICES_AUTHORITY = "devices-ca.pem", "services-ca.pem"
MAX_PACKET = 268_435_455
"""Bytes. The protocol's longest; from Mosquitto 2.1 on the default is 2 MB, which a batch of pictures exceeds."""

_CONFIG = """\
# Made by `registry broker config mosquitto`, which makes it again: put settings of your own into another file.

per_listener_settings true
persistence true
autosave_interval 1
autosave_on_changes true
# Without it a round trip at QoS 1 takes 44 ms.
set_tcp_nodelay true
# Requests at QoS 1 that one agent may have under way.
max_inflight_messages 1000
# Of one client. Above it Mosquitto drops messages although their sender got its PUBACK.
max_queued_messages 100000
max_packet_size {max_packet}
max_keepalive 3600
# Sessions of devices that do not come back.
persistent_client_expiration 14d
"""
_LISTENER = """
listener {port}
cafile {folder}/{authority}
certfile {folder}/{certificate}
keyfile {folder}/{key}
tls_version tlsv1.2
require_certificate true
allow_anonymous false
use_identity_as_username true
acl_file {folder}/{rules}
"""


def mosquitto_files(topics: Topics, access: BrokerAccess, settings: BrokerSettings) -> dict[str, str]:
    """File name to content, without certificates and keys."""
    listener = _LISTENER.format_map
    common = {"folder": settings.folder, "certificate": SERVER_CERTIFICATE, "key": SERVER_KEY}
    for_devices = common | {"port": settings.devices_port, "authority": DEVICES_AUTHORITY, "rules": DEVICE_RULES}
    for_services = common | {"port": settings.services_port, "authority": SERVICES_AUTHORITY, "rules": SERVICE_RULES}
    config = [
        _CONFIG.format(max_packet=MAX_PACKET),
        "\n# Devices: user name and client id are the common name of the certificate.",
        listener(for_devices) + "use_username_as_clientid true\n",
        "\n# The registry and applications: the user name is the common name of the certificate.",
        listener(for_services),
    ]
    devices = _patterns(device_grants(topics, pools=settings.pools, home_assistant=settings.home_assistant))
    denied = [f"user {name}\ntopic deny #\n" for name in sorted(access.denied)]
    services = [_user(REGISTRY, registry_grants(topics))]
    for name, application in sorted(access.applications.items()):
        services.append(_user(name, application_grants(topics, name, application)))
    # A rule for one user comes before the patterns, which hold for all.
    return {
        CONFIG: "".join(config),
        DEVICE_RULES: "\n".join([*denied, *devices]) + "\n",
        SERVICE_RULES: "\n".join(services),
    }


def _patterns(grants: Iterable[Grant]) -> list[str]:
    """Each holds for every user; %u is the user's name."""
    return [f"pattern {grant.access.value} {grant.topic.replace(ME, '%u')}" for grant in _once(grants)]


def _user(name: str, grants: Iterable[Grant]) -> str:
    return "\n".join([f"user {name}", *(f"topic {grant.access.value} {grant.topic}" for grant in _once(grants)), ""])


def _once(grants: Iterable[Grant]) -> Iterable[Grant]:
    return dict.fromkeys(grants)
