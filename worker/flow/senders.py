"""The senders of one lane: tasks on this process's event loop, each of which makes one attempt after the other."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from queue import SimpleQueue
from typing import Any

from worker.flow.attempt_maker import Result, Return
from worker.http import event_loop
from worker.operation import Claim, FailureReason, State, Transition

log = logging.getLogger(__name__)

BATCH_WAIT_S = 0.05  # seconds that a result waits at most for others, to be written in one transaction


class Senders:
    """Makes at most `count` attempts at the same time. Each entry of `results` is a batch.

    `make` makes one attempt for a claim. Its second argument is the gate's `times_closed` when the operation was
    claimed. The lane's thread calls `send` and `recall`. Everything else runs on the event loop, so it needs no lock.
    """

    def __init__(
        self,
        count: int,
        make: Callable[[Claim, int], Coroutine[Any, Any, Result]],
        results: "SimpleQueue[list[Result]]",
    ) -> None:
        self._count, self._make, self._results = count, make, results
        self._loop = event_loop()  # started here: if it cannot start, nothing must be claimed
        self._waiting: deque[tuple[Claim, int]] = deque()
        self._begun = 0  # attempts, in this pass of the event loop
        self._few = 0  # if no more claims than these wait, the lane should claim more
        self._senders: set[asyncio.Task[None] | None] = set()
        self._finished: list[Result] = []
        self._delivery: asyncio.TimerHandle | None = None

    def send(self, claims: Sequence[Claim], times_closed: int) -> None:
        """Make an attempt for each claim. Whatever happens, a result for each comes back through `results`."""
        self._loop.call(self._accept, claims, times_closed)

    def recall(self) -> None:
        """Return the claims for which no attempt has begun."""
        self._loop.call(self._return_waiting)

    def _accept(self, claims: Sequence[Claim], times_closed: int) -> None:
        self._waiting.extend((claim, times_closed) for claim in claims)
        self._few = len(self._waiting) // 2
        for _ in range(min(len(self._waiting), self._count - len(self._senders))):
            self._senders.add(asyncio.get_running_loop().create_task(self._send_waiting()))

    async def _send_waiting(self) -> None:
        """One sender: make one attempt after the other until no claim waits.

        A sender whose answer came sends its next request at once. With a task for each attempt, the answers that came
        together would all be read before the first of the next requests was sent.
        """
        while self._waiting:
            claim, times_closed = self._waiting.popleft()
            try:
                await self._wait_for_next_pass()
                result = await self._make(claim, times_closed)
            except BaseException:  # the engine failed, or a kind raised SystemExit or cancelled its task
                log.exception(
                    "operation %s has failed (internal), because this program raised an error in its attempt:"
                    " `b2copy-sync status KEY` says what to do", claim.key,
                )  # fmt: skip
                result = _internal(claim)
            self._hand_in(result)
        self._senders.discard(asyncio.current_task())  # now: `_accept` counts senders that can take a claim

    async def _wait_for_next_pass(self) -> None:
        """Let at most half of the senders begin an attempt in one pass of the event loop, the others in the next.

        The requests that begin in a pass are sent at its end. If all senders began in the same pass, their answers
        would come together too, again and again, and the first of them would wait until the last one was read.
        """
        while self._begun >= (self._count + 1) // 2:
            await asyncio.sleep(0)
        if not self._begun:
            asyncio.get_running_loop().call_soon(self._end_pass)
        self._begun += 1

    def _end_pass(self) -> None:
        self._begun = 0

    def _hand_in(self, result: Result) -> None:
        """Give the lane a result: now if few claims wait, so that the lane claims more; otherwise with later ones."""
        self._finished.append(result)
        if len(self._waiting) <= self._few:
            self._deliver()
        elif self._delivery is None:
            self._delivery = asyncio.get_running_loop().call_later(BATCH_WAIT_S, self._deliver)

    def _return_waiting(self) -> None:
        self._finished += [Return(claim) for claim, _ in self._waiting]
        self._waiting.clear()
        if self._finished:  # an empty batch would make the lane recall again, and again
            self._deliver()

    def _deliver(self) -> None:
        if self._delivery is not None:
            self._delivery.cancel()
            self._delivery = None
        self._results.put(self._finished)
        self._finished = []


def _internal(claim: Claim) -> Transition:
    """Return the transition for a claim whose attempt ended in an error of the engine: its outcome is unknown."""
    return Transition(
        claim, State.FAILED, failure_reason=FailureReason.INTERNAL, outcome_unknown=True,
        unknown_step=claim.unknown_step, progress=claim.progress,
    )  # fmt: skip
