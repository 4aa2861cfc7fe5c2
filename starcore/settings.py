"""Where the manager is and as whom to join it: flag > environment > file > default, and which of them said so.

This looks and reads; nothing is dialed. A dialer's two questions are answered apart, each by the first that has one:

    credentials   --join FILE · $STARCORE_JOIN · $STARCOMPUTE_* (six PEM files) · <config>/ROLE.join ·
                  the manager that runs on this machine · <config>/star/ROLE.join (only with an address given)
    address       --manager HOST[:PORT], --port · $STARCORE_MANAGER · what the credentials' source says

A manager leaves a *runtime file* (pid, ports, where its join files are) while it runs, as Jupyter does it; whoever
shares its user and machine finds it there. Under sudo, "the user" is the one who called.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import math
import os
import shlex
import socket
import stat
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from starcore import certificates
from starcore.certificates import CLIENT_PORT, WORKER_PORT, JoinFile, Star, said
from starcore.errors import AddressError, CredentialsError, SetupError, UnconfiguredError
from starcore.messages import Role
from starcore.proxies import proxy_for
from starcore.tls import DialerIdentity, ManagerIdentity, Target, fingerprints

DEFAULT_PORTS = {Role.WORKER: WORKER_PORT, Role.CLIENT: CLIENT_PORT}

_LEGACY = {
    (Role.MANAGER, "certificate"): ("STARCOMPUTE_MANAGER_CERT_PATH", "STARCOMPUTE_MANAGER_CERT"),
    (Role.MANAGER, "key"): ("STARCOMPUTE_MANAGER_KEY_PATH", "STARCOMPUTE_MANAGER_KEY"),
    (Role.WORKER, "certificate"): ("STARCOMPUTE_WORKER_CERT_PATH", "STARCOMPUTE_WORKER_CERT"),
    (Role.WORKER, "key"): ("STARCOMPUTE_WORKER_KEY_PATH", "STARCOMPUTE_WORKER_KEY"),
    (Role.CLIENT, "certificate"): ("STARCOMPUTE_CLIENT_CERT_PATH", "STARCOMPUTE_CLIENT_CERT"),
    (Role.CLIENT, "key"): ("STARCOMPUTE_CLIENT_KEY_PATH", "STARCOMPUTE_CLIENT_KEY"),
}
"""The variables of the first StarCompute, in the spelling of its code and in that of its README."""
_LEGACY_ORIGIN = "$STARCOMPUTE_* variables"


# -- directories ---------------------------------------------------------------------------------------------


def config_dir() -> Path:
    """Return the user's directory for join files and stars; it may not exist yet."""
    if own := os.environ.get("STARCORE_CONFIG_DIR"):
        return Path(own).expanduser()
    if sys.platform == "darwin":
        return _home() / "Library" / "Application Support" / "starcore"
    if xdg := os.environ.get("XDG_CONFIG_HOME"):
        return Path(xdg) / "starcore"
    return _home() / ".config" / "starcore"


def star_dir() -> Path:
    """Return the directory of this user's own star; it may not exist yet."""
    return config_dir() / "star"


def star_flag(directory: Path) -> str:
    """Return what a command says to mean this star: a blank and ``--star DIR``, or nothing for the user's own."""
    path = os.path.abspath(directory)
    return "" if path == os.path.abspath(star_dir()) else f" --star {shlex.quote(path)}"


def _home() -> Path:
    if (owner := certificates.caller()) is None:
        return Path.home()
    import pwd  # noqa: PLC0415 - not on Windows, where there is no sudo either

    return Path(pwd.getpwuid(owner[0]).pw_dir)


