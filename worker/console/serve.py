"""Run the console: check its settings, open the ledger with limits, serve."""

import ipaddress
import os
import socket
from collections.abc import Callable

import uvicorn

from tasks.registry import ALL_KINDS
from worker.console.access import Access, LocalAccess, ProxyAccess, read_secret
from worker.console.app import make_app
from worker.console.password_access import PasswordAccess
from worker.console.process_state import Console
from worker.current_user import current_user
from worker.errors import SettingsError
from worker.instances import usable_session
from worker.ledger import open_ledger
from worker.ledger.query_limits import limit_queries
from worker.messages.wake_up import wake
from worker.plaintext import is_loopback
from worker.report.four_eyes import under_rule
from worker.session import SharedSession
from worker.settings import ConsoleSettings

CONNECTIONS = 2


def make_console(settings: ConsoleSettings, alone: bool = False, wake_lane: Callable[[str], object] = wake) -> Console:
    """Return the console's parts. `alone`: without access control, the person who runs the console may do everything.

    Raises `SettingsError`.
    """
    access = _access(settings, alone)
    read_only = settings.console_read_only or (settings.console_access == "none" and not alone)
    ledger = open_ledger(settings.database_url, pool_size=CONNECTIONS, max_overflow=0, pool_timeout=5)
    limit_queries(ledger.engine, read_only)
    ledger = under_rule(ledger, settings.four_eyes, lambda: ALL_KINDS)
    return Console(ledger, settings, access, ALL_KINDS, read_only, _session(), wake_lane)


def check_listen(settings: ConsoleSettings, host: str) -> None:
    """Raises `SettingsError` if others could reach the console without access control or read its passwords."""
    if is_loopback(host):
        return
    if settings.console_access == "none":
        raise SettingsError(
            f"--listen {host} is no loopback address: set B2COPY_CONSOLE_ACCESS=proxy or password, or others could"
            " read every operation"
        )
    if settings.console_access == "password" and not (settings.console_origin or "").startswith("https://"):
        raise SettingsError(
            f"--listen {host}: passwords must travel by https: put a proxy with TLS in front, and set"
            " B2COPY_CONSOLE_ORIGIN=https://..."
        )


def serve(
    settings: ConsoleSettings, host: str, port: int, alone: bool, on_listening: Callable[[], object] = lambda: None
) -> None:
    """Serve until a signal ends the process. Calls `on_listening` when the port is open.

    Raises `SettingsError` before anything listens, and `OSError` if the address cannot be used.
    """
    check_listen(settings, host)
    console = make_console(settings, alone)
    try:
        with _listen(host, port) as listening:
            on_listening()
            uvicorn.Server(server_config(console, host, port)).run(sockets=[listening])
    finally:
        console.ledger.close()


def _listen(host: str, port: int) -> socket.socket:
    """Open the port. uvicorn would log what is wrong, and end the process with an exit code of its own."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        reason = os.strerror(error.errno) if error.errno else error
        raise OSError(f"{address} cannot be used: {reason}; choose another address by --listen") from None


def server_config(console: Console, host: str, port: int) -> uvicorn.Config:
    """Return how the HTTP server runs."""
    return uvicorn.Config(
        make_app(console),
        host=host,
        port=port,
        proxy_headers=False,  # a client must not choose the address that a trusted proxy is known by
        server_header=False,
        access_log=False,
        log_config=None,  # our handlers, which redact, and not handlers of its own
        log_level="warning",
        timeout_graceful_shutdown=5,
    )


def split_address(text: str) -> tuple[str, int]:
    """Read `127.0.0.1:8080` or `[::1]:8080`. Raises `SettingsError`."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        if host != "localhost":
            ipaddress.ip_address(host)
        if not 0 < int(port) < 65536:
            raise ValueError
    except ValueError:
        raise SettingsError(f"--listen {text} is no address and port: 127.0.0.1:8080") from None
    return host, int(port)


def _access(settings: ConsoleSettings, alone: bool) -> Access:
    match settings.console_access:
        case "proxy":
            if not settings.console_trusted_proxies:
                raise SettingsError(
                    "B2COPY_CONSOLE_TRUSTED_PROXIES is not set: access by proxy needs the proxy's address"
                )
            return ProxyAccess(settings.console_trusted_proxies, read_secret(settings.console_proxy_secret_file))
        case "password":
            secure = (settings.console_origin or "").startswith("https://")
            return PasswordAccess(settings.console_password_file, secure)
    return LocalAccess(current_user(), alone)


def _session() -> SharedSession | str:
    try:
        return usable_session()
    except SettingsError as error:  # often a host without keys: the console works, but cannot show or renew the session
        reason = str(error).splitlines()[0]
        return f"this host cannot use the session, because it has not all settings of a worker: {reason}"
