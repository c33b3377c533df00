"""Fee runs: one per account_login and request_id, started or read by the same call.

https://docs.b2copy.b2broker.com, "Initiate fee processing between Master and Investment accounts"
"""

from dataclasses import dataclass
from typing import Any

from worker.sandbox.effect_log import Effects
from worker.sandbox.responses import Refused
from worker.sandbox.switches import FeeRule, Switches

STATUSES = {"PENDING": 1, "SUCCESS": 2, "ERROR": 3}


@dataclass(slots=True)
class Run:
    rule: FeeRule
    started_at: float
    polls: int = 0
    restarts: int = 0
    told: tuple[str, str] | None = None  # how the control route finished it: status, words

    def status(self, at: float) -> tuple[str, str]:
        """Return status and words as they stand at `at`, s."""
        if self.told:
            return self.told
        rule = self.rule
        if rule.until_told or self.polls <= rule.pending_polls or at < self.started_at + rule.pending_seconds:
            return "PENDING", ""
        ends = rule.ends_after_restart if self.restarts else rule.ends
        return ends, rule.words if ends == "ERROR" else ""


class Fees:
    def __init__(self, effects: Effects) -> None:
        self.runs: dict[tuple[str, str], Run] = {}
        self._effects = effects

    def process(self, body: Any, at: float, switches: Switches) -> dict[str, Any]:
        """Start or read a fee run. Raises Refused: 400 unless both fields are non-empty strings, 404 unknown login."""
        login, request_id = _text(body, "account_login"), _text(body, "request_id")
        rule = switches.logins.get(login, switches.fees)
        if not rule.known:
            if switches.unknown_login == "404":
                raise Refused(404, f"account {login} is not found")
            return _told(login, request_id, "ERROR", "account is not found", switches)
        run = self.runs.get((login, request_id))
        if run is None:
            run = self.runs[login, request_id] = Run(rule, at)
            self._effects.record("fees.process", f"{login}/{request_id}", at)
        elif switches.error_restarts and run.status(at)[0] == "ERROR":
            run.started_at, run.polls, run.told, run.restarts = at, 0, None, run.restarts + 1
            self._effects.record("fees.process", f"{login}/{request_id}", at)
        run.polls += 1
        status, words = run.status(at)
        if status == "PENDING" and rule.pending_status is not None:
            return _told(login, request_id, rule.pending_status, words, switches)
        return _told(login, request_id, status, words, switches)

    def finish(self, login: str | None, request_id: str | None, status: str, words: str) -> int:
        """End the runs that match, however pending; None matches all. Returns how many."""
        ended = 0
        for (run_login, run_request), run in self.runs.items():
            if login in {None, run_login} and request_id in {None, run_request}:
                run.told = (status, words)
                ended += 1
        return ended


def _text(body: Any, field: str) -> str:
    value = body.get(field) if isinstance(body, dict) else None
    if not isinstance(value, str) or not value:
        raise Refused(400, f"{field} must be a non-empty string")
    return value


def _told(login: str, request_id: str, status: str | int, words: str, switches: Switches) -> dict[str, Any]:
    told: Any = status
    if status in STATUSES:
        told = STATUSES[str(status)] if switches.status_as == "number" else f"FEE_PROCESS_STATUS_{status}"
    data: dict[str, Any] = {"account_login": login, "request_id": request_id, "status": told}
    if words:
        data[switches.error_words_in] = words
    return data
