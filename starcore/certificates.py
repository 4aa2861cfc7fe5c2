"""The star's own CA, the certificates that it issues, join files, and files that only their owner may read.

This makes and reads files; it opens no connection (`tls.py`) and takes no decision on which file to use
(`settings.py`). A star is a directory::

    star/
      star.json     its id, the address that join files carry, and where the manager's journal is
      ca.pem        the CA that every peer of the star trusts        ca.key       signs; needed only to issue and renew
      manager.pem   the manager's certificate, for no address         manager.key
      worker.join   a join file for this machine's workers            client.join
      issued/       the certificate that each client was issued last, by its name

A *join file* is all that a peer needs, in one JSON object: where the manager is, the CA, a certificate and its key.
The address is a default that flags override, so a manager that moves costs nobody a new file.

The role is in the certificate, as the URI `starcore:role:worker`, and nowhere can a holder change it. Every file is
made under another name and moved into place whole, mode 0600, and never over another one unasked. Under sudo the
files belong to whoever called it. `cryptography` is imported when a certificate is made, never before.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starcore import tls
from starcore.errors import ArgumentValueError, CredentialsError
from starcore.messages import Role

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

JOIN_VERSION = 1
STAR_VERSION = 1
CA_DAYS = 3650
LEAF_DAYS = 730
RENEW_DAYS = 30
"""A manager that starts with less than this left renews its own certificate."""
BACKDATE_HOURS = 1
"""For the clocks that are behind."""
FILE_CHARACTERS_MAX = 1 << 18
WORKER_PORT = 443
CLIENT_PORT = 444

_NAME = re.compile(r"\w[\w.@+-]{0,63}")


# -- records -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class JoinFile:
    """What one peer needs to join a star."""

    role: Role
    name: str
    host: str
    port: int
    star: str
    ca: str = field(repr=False)
    certificate: str = field(repr=False)
    key: str = field(repr=False)
    path: Path | None = None

    @property
    def identity(self) -> tls.DialerIdentity:
        """The credentials in it."""
        return tls.DialerIdentity(
            role=self.role,
            name=self.name,
            certificate=self.certificate,
            key=self.key,
            manager=self.ca,
            source=str(self.path or "the join file"),
            renewal=f"python -m starcore.certs issue {said(self.role)} {self.name} --renew",
            star=self.star,
        )

    def text(self) -> str:
        """Return the file's text."""
        peer = {"role": said(self.role), "name": self.name, "host": self.host, "port": self.port, "star": self.star}
        credentials = {"ca": self.ca, "certificate": self.certificate, "key": self.key}
        fields = {"starcore_join": JOIN_VERSION, **peer, **credentials}
        return json.dumps(fields, indent=1, ensure_ascii=False) + "\n"


@dataclass(frozen=True, slots=True)
class Star:
    """A star's directory, its id, and what its manager goes by: the address that join files carry, its journal.

    An empty host is not known; an empty journal is none.
    """

    directory: Path
    id: str
    host: str
    worker_port: int = WORKER_PORT
    client_port: int = CLIENT_PORT
    journal: str = ""

    @property
    def ca(self) -> Path:
        """The CA's certificate."""
        return self.directory / "ca.pem"

    @property
    def ca_key(self) -> Path:
        """The CA's key."""
        return self.directory / "ca.key"

    @property
    def manager(self) -> Path:
        """The manager's certificate."""
        return self.directory / "manager.pem"

    @property
    def manager_key(self) -> Path:
        """The manager's key."""
        return self.directory / "manager.key"

    @property
    def worker_join(self) -> Path:
        """The join file of this machine's workers."""
        return self.directory / "worker.join"

    @property
    def client_join(self) -> Path:
        """The join file of this machine's clients."""
        return self.directory / "client.join"

    @property
    def about(self) -> Path:
        """The file that says the rest of this record."""
        return self.directory / "star.json"

    def issued(self, name: str) -> Path:
        """Where the certificate is kept that a client was issued last."""
        return self.directory / "issued" / f"{name}.pem"

    def port(self, role: Role) -> int:
        """Return the port that serves peers of `role`."""
        return self.worker_port if role is Role.WORKER else self.client_port

    def text(self) -> str:
        """Return the text of `star.json`."""
        ports = {"worker_port": self.worker_port, "client_port": self.client_port}
        journal = {"journal": self.journal} if self.journal else {}
        fields = {"starcore_star": STAR_VERSION, "star": self.id, "host": self.host, **ports, **journal}
        return json.dumps(fields, indent=1) + "\n"


