"""One attempt at an operation, as its kind sees it: the HTTP calls it makes, and the evidence it leaves."""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from worker.b2copy.route import Route
from worker.errors import B2CopyError, LeaseTooShort, UnknownOutcome
from worker.flow.gate import Gate
from worker.flow.meaning_table import Becomes, meaning_of
from worker.ledger import Ledger, attempts_of
from worker.ledger.begun_steps import begin_step
from worker.operation import PROGRESS_LIMIT, AttemptRecord, Claim, Done, OnUnknown, Outcome, Step
from worker.settings import Settings
from worker.watch.observe import observe_request
from worker.watch.tracing import SpanEnd, calling

log = logging.getLogger(__name__)

ANSWERED = "answered"  # the outcome of a step whose answer was read


class Destination(Protocol):
    """What operations talk to, for instance `worker.b2copy.B2Copy`."""

    async def send(
        self, route: Route[Any], body: Mapping[str, Any], on_unknown: OnUnknown, before_send: Callable[[], None]
    ) -> Any: ...

    def login_of(self, route: Route[Any]) -> str | None:
        """Return the login whose token a request of this route carries, None if it carries none."""


class RunningAttempt:
    """See `worker.operation_kind.Attempt`. Used by one sender, once.

    `unknown_step`: the request with an effect that was sent and whose effect is not known yet. `effect_step`: the last
    request that had an effect or may have had one. `sent`: some request may have reached the destination.
    `passed_gate`: a request passed the destination's gate, and not only the gates that routes have of their own.
    `was_answered`: the destination has answered one of these requests.
    `login`: the login whose token the last request carried; None if it carried none. `request_id`: the id by which the
    destination knows the request; it is stored as evidence even if no answer comes. `progress` is stored with the
    operation after every attempt, so that the next attempt continues there.
    """

    def __init__(
        self,
        claim: Claim,
        on_unknown: OnUnknown,
        destination: Destination,
        gate: Gate,
        lease_is_valid: Callable[[Claim], bool],
        ledger: Ledger,
        settings: Settings,
        urgent: bool,
        times_closed: int,
        span: SpanEnd,
    ) -> None:
        self.claim, self.settings, self._span = claim, settings, span
        self._on_unknown, self._destination, self._gate, self._ledger = on_unknown, destination, gate, ledger
        self._lease_is_valid, self._urgent, self._times_closed = lease_is_valid, urgent, times_closed
        self._progress = claim.progress
        self.steps: list[Step] = []
        self.unknown_step: str | None = None
        self.effect_step: str | None = None
        self.sent = False
        self.passed_gate = False
        self.was_answered = False
        self.login: str | None = None
        self.request_id: str | None = None

    @property
    def progress(self) -> dict[str, Any] | None:
        return self._progress

    @progress.setter
    def progress(self, value: dict[str, Any] | None) -> None:
        if value is not None and len(json.dumps(value)) > PROGRESS_LIMIT:
            raise ValueError(f"progress is longer than {PROGRESS_LIMIT} characters of JSON")
        self._progress = value

    async def call(self, route: Route[Any], body: Mapping[str, Any]) -> Any:
        if route.own_gate is not None:
            return await self._call_through(self._gate.own_gate(route.own_gate), route, body)
        if self.passed_gate:  # the permit of the first call was taken when the operation was claimed
            await self._gate.pass_one(self._urgent, self._times_closed)
        self.passed_gate = True
        answer = await self._send(route, body, partial(self._check_may_send, self._gate, self._times_closed))
        self.was_answered = True
        return answer

    async def _call_through(self, gate: Gate, route: Route[Any], body: Mapping[str, Any]) -> Any:
        """Send one request through the gate of its route, which learns what became of it."""
        learned: Outcome | Exception = UnknownOutcome("the attempt was cancelled")
        async with gate.passing(self._urgent) as times_closed:
            try:
                answer = await self._send(route, body, partial(self._check_may_send, gate, times_closed))
                learned = Done()
                return answer
            except Exception as error:
                learned = error
                raise
            finally:
                try:
                    await gate.record(
                        learned, meaning_of(learned), self.login, self.claim.kind, times_closed=times_closed
                    )
                except Exception:  # what the request did must not be lost with it
                    log.exception(
                        "operation %s: the gate could not note what a request says about the destination. Its answer"
                        " counts", self.claim.key,
                    )  # fmt: skip

    async def _send(self, route: Route[Any], body: Mapping[str, Any], check_may_send: Callable[[], None]) -> Any:
        with calling(self._span, self.claim.destination, route.name, route.method) as span:
            check_may_send()
            # A request without an effect may be sent twice, for any `on_unknown` of the operation.
            on_unknown = self._on_unknown if route.has_effect else OnUnknown.REPEAT
            began = time.monotonic()
            try:
                answer = await self._destination.send(route, body, on_unknown, check_may_send)
            except asyncio.CancelledError:
                self._record_step(route, began, UnknownOutcome("the attempt was cancelled"), span)
                raise
            except Exception as error:
                self._record_step(route, began, error, span)
                raise
            self._record_step(route, began, None, span)
            return answer

    async def begin(self, route: Route[Any]) -> None:
        if not await asyncio.to_thread(begin_step, self._ledger, self.claim, route.name, self._progress):
            raise LeaseTooShort("another process holds the operation")

    async def earlier_attempts(self) -> list[AttemptRecord]:
        return await asyncio.to_thread(attempts_of, self._ledger, self.claim.id)

    def _check_may_send(self, gate: Gate, times_closed: int) -> None:
        """Raise `GateClosed` if no request may be sent now.

        Called before each call, and again just before a request is sent: between the two a token may be looked up.
        """
        if not self._lease_is_valid(self.claim):
            raise LeaseTooShort("too little is left of the lease")
        gate.check(times_closed)

    def _record_step(self, route: Route[Any], began: float, error: Exception | None, span: SpanEnd) -> None:
        status: int | None
        if error is None:
            status, word, has_left, is_unknown = 200 if route.over_http else None, ANSWERED, True, False
        else:
            meaning = meaning_of(error)
            word, status = meaning.word, error.status if isinstance(error, B2CopyError) else None
            has_left = meaning.may_have_left
            # A fault of ours says nothing about what the request did.
            is_unknown = meaning.outcome == "unknown" or meaning.becomes == Becomes.INTERNAL
        self.sent = self.sent or has_left
        if has_left:
            self.login = self._destination.login_of(route)
        if route.has_effect and (error is None or is_unknown):
            self.effect_step = route.name
        if route.has_effect and is_unknown:
            self.unknown_step = route.name
        elif error is None and self.unknown_step == route.name:
            self.unknown_step = None  # an earlier call of this step had no answer, and this call has one
        took_s = time.monotonic() - began
        self.steps.append(Step(route.name, round(took_s * 1000), status, word))
        span.note(word, status, failed=error is not None)
        observe_request(self.claim.destination, route.name, took_s, status, has_left)
