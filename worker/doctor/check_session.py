"""Whether there is a session, or a login succeeds; and why B2COPY refuses it."""

import ipaddress
import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from shlex import quote

from worker.doctor import CheckResult
from worker.errors import B2CopyError, CredentialsRejected, SettingsError, StoreUnavailable
from worker.report.session_report import OUTCOMES
from worker.session import SharedSession, check_keys
from worker.settings import Settings

PATIENCE_S = 30.0  # seconds for a login
_EFFECT = "operations wait meanwhile, and none fails"


def check(settings: Settings, login: bool) -> Iterator[CheckResult]:
    """Report on the session that exists. Without one, renew it like a worker would, so that the reason is known."""
    try:
        shared = quiet_session(settings)
        yield from report_session("session", shared, login)
        yield from _other_addresses(shared)
    except SettingsError as error:
        yield CheckResult("session", "skip", f"not without its keys: {str(error).splitlines()[0]}")
    except CredentialsRejected as error:
        yield from _refused(error, settings)
    except StoreUnavailable:
        yield CheckResult("session", "FAIL", "there is none without Redis")
    except B2CopyError as error:
        yield CheckResult("session", "FAIL", str(error), _EFFECT)


def quiet_session(settings: Settings) -> SharedSession:
    """Return the fleet's session for a command, which prints what the session would log. Raises `SettingsError`."""
    check_keys(settings)
    logging.getLogger("worker.session").setLevel(logging.CRITICAL)
    return SharedSession(settings)


def report_session(check: str, shared: SharedSession, login: bool) -> Iterator[CheckResult]:
    """Report on the session that exists, or renew it. Raises `CredentialsRejected` also while nobody asks after it."""
    state = shared.state()
    left_s = state.expires_in or 0.0
    if state.readable and left_s > 0 and not login:
        yield CheckResult(check, "ok", f"generation {state.generation} is shared, valid for {left_s:.0f} s")
        return
    renewal = shared.renew("doctor", force=login, wait=PATIENCE_S)
    if renewal.outcome == "cooldown" and (cooldown := shared.state().cooldown):
        if cooldown.kind == "terminal":
            raise CredentialsRejected("the login", None, cooldown.reason)
        message = f"nobody asks B2COPY for {cooldown.left:.0f} s, after: {cooldown.reason}"
        yield CheckResult(check, "FAIL", message, _EFFECT)
        return
    before = "" if login else "there was none: "
    message = f"{before}generation {renewal.generation}, {OUTCOMES[renewal.outcome]}"
    yield CheckResult(check, "FAIL" if renewal.outcome == "busy" else "ok", message)


def _other_addresses(shared: SharedSession) -> Iterator[CheckResult]:
    """Report sessions of the same admin from other addresses: each egress address is a session of its own."""
    ours = shared.state().identity
    others = sorted(
        other.address for other in shared.sessions() if other != ours and replace(other, address=ours.address) == ours
    )
    if others:
        message = f"the same admin has sessions from other addresses within a day: {', '.join(others)}"
        remedy = f"set one B2COPY_DEVICE_IP on every host, unless they send from several; here it is {ours.address}"
        yield CheckResult("session", "warn", message, remedy)


def _refused(error: CredentialsRejected, settings: Settings) -> Iterator[CheckResult]:
    """Only B2COPY's message tells what it dislikes. An address in the message is the one that B2COPY sees."""
    cause, remedy = _cause_of_refusal(error.server_message or str(error), settings)
    yield CheckResult(
        "session", "FAIL", f"the login is refused: {error.server_message or error}{cause}", f"{_EFFECT}; {remedy}"
    )
    found = (text.rstrip(".,:") for text in re.findall(r"[0-9a-fA-F:.]{3,45}", error.server_message or ""))
    if seen := sorted({text for text in found if _is_address(text)} - {settings.device_ip}):
        message = f"we send {settings.device_ip}, B2COPY sees {', '.join(seen)}"
        yield CheckResult(
            "device_ip", "FAIL", message, "set B2COPY_DEVICE_IP to what it sees, and have that registered"
        )


def _cause_of_refusal(message: str, settings: Settings) -> tuple[str, str]:
    """Return what B2COPY's message points to, and what to do about it."""
    key_id, file = settings.key_id[0], settings.private_key_file[0]
    if "signature" in message.lower():
        cause = f" (the key in {file} is not the one that B2COPY has registered as {key_id})"
        return (
            cause,
            f"put the registered key back, or have this one registered: `openssl pkey -in {quote(str(file))} -pubout`",
        )
    if re.search(r"\bkid\b|\bkey[ _]?id\b", message, re.IGNORECASE):
        cause = f" (B2COPY knows no key called {key_id})"
        return cause, "set B2COPY_KEY_ID to the identifier under which B2COPY support registered the public key"
    return "", "compare admin id, key id and public key with what B2COPY support registered"


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