def said(role: Role) -> str:
    """Return the role as certificates and join files write it."""
    return role.name.lower()


# -- a star --------------------------------------------------------------------------------------------------


def create_star(
    directory: Path, *, host: str = "", worker_port: int = WORKER_PORT, client_port: int = CLIENT_PORT
) -> tuple[Star, bool]:
    """Make a star in `directory`, or load the one that is there; say whether it was made.

    The directory appears whole or not at all, so of two managers that start at once one makes it and both use it.
    """
    if os.path.exists(directory / "star.json"):
        return load_star(directory), False
    make_directory(directory.parent)
    draft = directory.parent / f".{directory.name}-{secrets.token_hex(8)}"
    try:
        draft.mkdir(mode=0o700)
        give_to_caller(draft)
        star = Star(draft, secrets.token_hex(8), host, worker_port, client_port)
        ca, ca_key = _make_ca(star.id)
        for path, text in ((star.ca, ca), (star.ca_key, ca_key), (star.about, star.text())):
            write_private(path, text)
        _issue_manager(star)
        for role, path in ((Role.WORKER, star.worker_join), (Role.CLIENT, star.client_join)):
            write_private(path, issue(star, role, said(role)).text())
        os.rename(draft, directory)
    except OSError as exc:
        if os.path.exists(directory / "star.json"):  # somebody else was faster
            return load_star(directory), False
        raise CredentialsError(f"cannot make the star in {directory}: {exc.strerror or exc}") from exc
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return replace(star, directory=directory), True


def load_star(directory: Path, flag: str = "") -> Star:
    """Return the star in `directory`; where it is not the user's own, `flag` is how commands name it.

    Raises
    ------
    CredentialsError
        There is none, or it cannot be read.
    """
    path = directory / "star.json"
    try:
        fields = _fields(read_text(path), path, "starcore_star", STAR_VERSION)
    except FileNotFoundError as exc:
        raise CredentialsError(f"no star in {directory}; make one with: python -m starcore.certs init{flag}") from exc
    host, ports = _text(fields, "host", path), [_port(fields, f"{role}_port", path) for role in ("worker", "client")]
    journal = _text(fields, "journal", path) if "journal" in fields else ""
    return Star(directory, _text(fields, "star", path), host, ports[0], ports[1], journal)


def keep_journal(star: Star, journal: str) -> Star:
    """Write down where the star's manager keeps its journal; an empty text: nowhere."""
    kept = replace(star, journal=journal)
    write_private(star.about, kept.text(), overwrite=True)
    return kept


def move_star(star: Star, *, host: str, worker_port: int, client_port: int) -> Star:
    """Give the star another address: in its own two join files and in those that will be issued."""
    moved = replace(star, host=host, worker_port=worker_port, client_port=client_port)
    for path in (star.worker_join, star.client_join):
        join = read_join(path)
        write_private(path, replace(join, host=host, port=moved.port(join.role)).text(), overwrite=True)
    write_private(star.about, moved.text(), overwrite=True)
    return moved


def manager_identity(star: Star) -> tls.ManagerIdentity:
    """Return the manager's credentials, renewed first where they are about to expire and the CA's key is here."""
    _, end = tls.validity(_read(star.manager), str(star.manager))
    if end - _now() < timedelta(days=RENEW_DAYS) and star.ca_key.exists():
        _issue_manager(star, overwrite=True)
    ca = _read(star.ca)
    return tls.ManagerIdentity(
        certificate=_read(star.manager),
        key=_read(star.manager_key),
        workers=ca,
        clients=ca,
        source=str(star.manager),
        renewal=f"put ca.key back into {star.directory} and start the manager again",
        star=star.id,
    )