def runtime_dir() -> Path:
    """Return the directory of this user's runtime files, made if it is missing.

    Raises
    ------
    SetupError
        It belongs to somebody else, or others may enter it.
    """
    directory = _runtime_candidates()[0]
    try:
        directory.mkdir(mode=0o700)
        certificates.give_to_caller(directory)
    except FileExistsError:
        pass
    except FileNotFoundError:
        certificates.make_directory(directory)
    except OSError as exc:
        raise SetupError(f"cannot make {directory}: {exc.strerror}; set STARCORE_RUNTIME_DIR to another one") from exc
    if problem := _not_private(directory):
        raise SetupError(f"{directory} {problem}; remove it, or set STARCORE_RUNTIME_DIR to another one")
    return directory


def _runtime_candidates() -> list[Path]:
    """Return where runtime files may be, the place for new ones first.

    A shell has XDG_RUNTIME_DIR and a service or sudo often has not, yet they should find each other.
    """
    if own := os.environ.get("STARCORE_RUNTIME_DIR"):
        return [Path(own).expanduser()]
    if os.name != "posix":
        return [config_dir() / "run"]
    owner = certificates.caller()
    uid = owner[0] if owner else os.getuid()
    session = Path(f"/run/user/{uid}") if owner else Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{uid}")
    fallback = Path(f"/tmp/starcore-{uid}")
    try:
        ours = session.stat().st_uid == uid  # after `su` the variable still names the other user's
    except OSError:
        ours = False
    return [session / "starcore", fallback] if ours else [fallback]


def _not_private(directory: Path) -> str:
    if os.name != "posix":
        return ""
    try:
        status = directory.lstat()
    except OSError as exc:
        return f"cannot be looked at ({exc.strerror})"
    owner = certificates.caller()
    if not stat.S_ISDIR(status.st_mode):
        return "is not a directory"
    if status.st_uid not in {os.geteuid(), owner[0] if owner else os.geteuid()}:
        return f"belongs to another user (uid {status.st_uid})"
    return "can be entered by other users" if stat.S_IMODE(status.st_mode) & 0o077 else ""


NO_JOURNAL = "none"
"""Said by the flag or the variable: there is no journal, whatever the star's file says."""


def journal_dir(flag: Path | None, star: Star | None = None, *, ephemeral: bool = False) -> tuple[Path | None, str]:
    """Return where the manager's journal is, None for none, and which of the settings said so.

    By the flag, else ``STARCORE_JOURNAL``, else the star's own file (``certs init --journal DIR``). A star of a moment
    has none but by the flag.
    """
    own, kept = os.environ.get("STARCORE_JOURNAL"), star.journal if star is not None else ""
    if flag is not None:
        said, origin = str(flag), "--journal"
    elif ephemeral or not (own or kept):
        return None, "the default"
    else:
        said, origin = (own, "$STARCORE_JOURNAL") if own else (kept, str(star.about if star is not None else ""))
    return None if said == NO_JOURNAL else Path(said).expanduser(), origin


