"""One attempt at an operation, as its kind sees it: the HTTP calls it makes, and the evidence it leaves."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from worker.b2copy.route import Route
from worker.errors import B2CopyError, BadPayload, LeaseTooShort
from worker.flow.gate import Gate
from worker.flow.meaning import meaning_of
from worker.ledger import Ledger, attempts_of
from worker.operation import AttemptRecord, Claim, OnUnknown, Step
from worker.settings import Settings


class Destination(Protocol):
    """What operations talk to, for instance `worker.b2copy.B2Copy`."""

    async def send(self, route: Route[Any], body: Mapping[str, Any], on_unknown: OnUnknown) -> Any: ...


class RunningAttempt:
    """See `worker.kind.Attempt`. Used by one sender, once.

    `unknown_step`: a request with an effect was sent, and what it did is not known (yet). `progress` is stored with
    the operation whatever becomes of the attempt, so that the next one continues there.
    """

    def __init__(
        self,
        claim: Claim,
        permits: OnUnknown,
        destination: Destination,
        gate: Gate,
        lease_is_valid: Callable[[Claim], bool],
        ledger: Ledger,
        settings: Settings,
        urgent: bool,
    ) -> None:
        self.claim, self.settings = claim, settings
        self._permits, self._destination, self._gate, self._ledger = permits, destination, gate, ledger
        self._lease_is_valid, self._urgent = lease_is_valid, urgent
        self.steps: list[Step] = []
        self.progress = claim.progress
        self.unknown_step: str | None = None

    async def call(self, route: Route[Any], body: Mapping[str, Any]) -> Any:
        if self.steps:  # the permit of the first call was taken when the operation was claimed
            self._gate.pass_one(self._urgent)
            if not self._lease_is_valid(self.claim):
                raise LeaseTooShort("too little is left of the lease")
        # A request without an effect may be sent twice, whatever the operation permits.
        on_unknown = self._permits if route.has_effect else OnUnknown.REPEAT
        began = time.monotonic()
        error: Exception | None = None
        self.unknown_step = route.name if route.has_effect else None
        try:
            return await self._destination.send(route, body, on_unknown)
        except Exception as raised:
            error = raised
            raise
        finally:
            self._note(route, began, error)

    async def earlier_attempts(self) -> list[AttemptRecord]:
        return attempts_of(self._ledger, self.claim.id)

    @property
    def last_status(self) -> int | None:
        """The HTTP status of the last call, if there was an answer."""
        return self.steps[-1].http_status if self.steps else None

    def _note(self, route: Route[Any], began: float, error: Exception | None) -> None:
        status: int | None
        if error is None:
            status, word, is_unknown = 200, "answered", False
        else:
            meaning = meaning_of(error)
            word, status = meaning.word, error.status if isinstance(error, B2CopyError) else None
            # A fault of ours says nothing about what the request did.
            is_unknown = meaning.outcome == "unknown" or not isinstance(error, B2CopyError | BadPayload)
        if not is_unknown:
            self.unknown_step = None
        self.steps.append(Step(route.name, round((time.monotonic() - began) * 1000), status, word))
