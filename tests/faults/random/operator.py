"""A person who decides: pauses lanes, cancels, stops asking, replays; and at the end settles what is unresolved."""

import time
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, select
from sqlalchemy.exc import SQLAlchemyError

from tests.faults.ledger.promises import effects_by_key
from tests.faults.ledger.system import System
from tests.faults.random.plan import OperatorAction
from worker.errors import NotAllowed
from worker.ledger import cancel, pause, replay
from worker.ledger.operator_actions import resolve, stop_asking
from worker.ledger.pauses import resume
from worker.ledger.schema import c
from worker.queues import LANES

NAME, NOTE = "operator", "random run"
_FAILED_ON_PURPOSE = (c.state == "failed") & (c.failure_reason == "fee_error")
_UNRESOLVED = (c.state == "failed") & (c.failure_reason == "unresolved")


@dataclass
class Operator:
    """Remembers what it decided, so that the ledger's audit and states can be compared with that."""

    system: System
    cancelled: set[str] = field(default_factory=set)
    touched: set[str] = field(default_factory=set)
    decisions: int = 0
    left_out: int = 0  # because there was no such operation, the ledger forbade it or was unavailable

    def act(self, action: OperatorAction) -> None:
        """Do one action of the plan, if it is possible at this moment."""
        try:
            if action.action == "pause":
                self._pause(LANES[int(action.choice * len(LANES))], action.seconds)
            else:
                self._decide(action)
        except (NotAllowed, SQLAlchemyError):
            self.left_out += 1

    def _decide(self, action: OperatorAction) -> None:
        possible = {
            "cancel": c.state == "queued",
            "stop_asking": c.wait_reason == "pending_at_b2copy",
            "replay": _FAILED_ON_PURPOSE,
        }
        keys = self._keys(possible[action.action])
        if not keys:
            self.left_out += 1
            return
        key = keys[int(action.choice * len(keys))]
        with self.system.ledger() as ledger:
            match action.action:
                case "cancel":
                    cancel(ledger, key, NAME, NOTE)
                    self.cancelled.add(key)
                case "stop_asking":
                    stop_asking(ledger, key, NAME, NOTE)
                case "replay":
                    if not replay(ledger, [key], NAME, NOTE):
                        self.left_out += 1
                        return
        self.touched.add(key)
        self.decisions += 1

    def _pause(self, lane: str, seconds: float) -> None:
        with self.system.ledger() as ledger:
            pause(ledger, lane, NAME, NOTE)
        self.decisions += 1
        with self.system.fault():
            time.sleep(seconds)
            self.resume_all()

    def resume_all(self, patience_s: float = 30.0) -> None:
        """End every pause; repeat while the ledger is unavailable."""
        ends = time.monotonic() + patience_s
        while True:
            try:
                with self.system.ledger() as ledger:
                    self.decisions += sum(resume(ledger, lane, NAME, NOTE) for lane in (*LANES, "all"))
                return
            except SQLAlchemyError:
                if time.monotonic() > ends:
                    raise
                time.sleep(0.5)

    def settle_unresolved(self) -> int:
        """Look at B2COPY what became of each unresolved operation, and record it or let it be done. Return how many.

        A fee run is replayed, because its answer tells how it stands.
        """
        effects, keys = effects_by_key(self.system), self._keys(_UNRESOLVED)
        with self.system.ledger() as ledger:
            for key in keys:
                if key.startswith("call:") and effects.get(key):
                    resolve(ledger, key, NAME, NOTE, succeeded=True, result={})
                elif not replay(ledger, [key], NAME, NOTE, not_done=key.startswith("call:")):
                    raise AssertionError(f"{key} is unresolved, but was not replayed")
                self.touched.add(key)
                self.decisions += 1
        return len(keys)

    def _keys(self, condition: ColumnElement[bool]) -> list[str]:
        with self.system.ledger() as ledger, ledger.reading() as connection:
            return list(connection.execute(select(c.key).where(condition).order_by(c.id)).scalars())
