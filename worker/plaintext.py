"""Which connections others could read on the way: those without verified TLS to another host than this machine.

One rule for HTTP, Redis and PostgreSQL. Passwords, tokens and payloads travel on all of them.
"""

import ipaddress
from urllib.parse import urlsplit

from worker import database_url


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def plaintext_problem(url: str) -> str:
    """Return what is wrong with a checked URL whose traffic others could read on the way, or "" if they cannot.

    TLS without a verified certificate counts as plain text, because anybody on the way can be the server.
    """
    match url.partition("://")[0].lower():
        case "http" if not is_loopback(urlsplit(url).hostname or ""):
            return "must be https: plain http is accepted to a loopback address only"
        case "redis" if not is_loopback(urlsplit(url).hostname or ""):
            return "must be rediss:// (TLS): plain redis:// is accepted to a loopback address only"
        case database_url.POSTGRESQL if leaves_this_machine(url):
            if database_url.options(url).get("sslmode") != "verify-full":
                return "must have sslmode=verify-full; to a loopback address or a Unix socket it may have a weaker one"
    return ""


def leaves_this_machine(url: str) -> bool:
    """Return whether a checked URL of the ledger leads to another machine."""
    if not url.startswith(f"{database_url.POSTGRESQL}:"):
        return False
    return not all(host.startswith(("/", "@")) or is_loopback(host) for host in database_url.hosts(url))