def usable_cores() -> int:
    """Return how many cores this process may use: those of its affinity, and no more than its cgroup's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="utf-8").split()
        cores = min(cores, math.ceil(int(quota) / int(period)))
    return max(1, cores)


# -- the running manager -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RuntimeFile:
    """What a running manager leaves for its neighbours. Paths are empty where it has no star of its own.

    `started` is the process's start in clock ticks since boot (0 where there is no /proc): a pid alone comes back.
    """

    pid: int
    started: int
    host: str
    worker_port: int
    client_port: int
    star: str = ""
    worker_join: str = ""
    client_join: str = ""
    epoch: int = 0

    @classmethod
    def of_this_process(
        cls, host: str, worker_port: int, client_port: int, *, star: Star | None = None, epoch: int = 0
    ) -> RuntimeFile:
        """Return the record of a manager that listens on `host` (an address to listen on, or one to dial)."""
        host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        places = (str(star.directory), str(star.worker_join), str(star.client_join)) if star else ("", "", "")
        return cls(os.getpid(), _started(os.getpid()), host, worker_port, client_port, *places, epoch=epoch)

    @property
    def name(self) -> str:
        """The file's name."""
        return f"manager-{self.pid}.json"

    def port(self, role: Role) -> int:
        """Return the port that serves peers of `role`."""
        return self.worker_port if role is Role.WORKER else self.client_port

    def join(self, role: Role) -> str:
        """Return the path of the join file for peers of `role`, or an empty text."""
        return self.worker_join if role is Role.WORKER else self.client_join

    def write(self, directory: Path | None = None) -> Path:
        """Write the file, and return its path; `remove` it at exit."""
        path = (directory or runtime_dir()) / self.name
        certificates.write_private(path, json.dumps(asdict(self)) + "\n", overwrite=True)
        return path

    def remove(self, directory: Path | None = None) -> None:
        """Remove the file."""
        for each in [directory] if directory else _runtime_candidates():
            with contextlib.suppress(OSError):  # the next reader finds the manager gone
                (each / self.name).unlink(missing_ok=True)

    @classmethod
    def read(cls, path: Path) -> RuntimeFile | None:
        """Return the record in `path`; None, and the file removed, when its manager is gone."""
        try:
            fields = json.loads(certificates.read_private(path))
            record = cls(**{key: fields[key] for key in cls.__slots__})
        except (OSError, SetupError, ValueError, TypeError, KeyError):
            return None
        texts = (record.host, record.star, record.worker_join, record.client_join)
        numbers = (record.pid, record.started, record.worker_port, record.client_port, record.epoch)
        if not (all(isinstance(text, str) for text in texts) and all(type(number) is int for number in numbers)):
            return None
        if record.lives():
            return record
        with contextlib.suppress(OSError):  # one that stays is no obstacle
            path.unlink(missing_ok=True)
        return None

    def lives(self) -> bool:
        """Say whether the process is still there."""
        if self.pid <= 0:  # to kill() these are groups
            return False
        if os.name == "posix":
            try:
                os.kill(self.pid, 0)
            except PermissionError:
                pass  # somebody else's, such as root's
            except (ProcessLookupError, OverflowError):
                return False
        return not self.started or _started(self.pid) in {0, self.started}


