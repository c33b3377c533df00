"""Send what is due. One per process.

Each lane has a drain and sending threads of its own, so that a backfill in `bulk` never stands before a withdrawal in
`money`. The drain is the only one that talks to the ledger: in one transaction it writes what became of the last batch
and claims the next. The senders do nothing but call B2COPY. The batch grows with the load: a single operation is
claimed, sent and settled at once; under a backlog a transaction serves a hundred.
"""

import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from queue import Empty, SimpleQueue
from secrets import token_hex

from sqlalchemy.exc import SQLAlchemyError

from worker.errors import B2CopyError, CredentialsRejected, SessionUnavailable, Unavailable, UnknownOutcome
from worker.flow.breaker import Breaker
from worker.flow.lanes import LANES, WAKE_UP_LASTS
from worker.flow.leases import Leases
from worker.flow.limiter import Limiter
from worker.flow.outcome import Outcome
from worker.flow.policy import Policy
from worker.ledger import AWAY, Attempt, Claim, Ledger, Reason, State, Verdict, Why, hand_back, release, settle, turn
from worker.settings import Settings

log = logging.getLogger(__name__)

Act = Callable[[Claim], Outcome]

DRAIN_FOR = 10.0  # seconds after which a drain gives its Celery slot back, in pools that have one per process
SHUTDOWN_PATIENCE = 20.0  # seconds that a worker which is to end waits for a ledger that is away
LOOKAHEAD = 0.2  # seconds of sending that are claimed ahead, so that no sender waits for the ledger
LOOKAHEAD_MAX = 250  # operations
STAY = 1.5 * WAKE_UP_LASTS  # seconds that a drain stays after a wake-up
LINGER = 0.05  # seconds that results may wait for company while the senders are busy
DATABASE_PAUSE = 0.5  # seconds between two tries to write results to a ledger that is away


class Pusher:
    """Drains lanes. `acts` says for each kind how one attempt is made."""

    def __init__(self, ledger: Ledger, acts: Mapping[str, Act], settings: Settings, policy: Policy) -> None:
        self._ledger = ledger
        self._stopping = threading.Event()
        owner = f"{socket.gethostname()}:{os.getpid()}:{token_hex(4)}"
        leases, breaker, limiter = Leases(ledger, owner), Breaker(self._b2copy_is_back), Limiter(settings)
        self._lanes = {
            lane: Lane(lane, ledger, acts, policy, leases, breaker, limiter, settings.concurrency, self._stopping)
            for lane in LANES
        }

    def drain(self, lane: str) -> bool:
        """Send what is due in a lane until nothing is. Returns True if time was up and work is left."""
        return self._lanes[lane].drain()

    def stop(self) -> None:
        """Claim nothing more; calls in flight are finished, claims not yet sent go back."""
        self._stopping.set()
        for lane in self._lanes.values():
            lane.poke()

    def _b2copy_is_back(self) -> None:
        try:
            count = sum(release(self._ledger, why) for why in (Why.BACKOFF, Why.BREAKER_OPEN, Why.NO_SESSION))
        except SQLAlchemyError as error:
            log.warning("B2COPY is back, but the ledger is away: %s", error)
            return
        log.info("B2COPY is back: %d waiting operations are due now", count)


