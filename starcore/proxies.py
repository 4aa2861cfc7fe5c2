"""Through an HTTP proxy, where a network lets nobody out but by one.

::

    dialer ──CONNECT host:port──▶ proxy ──TCP──▶ manager       and then TLS with the manager, end to end

Which proxy, if any, is read from the environment as other programs do it (`proxy_for`); how it is asked for the way is
the method CONNECT (RFC 9110, 9.3.6). The proxy resolves the manager's name, and sees where to and how much; it holds no
certificate of the star, so what is said goes by unread, and one that breaks TLS open is refused like any stranger.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from starcore.errors import AddressError, UnreachableError
from starcore.texts import plain

OWN_VARIABLE = "STARCORE_PROXY"
GENERAL = ("all_proxy", "ALL_PROXY")
"""They name a proxy for everything, mostly one of SOCKS: that is not meant for this."""
VARIABLES = ("https_proxy", "HTTPS_PROXY", *GENERAL)
"""Those of other programs, in their order."""
NONE = "none"
DEFAULT_PORT = 80
"""Of a proxy whose URL names no port, as the scheme has it."""
REPLY_BYTES_MAX = 16 << 10

_MAGIC = b"HTTP/1."
_OTHER = re.compile(r"(?!http://)\w+://", re.IGNORECASE)
"""How the URL of something begins that is no HTTP proxy."""
_STATUS = re.compile(rb"HTTP/1\.\d (\d{3})(?: ([^\r\n]*))?\r?\n")
_END = re.compile(rb"\r?\n\r?\n")


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy, and which of the variables named it."""

    host: str
    port: int
    origin: str
    credentials: str = field(default="", repr=False)
    """What Basic authentication shows, base64; empty where the URL had no user."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"the proxy at {host}:{self.port} (${self.origin})"

    def unreachable(self, error: OSError) -> UnreachableError:
        """Say that the way ends before the proxy."""
        number = error.errno or 0
        why = os.strerror(number) if number > 0 else error.strerror or error  # loops have words of their own
        return UnreachableError(f"no way to {self}: {why}; {self._advice()}")

    def _advice(self) -> str:
        if self.origin == OWN_VARIABLE:
            return f"set {OWN_VARIABLE} to the right one, or to {NONE} to dial without"
        return f"correct it, or set {OWN_VARIABLE}={NONE}, or NO_PROXY, to dial without"


def proxy_for(host: str, environ: Mapping[str, str] | None = None) -> Proxy | None:
    """Say by which proxy a manager is dialed; None for none.

    ``STARCORE_PROXY`` is asked first ("none": dial without), then ``HTTPS_PROXY``, then ``ALL_PROXY`` where it names an
    HTTP proxy, in small letters before capitals, with the exceptions of ``NO_PROXY``. This machine itself is always
    dialed without.

    Parameters
    ----------
    host : str
        The manager's name or address.
    environ : mapping, optional
        The variables; those of this process by default.

    Raises
    ------
    AddressError
        A variable is set to something that is no HTTP proxy.
    """
    environ = os.environ if environ is None else environ
    if _is_this_machine(host):
        return None
    if own := environ.get(OWN_VARIABLE, "").strip():
        return None if own.lower() == NONE else _parse(own, OWN_VARIABLE)
    said = ((name, environ.get(name, "").strip()) for name in VARIABLES)
    named = ((name, url) for name, url in said if url and not (name in GENERAL and _OTHER.match(url)))
    origin, url = next(named, ("", ""))
    return _parse(url, origin) if origin and not _is_exempt(host, environ) else None


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _is_exempt(host: str, environ: Mapping[str, str]) -> bool:
    """Whether NO_PROXY names the host, a domain that it is of, or a network that it lies in."""
    host = host.lower()
    for entry in re.split(r"[\s,]+", environ.get("no_proxy") or environ.get("NO_PROXY") or ""):
        domain = re.sub(r"^\*?\.|(?<=\w):\d+$", "", entry.lower())
        if entry == "*" or (domain and f".{host}".endswith(f".{domain}")):
            return True
        with contextlib.suppress(ValueError):
            if ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False):
                return True
    return False


def _parse(url: str, origin: str) -> Proxy:
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if parts.scheme != "http" or not host or port == 0:
        # The URL may hold a password: it is not repeated.
        scheme = f", and not one of {parts.scheme}" if parts.scheme not in ("", "http") else ""
        raise AddressError(
            f"${origin} is no http://[USER:PASSWORD@]HOST[:PORT]{scheme}: a proxy has to speak HTTP; correct it, or "
            f"dial without one: {OWN_VARIABLE}={NONE}"
        )
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    credentials = base64.b64encode(f"{user}:{password}".encode()).decode() if user or password else ""
    return Proxy(host, port or DEFAULT_PORT, origin, credentials)


async def tunnel(loop: asyncio.AbstractEventLoop, sock: socket.socket, proxy: Proxy, address: str) -> None:
    """Have a connected proxy make the way to a manager; what the socket carries afterwards is the manager's.

    Parameters
    ----------
    loop : asyncio.AbstractEventLoop
        The running loop.
    sock : socket.socket
        Connected to the proxy, and not blocking.
    proxy : Proxy
        The proxy.
    address : str
        The manager's ``HOST:PORT``, IPv6 in brackets.

    Raises
    ------
    UnreachableError
        The proxy refuses, or is none.
    OSError
        The connection ended.
    """
    name, _, port = address.rpartition(":")
    where = f"{name if name.isascii() else name.encode('idna').decode()}:{port}"
    request = f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n"
    if proxy.credentials:
        request += f"Proxy-Authorization: Basic {proxy.credentials}\r\n"
    await loop.sock_sendall(sock, f"{request}\r\n".encode())
    reply = b""
    while not (end := _END.search(reply)):
        # The first bytes tell a proxy from most others, so nobody waits for the end of a line that never comes.
        if not _MAGIC.startswith(reply[: len(_MAGIC)]) or len(reply) > REPLY_BYTES_MAX:
            raise UnreachableError(f"what answers at {proxy} is no HTTP proxy")
        if not (more := await loop.sock_recv(sock, 4096)):
            raise UnreachableError(f"{proxy} closed the connection without an answer; does it allow port {port}?")
        reply += more
    status = _STATUS.match(reply)
    made = status is not None and status[1].startswith(b"2")
    if status is None or (made and end.end() < len(reply)):  # in TLS, it is the dialer who speaks first
        raise UnreachableError(f"what answers at {proxy} is no HTTP proxy")
    if not made:
        said = plain(b" ".join(part for part in status.groups() if part).decode("latin-1").strip(), 100)
        raise UnreachableError(_refusal(int(status[1]), said, proxy, where))


def _refusal(code: int, said: str, proxy: Proxy, where: str) -> str:
    if code == 407 and proxy.credentials:
        return f"{proxy} does not accept this user and password ({said})"
    if code == 407:
        return f"{proxy} asks for a user: set it to http://USER:PASSWORD@HOST:PORT ({said})"
    if code >= 500:
        return f"{proxy} found no way to {where} ({said}): is the manager running, and is this its address?"
    return f"{proxy} does not connect anybody to {where} ({said}): many allow port 443 alone"
