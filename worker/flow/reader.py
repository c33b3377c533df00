"""Reads: requests without an effect that somebody waits for. They leave no trace in the ledger.

Reads share the rate limit with operations, and they obey their hold. They have slots of their own, so that slow reads
hold none of a lane's senders. They have a circuit of their own, because a broken widget must not stop withdrawals, nor
take their probes. They have a hold of their own too: after a 429 to a read, operations wait for a minute at most. If
B2COPY refuses them as well, it says so.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from worker.b2copy.route import Route
from worker.errors import B2CopyError, PermitRefused, ReadExpired
from worker.flow.attempt import Destination
from worker.flow.gate import Gate
from worker.flow.meaning_table import meaning_of
from worker.operation import Done, OnUnknown, Outcome
from worker.operation_kind import Call
from worker.queues import B2COPY, READS
from worker.settings import Settings
from worker.watch.observe import observe_read, observe_request

T = TypeVar("T")

EXPIRED = "nobody waits for the answer any more"
WAITING_MAX = 200  # reads of one process that wait for a slot, each until its own deadline; more are refused at once


class Reader:
    """Makes the reads of this process, on its event loop: at most `settings.concurrency` at the same time."""

    def __init__(
        self,
        destination: Callable[[], Destination],
        settings: Settings,
        ask_for_token: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """`ask_for_token`: see `Gate`."""
        self._destination = destination
        self._gate = Gate(B2COPY, settings, lambda *_: None, READS, ask_for_token, [READS, B2COPY])
        self._slots, self._slots_max = asyncio.Semaphore(settings.concurrency), settings.concurrency
        self._under_way = 0

    async def read(self, name: str, work: Callable[[Call], Awaitable[T]], ends: float) -> T:
        """Return what `work` reads with the `Call` that it gets. `ends`: nothing is sent after this monotonic time.

        A request that was sent is awaited beyond `ends`, because only its answer, or no answer within the HTTP
        deadline, shows whether B2COPY works. Raises the errors of `worker.errors`; `ReadExpired` if time is up. If it
        expires while Redis gives it a permit, that permit is not used.
        """
        if self._under_way >= WAITING_MAX + self._slots_max:
            raise PermitRefused(f"{name}: {WAITING_MAX} reads wait already", None, None, 1.0)
        self._under_way += 1
        try:
            await in_time(self._slots.acquire(), ends)
            try:
                return await self._read(name, work, ends)
            finally:
                self._slots.release()
        finally:
            self._under_way -= 1

    async def _read(self, name: str, work: Callable[[Call], Awaitable[T]], ends: float) -> T:
        requests = _Requests(self._destination(), self._gate, ends)
        try:
            value = await work(requests.call)
        except Exception as error:
            await self._learn(name, error, requests)
            raise
        await self._learn(name, Done(), requests)  # not if it was cancelled: then it has learned nothing
        return value

    async def _learn(self, name: str, learned: Outcome | Exception, requests: "_Requests") -> None:
        meaning = meaning_of(learned)
        if requests.were_made:
            times_closed, was_answered = requests.times_closed, requests.were_answered
            await self._gate.record(
                learned, meaning, requests.login, times_closed=times_closed, was_answered=was_answered
            )
        observe_read(name, meaning.word)


class _Requests:
    """The requests of one read."""

    def __init__(self, destination: Destination, gate: Gate, ends: float) -> None:
        self._destination, self._gate, self._ends = destination, gate, ends
        self.were_made = False
        self.were_answered = False  # one of them
        self.times_closed = 0  # of the gate, before the last one
        self.login: str | None = None  # whose token was on the last one, if it was sent

    async def call(self, route: Route[Any], body: Mapping[str, Any]) -> Any:
        self.times_closed = times_closed = await in_time(self._gate.pass_first(urgent=False), self._ends)

        def check() -> None:
            if time.monotonic() >= self._ends:
                raise ReadExpired(EXPIRED)
            self._gate.check(times_closed)

        began = time.monotonic()
        status, has_left = None, True
        self.were_made = True
        try:
            answer = await self._destination.send(route, body, OnUnknown.REPEAT, check)
            status, self.were_answered = 200, True
        except Exception as error:
            has_left = meaning_of(error).may_have_left
            status = error.status if isinstance(error, B2CopyError) else None
            raise
        finally:
            self.login = self._destination.login_of(route) if has_left else None
            observe_request(B2COPY, route.name, time.monotonic() - began, status, has_left)
        return answer


async def in_time(waits: Awaitable[T], ends: float) -> T:
    """Return what `waits` returns.

    Raises `ReadExpired` if it has returned nothing at `ends` (monotonic seconds): nobody wants it any more.
    """
    limit = asyncio.timeout(max(0.0, ends - time.monotonic()))
    try:
        async with limit:
            return await waits
    except TimeoutError:
        if not limit.expired():
            raise
        raise ReadExpired(EXPIRED) from None