def _read(path: Path) -> str:
    try:
        return read_private(path) if path.suffix == ".key" else read_text(path)
    except FileNotFoundError as exc:
        raise CredentialsError(f"{path} is missing from the star's directory") from exc


# -- certificates --------------------------------------------------------------------------------------------


def issue(star: Star, role: Role, name: str, *, days: float = LEAF_DAYS, address: str = "", port: int = 0) -> JoinFile:
    """Issue a worker's or client's certificate, and return it as a join file that is not written yet.

    Parameters
    ----------
    role : Role
        WORKER or CLIENT.
    name : str
        What the peer is called in logs: letters, digits and ``._@+-``, at most 64.
    days : float
        How long the certificate is valid.
    address, port : str, int
        Where it finds the manager, if not where the star's other peers do.
    """
    _check_name(name)
    if role is Role.MANAGER:
        raise ArgumentValueError("the star has one manager, and its certificate is there: issue for worker or client")
    certificate, key = _issue_leaf(star, role, name, days=days)
    host, port = address or star.host, port or star.port(role)
    return JoinFile(role, name, host, port, star.id, ca=_read(star.ca), certificate=certificate, key=key)


def check_unissued(star: Star, role: Role, name: str) -> None:
    """Refuse a client's name that somebody has: whoever shows it finds the jobs that were detached under it."""
    _check_name(name)
    path = star.issued(name)
    if role is Role.CLIENT and (path.exists() or name == said(role)):
        until = f" (until {tls.validity(read_text(path), str(path))[1]:%Y-%m-%d})" if path.exists() else ""
        raise CredentialsError(
            f"a client {name!r} was issued before{until}, and a name is who a client is: take another name for another "
            f"client; to give the same one a new file, which finds its detached jobs: --renew"
        )


def check_issued(star: Star, role: Role, name: str) -> None:
    """Refuse to renew a client that nobody is: its name may be mistyped. Of workers no record is kept."""
    _check_name(name)
    if role is Role.CLIENT and not (star.issued(name).exists() or name == said(role)):
        raise CredentialsError(f"the star has no record of a client {name!r} to renew: for a new one leave --renew out")


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ArgumentValueError(f"{name!r} cannot be a peer's name: letters, digits and ._@+- (at most 64) can")


def hand_out(star: Star, join: JoinFile, path: Path, *, renew: bool = False) -> None:
    """Write a join file, and remember whom it was issued for.

    Parameters
    ----------
    renew : bool
        It may take the place of a file of the same peer.
    """
    overwrite, way_out = False, ": --out FILE writes another"
    if renew and path.exists():
        there = read_join(path)
        overwrite = (there.star, there.role, there.name) == (join.star, join.role, join.name)
    elif join.role is Role.WORKER:
        way_out += ", --renew replaces one of the same worker"
    write_private(path, join.text(), overwrite=overwrite, way_out=way_out)
    if join.role is Role.CLIENT:
        make_directory(star.directory / "issued")
        write_private(star.issued(join.name), join.certificate, overwrite=True)


def _issue_manager(star: Star, *, overwrite: bool = False) -> None:
    certificate, key = _issue_leaf(star, Role.MANAGER, "manager")
    # The certificate goes last: should only the key be written, the next start finds the old certificate and renews it.
    write_private(star.manager_key, key, overwrite=overwrite)
    write_private(star.manager, certificate, overwrite=overwrite)


