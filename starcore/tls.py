"""Mutual TLS 1.3: who we are, whom we trust, and who the other end turned out to be.

This is not where certificates are made or files are read (`certificates.py`, `settings.py`): an identity holds PEM
text, and what stands here turns it into `ssl` contexts and a finished handshake into a `Peer`::

    ManagerIdentity --listen_context(role)--> SSLContext --handshake--> ssl object --identify(role)--> Peer
    DialerIdentity  --dial_context()--------> SSLContext --handshake--> ssl object --identify(MANAGER)--> Peer

Two modes, one code path:

*the star's own CA*   The chain is verified strictly, and dialers check a fixed server name, whatever the address: a
    manager that moves needs no new certificate. TLS cannot tell a client's certificate from a worker's, since both
    come from one CA and are good for clientAuth, so the role is read from the URI in the certificate and compared here.
*pinned*   The self-signed certificates of the first StarCompute. Such a certificate says CA:TRUE, so OpenSSL also
    accepts whatever its key has signed; the peer's own certificate is therefore compared by its SHA-256 as well.
    The name and the address are not looked at: the certificate itself is what is known.

In TLS 1.3 a dialer that the manager refuses still sees its handshake succeed. The alert comes with its first read, or
never: a manager that ran on asyncio's TLS or uvloop's sends none. Only WELCOME says that a dialer is in, and `explain`
turns what came instead, be it nothing, into a sentence.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import socket
import ssl
import tempfile
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from starcore.errors import CredentialsError, MisuseError, StarCoreError, UnreachableError
from starcore.events import Peer
from starcore.messages import ALPN, Role
from starcore.proxies import Proxy

SERVER_NAME = "manager.starcore.internal"
"""The DNS name in every manager's certificate. It is never looked up."""
ROLE_URI = "starcore:role:"
"""What the URI in a certificate begins with; the role's name in small letters follows."""
NAME_CHARACTERS_MAX = 64

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


# -- who we are ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ManagerIdentity:
    """A manager's certificate and key (PEM), and whom its two ports trust (PEM, one certificate or several)."""

    certificate: str = field(repr=False)
    key: str = field(repr=False)
    workers: str = field(repr=False)
    clients: str = field(repr=False)
    pinned: bool = False
    source: str = ""
    renewal: str = ""
    star: str = ""

    def trusted(self, role: Role) -> str:
        """Return the certificates that vouch for peers of `role`."""
        if role is Role.MANAGER:
            raise MisuseError("a manager has no port for managers")
        return self.workers if role is Role.WORKER else self.clients


@dataclass(frozen=True, slots=True)
class DialerIdentity:
    """A worker's or client's certificate and key (PEM), and the CA or certificate that its manager must show.

    `source` is the file that it came from and `renewal` the command that makes a new one; both are for error texts.
    """

    role: Role
    name: str
    certificate: str = field(repr=False)
    key: str = field(repr=False)
    manager: str = field(repr=False)
    pinned: bool = False
    source: str = ""
    renewal: str = ""
    star: str = ""

    @property
    def server_name(self) -> str:
        """What to pass as `server_hostname`, whatever the manager's address is."""
        return SERVER_NAME

    def trusted(self, role: Role) -> str:
        """Return the certificates that vouch for peers of `role`."""
        if role is not Role.MANAGER:
            raise MisuseError(f"a {self.role.name.lower()} only ever talks to a manager")
        return self.manager


@dataclass(frozen=True, slots=True)
class Target:
    """Where to dial, as whom, which of the settings said so, and by which proxy, if any."""

    host: str
    port: int
    identity: DialerIdentity
    origin: str
    proxy: Proxy | None = None

    @property
    def address(self) -> str:
        """The address as people write it."""
        return join_address(self.host, self.port)


def join_address(host: str, port: int) -> str:
    """Return an address as people write it, IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# -- contexts ------------------------------------------------------------------------------------------------


def listen_context(identity: ManagerIdentity, role: Role) -> ssl.SSLContext:
    """Return the context of the port that serves peers of `role`.

    Raises
    ------
    CredentialsError
        The manager's certificate is expired or not yet valid, or certificate and key do not belong together.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, identity, identity.trusted(role))
    context.num_tickets = 0  # a ticket would be resumed after its owner was shut out
    return context


def dial_context(identity: DialerIdentity) -> ssl.SSLContext:
    """Return the context for dialing the manager; pass `identity.server_name` as `server_hostname`.

    Raises
    ------
    CredentialsError
        The own certificate is expired or not yet valid, or certificate and key do not belong together.
    """
    return _context(ssl.PROTOCOL_TLS_CLIENT, identity, identity.manager)