def _started(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        # The second field, the command's name, may hold blanks and brackets; the rest may not.
        return int(fields.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def running_manager() -> RuntimeFile | None:
    """Return the manager of this user that runs on this machine, the youngest if there are several."""
    found = []
    for directory in _runtime_candidates():
        if directory.is_dir() and not _not_private(directory):
            paths = directory.glob("manager-*.json")
            found += [record for record in map(RuntimeFile.read, paths) if record is not None]
    return max(found, key=lambda record: (record.started, record.pid), default=None)


# -- addresses -----------------------------------------------------------------------------------------------


def parse_address(text: str) -> tuple[str, int | None]:
    """Split ``host``, ``host:port``, ``[::1]:port``, ``::1`` or ``https://host[:port]`` into host and port.

    Raises
    ------
    AddressError
        It is none of these.
    """
    wrong = AddressError(f"{text!r} is not an address: write HOST, HOST:PORT, [IPV6]:PORT or https://HOST[:PORT]")
    bare = text.strip()
    if "://" not in bare:
        bare = f"https://[{bare}]" if bare.count(":") > 1 and not bare.startswith("[") else f"https://{bare}"
    try:
        parts = urlsplit(bare)
        host, port = parts.hostname, parts.port
        if host and ":" in host:
            ipaddress.IPv6Address(host)  # as urlsplit itself does from Python 3.11.4 on
    except ValueError as exc:
        raise wrong from exc
    extra = parts.path.strip("/") or parts.query or parts.fragment or parts.username
    if not host or extra or port == 0 or parts.scheme not in {"https", "wss"} or any(c.isspace() for c in host):
        raise wrong
    return host, port


def reachable_host(host: str = "") -> str:
    """Return `host` if others can dial it; for an address to listen on, this machine's own, as far as it knows.

    Behind NAT the machine does not know its public address: join files then carry a private one, and dialers
    outside say ``--manager``.
    """
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_unspecified:
            host = ""
    if host:
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address of documentation; for UDP this sends nothing
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


# -- as whom, and where --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Source:
    """Credentials, the address that came with them (host empty: none), and where they came from."""

    identity: DialerIdentity
    host: str
    port: int
    origin: str


def dialer(
    role: Role, *, join: str | os.PathLike[str] | None = None, address: str | None = None, port: int | None = None
) -> Target:
    """Say where a worker or client finds its manager, and as whom it joins.

    Parameters
    ----------
    role : Role
        WORKER or CLIENT.
    join : path, optional
        The flag ``--join``.
    address : str, optional
        The flag ``--manager``, as `parse_address` takes it.
    port : int, optional
        The flag ``--port``; wins over the port in `address`.

    Raises
    ------
    UnconfiguredError
        Nothing says where a manager is, and none of this user's runs on this machine.
    CredentialsError, AddressError
        Something does say it, and it is wrong; or what names a proxy is (see `proxies.proxy_for`).
    """
    origin = "--manager"
    if address is None and (address := os.environ.get("STARCORE_MANAGER") or None):
        origin = "$STARCORE_MANAGER"
    host, given_port = parse_address(address) if address else ("", None)
    source = _source(role, join, host)
    if not host and not source.host:
        error = UnconfiguredError(f"{source.origin} does not say where the manager is; add --manager HOST[:PORT]")
        error.may_come = source.origin == _LEGACY_ORIGIN
        raise error
    port = port or given_port or source.port
    if not 0 < port < 1 << 16:
        raise AddressError(f"{port} is not a port: 1 to 65535 are")
    origin = f"address from {origin}, credentials from {source.origin}" if host else source.origin
    host = host or source.host
    return Target(host, port, source.identity, origin, proxy_for(host))


def _source(role: Role, join: str | os.PathLike[str] | None, address: str) -> _Source:
    """Return the first source of credentials that there is; `address` is the host that was named beside them."""
    if join is not None:
        return _from_join(role, join, "--join")
    if named := os.environ.get("STARCORE_JOIN"):
        return _from_join(role, named, "$STARCORE_JOIN")
    manager = running_manager()
    if (identity := _legacy_dialer(role)) is not None:
        host, port = (manager.host, manager.port(role)) if manager else ("", DEFAULT_PORTS[role])
        return _Source(identity, host, port, _LEGACY_ORIGIN)
    if (placed := config_dir() / f"{said(role)}.join").exists():
        return _from_join(role, placed, "file")
    if manager is not None and manager.join(role):
        own = certificates.read_join(manager.join(role), role)
        here = f"the manager that runs here (pid {manager.pid})"
        return _Source(own.identity, manager.host, manager.port(role), here)
    if address and (default := star_dir() / f"{said(role)}.join").exists():
        return _from_join(role, default, "file")
    error = UnconfiguredError(_advice(role, manager, addressed=bool(address)))
    error.may_come = manager is None and (not address or _is_here(address))
    raise error


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _from_join(role: Role, path: str | os.PathLike[str], origin: str) -> _Source:
    found: JoinFile = certificates.read_join(Path(path).expanduser(), role)
    return _Source(found.identity, found.host, found.port, f"{origin} {found.path}")


def _advice(role: Role, manager: RuntimeFile | None, *, addressed: bool) -> str:
    issue = f"python -m starcore.certs issue {said(role)} NAME"
    if manager is not None:
        return "the manager that runs here uses the STARCOMPUTE_* certificates: set those variables here as well"
    if addressed:
        return f"an address alone does not open the door: add --join FILE, made on the manager's machine with: {issue}"
    if (star := star_dir()).joinpath("star.json").exists():
        return (
            f"no manager is configured, and that of this user's star ({star}) does not run; start it again, with the "
            f"options it had: python -m starcore.manager; or use another star's --join FILE (made there with: {issue})"
        )
    return (
        "no manager is configured, and none of this user's runs here; use --join FILE (made on the manager's machine "
        f"with: {issue}), or start one: python -m starcore.manager"
    )


def manager_identity(
    directory: Path | None = None, *, host: str = "", worker_port: int = WORKER_PORT, client_port: int = CLIENT_PORT
) -> tuple[ManagerIdentity, bool, Star | None]:
    """Return the manager's credentials, whether a star was made for them, and the star.

    Parameters
    ----------
    directory : Path, optional
        The star's directory. Without one, the STARCOMPUTE_* variables count, and then the user's own star.
    host, worker_port, client_port : str, int, int
        The address for the join files of a star that is made here; see `reachable_host`.

    Returns
    -------
    identity : ManagerIdentity
    created : bool
    star : Star or None
        With the paths of its join files; None with the STARCOMPUTE_* certificates.
    """
    if directory is None and (legacy := _legacy_manager()) is not None:
        return legacy, False, None
    star, created = certificates.create_star(
        directory or star_dir(),
        host=reachable_host(host),
        worker_port=worker_port or WORKER_PORT,  # 0, any free one, is nothing for a file
        client_port=client_port or CLIENT_PORT,
    )
    return certificates.manager_identity(star), created, star


# -- the six PEM files ---------------------------------------------------------------------------------------


def _legacy_path(role: Role, what: str) -> str:
    return next((path for name in _LEGACY[role, what] if (path := os.environ.get(name))), "")


def _legacy_complete(*wanted: tuple[Role, str]) -> None:
    if missing := [_LEGACY[each][0] for each in wanted if not _legacy_path(*each)]:
        raise CredentialsError(f"of the STARCOMPUTE_* variables, these are missing: {', '.join(missing)}")


def _legacy_dialer(role: Role) -> DialerIdentity | None:
    own, key = _legacy_path(role, "certificate"), _legacy_path(role, "key")
    if not key:  # the certificate alone is what a manager knows of this role
        return None
    _legacy_complete((role, "certificate"), (Role.MANAGER, "certificate"))
    return DialerIdentity(
        role=role,
        name=said(role),
        certificate=_legacy_certificates(role),
        key=_legacy_key(key),
        manager=_legacy_certificates(Role.MANAGER),
        pinned=True,
        source=own,
        renewal=_legacy_renewal(own, key),
    )


def _legacy_manager() -> ManagerIdentity | None:
    own, key = _legacy_path(Role.MANAGER, "certificate"), _legacy_path(Role.MANAGER, "key")
    if not key:
        return None
    _legacy_complete(*((role, "certificate") for role in Role))
    manager, workers, clients = (_legacy_certificates(role) for role in Role)
    if fingerprints(workers) & fingerprints(clients):
        raise CredentialsError("workers and clients have the same certificate in the STARCOMPUTE_* files: make two")
    return ManagerIdentity(
        certificate=manager,
        key=_legacy_key(key),
        workers=workers,
        clients=clients,
        pinned=True,
        source=own,
        renewal=_legacy_renewal(own, key),
    )


def _legacy_renewal(own: str, key: str) -> str:
    return f"openssl req -x509 -new -key {key} -out {own} -days 365 (and give the new one to its peers)"


def _legacy_certificates(role: Role) -> str:
    path = Path(_legacy_path(role, "certificate"))
    text = _legacy_read(path, private=False)
    if not fingerprints(text):
        raise CredentialsError(f"{path} holds no certificate")
    return text


def _legacy_key(path: str) -> str:
    return _legacy_read(Path(path), private=True)


def _legacy_read(path: Path, *, private: bool) -> str:
    try:
        return certificates.read_text(path, private=private)
    except FileNotFoundError as exc:
        raise CredentialsError(f"{path}, named by a STARCOMPUTE_* variable, is not there") from exc