def _make_ca(star_id: str) -> tuple[str, str]:
    from cryptography import x509  # noqa: PLC0415 - costs 50 ms, and few commands issue anything
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    key = ec.generate_private_key(ec.SECP256R1())
    # The id is in the name, so OpenSSL never mistakes one star's CA for another's.
    name = _subject(f"StarCore {star_id}")
    builder = _builder(name, name, key.public_key(), key.public_key(), CA_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
    return _signed(builder, key), _key_text(key)


def _issue_leaf(star: Star, role: Role, name: str, *, days: float = LEAF_DAYS) -> tuple[str, str]:
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    ca = x509.load_pem_x509_certificate(_read(star.ca).encode())
    ca_key = serialization.load_pem_private_key(_read(star.ca_key).encode(), password=None)
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey) or ca_key.public_key() != ca.public_key():
        raise CredentialsError(f"{star.ca_key} is not the key of {star.ca}")
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(_subject(name), ca.subject, key.public_key(), ca_key.public_key(), days)
    purpose = x509.oid.ExtendedKeyUsageOID
    usage = purpose.SERVER_AUTH if role is Role.MANAGER else purpose.CLIENT_AUTH
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(tls.ROLE_URI + said(role))]
    if role is Role.MANAGER:
        names.insert(0, x509.DNSName(tls.SERVER_NAME))
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(digital_signature=True), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return _signed(builder, ca_key), _key_text(key)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    issuer_public: ec.EllipticCurvePublicKey,
    days: float,
) -> x509.CertificateBuilder:
    from cryptography import x509  # noqa: PLC0415

    now = _now()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=BACKDATE_HOURS))
        .not_valid_after(now + timedelta(days=days))
        # OpenSSL's strict mode, the default from Python 3.13 on, asks for both identifiers.
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_public), critical=False)
    )


def _subject(name: str) -> x509.Name:
    from cryptography import x509  # noqa: PLC0415

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def _usage(**granted: bool) -> x509.KeyUsage:
    from cryptography import x509  # noqa: PLC0415

    every = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{usage: granted.get(usage, False) for usage in every})


def _signed(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> str:
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415

    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def _key_text(key: ec.EllipticCurvePrivateKey) -> str:
    from cryptography.hazmat.primitives import serialization as form  # noqa: PLC0415

    plain = form.NoEncryption()
    return key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, plain).decode()


def _now() -> datetime:
    return datetime.now(timezone.utc)


# -- join files ----------------------------------------------------------------------------------------------


def read_join(path: str | os.PathLike[str], role: Role | None = None) -> JoinFile:
    """Read a join file, and check that it is one for `role`.

    Raises
    ------
    CredentialsError
        It is missing, readable by others, no join file, of a newer version or for another role.
    """
    path = Path(path)
    try:
        text = read_private(path)
    except FileNotFoundError as exc:
        raise CredentialsError(f"no join file {path}") from exc
    fields = _fields(text, path, "starcore_join", JOIN_VERSION)
    named = {said(each): each for each in (Role.WORKER, Role.CLIENT)}.get(_text(fields, "role", path))
    if named is None:
        raise CredentialsError(f"{path} is not a join file: its role is neither worker nor client")
    if role is not None and named is not role:
        raise CredentialsError(
            f"{path} is a {said(named)}'s join file, and this is a {said(role)}; "
            f"make one with: python -m starcore.certs issue {said(role)} NAME"
        )
    name, host, port = _text(fields, "name", path), _text(fields, "host", path), _port(fields, "port", path)
    star, ca, certificate, key = (_text(fields, each, path) for each in ("star", "ca", "certificate", "key"))
    return JoinFile(named, name, host, port, star, ca=ca, certificate=certificate, key=key, path=path)


def _fields(text: str, path: Path, mark: str, version: int) -> Mapping[str, Any]:
    kind = mark.replace("starcore_", "").replace("join", "join file")
    try:
        fields = json.loads(text)
    except ValueError:
        fields = None
    if not isinstance(fields, dict) or not isinstance(fields.get(mark), int):
        raise CredentialsError(f"{path} is not a {kind} of StarCore")
    if fields[mark] > version:
        raise CredentialsError(f"{path} is of a newer StarCore (version {fields[mark]}, this one knows {version})")
    return fields


def _text(fields: Mapping[str, Any], key: str, path: Path) -> str:
    value = fields.get(key)
    if not isinstance(value, str):
        raise CredentialsError(f"{path} is damaged: it has no {key!r}")
    return value