def _context(protocol: int, identity: ManagerIdentity | DialerIdentity, trusted: str) -> ssl.SSLContext:
    _check_dates(identity)
    context = ssl.SSLContext(protocol)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = protocol == ssl.PROTOCOL_TLS_CLIENT and not identity.pinned
    context.verify_mode = ssl.CERT_REQUIRED
    # A pinned certificate is trusted for itself, and not because it happens to be its own issuer.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN if identity.pinned else ssl.VERIFY_X509_STRICT
    context.set_alpn_protocols([ALPN])
    try:
        context.load_verify_locations(cadata="\n".join(_blocks(trusted)))  # what openssl writes around them stays out
    except (ssl.SSLError, ValueError) as exc:
        raise CredentialsError(f"{identity.source}: no usable certificate of the other end in it") from exc
    _load_own(context, identity)
    return context


def _load_own(context: ssl.SSLContext, identity: ManagerIdentity | DialerIdentity) -> None:
    # OpenSSL takes its own certificate and key only by path, so both pass through a directory that nobody else enters.
    def refuse() -> str:
        raise CredentialsError(f"{identity.source}: the key has a passphrase; write one without: openssl pkey -in KEY")

    with tempfile.TemporaryDirectory(prefix="starcore-") as directory:
        path = os.path.join(directory, "own.pem")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(f"{identity.certificate}\n{identity.key}\n")
        try:
            context.load_cert_chain(path, password=refuse)
        except ssl.SSLError as exc:
            mismatch = "KEY_VALUES_MISMATCH" in f"{exc.reason}"
            problem = "the key does not belong to the certificate" if mismatch else "no usable certificate and key"
            raise CredentialsError(f"{identity.source}: {problem}") from exc


def _check_dates(identity: ManagerIdentity | DialerIdentity) -> None:
    begin, end = validity(identity.certificate, identity.source)
    now = datetime.now(timezone.utc)
    if end <= now:
        renew = f"; renew it with: {identity.renewal}" if identity.renewal else ""
        raise CredentialsError(f"{identity.source}: the certificate expired on {end:%Y-%m-%d %H:%M} UTC{renew}")
    if begin > now:
        raise CredentialsError(
            f"{identity.source}: the certificate is not valid before {begin:%Y-%m-%d %H:%M} UTC, and it is "
            f"{now:%Y-%m-%d %H:%M} here; set this machine's clock, or renew it with: {identity.renewal}"
        )


def validity(pem: str, source: str) -> tuple[datetime, datetime]:
    """Return the first and the last moment (UTC) at which the first certificate in `pem` is valid."""
    from cryptography import x509  # noqa: PLC0415 - 50 ms that only those who open a connection pay

    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
    except ValueError as exc:
        raise CredentialsError(f"{source}: no certificate that can be read") from exc
    return certificate.not_valid_before_utc, certificate.not_valid_after_utc


# -- the other end -------------------------------------------------------------------------------------------


def fingerprint(pem: str) -> str:
    """Return the SHA-256 (hex) of the first certificate in `pem`."""
    return _digest(ssl.PEM_cert_to_DER_cert(_blocks(pem)[0]))


def fingerprints(pem: str) -> frozenset[str]:
    """Return the SHA-256 (hex) of every certificate in `pem`."""
    return frozenset(_digest(ssl.PEM_cert_to_DER_cert(block)) for block in _blocks(pem))


def _blocks(pem: str) -> list[str]:
    return [match.group() for match in _CERTIFICATE.finditer(pem)]


def _digest(der: bytes) -> str:
    return hashlib.sha256(der).hexdigest()


