"""How agents reach this registry and its broker, as the settings say it."""

from __future__ import annotations

import json
import re

from registry.config import RegistryConfig
from registry.contracts.api.agents import MAX_CA_CHARACTERS, AgentConnection, BrokerConnection
from registry.httpclient.proxies import is_loopback
from registry.trust.roots import TrustAnchors

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")


def agent_connection(config: RegistryConfig, anchors: TrustAnchors | None = None) -> AgentConnection:
    """What `public` says, else what this host uses itself, and the roots. Reads the file with the broker's
    authorities."""
    trust = json.loads(anchors.to_json()) if anchors is not None else None
    return _connection(config).model_copy(update={"trust": trust})


def _connection(config: RegistryConfig) -> AgentConnection:
    public, mqtt = config.public, config.mqtt
    url = (public.url or "").rstrip("/")
    host = public.broker_host or mqtt.host
    if host is None:
        return AgentConnection(registry_url=url)
    if public.broker_host is None and is_loopback(host):
        host = ""  # whoever asks reaches this host by the registry's address
    tls = mqtt.tls if public.broker_tls is None else public.broker_tls
    authorities, note = _authorities(config) if tls else ("", "")
    broker = BrokerConnection(
        host=host,
        port=public.broker_port or (mqtt.effective_port if tls == mqtt.tls else 8883 if tls else 1883),
        prefix=mqtt.prefix,
        tls=tls,
        authorities=authorities,
        login=mqtt.username is not None or mqtt.cert_file is not None,
    )
    return AgentConnection(registry_url=url, broker=broker, notes=(note,) if note else ())


def _authorities(config: RegistryConfig) -> tuple[str, str]:
    """The certificates, and why there are none. Only certificates: the same file may hold a private key."""
    file = config.public.broker_ca_file or config.mqtt.ca_file
    if file is None:
        return "", ""
    try:
        with file.open(encoding="ascii", errors="replace") as stream:
            text = stream.read(4 * MAX_CA_CHARACTERS)
    except OSError as error:
        return "", f"The broker's authorities are missing here: the registry cannot read {file} ({error.strerror})."
    certificates = "\n".join(_CERTIFICATE.findall(text)) + "\n"
    if len(certificates) > MAX_CA_CHARACTERS:
        return "", f"The broker's authorities are missing here: {file} is too long; name one with the broker's alone."
    if not certificates.strip():
        return "", f"The broker's authorities are missing here: {file} holds no certificate."
    return certificates, ""