def _port(fields: Mapping[str, Any], key: str, path: Path) -> int:
    value = fields.get(key)
    if not isinstance(value, int) or not 0 < value < 1 << 16:
        raise CredentialsError(f"{path} is damaged: its {key!r} is no port")
    return value


# -- files that only their owner may read --------------------------------------------------------------------


def caller() -> tuple[int, int] | None:
    """Return the user and group who called sudo, or None when this is not a root shell of sudo's."""
    uid, gid = os.environ.get("SUDO_UID", ""), os.environ.get("SUDO_GID", "")
    if os.name != "posix" or os.geteuid() != 0 or not (uid.isdecimal() and gid.isdecimal()) or int(uid) == 0:
        return None
    return int(uid), int(gid)


def give_to_caller(path: str | os.PathLike[str] | int) -> None:
    """Under sudo, hand a file or directory that we made to the user who called."""
    if (owner := caller()) is not None:
        os.chown(path, *owner)


def read_private(path: Path) -> str:
    """Return the text of a file that holds a key.

    Raises
    ------
    CredentialsError
        Others than its owner may read it, it is not ours, or it cannot be read; FileNotFoundError passes.
    """
    return read_text(path, private=True)


def read_text(path: Path, *, private: bool = False) -> str:
    """Return the text of a file of credentials, which may be public ones."""
    try:
        with open(path, encoding="utf-8") as file:
            if private:
                _check_private(path, os.fstat(file.fileno()))
            text = file.read(FILE_CHARACTERS_MAX + 1)
    except FileNotFoundError:
        raise
    except PermissionError as exc:
        raise CredentialsError(f"{path} may not be read by this user: use a file of your own (--join FILE)") from exc
    except OSError as exc:
        raise CredentialsError(f"{path} cannot be read: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise CredentialsError(f"{path} is not a text file") from exc
    if len(text) > FILE_CHARACTERS_MAX:
        raise CredentialsError(f"{path} is too large for a file of credentials")
    return text


def _check_private(path: Path, status: os.stat_result) -> None:
    if os.name != "posix":
        return
    owners = {0, os.geteuid(), *(caller() or ())[:1]}
    if status.st_uid not in owners:
        raise CredentialsError(f"{path} belongs to another user (uid {status.st_uid}); use a copy of your own")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise CredentialsError(f"{path} can be read by other users of this machine; close it with: chmod 600 {path}")


def write_private(path: Path, text: str, *, overwrite: bool = False, way_out: str = "") -> None:
    """Write a file that only its owner can read: whole or not at all, and over another one only if asked to.

    Raises
    ------
    CredentialsError
        The file is there already (and `way_out` says what to do then), or cannot be written.
    """
    draft = None
    try:
        handle, draft = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # mode 0600
        with open(handle, "w", encoding="utf-8") as file:
            give_to_caller(file.fileno())
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            os.replace(draft, path)
        else:
            _rename_to_new(draft, path)
    except FileExistsError as exc:
        raise CredentialsError(f"{path} is there already, and is not overwritten{way_out}") from exc
    except OSError as exc:
        raise CredentialsError(f"{path} cannot be written: {exc.strerror or exc}") from exc
    finally:
        if draft is not None and os.path.exists(draft):
            os.unlink(draft)


def _rename_to_new(draft: str, path: Path) -> None:
    if os.name == "nt":
        os.rename(draft, path)  # refuses by itself when the name is taken
        return
    try:
        os.link(draft, path)
    except OSError as exc:
        if exc.errno not in {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}:
            raise
        # A file system without hard links: this leaves a moment between look and leap.
        if path.exists():
            raise FileExistsError(errno.EEXIST, "exists", str(path)) from None
        os.rename(draft, path)


def make_directory(path: Path) -> None:
    """Make a directory for its owner alone, and those above it that are missing."""
    try:
        missing = [each for each in (path, *path.parents) if not each.is_dir()]
        for each in reversed(missing):
            each.mkdir(mode=0o700, exist_ok=True)
            give_to_caller(each)
    except OSError as exc:
        raise CredentialsError(f"cannot make the directory {path}: {exc.strerror or exc}") from exc
