"""Metrics of claims, attempts, requests and transactions, and a log line for each attempt.

The engine calls these functions, and they never raise: what was done must not fail because it cannot be counted.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache, wraps
from typing import Any, ParamSpec

from sqlalchemy import Connection, Engine, ExceptionContext, event
from sqlalchemy.pool import ConnectionPoolEntry

from worker.operation import ENDED_INFO, FINAL, AttemptRecord, Claim, Phase, State, Transition
from worker.watch import metrics
from worker.watch.heartbeat import note_connection, note_return

log = logging.getLogger(__name__)

_BEGAN = "b2copy_began"

P = ParamSpec("P")


def _never_raising(observe: Callable[P, None]) -> Callable[P, None]:
    """Log the first error of `observe` and ignore all others."""
    is_logged = False

    @wraps(observe)
    def observe_or_log(*args: P.args, **options: P.kwargs) -> None:
        nonlocal is_logged
        try:
            observe(*args, **options)
        except Exception:
            if not is_logged:
                is_logged = True
                log.exception("%s failed: metrics may be too low", observe.__name__)

    return observe_or_log


# `labels` takes longer than to count, so what every operation counts is looked up once. All values are fixed words.
_attempts = cache(metrics.ATTEMPTS.labels)
_attempt_seconds = cache(metrics.ATTEMPT_SECONDS.labels)
_ended = cache(metrics.ENDED.labels)
_requests = cache(metrics.REQUESTS.labels)
_request_seconds = cache(metrics.REQUEST_SECONDS.labels)


@cache
def _prepare_limited(destination: str, route: str) -> None:
    """Let the 429s of a route be counted from 0, because an alert sees no increase of a series that begins with 30."""
    _requests(destination, route, "429")


def prepare_ended(kind: str, lanes: Iterable[str], failure_reasons: Iterable[str]) -> None:
    """Let the ends of a kind's operations be counted from 0, so that an alert sees the first ones as an increase."""
    for lane in lanes:
        _ended(kind, lane, State.SUCCEEDED, "")
        for reason in failure_reasons:
            _ended(kind, lane, State.FAILED, reason)


@_never_raising
def observe_claimed(claims: Iterable[Claim]) -> None:
    """Count the claims that were taken over from a process that let its lease lapse."""
    if lapsed := sum(claim.previous_state == State.RUNNING for claim in claims):
        metrics.LEASES_LAPSED.inc(lapsed)


@_never_raising
def observe_settled(lane: str, transitions: Sequence[Transition], lost: Sequence[Claim]) -> None:
    """Count results once they are written. `lost`: the claims whose lease had ended before.

    An operation that a late answer ends is not counted as ended here.
    """
    late = {claim.id for claim in lost}
    metrics.RESULTS_LATE.inc(len(late))
    for transition in transitions:
        claim, attempt = transition.claim, transition.attempt
        if attempt is not None:
            _attempts(claim.kind, attempt.outcome).inc()
            _attempt_seconds(claim.kind).observe(attempt.duration_ms / 1000)
            if claim.phase == Phase.POLL:
                metrics.POLLS.labels(claim.kind, attempt.outcome).inc()
            if log.isEnabledFor(logging.INFO):
                _log_attempt(lane, transition, attempt, claim.id in late)
        if transition.state in FINAL and claim.id not in late:
            reason = transition.failure_reason or ""
            _ended(claim.kind, lane, transition.state, reason).inc()


@_never_raising
def observe_ended(ends: Iterable[tuple[str, str, str, str]]) -> None:
    """Count what ended without an attempt: kind, lane, state and failure reason of each operation."""
    for labels in ends:
        _ended(*labels).inc()


@_never_raising
def observe_request(destination: str, route: str, seconds: float, status: int | None, has_left: bool) -> None:
    """Count a request and its duration. `status` is None if no whole answer came, `has_left` False if none was sent."""
    if status is not None:
        group = "429" if status == 429 else f"{status // 100}xx"
    else:
        group = "no_answer" if has_left else "not_sent"
    _prepare_limited(destination, route)
    _requests(destination, route, group).inc()
    _request_seconds(destination, route).observe(seconds)


@_never_raising
def observe_read(name: str, outcome: str) -> None:
    """Count a read. `outcome` is a word of the table of meanings; `dropped` or `malformed` if the read was not made."""
    metrics.READS.labels(name, outcome).inc()


def observe_transactions(engine: Engine) -> None:
    """Measure the transactions that `engine` commits, and count its errors.

    Call it before other threads use the engine: SQLAlchemy cannot add a listener while it calls the others.
    """

    def begin(connection: Connection) -> None:
        connection.info.pop(ENDED_INFO, None)  # of a transaction that was rolled back
        connection.info[_BEGAN] = time.perf_counter()

    def checkout(_: object, record: ConnectionPoolEntry, *__: object) -> None:
        note_connection(id(record))  # before BEGIN, which a pooler may delay

    def checkin(_: object, record: ConnectionPoolEntry) -> None:
        note_return(id(record))  # not before the answer to COMMIT, which may wait for a standby

    def commit(connection: Connection) -> None:
        if (began := connection.info.pop(_BEGAN, None)) is not None:
            metrics.TRANSACTION_SECONDS.observe(time.perf_counter() - began)
        observe_ended(connection.info.pop(ENDED_INFO, ()))

    def count_error(context: ExceptionContext) -> None:
        metrics.LEDGER_ERRORS.inc()

    listeners: dict[str, Any] = {
        "checkout": checkout, "begin": begin, "commit": commit, "checkin": checkin, "handle_error": count_error,
    }  # fmt: skip
    for name, listener in listeners.items():
        event.listen(engine, name, listener)


def _log_attempt(lane: str, transition: Transition, attempt: AttemptRecord, late: bool) -> None:
    """Log one attempt, for people as a sentence and for programs as fields."""
    claim, reason = transition.claim, transition.wait_reason or transition.failure_reason
    fields = {
        "operation": claim.key,
        "kind": claim.kind,
        "lane": lane,
        "fence": claim.fence,
        "outcome": attempt.outcome,
        "state": str(transition.state),
        "reason": reason and str(reason),
        "http_status": attempt.http_status,
        "duration_ms": attempt.duration_ms,
        "due_in_s": transition.due_in_s,
        "worker": attempt.worker,
        "trace_id": claim.trace_id,
        "request_id": attempt.request_id,
        "late": late,
    }
    becomes = "after its lease had ended" if late else f"{transition.state} {reason}" if reason else transition.state
    log.info(
        "%s: %s in %d ms, %s (HTTP %s, claim %d, %s, trace %s)",
        claim.key, attempt.outcome, attempt.duration_ms, becomes, attempt.http_status or "-", claim.fence,
        attempt.worker, claim.trace_id or "-",
        extra={name: value for name, value in fields.items() if value not in (None, False)},
    )  # fmt: skip
