"""The shared session for people and for programs. No token in it."""

from dataclasses import asdict
from typing import Any

from worker.report.format_values import span
from worker.session import State

OUTCOMES = {
    "refresh": "renewed with the refresh token",
    "login": "renewed by a login",
    "adopted": "renewed by another process at the same time",
    "conflict": "renewed by another process at the same time; our tokens were dropped",
    "fresh": "still fresh",
    "busy": "another process renews it and has not finished",
    "cooldown": "no process asks for a while, after a failure",
}
"""What each outcome of a renewal means."""

RENEWED = frozenset({"refresh", "login", "adopted", "conflict"})


def document(state: State) -> dict[str, Any]:
    """Return the session for programs. Durations are in seconds from now."""
    cooldown = state.cooldown
    return {
        "generation": state.generation or None,
        "fingerprint": state.fingerprint,
        "origin": state.origin,
        "key_id": state.credential,
        "writer": state.written_by,
        "readable": state.readable,
        "age_s": state.age,
        "expires_in_s": state.expires_in,
        "renews_in_s": state.renews_in,
        "refresh_token_used": state.refresh_token_used,
        "leader": state.leader,
        "cooldown": None if cooldown is None else asdict(cooldown),
    }


def facts(state: State) -> list[tuple[str, str]]:
    """Return the session for people: names and values."""
    facts = _session(state) if state.generation else [("session", "none: the next call logs in")]
    facts.append(("being renewed by", state.leader or ""))
    if cooldown := state.cooldown:
        facts.append(("no renewal for", f"{span(cooldown.left)} ({cooldown.kind}), after: {cooldown.reason}"))
    return facts


def _session(state: State) -> list[tuple[str, str]]:
    left_s, renews_s = state.expires_in or 0.0, state.renews_in or 0.0
    origin = "a login" if state.origin == "login" else "a refresh"
    return [
        ("generation", str(state.generation)),
        ("made by", f"{origin} with key {state.credential}, {state.written_by}"),
        ("age", span(state.age or 0.0)),
        ("expires", f"in {span(left_s)}" if left_s > 0 else "expired"),
        ("renewed", f"in {span(renews_s)}" if renews_s > 0 else "due"),
        ("fingerprint", state.fingerprint or ""),
        ("refresh token", "used: the next renewal is a login" if state.refresh_token_used else "unused"),
        ("readable", "" if state.readable else "NO: no storage key of this host opens it, and another host made it"),
    ]
