"""One lane of this process: the thread that claims and settles, and the senders it feeds.

    claim ──> senders (on the event loop) ──> results ──> settle, and claim the next in the same transaction

The batch grows with the load: a single operation is claimed, sent and settled at once; with a backlog one transaction
serves a hundred.
"""

import logging
import math
import threading
import time
from collections.abc import Iterable, Sequence
from queue import Empty, SimpleQueue

from sqlalchemy.exc import DataError, DBAPIError

from worker.flow.attempt_maker import AttemptMaker, Result, Return
from worker.flow.gate import Gate
from worker.flow.lease_renewal import LeaseRenewal
from worker.flow.senders import BATCH_WAIT_S, Senders
from worker.ledger import DATABASE_UNAVAILABLE_ERRORS, Ledger, return_unsent, settle, settle_and_claim
from worker.operation import Claim, FailureReason, OnUnknown, Phase, State, Transition
from worker.queues import WAKE_UP_LASTS_S, is_urgent
from worker.watch.heartbeat import note_end, note_progress
from worker.watch.observe import observe_claimed, observe_settled

log = logging.getLogger(__name__)

DRAIN_FOR_S = 10.0  # seconds; in a pool with one Celery slot per process, a drain gives its slot back after this time
SHUTDOWN_PATIENCE_S = 20.0  # seconds that a worker that is ending waits for an unavailable ledger
PREFETCH_S = 0.2  # seconds; claim what the senders can send in this time, so that no sender waits for the ledger
PREFETCH_MAX = 250  # operations; most that are claimed before senders are free
LONGEST_PAUSE_S = 1.0  # seconds between two looks at a closed gate: a hold may last a day, the heartbeat needs progress
RECHECK_AFTER_S = 1.5 * WAKE_UP_LASTS_S  # seconds after a wake-up until a drain queries once more before it ends
POLLS_UNREAD_S = 0.25  # seconds between two looks for polls with one more statement, if submits fill each claim
DATABASE_PAUSE_S = 0.5  # seconds between two tries to write results to a ledger that is unavailable
FAULT_PAUSE_S = 0.5  # seconds that a drain waits after a fault of ours, if results are expected and it must go on
REFUSED_PAUSE_S = 2.0  # seconds between two tries to write a result that the ledger refuses though it is available


