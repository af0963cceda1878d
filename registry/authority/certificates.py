"""X.509 certificates (RFC 5280) of a fleet's own authorities: pure, keys and the time come in as arguments.

Keys are ECDSA on P-256, which every TLS library of the last ten years knows. A certificate names exactly one caller in
its common name, which a broker takes as the user name.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_LIFE = timedelta(days=3650)
"""Of an authority: it is replaced by hand, with all that trust it."""
BACKDATED = timedelta(minutes=5)
"""A certificate begins so long before it is made: clocks of hosts differ."""


@dataclass(frozen=True)
class KeyPair:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes
    """PKCS #8 without a passphrase."""

    def expires(self) -> datetime:
        """The end of the certificate, UTC."""
        return x509.load_pem_x509_certificate(self.certificate).not_valid_after_utc


def new_authority(name: str, now: datetime) -> KeyPair:
    """A root that signs certificates of callers and nothing below itself (path length 0)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(name)
    usage = _usage(key_cert_sign=True, crl_sign=True)
    certificate = (
        _begun(subject, subject, key.public_key(), now, AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pair(certificate, key)


def issue_server(authority: KeyPair, hosts: Sequence[str], now: datetime, life: timedelta) -> KeyPair:
    """A server that proves to be each of `hosts`, names or addresses; the first is its common name."""
    names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
    return _issue(authority, hosts[0], (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), names), now, life)


def issue_client(authority: KeyPair, name: str, now: datetime, life: timedelta) -> KeyPair:
    """A client that proves to be `name`."""
    return _issue(authority, name, (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]),), now, life)


def _issue(
    authority: KeyPair, name: str, extensions: Sequence[x509.ExtensionType], now: datetime, life: timedelta
) -> KeyPair:
    signer = serialization.load_pem_private_key(authority.key, None)
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise TypeError("the authority's key is not on an elliptic curve")
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    key = ec.generate_private_key(ec.SECP256R1())
    end = min(life, issuer.not_valid_after_utc - now)  # no certificate outlives its authority
    builder = (
        _begun(_name(name), issuer.subject, key.public_key(), now, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
            critical=False,
        )
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return _pair(builder.sign(signer, hashes.SHA256()), key)


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + life)
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> KeyPair:
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return KeyPair(certificate.public_bytes(serialization.Encoding.PEM), private)


def names_of(pair: KeyPair, authority: KeyPair, now: datetime, left: timedelta) -> tuple[str, ...] | None:
    """The names in a certificate; of a server all that it proves to be, of a client its common name.

    None: the certificate and the key cannot be read or do not belong together, another authority signed it, or it ends
    within `left`.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pair.certificate)
        key = serialization.load_pem_private_key(pair.key, None)
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.certificate))
    except (ValueError, TypeError, InvalidSignature):
        return None
    if key.public_key() != certificate.public_key() or certificate.not_valid_after_utc < now + left:
        return None
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return tuple(str(each.value) for each in common)
    return tuple(str(each.value) for each in found)
