"""Certificates for servers on the loopback: an authority made on the spot, and what it signs.

Elliptic keys throughout, for an RSA key alone would cost a tenth of a second.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["Authority", "Pair", "write_key_pair"]

LIFETIME = dt.timedelta(days=2)
# A machine's clock may be set back between two tests.
LEEWAY = dt.timedelta(hours=1)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM."""

    certificate: bytes
    key: bytes

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Writes `name`.crt and `name`.key, and returns where they are."""
        certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
        certificate.write_bytes(self.certificate)
        _write_secret(key, self.key)
        return certificate, key


class Authority:
    """One that signs: `certificate` is what others trust it by."""

    def __init__(self, name: str = "cordee-test") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        unsigned = (
            _unsigned(self._name, self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
        )
        self._own = unsigned.sign(self._key, hashes.SHA256())

    @property
    def certificate(self) -> bytes:
        """As PEM."""
        return self._own.public_bytes(serialization.Encoding.PEM)

    def issue(self, name: str, groups: Iterable[str] = (), hosts: Iterable[str] = ()) -> Pair:
        """A certificate for a client called `name` of some `groups` (Kubernetes reads the organisation as those), which
        serves as a server's as well when `hosts`, names or addresses, are given."""
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        subject = x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, name)])
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
        unsigned = _unsigned(subject, self._name, key).add_extension(
            x509.BasicConstraints(ca=False, path_length=None), critical=True
        )
        names = [_general_name(host) for host in hosts]
        if names:
            purposes.append(ExtendedKeyUsageOID.SERVER_AUTH)
            unsigned = unsigned.add_extension(x509.SubjectAlternativeName(names), critical=False)
        unsigned = unsigned.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        # Python's own verification asks for both identifiers since 3.13.
        unsigned = unsigned.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
        ).add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        signed = unsigned.sign(self._key, hashes.SHA256())
        return Pair(signed.public_bytes(serialization.Encoding.PEM), _private(key))


def write_key_pair(folder: Path, name: str) -> tuple[Path, Path]:
    """A key pair without a certificate, as service-account tokens are signed with: where its two halves are."""
    key = ec.generate_private_key(ec.SECP256R1())
    public, private = folder / f"{name}.pub", folder / f"{name}.key"
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    _write_secret(private, _private(key))
    return public, private


def _unsigned(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - LEEWAY)
        .not_valid_after(now + LIFETIME)
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    # SEC 1, for Kubernetes' signer of tokens does not read PKCS #8 of every kind.
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def _write_secret(path: Path, data: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(data)
