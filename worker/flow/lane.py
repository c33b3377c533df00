"""One lane of this process: the loop that claims and settles, and the senders it feeds.

    claim ──> senders.queue ──> attempts ──> results ──> settle, and claim the next in the same transaction

The batch grows with the load: a single operation is claimed, sent and settled at once; with a backlog one transaction
serves a hundred.
"""

import logging
import math
import threading
import time
from queue import Empty, SimpleQueue

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from worker.flow.gate import Gate
from worker.flow.lease_renewal import LeaseRenewal
from worker.flow.sender import Result, Return, Senders, ToSend
from worker.ledger import DATABASE_UNAVAILABLE_ERRORS, Ledger, return_unsent, settle, settle_and_claim
from worker.operation import Claim, FailureReason, OnUnknown, State, Transition
from worker.queues import WAKE_UP_LASTS_S

log = logging.getLogger(__name__)

DRAIN_FOR_S = 10.0  # after which a drain gives its Celery slot back, in pools that have one slot per process
SHUTDOWN_PATIENCE_S = 20.0  # that a worker which shall end waits for a ledger that is unavailable
PREFETCH_S = 0.2  # of sending that is claimed ahead, so that no sender waits for the ledger
PREFETCH_MAX = 250  # operations
STAY_S = 1.5 * WAKE_UP_LASTS_S  # that a drain stays after a wake-up
LINGER_S = 0.05  # that results may wait for others while the senders are busy
DATABASE_PAUSE_S = 0.5  # between two tries to write results to a ledger that is unavailable
WRITE_TRIES = 3  # for a result that the database refuses, before its lease is left to lapse


