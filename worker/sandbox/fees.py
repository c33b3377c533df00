"""Fee runs: one per account_login and request_id. The same call starts it or reads its status.

https://docs.b2copy.b2broker.com, "Initiate fee processing between Master and Investment accounts"
"""

from dataclasses import dataclass
from typing import Any

from worker.sandbox.effect_log import Effects
from worker.sandbox.fields import text
from worker.sandbox.responses import Refused
from worker.sandbox.switches import FeeRule, Switches

STATUSES = {"PENDING": 1, "SUCCESS": 2, "ERROR": 3}


@dataclass(slots=True)
class Run:
    """One fee run. `finished` is the status and message that the control route has set."""

    rule: FeeRule
    started_at: float  # on the monotonic clock, s
    polls: int = 0
    restarts: int = 0
    finished: tuple[str, str] | None = None

    def status(self, at: float) -> tuple[str, str]:
        """Return status and message at `at`, s."""
        if self.finished:
            return self.finished
        rule = self.rule
        if rule.until_finished or self.polls <= rule.pending_polls or at < self.started_at + rule.pending_seconds:
            return "PENDING", ""
        ends = rule.ends_after_restart if self.restarts else rule.ends
        return ends, rule.message if ends == "ERROR" else ""


class Fees:
    def __init__(self, effects: Effects) -> None:
        self.runs: dict[tuple[str, str], Run] = {}
        self._effects = effects

    def process(self, body: Any, at: float, switches: Switches) -> dict[str, Any]:
        """Start or read a fee run. Raises Refused: 400 a field, 403 not permitted, 404 unknown login."""
        login, request_id = text(body, "account_login"), text(body, "request_id")
        rule = switches.logins.get(login, switches.fees)
        if not rule.permitted:
            raise Refused(403, f"no permission for account {login}")
        if not rule.known:
            if switches.unknown_login == "404":
                raise Refused(404, f"account {login} is not found")
            return _answer(login, request_id, "ERROR", "account is not found", switches)
        run = self.runs.get((login, request_id))
        if run is None:
            run = self.runs[login, request_id] = Run(rule, at)
            self._effects.record("fees.process", f"{login}/{request_id}", at)
        elif switches.error_restarts and run.status(at)[0] == "ERROR":
            run.started_at, run.polls, run.finished, run.restarts = at, 0, None, run.restarts + 1
            self._effects.record("fees.process", f"{login}/{request_id}", at)
        run.polls += 1
        status, message = run.status(at)
        if status == "PENDING" and rule.pending_status is not None:
            return _answer(login, request_id, rule.pending_status, message, switches)
        return _answer(login, request_id, status, message, switches)

    def finish(self, login: str | None, request_id: str | None, status: str, message: str) -> int:
        """Finish the runs that match, even pending ones; None matches all. Returns how many."""
        matching = [
            run
            for (run_login, run_request), run in self.runs.items()
            if login in {None, run_login} and request_id in {None, run_request}
        ]
        for run in matching:
            run.finished = (status, message)
        return len(matching)


def _answer(login: str, request_id: str, status: str | int, message: str, switches: Switches) -> dict[str, Any]:
    if status in STATUSES:
        status = STATUSES[str(status)] if switches.status_as == "number" else f"FEE_PROCESS_STATUS_{status}"
    data: dict[str, Any] = {"account_login": login, "request_id": request_id, "status": status}
    if message:
        data[switches.error_message_in] = message
    return data
