"""The command `python -m starcore.certs`: make a star, issue join files, show what a file is.

Only words and flags stand here; what they do is in `certificates.py`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from starcore import certificates, settings, tls
from starcore.certificates import CLIENT_PORT, LEAF_DAYS, WORKER_PORT, Star, said
from starcore.errors import AddressError, CredentialsError, StarCoreError
from starcore.messages import Role
from starcore.options import Parser, port, say

if TYPE_CHECKING:
    from cryptography import x509

_EXAMPLES = """\
examples:
  python -m starcore.certs init --host manager.example.org
  python -m starcore.certs issue worker node-7
  python -m starcore.certs issue client laptop --out laptop.join --days 90
  python -m starcore.certs issue client laptop --renew    (the same client, for two more years)
  python -m starcore.certs init --host 203.0.113.9        (the star is there: its manager has moved)
  python -m starcore.certs init --journal /var/lib/starcore    (what is accepted outlives the manager)
  python -m starcore.certs show laptop.join

exit codes:
  0  done
  2  a wrong command line, name or number
  3  a file that is missing, there already, readable by others, damaged or expired
  4  a text that is no address
"""


def main(arguments: Sequence[str] | None = None, *, prog: str = "python -m starcore.certs") -> int:
    """Run the command, and return its exit code; what is wrong is said in one line."""
    options = _parser(prog).parse_args(arguments)
    try:
        for line in options.run(options):
            say(line)
    except StarCoreError as exc:
        print(f"{prog}: {exc}", file=sys.stderr)
        return exc.exit_code
    return 0


def _parser(prog: str) -> Parser:
    parser = Parser(
        prog=prog,
        description="Make a star's credentials: one CA, and one join file for each worker or client.",
        epilog=_EXAMPLES,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    init = commands.add_parser("init", help="make the star, or give it another address")
    init.add_argument("--host", default="", metavar="NAME_OR_IP", help="where peers reach the manager")
    init.add_argument("--port", type=port, metavar="N", help=f"the manager's port for workers (default {WORKER_PORT})")
    init.add_argument("--client-port", type=port, metavar="N", help=f"and for clients (default {CLIENT_PORT})")
    init.add_argument(
        "--journal", metavar="DIR", help="where the manager keeps its journal, without being told; 'none': nowhere"
    )
    init.set_defaults(run=_init)

    issue = commands.add_parser("issue", help="issue a join file")
    issue.add_argument("role", choices=[said(Role.WORKER), said(Role.CLIENT)])
    issue.add_argument("name", metavar="NAME", help="what the peer is called in logs, and who a client is")
    issue.add_argument("--out", type=Path, metavar="FILE", help="the join file (default NAME.join)")
    issue.add_argument("--days", type=_days, default=LEAF_DAYS, metavar="N", help="valid for (default %(default)s)")
    issue.add_argument("--address", metavar="HOST[:PORT]", help="where this peer reaches the manager, if not as others")
    again = "for a peer that has one: a client finds the detached jobs it left, and its old file is replaced"
    issue.add_argument("--renew", action="store_true", help=again)
    issue.set_defaults(run=_issue)

    show = commands.add_parser("show", help="say what a join file, certificate or star is")
    shown = show.add_mutually_exclusive_group()
    shown.add_argument("path", type=Path, nargs="?", metavar="FILE_OR_DIR", help="default: the user's own star")
    show.set_defaults(run=_show)

    for command in (init, issue, shown):
        command.add_argument("--star", type=Path, metavar="DIR", help="the star's directory (default: the user's own)")
    return parser


def _days(text: str) -> int:
    if not (text.isdecimal() and 0 < int(text) <= certificates.CA_DAYS):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days from 1 to {certificates.CA_DAYS}")
    return int(text)


# -- init ----------------------------------------------------------------------------------------------------


def _init(options: argparse.Namespace) -> Iterator[str]:
    directory = (options.star or settings.star_dir()).absolute()
    flag = settings.star_flag(directory)
    host = _host(options.host) if options.host else ""
    star, created = certificates.create_star(
        directory,
        host=settings.reachable_host(host),
        worker_port=options.port or WORKER_PORT,
        client_port=options.client_port or CLIENT_PORT,
    )
    if created:
        yield f"made the star {star.id} in {star.directory}"
        if not host:
            other = f"if others reach it by another: init --host HOST{flag}"
            yield f"its manager's address is taken to be {star.host}; {other}"
    elif host or options.port or options.client_port or options.journal is not None:
        pass
    else:
        raise CredentialsError(
            f"a star is in {directory} already (its manager at {_where(star, Role.WORKER)}); nothing was changed"
        )
    if not created and (host or options.port or options.client_port):
        star = certificates.move_star(
            star,
            host=host or star.host,
            worker_port=options.port or star.worker_port,
            client_port=options.client_port or star.client_port,
        )
        yield f"the star {star.id} is at {_where(star, Role.WORKER)} now; join files out there: --manager {star.host}"
    if options.journal is not None:
        journal = "" if options.journal == settings.NO_JOURNAL else os.path.abspath(os.path.expanduser(options.journal))
        star = certificates.keep_journal(star, journal)
        yield f"its manager keeps its journal in {journal} from its next start on" if journal else "it keeps no journal"
    ports = f"--port {star.worker_port} --client-port {star.client_port}"
    yield f"start the manager:   python -m starcore.manager {ports}{flag}"
    yield f"let a machine in:    python -m starcore.certs issue worker NAME{flag}   (and: issue client NAME{flag})"


def _host(text: str) -> str:
    host, port = settings.parse_address(text)
    if port is not None:
        raise AddressError(f"--host {text}: the ports are said by --port and --client-port")
    return host


def _where(star: Star, role: Role) -> str:
    return tls.join_address(star.host, star.port(role))


# -- issue ---------------------------------------------------------------------------------------------------


def _issue(options: argparse.Namespace) -> Iterator[str]:
    directory: Path = options.star or settings.star_dir()
    star = certificates.load_star(directory, settings.star_flag(directory))
    role = Role[options.role.upper()]
    host, port = settings.parse_address(options.address) if options.address else ("", None)
    check = certificates.check_issued if options.renew else certificates.check_unissued
    check(star, role, options.name)
    join = certificates.issue(star, role, options.name, days=options.days, address=host, port=port or 0)
    path = options.out or Path(f"{options.name}.join")
    certificates.hand_out(star, join, path, renew=options.renew)
    command = "python -m starcore.worker --join FILE" if role is Role.WORKER else "STARCORE_JOIN=FILE"
    yield f"wrote {path}: {options.role} {options.name!r} of the star {star.id}, for {options.days} days"
    yield f"take it to that machine over a private way (scp -p), keep it mode 600, and use it: {command}"


# -- show ----------------------------------------------------------------------------------------------------


def _show(options: argparse.Namespace) -> Iterator[str]:
    path: Path = options.path or options.star or settings.star_dir()
    if options.star is not None:
        certificates.load_star(path, settings.star_flag(path))  # which says how one is made there
    if not path.is_dir():
        yield from _show_file(path)
        return
    if (path / "star" / "star.json").exists() and not (path / "star.json").exists():
        path /= "star"
    shown = sorted([*path.glob("*.join"), *path.glob("*.pem")])
    if (path / "star.json").exists():
        star = certificates.load_star(path)
        yield f"star {star.id}: workers at {_where(star, Role.WORKER)}, clients at {_where(star, Role.CLIENT)}"
        yield from [f"  journal  {star.journal}"] if star.journal else []
    elif not shown:
        raise CredentialsError(f"no star and no join file in {path}; make a star with: python -m starcore.certs init")
    for each in shown:
        yield from _show_file(each)


def _show_file(path: Path) -> Iterator[str]:
    try:
        text = certificates.read_text(path)
    except FileNotFoundError as exc:
        raise CredentialsError(f"no file {path}") from exc
    manager = ""
    if '"starcore_join"' in text:
        join = certificates.read_join(path)
        text, manager = join.certificate, f"  manager  {tls.join_address(join.host, join.port)} of the star {join.star}"
    lines = [*_show_certificate(text, path), manager]
    yield f"{path}"
    yield from filter(None, lines)


def _show_certificate(pem: str, path: Path) -> Iterator[str]:
    from cryptography import x509  # noqa: PLC0415 - so that --help is quick

    begin, end = tls.validity(pem, str(path))
    certificate = x509.load_pem_x509_certificate(pem.encode())
    names = [str(each.value) for each in certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
    yield f"  who      {names[0] if names else '(no name)'}"
    yield f"  role     {_role(certificate)}"
    yield f"  expires  {end:%Y-%m-%d %H:%M} UTC{_remark(begin, end)}"
    yield f"  sha256   {tls.fingerprint(pem)}"


def _role(certificate: x509.Certificate) -> str:
    from cryptography import x509  # noqa: PLC0415

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except x509.ExtensionNotFound:
        uris = []
    if roles := [uri.removeprefix(tls.ROLE_URI) for uri in uris if uri.startswith(tls.ROLE_URI)]:
        return roles[0]
    try:
        signs = certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        signs = False
    return "the star's CA" if signs else "none: trusted by its fingerprint, or not at all"


def _remark(begin: datetime, end: datetime) -> str:
    now = datetime.now(timezone.utc)
    if end <= now:
        return "  EXPIRED"
    if begin > now:
        return f"  NOT VALID before {begin:%Y-%m-%d %H:%M} UTC"
    return f"  (in {(end - now).days} days)"


if __name__ == "__main__":
    sys.exit(main())
