"""Throw-away credentials for the limit and the rivals: one CA and a P-256 certificate for each of three roles.

Made here and not by starcore.certificates: what the star is compared with shares no code with it.
"""

from __future__ import annotations

import datetime
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ROLES = ("manager", "worker", "client")
LIFETIME = datetime.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Credentials:
    """The directory that holds ca.pem, ROLE.pem and ROLE.key."""

    directory: Path

    @property
    def ca(self) -> str:
        return str(self.directory / "ca.pem")

    def certificate(self, role: str) -> str:
        return str(self.directory / f"{role}.pem")

    def key(self, role: str) -> str:
        return str(self.directory / f"{role}.key")

    def context(self, role: str) -> ssl.SSLContext:
        """TLS 1.3 only, certificates required on both sides; the manager listens, the others dial."""
        listens = role == "manager"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if listens else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(self.certificate(role), self.key(role))
        context.load_verify_locations(self.ca)
        context.verify_mode = ssl.CERT_REQUIRED
        if listens:
            context.num_tickets = 0
        return context


def make_credentials(directory: Path) -> Credentials:
    """Write a CA's certificate and three roles' certificates and keys into `directory`."""
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca = _certificate("benchmark CA", ca_key, "benchmark CA", ca_key)
    (directory / "ca.pem").write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    for role in ROLES:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate(role, key, "benchmark CA", ca_key)
        (directory / f"{role}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        path = directory / f"{role}.key"
        path.touch(mode=0o600)
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    return Credentials(directory)


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: str, issuer_key: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.timezone.utc)
    is_ca = key is issuer_key
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if is_ca:
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = builder.add_extension(usage, critical=True)
    else:
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(both), critical=False)
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())