def identify(
    identity: ManagerIdentity | DialerIdentity,
    role: Role,
    ssl_object: ssl.SSLObject | ssl.SSLSocket | None,
    address: str,
) -> Peer:
    """Say who is at the other end of a finished handshake.

    A peer's `identity` outlives its certificate: with the star's CA it is the star, the role and the name that the CA
    certifies, with pinned certificates the public key. Nobody has another's without its CA or its private key.

    Parameters
    ----------
    identity : ManagerIdentity or DialerIdentity
        Whose handshake it was.
    role : Role
        What the peer must be: the role of the port, or MANAGER for a dialer.
    ssl_object : ssl.SSLObject or ssl.SSLSocket
        The transport's `ssl_object`.
    address : str
        Where the peer is, for the texts.

    Raises
    ------
    CredentialsError
        It speaks something else, or its certificate is not one of this role.
    """
    if ssl_object is None or ssl_object.version() != "TLSv1.3" or ssl_object.selected_alpn_protocol() != ALPN:
        raise CredentialsError(f"{address} does not speak {ALPN} over TLS 1.3")
    der = ssl_object.getpeercert(binary_form=True)
    if not der:
        raise CredentialsError(f"{address} shows no certificate")
    shown = ssl_object.getpeercert() or {}
    digest, name = _digest(der), _common_name(shown)
    if identity.pinned:
        if digest not in fingerprints(identity.trusted(role)):
            raise CredentialsError(
                f"{address} shows a certificate (SHA-256 {digest[:16]}...) that is not the {_said(role)}'s own"
            )
    elif (uris := _role_uris(shown)) != [ROLE_URI + _said(role)]:
        found = " and ".join(uri.removeprefix(ROLE_URI) for uri in uris) or "nobody in a star"
        port = f"at the port for {_said(role)}s: workers and clients have one each"
        where = "where the manager should be" if role is Role.MANAGER else port
        raise CredentialsError(f"{address} shows the certificate of a {found} ({name!r}) {where}")
    who = "" if identity.pinned else _certified(identity.star, role, shown)
    name = name or f"{_said(role)}-{digest[:8]}"
    return Peer(role, name, address, fingerprint=digest, identity=who or _key_identity(der))


def _certified(star: str, role: Role, shown: Any) -> str:
    """Who the star's CA says that this is: `STAR/ROLE/NAME`, which a renewed certificate says again."""
    names = _common_names(shown)
    # Only a name that is shown in full is one: two that look alike in a log are not the same peer.
    return f"{star}/{_said(role)}/{names[0]}" if len(names) == 1 and names[0] and _plain(names[0]) == names[0] else ""


def _key_identity(der: bytes) -> str:
    """Who has the certificate's key: nobody vouches for its name, and a renewal may keep the key."""
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415

    public = x509.load_der_x509_certificate(der).public_key()
    return f"key:{_digest(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))}"


def _said(role: Role) -> str:
    return role.name.lower()


def _role_uris(shown: Any) -> list[str]:
    return [v for kind, v in shown.get("subjectAltName", ()) if kind == "URI" and v.startswith(ROLE_URI)]


def _common_name(shown: Any) -> str:
    return _plain("".join(_common_names(shown)[:1]))


def _common_names(shown: Any) -> list[str]:
    return [value for rdn in shown.get("subject", ()) for key, value in rdn if key == "commonName"]


def _plain(name: str) -> str:
    # A pinned certificate may hold any text, and names stand in logs and on terminals.
    return "".join(c if c.isprintable() else "?" for c in name)[:NAME_CHARACTERS_MAX]


# -- what went wrong -----------------------------------------------------------------------------------------

_VERIFICATIONS = (
    ({2, 7, 18, 19, 20, 21, 30}, "{manager} {foreign}"),
    ({9}, "the certificate of {manager} is not yet valid: is this machine's clock right?"),
    ({10}, "the certificate of {manager} has expired, if this machine's clock is right: {renewal}"),
    ({26, 62}, "what answers at {address} is not a manager: its certificate is for something else"),
)
"""By OpenSSL's X509_V_ERR codes: unknown issuer or bad signature; dates; purpose or name."""

_DAMAGED = ("BAD_RECORD_MAC", "DECODE_ERROR", "ILLEGAL_PARAMETER", "UNEXPECTED_MESSAGE", "DIGEST_CHECK_FAILED")
"""Parts of OpenSSL's reasons where bytes changed on their way: that says nothing of a certificate, and may pass."""

_ALERTS = {
    **dict.fromkeys(_DAMAGED, "bytes from or to {address} arrived damaged: {said}"),
    "CERTIFICATE_EXPIRED": "{manager} refused this certificate as expired: look at the clocks, or renew {file}{with_}",
    "UNKNOWN_CA": "{manager} refused this certificate: {file} is of another star, or is not for this port",
    "DECRYPT_ERROR": "{manager} refused this certificate: {file} is of another star",
    "CERTIFICATE_REQUIRED": "{manager} asks for a certificate, and none was shown",
    "CERTIFICATE": "{manager} refused this certificate ({file})",  # bad, unknown, unsupported, revoked
    "ALERT": "{manager} refused the connection",
    "UNSUPPORTED_PROTOCOL": "what answers at {address} does not speak TLS 1.3",
    "WRONG_VERSION_NUMBER": "what answers at {address} does not speak TLS",
}
"""By a part of OpenSSL's reason, the special ones before the general ones."""