class Lane:
    """One lane of this process: a drain, `concurrency` senders, and the queues between them."""

    def __init__(
        self,
        name: str,
        ledger: Ledger,
        acts: Mapping[str, Act],
        policy: Policy,
        leases: Leases,
        breaker: Breaker,
        limiter: Limiter,
        concurrency: int,
        stopping: threading.Event,
    ) -> None:
        self.name = name
        self._ledger, self._acts, self._policy = ledger, acts, policy
        self._leases, self._breaker, self._limiter = leases, breaker, limiter
        self._concurrency, self._stopping = concurrency, stopping
        self._to_send: SimpleQueue[tuple[Claim, int]] = SimpleQueue()
        self._results: SimpleQueue[Verdict | Claim | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._draining = False
        self._senders: list[threading.Thread] = []
        self._careful = True  # what is claimed must not be sent twice: a kill would leave it unresolved, sent or not
        self._look_until = self._next_turn = 0.0  # monotonic seconds
        self._settled = 0  # in the present drain
        self._in_hand = 0  # claimed, and not yet back in `_results`: survives a drain that failed
        self._call_seconds = 0.05  # a first guess, then the moving average

    def poke(self) -> None:
        """Let a running drain look at the ledger again, now and once more when the wake-up has served its time."""
        self._look_until = time.monotonic() + STAY
        self._results.put(None)

    def drain(self) -> bool:
        """See `Pusher.drain`. A second drain of a lane only pokes the first."""
        with self._lock:
            if self._draining:
                self.poke()
                return False
            self._draining = True
            self._look_until = time.monotonic() + STAY
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
        self._start_senders()
        has_slot_of_its_own = threading.current_thread() is not threading.main_thread()
        ends = math.inf if has_slot_of_its_own else time.monotonic() + DRAIN_FOR
        learned: list[Verdict | Claim] = []
        while True:
            time_is_up = time.monotonic() > ends or self._stopping.is_set()
            want = 0 if time_is_up else self._room()
            looked, epoch = time.monotonic(), self._breaker.epoch
            try:
                claims = self._turn(learned, want)
            except BaseException:
                for item in learned:  # the next drain writes them
                    self._results.put(item)
                self._in_hand += len(learned)
                raise
            done = time.monotonic()
            # Half of the time the ledger is left to others: SQLite has one writer, and those who enqueue write too.
            self._next_turn = done + min(done - looked, LINGER)
            self._in_hand += len(claims)
            for claim in claims:
                self._to_send.put((claim, epoch))
            if self._in_hand:
                if self._stopping.is_set():
                    self._recall()
                learned = self._gather(None)
            elif time_is_up:
                self._draining = False
                return not self._stopping.is_set()
            elif want:
                if self._leave(looked):
                    return False
                learned = self._gather(max(0.0, self._look_until - time.monotonic()))
            else:  # something may be due, but the breaker lets nothing through just now
                learned = self._gather(self._breaker.until_probe())

    def _leave(self, looked: float) -> bool:
        """Leave unless a wake-up still counts: an operation that relies on it would wait for dispatch."""
        with self._lock:
            if looked < self._look_until:
                return False
            self._draining = False
            return True

    def _room(self) -> int:
        if self._breaker.open:
            return 0 if self._in_hand else self._breaker.allowance(1)
        ahead = 0 if self._careful else min(LOOKAHEAD_MAX, int(self._concurrency * LOOKAHEAD / self._call_seconds))
        if self._limiter.per_second:
            ahead = min(ahead, int(self._limiter.per_second * LOOKAHEAD))
        return max(0, self._concurrency + ahead - self._in_hand)

    def _turn(self, learned: list[Verdict | Claim], want: int) -> list[Claim]:
        """Write what was learned and claim what is due, in one transaction; keep results until they are written."""
        unsent = [item for item in learned if isinstance(item, Claim)]
        verdicts = [item for item in learned if isinstance(item, Verdict)]
        began = time.monotonic()
        while True:
            try:
                self._leases.catch_up()
                if unsent:
                    hand_back(self._ledger, unsent)
                lost, claims = turn(self._ledger, verdicts, self.name, self._leases.owner, want)
                break
            except AWAY as error:
                log.warning("the ledger is away, %d results wait: %s", len(learned), error)
                time.sleep(DATABASE_PAUSE)
                if not learned:
                    return []
                if self._stopping.is_set():
                    want = 0
                    if time.monotonic() - began > SHUTDOWN_PATIENCE:
                        for verdict in verdicts:
                            log.error("not written before the end: %s is %s", verdict.claim.key, verdict.state)
                        return []
            except Exception:
                if not verdicts:
                    raise
                # Something in one of them can't be written: that must not hold up the others.
                log.exception("%d results could not be written together", len(verdicts))
                for verdict in verdicts:
                    self._settle_alone(verdict)
                verdicts = []
        for claim in lost:
            log.warning("operation %s was taken over before its result was written", claim.key)
        self._settled += len(verdicts)
        self._leases.let_go(item if isinstance(item, Claim) else item.claim for item in learned)
        self._leases.took(claims)
        if claims:
            self._careful = not all(claim.repeatable for claim in claims)
        return claims

    def _settle_alone(self, verdict: Verdict) -> None:
        try:
            settle(self._ledger, [verdict])
        except AWAY:
            raise
        except Exception:
            log.exception("the result of %s can't be written", verdict.claim.key)
            settle(self._ledger, [Verdict(verdict.claim, State.FAILED, reason=Reason.INTERNAL, unknown=True)])

    def _gather(self, timeout: float | None) -> list[Verdict | Claim]:
        """Wait for a result or a poke, and then for company: longer while the senders have enough to do."""
        learned: list[Verdict | Claim] = []
        began = None
        while True:
            try:
                result = self._results.get(timeout=timeout)
            except Empty:
                return learned
            if result is not None:
                learned.append(result)
                self._in_hand -= 1
            if self._stopping.is_set():
                return learned
            now = time.monotonic()
            began = began or now
            busy = self._to_send.qsize() >= self._concurrency
            timeout = max(0.0, (began + LINGER if busy else self._next_turn) - now)

    def _recall(self) -> None:
        """Take back what no sender has begun."""
        while True:
            try:
                claim, _ = self._to_send.get_nowait()
            except Empty:
                return
            self._results.put(claim)

    def _start_senders(self) -> None:
        while (number := len(self._senders)) < self._concurrency:
            sender = threading.Thread(target=self._send, name=f"b2copy-{self.name}-{number}", daemon=True)
            sender.start()
            self._senders.append(sender)

    def _send(self) -> None:
        while True:
            claim, epoch = self._to_send.get()
            try:
                result = self._refused(claim, epoch)
            except Exception:
                log.exception("operation %s was not sent", claim.key)
                time.sleep(DATABASE_PAUSE)
                result = claim
            self._results.put(result or self._attempt(claim))

    def _refused(self, claim: Claim, epoch: int) -> Verdict | Claim | None:
        """Return what becomes of a claim that must not be sent, or not now: the claim itself goes back."""
        if claim.unknown and not claim.repeatable:
            return Verdict(claim, State.FAILED, reason=Reason.UNRESOLVED)
        if self._breaker.open and epoch != self._breaker.epoch:  # claimed before it opened
            return claim
        if not self._limiter.wait(urgent=self.name == LANES[0]) or not self._leases.good(claim):
            return claim
        return None

    def _attempt(self, claim: Claim) -> Verdict | Claim:
        """Make one attempt and return what becomes of the operation."""
        began, started_at = time.monotonic(), time.time()
        learned: Outcome | Exception
        try:
            learned = self._acts[claim.kind](claim)
        except AWAY:  # only a kind that reads the ledger before it sends gets here
            log.warning("operation %s was not sent, the ledger is away", claim.key)
            return claim
        except Exception as error:  # the policy sorts them
            learned = error
        seconds = time.monotonic() - began
        self._call_seconds += (seconds - self._call_seconds) * 0.1
        try:
            self._tell_breaker(learned)
            return self._policy.after(claim, learned, _evidence(learned, started_at, seconds, self._leases.owner))
        except Exception:
            log.exception("operation %s failed on our side", claim.key)
            return Verdict(claim, State.FAILED, reason=Reason.INTERNAL, unknown=True)

    def _tell_breaker(self, learned: Outcome | Exception) -> None:
        match learned:
            case Unavailable() | SessionUnavailable() | CredentialsRejected():
                self._breaker.failed()
            case UnknownOutcome() if learned.status is None:
                self._breaker.failed()
            case Outcome() | B2CopyError():
                self._breaker.succeeded()


def _evidence(learned: Outcome | Exception, started_at: float, seconds: float, worker: str) -> Attempt:
    """Return what is kept of an attempt: when, how long, what B2COPY said."""
    if isinstance(learned, Outcome):
        return Attempt(
            started_at=int(started_at * 1000),
            duration=int(seconds * 1000),
            http_status=200,
            outcome=learned.said,
            words=learned.words,
            counted=False,
            request_id=learned.request_id,
            worker=worker,
        )
    told = isinstance(learned, B2CopyError)
    return Attempt(
        started_at=int(started_at * 1000),
        duration=int(seconds * 1000),
        http_status=learned.status if isinstance(learned, B2CopyError) else None,
        outcome=type(learned).__name__,
        words=str(learned) if told else f"{type(learned).__name__}: {learned}",
        counted=isinstance(learned, UnknownOutcome) and learned.status is not None,
        request_id=None,
        worker=worker,
    )
