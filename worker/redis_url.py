"""What B2COPY_REDIS_URL may say. Celery, the shared session and the rate limit read the same checked URL.

Each client library reads the query of a URL in its own way, or fails on it after an operation was recorded. So options
are an allow list, checked when the settings are read, and none reaches a client.
"""

import re
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from worker.plaintext import is_loopback

_SHAPE = "must be redis://host:6379/0, or rediss://host:6379/0 with TLS"
_TLS_OPTIONS = {"ssl_cert_reqs", "ssl_check_hostname"}
_OWN_SETTING = {"ssl_ca_certs": "B2COPY_REDIS_CA_FILE", "ssl_ca_path": "B2COPY_REDIS_CA_FILE"}
_UNVERIFIED = "?ssl_cert_reqs=none"


def checked_redis_url(value: str) -> str:
    """Return the URL in the one form that all clients read alike. Raises `ValueError`, without the password."""
    try:
        parts = urlsplit(value.strip())
        port = parts.port
    except ValueError:
        raise ValueError(f"{_SHAPE}; percent-encode special characters of the password (# is %23, / is %2F)") from None
    host = parts.hostname or ""
    if parts.scheme not in {"redis", "rediss"} or not re.fullmatch(r"[\w.:-]+", host) or parts.fragment or port == 0:
        raise ValueError(_SHAPE)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    database = options.pop("db", "") or parts.path.strip("/") or "0"
    if not re.fullmatch(r"[0-9]{1,4}", database):
        raise ValueError(f"{_SHAPE}: the database is a number")
    verified = _is_verified(options, parts.scheme, host)
    login = ""
    if parts.username or parts.password is not None:
        # Celery splits its broker URL at every ";", so the password is encoded again.
        login = f"{quote(unquote(parts.username or ''), safe='')}:{quote(unquote(parts.password or ''), safe='')}@"
    address = f"[{host}]" if ":" in host else host
    address += f":{port}" if port else ""
    return f"{parts.scheme}://{login}{address}/{database}" + ("" if verified else _UNVERIFIED)


def uses_tls(url: str) -> bool:
    """Return whether a checked URL asks for TLS."""
    return url.startswith("rediss://")


def verifies_certificate(url: str) -> bool:
    """Return whether the certificate and host name of the server are verified. Only loopback may do without."""
    return not url.endswith(_UNVERIFIED)


def without_query(url: str) -> str:
    """Return a checked URL as client libraries get it."""
    return url.partition("?")[0]


def without_password(url: str, database: int | None = None) -> str:
    """Return a checked URL without its password, and with another database if one is given."""
    parts = urlsplit(url)
    login, _, address = parts.netloc.rpartition("@")
    name = login.partition(":")[0]
    path = parts.path if database is None else f"/{database}"
    return parts._replace(netloc=f"{name}@{address}" if name else address, path=path).geturl()


def _is_verified(options: dict[str, str], scheme: str, host: str) -> bool:
    for name in options:
        if name in _OWN_SETTING:
            raise ValueError(f"must not hold {name}: set {_OWN_SETTING[name]} instead")
        if name not in _TLS_OPTIONS or scheme != "rediss":
            raise ValueError(f"must not hold the option {name[:40]!r}: remove it; time limits and pools are built in")
    unverified = {
        name
        for name, value in options.items()
        if value.lower().removeprefix("cert_") not in ({"required"} if name == "ssl_cert_reqs" else {"true", "1"})
    }
    if not unverified:
        return True
    if not is_loopback(host):
        raise ValueError(
            f"must not hold {'&'.join(f'{name}={options[name]}' for name in sorted(unverified))}: the certificate and"
            " the host name are always verified; set B2COPY_REDIS_CA_FILE to the authority that signed it"
        )
    return False
