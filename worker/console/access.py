"""Who sent a request, and what that person may do.

none        everybody on this machine reads; with --yes-i-am-alone the person who runs the console does everything
proxy       a proxy has authenticated the person: X-Forwarded-User and X-Forwarded-Groups, from a trusted address
            and with the shared secret X-Console-Secret
password    a file of people and a login form (`password_access`)
"""

import hmac
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import SecretStr
from starlette.requests import Request

from worker import secret_file
from worker.console.roles import Role
from worker.errors import SettingsError

NAME_LIMIT = 100  # characters of a person's name


@dataclass(frozen=True)
class Person:
    """A known person. `name` is stored as the actor of the person's decisions."""

    name: str
    roles: frozenset[Role]

    def may(self, role: Role) -> bool:
        return role in self.roles or (role is Role.VIEWER and bool(self.roles))


class Access(Protocol):
    """Returns the person who sent a request; None if that is not known."""

    login_page: bool

    def person(self, request: Request) -> Person | None: ...


class LocalAccess:
    """Everybody who reaches the loopback address. `alone`: the console's own user, with all roles."""

    login_page = False

    def __init__(self, name: str, alone: bool) -> None:
        self._person = Person(name, frozenset(Role) if alone else frozenset({Role.VIEWER}))

    def person(self, request: Request) -> Person | None:
        return self._person


class ProxyAccess:
    """A proxy that has authenticated the person. Groups `b2copy-viewer`, `-operator` and `-approver` are the roles.

    The proxy must replace X-Forwarded-User, X-Forwarded-Groups and X-Console-Secret, not add to what the client sent. A
    request with two lines of one of these is from nobody: the second line may be the client's own.
    """

    login_page = False

    def __init__(self, trusted: Iterable[str], secret: str) -> None:
        self._networks = [ipaddress.ip_network(text) for text in trusted]
        self._secret = secret.encode()

    def person(self, request: Request) -> Person | None:
        headers = request.headers
        if not (self._is_trusted(request) and self._has_secret(headers.getlist("x-console-secret"))):
            return None
        names = headers.getlist("x-forwarded-user")
        if len(names) != 1 or (name := _name(names[0])) is None:
            return None
        lines = headers.getlist("x-forwarded-groups")
        if len(lines) > 1:
            return None
        groups = {group.strip() for line in lines for group in line.split(",")}
        return Person(name, frozenset(role for role in Role if f"b2copy-{role}" in groups))

    def _is_trusted(self, request: Request) -> bool:
        try:
            address = ipaddress.ip_address(request.client.host if request.client else "")
        except ValueError:
            return False
        return any(address in network for network in self._networks)

    def _has_secret(self, secrets: list[str]) -> bool:
        return len(secrets) == 1 and hmac.compare_digest(secrets[0].encode("latin-1", "replace"), self._secret)


def _name(header: str) -> str | None:
    """Return the name that a proxy wrote as UTF-8, which Starlette decodes as Latin-1. None if it is no name."""
    try:
        name = header.encode("latin-1").decode().strip(" \t")
    except UnicodeError:
        return None
    return name if 0 < len(name) <= NAME_LIMIT and name.isprintable() else None


def read_secret(path: Path | None) -> str:
    """Read the proxy's secret. Raises `SettingsError` if it is absent, short, or readable by everybody."""
    name = "B2COPY_CONSOLE_PROXY_SECRET_FILE"
    if path is None:
        raise SettingsError(f"{name} is not set: access by proxy needs a secret that the proxy sends")
    secret = SecretStr(secret_file.read(name, path).decode("ascii", "replace").strip())
    secret_file.check_line(name, path, secret.get_secret_value)  # a header holds ASCII alone
    if len(secret) < 32:
        raise SettingsError(f"{name}: {path} holds {len(secret)} characters, at least 32 are needed")
    return secret.get_secret_value()
