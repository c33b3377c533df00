"""Whether each login's session exists, or a login succeeds; and why B2COPY refuses it.

No password is presented that was refused before: that is remembered in the ledger, for workers and for this check.
"""

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pkgutil import iter_modules

from worker.b2copy import Route, routes
from worker.doctor import CheckResult
from worker.errors import B2CopyError, CredentialsRejected, SettingsError, StoreUnavailable
from worker.instances import usable_session
from worker.report.session_report import OUTCOMES
from worker.session import TERMINAL, SharedSession, State
from worker.session.key_files import signing_keys
from worker.settings import LOGIN_FIELDS, Settings, variable

_TRY_LOGIN = "`b2copy-sync doctor --login`"
PATIENCE_S = 30.0  # seconds that a command waits for a login, its own or another process's


def check(settings: Settings, login: str, log_in: bool) -> Iterator[CheckResult]:
    """Report on the session that exists. Without one, renew it like a worker would, so that the reason is known.

    `log_in` logs in with this host's own credentials even if there is one. The check has the login's name.
    """
    if login not in _logins_of_routes(settings):
        remedy = f"set B2COPY_ACCOUNTS_LOGIN or B2COPY_WIDGETS_LOGIN to {login}, or remove {_variables_of(login)}"
        yield CheckResult(login, "warn", f"{_variables_of(login)} are set, and no route uses this login", remedy)
    try:
        shared = usable_session(login)
    except SettingsError as error:
        yield CheckResult(login, "skip", f"not without the keys: {str(error).splitlines()[0]}")
        return
    try:
        shared.check()
        yield from _report(settings, login, shared, log_in)
        yield from _other_addresses(login, shared)
    except SettingsError as error:  # names the file or the ledger, and the remedy
        yield CheckResult(login, "FAIL", str(error).splitlines()[0])
    except CredentialsRejected as error:
        yield from _refused(login, shared, error)
    except StoreUnavailable:
        yield CheckResult(login, "FAIL", "there is no session without Redis")
    except B2CopyError as error:
        yield CheckResult(login, "FAIL", str(error), _effect_of(login))


def check_unset(settings: Settings) -> Iterator[CheckResult]:
    """Report on each login that a route uses and that is not set."""
    for login in LOGIN_FIELDS:
        if login in _logins_of_routes(settings) and login not in settings.logins:
            message = "a route of B2COPY uses this login, and it is not set"
            yield CheckResult(login, "FAIL", message, f"set {_variables_of(login)}; {_effect_of(login)}")


def _report(settings: Settings, login: str, shared: SharedSession, log_in: bool) -> Iterator[CheckResult]:
    """Report on the session that exists, or renew it. Raises `CredentialsRejected` also while nobody asks after it."""
    state = shared.state()
    left_s = state.expires_in or 0.0
    if state.readable and left_s > 0 and not log_in:
        yield CheckResult(login, "ok", f"session generation {state.generation} is shared, valid for {left_s:.0f} s")
        yield from _made_with_another_key(settings, login, state)
        return
    is_unreadable = state.generation > 0 and not state.readable and left_s > 0
    if is_unreadable:
        message = f"no storage key of this host opens the session that {state.written_by} stored"
        yield CheckResult(login, "warn", message, "write the same keys into B2COPY_STORAGE_KEY_FILE on every host")
    renewal = shared.renew("doctor", force=log_in, wait=PATIENCE_S, with_login=log_in)
    if cooldown := renewal.cooldown:
        if cooldown.kind == TERMINAL:
            raise CredentialsRejected("the login", None, cooldown.reason)
        message = f"nobody asks B2COPY for {cooldown.left:.0f} s, after: {cooldown.reason}"
        yield CheckResult(login, "FAIL", message, _effect_of(login))
        return
    before = "" if log_in or is_unreadable else "there was no session: "
    message = f"{before}generation {renewal.generation}, {OUTCOMES[renewal.outcome]}"
    if log_in and renewal.outcome != "login":
        not_tried = f"{message}, so this host's own login was not tried"
        yield CheckResult(login, "FAIL", not_tried, f"again: {_TRY_LOGIN}")
        return
    yield CheckResult(login, "FAIL" if renewal.outcome == "busy" else "ok", message)


def _made_with_another_key(settings: Settings, login: str, state: State) -> Iterator[CheckResult]:
    """Warn if this host has no key of the id that the session was made with: its own key may be unknown to B2COPY."""
    if login != "service_admin" or not state.credential:
        return
    ours = [key.key_id for key in signing_keys(settings)]
    if state.credential not in ours:
        message = (
            f"session generation {state.generation} was made with key {state.credential};"
            f" this host's key {', '.join(ours)} was not tried"
        )
        yield CheckResult(login, "warn", message, _TRY_LOGIN)


def _other_addresses(login: str, shared: SharedSession) -> Iterator[CheckResult]:
    """Report sessions of the same admin from other addresses: each egress address is a session of its own."""
    ours = shared.identity
    others = sorted(
        other.address
        for other in shared.recent_identities()
        if other != ours and replace(other, address=ours.address) == ours
    )
    if others:
        message = f"the same admin has sessions from other addresses within a day: {', '.join(others)}"
        remedy = f"set one B2COPY_DEVICE_IP on every host, unless they send from several; here it is {ours.address}"
        yield CheckResult(login, "warn", message, remedy)


def _refused(login: str, shared: SharedSession, error: CredentialsRejected) -> Iterator[CheckResult]:
    """Only B2COPY's message tells what it dislikes. An address in the message is the one that B2COPY sees."""
    reason = error.server_message or str(error)
    cause, remedy = shared.explain(reason)
    message = f"the login is refused: {reason}{cause and f' ({cause})'}"
    yield CheckResult(login, "FAIL", message, f"{_effect_of(login)}; {remedy}")
    if not (ours := shared.identity.address):
        return
    found = (text.rstrip(".,:") for text in re.findall(r"[0-9a-fA-F:.]{3,45}", error.server_message or ""))
    if seen := sorted({text for text in found if _is_address(text)} - {ours}):
        message = f"we send {ours}, B2COPY sees {', '.join(seen)}"
        yield CheckResult(
            "device_ip", "FAIL", message, "set B2COPY_DEVICE_IP to what it sees, and have that registered"
        )


def _effect_of(login: str) -> str:
    """Return what a missing session does to operations."""
    only = "" if login == "service_admin" else "that use this login "
    return f"operations {only}wait meanwhile, and none fails"


def _logins_of_routes(settings: Settings) -> set[str]:
    """Return the logins that the routes of B2COPY use."""
    modules = [import_module(f"{routes.__name__}.{module.name}") for module in iter_modules(routes.__path__)]
    found = [value for module in modules for value in vars(module).values() if isinstance(value, Route)]
    return {settings.login_of_group.get(route.login, route.login) for route in found if route.login is not None}


def _variables_of(login: str) -> str:
    return " and ".join(map(variable, LOGIN_FIELDS[login]))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