class Lane:
    """Drains one lane: claims what is due, lets the senders make the attempts, settles what became of them."""

    def __init__(
        self,
        name: str,
        ledger: Ledger,
        gate: Gate,
        leases: LeaseRenewal,
        attempts: AttemptMaker,
        senders: Senders,
        results: "SimpleQueue[list[Result]]",
        concurrency: int,
        stopping: threading.Event,
    ) -> None:
        self.name = name
        self._ledger, self._gate, self._leases, self._attempts = ledger, gate, leases, attempts
        self._senders, self._results, self._concurrency = senders, results, concurrency
        self._urgent, self._stopping = is_urgent(name), stopping
        self._lock = threading.Lock()
        self._draining = False
        # True while the last batch held operations that must not be repeated. If this process is killed, each of them
        # that is claimed ends as unresolved even if it was never sent. So claim no more than the senders can start at
        # once.
        self._no_prefetch = True
        self._first_phase = Phase.SUBMIT  # of the next claim
        self._look_for_polls_at = 0.0  # monotonic seconds
        self._recheck_at = self._next_query_at = 0.0  # monotonic seconds
        self._settled = 0  # in the present drain
        # A drain goes on until both are empty, unless its process ends. Then the next one continues with them.
        self._in_hand = 0  # operations that are claimed and whose results were not collected
        self._unwritten: list[Result] = []  # results that were collected

    def request_recheck(self) -> None:
        """Make the running drain query the ledger now, and again after `RECHECK_AFTER_S`.

        The process that sent this wake-up sends no further one for the lane within `WAKE_UP_LASTS_S`. What it records
        in that time is found by the second query.
        """
        self._recheck_at = time.monotonic() + RECHECK_AFTER_S
        self._results.put([])

    def drain(self) -> bool:
        """See `Pusher.drain`. A second drain of the same lane only makes the first one query the ledger again."""
        with self._lock:
            if self._draining:
                self.request_recheck()
                return False
            self._draining = True
            self._recheck_at = time.monotonic() + RECHECK_AFTER_S
        began, self._settled = time.monotonic(), 0
        has_slot_of_its_own = threading.current_thread() is not threading.main_thread()
        ends = math.inf if has_slot_of_its_own else began + DRAIN_FOR_S
        try:
            work_is_left = self._drain_and_retry(ends)
        except BaseException:
            self._draining = False
            raise
        finally:
            note_end(self.name)
        if self._settled:
            log.info("lane %s: %d attempts in %.2f s", self.name, self._settled, time.monotonic() - began)
        return work_is_left

    def _drain_and_retry(self, ends: float) -> bool:
        """Drain. After an error of this program drain again while results are expected; otherwise raise the error.

        A lane in which nothing is due gets no wake-up, and the leases of what is in hand are renewed. So these
        operations would stay `running` until some other operation is due.
        """
        while True:
            try:
                return self._drain(ends)
            except Exception:
                if not self._expects_results:
                    raise
                self._log_fault_and_pause()

    @property
    def _expects_results(self) -> bool:
        return bool(self._in_hand or self._unwritten)

    def _log_fault_and_pause(self) -> None:
        log.exception("lane %s: this program raised an error. The drain continues: it expects results", self.name)
        time.sleep(FAULT_PAUSE_S)

    def _count_permitted(self, wanted: int) -> int:
        """Return for how many operations the gate has permits.

        If the gate fails while results are expected, return 0, because the results must be written. Otherwise raise.
        """
        try:
            return self._gate.available(wanted, self._urgent) if wanted else 0
        except Exception:
            if not self._expects_results:
                raise
            self._log_fault_and_pause()
            return 0

    def _drain(self, ends: float) -> bool:
        while True:
            note_progress(self.name)
            time_is_up = time.monotonic() > ends or self._stopping.is_set()
            wanted = 0 if time_is_up else self._count_room()
            permitted = self._count_permitted(wanted)
            asked_at = time.monotonic()
            claims = self._settle_and_claim(permitted)
            done_at = time.monotonic()
            # Leave the ledger to others half of the time: SQLite has one writer, and those who enqueue write too.
            self._next_query_at = done_at + min(done_at - asked_at, BATCH_WAIT_S)
            self._choose_first_phase(claims, permitted, self._hand_over(claims))
            # More operations may be due than the gate lets pass now. Ask the gate again when it may let more pass, even
            # if no result arrives before that.
            gate_is_short = permitted < wanted and len(claims) == permitted
            if self._in_hand:
                if self._stopping.is_set():
                    self._senders.recall()
                is_worth_asking = gate_is_short and self._gate.is_open
                self._collect_results(self._gate.until_open_s(self._urgent) if is_worth_asking else None)
            elif time_is_up:
                self._draining = False
                return not self._stopping.is_set()
            elif gate_is_short:
                self._collect_results(min(LONGEST_PAUSE_S, self._gate.until_open_s(self._urgent)))
            else:
                if self._try_finish(asked_at):
                    return False
                self._collect_results(max(0.0, self._recheck_at - time.monotonic()))

    def _try_finish(self, asked_at: float) -> bool:
        """Stop draining, unless a wake-up arrived after our last query."""
        with self._lock:
            if asked_at < self._recheck_at:
                return False
            self._draining = False
            return True

    def _count_room(self) -> int:
        """Return how many operations the senders could take now."""
        if not self._gate.is_open:
            return 0 if self._in_hand else 1
        ahead = 0 if self._no_prefetch else int(self._concurrency * PREFETCH_S / self._attempts.attempt_s)
        if per_second := self._gate.fleet_limits.per_second:
            # Permits are taken for what is claimed ahead. After a hang of this process they would all be used together.
            ahead = min(ahead, int(per_second * PREFETCH_S))
        return max(0, self._concurrency + min(PREFETCH_MAX, ahead) - self._in_hand)

    def _hand_over(self, claims: list[Claim]) -> int:
        """Give claims to the senders, as many as there are permits for, and return how many. Others go back unsent."""
        if not claims:
            return 0
        self._in_hand += len(claims)
        permitted = 0
        try:
            times_closed = self._gate.times_closed
            permitted = self._gate.take(len(claims), self._urgent)
            if permitted:
                self._senders.send(claims[:permitted], times_closed)
        except BaseException:
            permitted = 0
            raise
        finally:
            if permitted < len(claims):
                self._results.put([Return(claim) for claim in claims[permitted:]])
        return permitted

    def _choose_first_phase(self, claims: list[Claim], wanted: int, sent: int) -> None:
        """Let the next claim begin with polls if submits have filled this one.

        Submits come first, so that no withdrawal waits behind thousands of polls. But submits that always fail are
        always due, and then nobody would ask how a pending operation stands. So the claims begin with
        submits and with polls by turns. A claim of which nothing was sent does not count, for instance because another
        process makes the circuit probe.
        """
        if not wanted or (claims and not sent):
            return
        now, has_polls = time.monotonic(), Phase.POLL in {claim.phase for claim in claims}
        if has_polls:
            self._look_for_polls_at = now  # more may be due
        elif self._first_phase == Phase.POLL or len(claims) < wanted:  # polls were read, and none was due
            self._look_for_polls_at = now + POLLS_UNREAD_S
        self._first_phase = Phase.SUBMIT if has_polls or now < self._look_for_polls_at else Phase.POLL

    def _settle_and_claim(self, want: int) -> list[Claim]:
        """Write results and claim what is due, in one transaction. Results are held until they are written."""
        results = self._unwritten
        if not results and not want:
            return []
        began = time.monotonic()
        while True:
            unsent = [result.claim for result in results if isinstance(result, Return)]
            transitions = [result for result in results if isinstance(result, Transition)]
            uncertain: list[Claim] = []
            try:
                self._leases.renew_if_overdue()
                if unsent:
                    return_unsent(self._ledger, unsent)
                try:
                    lost, claims = settle_and_claim(
                        self._ledger, transitions, self.name, self._leases.owner, want, uncertain, self._first_phase
                    )
                finally:
                    # After a commit without an answer: this process may hold them, and no sender has them.
                    results += [Return(claim) for claim in uncertain]
                self._leases.add(claims)
                self._unwritten = []
                break
            except DATABASE_UNAVAILABLE_ERRORS as error:
                log.warning("the ledger is unavailable, %d results wait: %s", len(results), error)
                note_progress(self.name)  # a ledger that is unavailable is no reason to restart this process
                time.sleep(DATABASE_PAUSE_S)
                if not results:
                    return []
                if self._stopping.is_set():
                    want = 0
                    if time.monotonic() - began > SHUTDOWN_PATIENCE_S:
                        self._log_not_written(transitions)
                        self._unwritten = []
                        return []
            except Exception:
                log.exception("lane %s: %d results could not be written together", self.name, len(results))
                if not transitions:
                    # The results of claimed operations reach this drain alone. So it continues while any is claimed.
                    self._write_later(results)
                    self._unwritten = []
                    if not self._in_hand and not self._stopping.is_set():
                        raise
                    time.sleep(DATABASE_PAUSE_S)
                    return []
                # One of them may be impossible to write, and that must not hold up the others.
                refused = [transition for transition in transitions if not self._settle_alone(transition)]
                self._settled += len(transitions) - len(refused)
                observe_settled(self.name, [one for one in transitions if one not in refused], [])
                self._leases.remove(transition.claim for transition in transitions if transition not in refused)
                self._write_later(refused)
                self._unwritten = results = [result for result in results if isinstance(result, Return)]
        observe_settled(self.name, transitions, lost)
        observe_claimed(claims)
        for claim in lost:
            log.warning(
                "operation %s was taken over before its result was written, because its lease had lapsed. The late"
                " result is stored as evidence, and decides if nothing was sent since", claim.key,
            )  # fmt: skip
        self._settled += len(transitions)
        self._leases.remove(result.claim for result in results)
        if claims:
            self._no_prefetch = any(claim.on_unknown == OnUnknown.STOP for claim in claims)
        return claims

    def _settle_alone(self, transition: Transition) -> bool:
        """Write one result. Returns False if the database refuses the result: then it must be written later.

        Only a result whose values can never be written becomes `failed: internal`.
        """
        claim = transition.claim
        impossible = Transition(
            claim, State.FAILED, failure_reason=FailureReason.INTERNAL, outcome_unknown=True,
            unknown_step=transition.unknown_step or claim.unknown_step, progress=claim.progress,
        )  # fmt: skip
        for writable in (transition, impossible):
            try:
                settle(self._ledger, [writable])
                return True
            except Exception as error:
                log.exception("the result of %s cannot be written", claim.key)
                if isinstance(error, (DBAPIError, *DATABASE_UNAVAILABLE_ERRORS)) and not isinstance(error, DataError):
                    return False
        return False

    def _write_later(self, results: Sequence[Result]) -> None:
        """Put results into `_results` after a pause, as a sender does."""
        if not results:
            return
        if self._stopping.is_set():
            self._log_not_written([result for result in results if isinstance(result, Transition)])
            return

        self._in_hand += len(results)
        timer = threading.Timer(REFUSED_PAUSE_S, self._results.put, [list(results)])
        timer.daemon = True
        timer.start()

    def _log_not_written(self, transitions: Iterable[Transition]) -> None:
        for transition in transitions:
            log.error(
                "operation %s: its result (%s) was not written before this worker ended. Its lease lapses, and another"
                " worker takes it over",
                transition.claim.key,
                transition.state,
            )

    def _collect_results(self, timeout: float | None) -> None:
        """Wait for the first results, and collect more until the ledger may be asked again: one transaction for all.

        `request_recheck` ends the wait too.
        """
        try:
            self._note_collected(self._results.get(timeout=timeout))
            if not self._stopping.is_set():
                time.sleep(max(0.0, self._next_query_at - time.monotonic()))
            while True:
                self._note_collected(self._results.get_nowait())
        except Empty:
            pass

    def _note_collected(self, results: list[Result]) -> None:
        self._unwritten += results
        self._in_hand -= len(results)
