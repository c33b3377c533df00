"""What B2COPY_DATABASE_URL may say, and how its TLS is verified.

libpq reads what a URL leaves out from PGSSLMODE and other variables. So that none of them weakens a connection to
another host, the URL that the settings hold names sslmode and certificates.

Documentation: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS,
https://www.postgresql.org/docs/current/libpq-ssl.html#LIBPQ-SSL-PROTECTION
"""

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

POSTGRESQL = "postgresql+psycopg"  # the scheme of every checked URL of a PostgreSQL server
SYSTEM = "system"  # as `sslrootcert`: the authorities that this machine trusts

_HOSTS = "must name several hosts behind the path: postgresql://user@/name?host=h1:5432&host=h2:5432"


def checked_database_url(value: str) -> str:
    """Name the driver we ship with: `postgres://` and `postgresql://` mean psycopg 3.

    Raises `ValueError`, whose text does not show the value.
    """
    value = value.strip()
    if value[:1] in {'"', "'"}:
        raise ValueError("must not stand in quotes: remove them")
    if template := re.search(r"\$\{\w+\}|\$\(\w+\)|\{\{.*?\}\}|\[YOUR[-_]\w+\]", value):
        raise ValueError(f"must not hold {template[0]}: nothing has put a value in its place")
    scheme, separator, rest = value.partition("://")
    if not separator or ":" in scheme:
        raise ValueError("must be an SQLAlchemy URL: sqlite:////absolute/path or postgresql://user@host/name")
    dialect, _, driver = scheme.partition("+")
    if dialect == "sqlite" and not driver:
        if not rest.startswith("//"):
            raise ValueError("must name an absolute path: sqlite:////absolute/path (four slashes)")
        if "?" in rest:
            raise ValueError("must not hold options: an SQLite ledger takes none")
        return f"sqlite://{rest}"
    if dialect not in {"postgres", "postgresql"}:
        raise ValueError(f"must be on sqlite or postgresql, not {scheme}")
    if driver not in {"", "psycopg"}:
        raise ValueError(f"must not name the driver {driver}: write postgresql://..., the ledger uses psycopg 3")
    _check_hosts(re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2])
    url = f"{POSTGRESQL}://{rest}"
    options(url)
    return url


def _check_hosts(hosts: str) -> None:
    """Refuse what SQLAlchemy cannot read between user and path of a PostgreSQL URL."""
    if "," in hosts:
        raise ValueError(f"{_HOSTS}&target_session_attrs=read-write")
    port = "" if hosts.endswith("]") else hosts.rpartition(":")[2] if ":" in hosts else ""
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(
            "must have a port number behind the host's colon (and %40, %3A, %2F for @, : and / in a password)"
        )


def options(url: str) -> dict[str, Any]:
    """Return what libpq gets from a checked URL, read by the library that connects: its password too.

    Raises `ValueError`, whose text does not show the URL.
    """
    from sqlalchemy.engine import make_url  # it takes long to import, and a URL of SQLite does not need it
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
        _, found = parsed.get_dialect()().create_connect_args(parsed)
    except (ArgumentError, ValueError):
        raise ValueError(_HOSTS) from None
    return dict(found)


def hosts(url: str) -> list[str]:
    """Return the hosts, addresses and socket folders to which libpq may connect; empty for its own Unix socket.

    The hosts of a service stand in a file of libpq's, so a service counts as a host that nobody knows.
    """
    given = options(url)
    found = [given.get(name) or os.environ.get(f"PG{name.upper()}", "") for name in ("host", "hostaddr")]
    if given.get("service") or os.environ.get("PGSERVICE"):
        found.append("(of a service)")
    return [host for names in found for host in str(names).split(",") if host]


def with_certificates(url: str, ca_file: Path | None, must_verify: bool) -> str:
    """Return a checked URL that says how its TLS is verified.

    `must_verify`: a URL without sslmode gets sslmode=verify-full. `ca_file` and sslrootcert=system ask for the same.
    Without `ca_file` and sslrootcert a certificate is verified with the authorities that this machine trusts.

    Raises `ValueError` if both `ca_file` and the URL name certificates.
    """
    if not url.startswith(f"{POSTGRESQL}:"):
        return url
    given = options(url)
    if ca_file and "sslrootcert" in given:
        raise ValueError("must not hold sslrootcert while B2COPY_DATABASE_CA_FILE names a file of certificates")
    added = {}
    if "sslmode" not in given and (must_verify or ca_file or given.get("sslrootcert") == SYSTEM):
        added["sslmode"] = "verify-full"
    sslmode = str(given.get("sslmode") or added.get("sslmode"))
    if ca_file:
        added["sslrootcert"] = quote(str(ca_file), safe="/")
    elif sslmode.startswith("verify") and "sslrootcert" not in given:
        added["sslrootcert"] = SYSTEM
    if not added:
        return url
    query = "&".join(f"{name}={text}" for name, text in added.items())
    return f"{url}&{query}" if _has_query(url) else f"{url.removesuffix('?')}?{query}"


def _has_query(url: str) -> bool:
    from sqlalchemy.engine import make_url

    return bool(make_url(url).query)
