"""Push what is due to its destination. One pusher per process.

Each lane has a thread and senders of its own, so that a backfill in `bulk` never stands in front of a withdrawal in
`money`. What the lanes share is here: the leases and the gates. All attempts run on the event loop of the process.
"""

import logging
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from queue import SimpleQueue
from secrets import token_hex
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from worker.flow.attempt import Destination
from worker.flow.attempt_maker import AttemptMaker, Result
from worker.flow.gate import Gate
from worker.flow.lane import Lane
from worker.flow.lease_renewal import LeaseRenewal
from worker.flow.poll_spacing import PollSpacing
from worker.flow.senders import Senders
from worker.ledger import Ledger, count_waiting, make_due
from worker.operation import WaitReason
from worker.operation_kind import Kind
from worker.queues import B2COPY, LANES, destination_of
from worker.settings import Settings

log = logging.getLogger(__name__)

MAKE_DUE_PAUSE_S = 2.0  # seconds between two tries to make due what waited, while the ledger is unavailable
# Seconds from B2COPY_CALL_DEADLINE until every call that hangs now has failed, and that is written. A notice fails
# after 15 s, however short the deadline of a call is.
LAST_FAILURES_S = 20.0


class Pusher:
    """Drains lanes. `kinds` are all kinds by name, `destinations` return this process's client for each destination.

    `ask_for_token`: see `Gate`, for the one to B2COPY.
    """

    def __init__(
        self,
        ledger: Ledger,
        kinds: Mapping[str, Kind[Any]],
        destinations: Mapping[str, Callable[[], Destination]],
        settings: Settings,
        gate_class: type[Gate] = Gate,
        ask_for_token: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self._ledger, self._call_deadline_s = ledger, settings.call_deadline
        self._stopping = threading.Event()
        self._leases = leases = LeaseRenewal(ledger, f"{socket.gethostname()}:{os.getpid()}:{token_hex(4)}")
        gates = {
            name: gate_class(name, settings, self._make_due, ask_for_token=ask_for_token if name == B2COPY else None)
            for name in destinations
        }
        self._gates = list(gates.values())
        spacing = PollSpacing(
            lambda: count_waiting(ledger, WaitReason.PENDING_AT_B2COPY),
            settings.concurrency,
            gates[B2COPY].fleet_limits.per_second,
        )
        self._lanes: dict[str, Lane] = {}
        for name in LANES:
            if (destination := destination_of(name)) not in gates:
                continue
            attempts = AttemptMaker(ledger, kinds, destinations, gates, leases, spacing, settings, name)
            results: SimpleQueue[list[Result]] = SimpleQueue()
            senders = Senders(settings.concurrency, attempts.make, results)
            self._lanes[name] = Lane(
                name, ledger, gates[destination], leases, attempts, senders, results, settings.concurrency,
                self._stopping,
            )  # fmt: skip

    def drain(self, lane: str) -> bool:
        """Send what is due in a lane until nothing is. Returns True if time was up and work is left.

        A lane whose destination this process does not know is left to others.
        """
        return lane in self._lanes and self._lanes[lane].drain()

    def stop(self) -> None:
        """Claim nothing more. Calls in flight are finished; claims that were not sent yet are returned."""
        self._stopping.set()
        for lane in self._lanes.values():
            lane.request_recheck()

    def close(self) -> None:
        """Stop, and renew no lease any more: for a process that continues without this pusher. Nothing is in flight."""
        self.stop()
        self._leases.close()
        for gate in self._gates:
            gate.stop_token_probes()

    def _make_due(self, destination: str, reasons: Iterable[WaitReason], is_last: bool = False) -> None:
        """The gate of a destination has opened: what waited for it need not wait out its back-off.

        Done twice: a call that hangs now, here or in another process, fails within `call_deadline` and waits then. If
        the ledger is unavailable, this is tried again until it is available or the pusher is stopped.
        """
        try:
            count = sum(make_due(self._ledger, destination, reason) for reason in reasons)
        except SQLAlchemyError as error:
            log.warning("%s is available again, but the ledger is not: %s", destination, error)
            self._make_due_later(MAKE_DUE_PAUSE_S, destination, reasons, is_last)
            return
        if count:
            log.info("%s is available again: %d waiting operations are due now", destination, count)
        if not is_last:
            self._make_due_later(self._call_deadline_s + LAST_FAILURES_S, destination, reasons, is_last=True)

    def _make_due_later(self, pause_s: float, destination: str, reasons: Iterable[WaitReason], is_last: bool) -> None:
        def wait_and_make_due() -> None:
            if not self._stopping.wait(pause_s):
                self._make_due(destination, reasons, is_last)

        threading.Thread(target=wait_and_make_due, name="b2copy-make-due", daemon=True).start()