_CLOSED = "{manager} closed the connection without a word: is {port}, and does it know the certificate in {file}?"

_SOCKETS = {
    errno.ECONNREFUSED: "nobody listens at {address}: is the manager running, and is this its address?",
    errno.ETIMEDOUT: "no answer from {address}: is the address right, and does a firewall let it through?",
    errno.EHOSTUNREACH: "no way to {address}: is the address right, and is there a network?",
    errno.ENETUNREACH: "no way to {address}: is the address right, and is there a network?",
    errno.ECONNRESET: _CLOSED,
    errno.EPIPE: _CLOSED,
}


def explain(exc: BaseException | None, target: Target | None = None) -> str:
    """Return, in one line for people, why a connection to `target` was not made or was refused.

    Parameters
    ----------
    exc : BaseException or None
        What connecting raised or the connection was lost to; None for an end without a word before WELCOME.
    target : Target, optional
        What was dialed; without it the sentence names no address and no file.
    """
    file = (target.identity.source if target else "") or "the join file"
    renewal = target.identity.renewal if target else ""
    pinned = target is not None and target.identity.pinned
    by = f" (through {target.proxy})" if target and target.proxy else ""
    words = {
        "address": f"{target.address}{by}" if target else "the manager's address",
        "manager": f"the manager at {target.address}{by}" if target else "the manager",
        "file": file,
        "port": f"{target.port} its port for {_said(target.identity.role)}s" if target else "this the right port",
        "foreign": "shows another certificate than the one given here" if pinned else f"is of another star than {file}",
        "with_": f" with: {renewal}" if renewal else "",
        "renewal": "make a new one" if pinned else "the manager renews it at its next start",
    }
    return " ".join(_sentence(exc, words).split())


def _sentence(exc: BaseException | None, words: dict[str, str]) -> str:
    if exc is None:
        return _CLOSED.format(**words)
    if isinstance(exc, StarCoreError):
        return str(exc)
    if isinstance(exc, ssl.SSLError):
        return _tls_sentence(exc, words)
    if isinstance(exc, OSError):
        return _socket_sentence(exc, words)
    return f"no connection to {words['address']}: {exc or type(exc).__name__}"


def _tls_sentence(exc: ssl.SSLError, words: dict[str, str]) -> str:
    if isinstance(exc, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return _CLOSED.format(**words)
    code = getattr(exc, "verify_code", 0)
    if (sentence := next((text for codes, text in _VERIFICATIONS if code in codes), None)) is None:
        said = str(exc).upper().replace(" ", "_")  # newer OpenSSLs have other reasons, but the same words in their text
        sentence = next((text for part, text in _ALERTS.items() if part in said), "no TLS with {address}: {said}")
    return sentence.format(**words, said=exc)


def _socket_sentence(exc: OSError, words: dict[str, str]) -> str:
    if isinstance(exc, socket.gaierror):
        return "no machine is known by the name in {address}: is it spelled right, and is there a network?".format(
            **words
        )
    number = exc.errno or 0
    if isinstance(exc, TimeoutError):
        number = errno.ETIMEDOUT
    elif not number and "Connect call failed" in str(exc):  # what several addresses said, joined by asyncio
        number = errno.ECONNREFUSED
    elif isinstance(exc, ConnectionError) and not number:
        number = errno.ECONNRESET
    return _SOCKETS.get(number, "no connection to {address}: {said}").format(**words, said=exc.strerror or exc)


def as_error(exc: BaseException | None, target: Target | None = None) -> StarCoreError:
    """Return `exc` as an error of our own, with the sentence of `explain` and the exit code that fits."""
    if isinstance(exc, StarCoreError):
        return exc
    refused = isinstance(exc, ssl.SSLError) and not isinstance(exc, (ssl.SSLEOFError, ssl.SSLZeroReturnError))
    passing = any(part in str(exc).upper().replace(" ", "_") for part in (*_DAMAGED, "VERSION"))
    kind = CredentialsError if refused and not passing else UnreachableError
    error = kind(explain(exc, target))
    if isinstance(exc, OSError):
        exc.__traceback__ = None  # the sentence says it all: a stack of the event loop's inside would only bury it
    error.__cause__ = exc
    return error