class Lane:
    """Drains one lane: claims what is due, lets the senders make the attempts, settles what became of them."""

    def __init__(
        self,
        name: str,
        ledger: Ledger,
        gate: Gate,
        leases: LeaseRenewal,
        senders: Senders,
        results: "SimpleQueue[Result | None]",
        concurrency: int,
        urgent: bool,
        stopping: threading.Event,
    ) -> None:
        self.name = name
        self._ledger, self._gate, self._leases, self._senders = ledger, gate, leases, senders
        self._results, self._concurrency, self._urgent, self._stopping = results, concurrency, urgent, stopping
        self._lock = threading.Lock()
        self._draining = False
        # The last batch held operations that must not be repeated. If this process is killed, each claimed one ends as
        # unresolved even if it was never sent. So claim no more than the senders can start at once.
        self._no_prefetch = True
        self._recheck_until = self._next_turn = 0.0  # monotonic seconds
        self._settled = 0  # in the present drain
        self._in_hand = 0  # claimed, and not yet back in `_results`; survives a drain that failed

    def request_recheck(self) -> None:
        """Make the running drain query the ledger now, and again after `STAY_S`.

        The sender of this wake-up sends no other for `WAKE_UP_LASTS_S`, and relies on the second query.
        """
        self._recheck_until = time.monotonic() + STAY_S
        self._results.put(None)

    def drain(self) -> bool:
        """See `Pusher.drain`. A second drain of the same lane only makes the first one query the ledger again."""
        with self._lock:
            if self._draining:
                self.request_recheck()
                return False
            self._draining = True
            self._recheck_until = time.monotonic() + STAY_S
        began, self._settled = time.monotonic(), 0
        try:
            work_is_left = self._drain()
        except BaseException:
            self._draining = False
            raise
        if self._settled:
            log.info("lane %s: %d attempts in %.2f s", self.name, self._settled, time.monotonic() - began)
        return work_is_left

    def _drain(self) -> bool:
        self._senders.start()
        has_slot_of_its_own = threading.current_thread() is not threading.main_thread()
        ends = math.inf if has_slot_of_its_own else time.monotonic() + DRAIN_FOR_S
        results: list[Result] = []
        while True:
            time_is_up = time.monotonic() > ends or self._stopping.is_set()
            want = 0 if time_is_up else self._count_wanted()
            asked_at = time.monotonic()
            try:
                claims = self._settle_and_claim(results, want)
            except BaseException:
                self._put_back(results)
                raise
            done_at = time.monotonic()
            # Leave the ledger to others half of the time: SQLite has one writer, and those who enqueue write too.
            self._next_turn = done_at + min(done_at - asked_at, LINGER_S)
            self._hand_over(claims)
            if self._in_hand:
                if self._stopping.is_set():
                    self._recall()
                results = self._collect_results(None)
            elif time_is_up:
                self._draining = False
                return not self._stopping.is_set()
            elif want:
                if self._try_finish(asked_at):
                    return False
                results = self._collect_results(max(0.0, self._recheck_until - time.monotonic()))
            else:  # something may be due, but the gate is closed
                results = self._collect_results(self._gate.until_open_s())

    def _try_finish(self, asked_at: float) -> bool:
        """Stop draining, unless a wake-up arrived after our last query."""
        with self._lock:
            if asked_at < self._recheck_until:
                return False
            self._draining = False
            return True

    def _count_wanted(self) -> int:
        """Return how many operations to claim now."""
        if not self._gate.is_open:
            return 0 if self._in_hand else self._gate.available(1, self._urgent)
        ahead = 0 if self._no_prefetch else int(self._concurrency * PREFETCH_S / self._senders.attempt_s)
        room = self._concurrency + min(PREFETCH_MAX, ahead) - self._in_hand
        return self._gate.available(room, self._urgent) if room > 0 else 0

    def _hand_over(self, claims: list[Claim]) -> None:
        """Give claims to the senders, as many as there are permits for. The others are returned unsent."""
        if not claims:
            return
        times_opened = self._gate.times_opened
        permitted = self._gate.take(len(claims), self._urgent)
        self._in_hand += len(claims)
        for claim in claims[:permitted]:
            self._senders.queue.put(ToSend(claim, times_opened))
        for claim in claims[permitted:]:
            self._results.put(Return(claim))

    def _settle_and_claim(self, results: list[Result], want: int) -> list[Claim]:
        """Write results and claim what is due, in one transaction. Results are held until they are written."""
        unsent = [result.claim for result in results if isinstance(result, Return)]
        transitions = [result for result in results if isinstance(result, Transition)]
        began = time.monotonic()
        while True:
            try:
                self._leases.renew_if_overdue()
                if unsent:
                    return_unsent(self._ledger, unsent)
                    self._leases.remove(unsent)
                    unsent = []
                lost, claims = settle_and_claim(self._ledger, transitions, self.name, self._leases.owner, want)
                break
            except DATABASE_UNAVAILABLE_ERRORS as error:
                log.warning("the ledger is unavailable, %d results wait: %s", len(results), error)
                time.sleep(DATABASE_PAUSE_S)
                if not results:
                    return []
                if self._stopping.is_set():
                    want = 0
                    if time.monotonic() - began > SHUTDOWN_PATIENCE_S:
                        for transition in transitions:
                            log.error("not written before the end: %s is %s", transition.claim.key, transition.state)
                        return []
            except Exception:
                if not transitions:
                    raise
                # One of them may be impossible to write, and that must not hold up the others.
                log.exception("%d results could not be written together", len(transitions))
                for transition in transitions:
                    self._settle_alone(transition)
                transitions = []
        for claim in lost:
            log.warning("operation %s was taken over before its result was written", claim.key)
        self._settled += len(transitions)
        self._leases.remove(result.claim for result in results)
        self._leases.add(claims)
        if claims:
            self._no_prefetch = any(claim.on_unknown == OnUnknown.STOP for claim in claims)
        return claims

    def _settle_alone(self, transition: Transition) -> None:
        """Write one result. If the database refuses it for a reason of its own, the result stays what it is.

        Only a result that can never be written (its values do not fit) becomes `failed: internal`.
        """
        for _ in range(WRITE_TRIES):
            try:
                settle(self._ledger, [transition])
                return
            except DATABASE_UNAVAILABLE_ERRORS:
                raise
            except Exception as error:
                if isinstance(error, DBAPIError) and not isinstance(error, DataError | IntegrityError):
                    log.exception("the result of %s could not be written, trying again", transition.claim.key)
                    time.sleep(DATABASE_PAUSE_S)
                    continue
                log.exception("the result of %s cannot be written", transition.claim.key)
                failed = Transition(
                    transition.claim, State.FAILED, failure_reason=FailureReason.INTERNAL, outcome_unknown=True
                )
                settle(self._ledger, [failed])
                return
        log.error("the result of %s (%s) is given up: its lease lapses", transition.claim.key, transition.state)

    def _put_back(self, results: list[Result]) -> None:
        """Put results back that a failed drain could not write: the next drain writes them."""
        for result in results:
            self._results.put(result)
        self._in_hand += len(results)

    def _collect_results(self, timeout: float | None) -> list[Result]:
        """Wait for the first result, then collect more for at most `LINGER_S` so that one transaction writes them all.

        Wait less if a sender is idle. `request_recheck` ends the wait too.
        """
        collected: list[Result] = []
        began = None
        while True:
            try:
                result = self._results.get(timeout=timeout)
            except Empty:
                return collected
            if result is not None:
                collected.append(result)
                self._in_hand -= 1
            if self._stopping.is_set():
                return collected
            now = time.monotonic()
            began = began or now
            is_busy = self._senders.queue.qsize() >= self._concurrency
            timeout = max(0.0, (began + LINGER_S if is_busy else self._next_turn) - now)

    def _recall(self) -> None:
        """Take back what no sender has begun."""
        while True:
            try:
                claim, _ = self._senders.queue.get_nowait()
            except Empty:
                return
            self._results.put(Return(claim))
