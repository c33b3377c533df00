"""A kind of operation: what its payload must be, what names it, and how one attempt at it is made.

One file in `tasks/` holds a kind, and `tasks/registry.py` lists it. Celery task, message API, command line and import
follow from that.
"""

import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from worker.errors import BadPayload
from worker.operation import AttemptRecord, Claim, Later, New, OnUnknown, Outcome
from worker.settings import CrmSettings, Settings


class Payload(BaseModel):
    """What a kind needs to know. Unknown fields are refused, because a misspelt one would be lost in silence.

    Values have the field's own type: a spreadsheet's `1.23457E+11` is no id 123457000000, and `true` is no 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, str_strip_whitespace=False, defer_build=True)


P = TypeVar("P", bound=Payload)


class Attempt(Protocol):
    """One attempt at an operation, as its kind sees it.

    `request_id`: a kind sets it to the id by which the destination knows the request, for the evidence.
    `progress` (JSON, <= 4 KB) is stored with the operation after every attempt, and the next attempt gets it. An empty
    dict clears it.
    """

    progress: dict[str, Any] | None
    request_id: str | None

    @property
    def claim(self) -> Claim: ...

    @property
    def settings(self) -> Settings: ...

    async def call(self, route: Any, body: Mapping[str, Any]) -> Any:
        """Send one request through the gate and return what the route reads in the answer.

        Raises the errors of `worker.errors`. An attempt lets them through: the engine decides what they mean.
        """

    async def begin(self, route: Any) -> None:
        """Store, before the call is made, that this route's request may have been sent; and the progress with it.

        For kinds with `begins_steps`. Raises `LeaseTooShort` if another process holds the operation now: then nothing
        must be sent.
        """

    async def earlier_attempts(self) -> list[AttemptRecord]:
        """Return the attempts that the ledger stores for this operation, oldest first."""


class Call(Protocol):
    """Sends one request through the gate and returns what the route reads in the answer: see `Attempt.call`."""

    def __call__(self, route: Any, body: Mapping[str, Any]) -> Awaitable[Any]: ...


class Description(NamedTuple):
    """What names an operation and where it belongs. The key is `<kind>:<natural_id>`."""

    natural_id: str
    lane: str = "default"
    entity: str | None = None
    parent: str | None = None
    on_unknown: OnUnknown | None = None


@dataclass(frozen=True, slots=True)
class PollSchedule:
    """How long a pending operation waits between two polls: `first_s` at first, growing to `max_s` seconds."""

    first_s: float = 2.0
    max_s: float = 60.0


@dataclass(frozen=True)
class Kind(Generic[P]):
    """`describe` names a valid payload's operation. `attempt` makes one attempt and returns what it learned.

    All attempts of a process run on one event loop. So an attempt must not block: it runs blocking code in
    `asyncio.to_thread`.

    `result` holds the ids in its result that other operations need: who resolves it as done may give these and
    no others. Without `result`, what that person gives is not checked.

    `on_unknown` is what an unknown outcome permits, or a function that returns it for the step that is unknown.
    `failure_reasons` are the reasons of `Failed` outcomes, each with a sentence for people. A `FailureReason` in it has
    this kind's sentence instead of the engine's. `time_allowed_s` and `polls` read the settings.
    `begins_steps`: its attempts call `Attempt.begin` before each request with an effect. So if a worker is lost, it is
    known whether it may have sent one: without a begun step nothing was done, and the next attempt starts again.
    `effect_step` is then the name of the last of these routes, which a ledger from a backup may not know to have begun.
    `is_parent`: later operations may name one of these as their parent. So `purge` keeps those that succeeded.
    `waits_s` are the seconds between two attempts that decided nothing, until the time allowed is over; the last one is
    repeated with a jitter of 20 %. Without `waits_s` the engine backs off for at most ten seconds.
    """

    name: str
    payload: type[P]
    describe: Callable[[P], Description]
    attempt: Callable[[Attempt, P], Coroutine[Any, Any, Outcome]]
    on_unknown: OnUnknown | Callable[[str | None], OnUnknown]
    time_allowed_s: Callable[[CrmSettings], float]
    moves_money: bool = False
    begins_steps: bool = False
    effect_step: str = ""
    is_parent: bool = False
    destination: str = "b2copy"
    failure_reasons: Mapping[str, str] = field(default_factory=dict)
    result: type[Payload] | None = None
    polls: Callable[[Settings], PollSchedule] = lambda _: PollSchedule()
    waits_s: tuple[float, ...] = ()

    def new(self, fields: Mapping[str, Any], settings: CrmSettings) -> New:
        """Return the operation that these fields ask for. Raises `BadPayload` naming the field and the remedy."""
        payload = self.checked(fields)
        described = self.describe(payload)
        # A function reads settings, which may be others when a person replays the operation. A replay goes by what is
        # stored, and STOP is the strictest: nothing of unknown outcome is repeated before that person has looked.
        default = OnUnknown.STOP if callable(self.on_unknown) else self.on_unknown
        return New(
            kind=self.name,
            key=f"{self.name}:{described.natural_id}",
            # Without the fields that have no value: a field that a later version adds changes no payload of today, and
            # a worker of today takes the payloads of that version that do not use it.
            payload={name: value for name, value in payload.model_dump().items() if value is not None},
            lane=described.lane,
            entity=described.entity,
            parent=described.parent,
            time_allowed_s=self.time_allowed_s(settings),
            on_unknown=described.on_unknown or default,
            destination=self.destination,
        )

    def checked(self, fields: Mapping[str, Any]) -> P:
        """Return the fields as this kind's payload. Raises `BadPayload`."""
        return checked_fields(self.name, self.payload, fields)

    @property
    def result_ids(self) -> tuple[str, ...]:
        """The names of the ids in its result that a person may give."""
        return () if self.result is None else tuple(self.result.model_fields)

    def checked_result(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the result that a person gives who resolves it as done. Raises `BadPayload`.

        A success is final, so a misspelt name or an id that nobody can use could not be corrected.
        """
        if self.result is None:
            return dict(given)
        ids = checked_fields(f"result of {self.name}", self.result, given)
        return {name: value for name, value in ids.model_dump().items() if value is not None}

    def unknown_fields(self, fields: Mapping[str, Any]) -> list[str]:
        """Return the names of the fields that this payload does not have, `outer.inner` if one is in a nested model."""
        try:
            self.payload.model_validate(fields)
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)
            return [_field_name(one["loc"]) for one in found if one["type"] == _NO_FIELD]
        return []

    def on_unknown_for(self, stored: OnUnknown, step: str | None) -> OnUnknown:
        """Return what an unknown outcome permits. `stored`: the operation's own; `step`: whose outcome is unknown."""
        return self.on_unknown(step) if callable(self.on_unknown) else stored


def checked_fields(name: str, payload: type[P], fields: Mapping[str, Any]) -> P:
    """Return the fields as a payload. Raises `BadPayload`, which begins with `name`."""
    try:
        # Pydantic takes a dict alone, and a CRM's rows may be of another type, such as SQLAlchemy's RowMapping.
        return payload.model_validate(dict(fields) if isinstance(fields, Mapping) else fields)
    except ValidationError as error:
        raise BadPayload(f"{name}: {_problems(error, payload.model_fields)}") from None


_NO_FIELD = "extra_forbidden"  # https://docs.pydantic.dev/latest/errors/validation_errors/#extra_forbidden
_LISTED = 10  # wrong fields that an error names
_NAME_LIMIT = 100  # characters of the name of one

LOOKED_AT, LOOKED_IN = "looked_at", "looked_in"


async def read_back(attempt: Attempt, look: Callable[[], Coroutine[Any, Any, Outcome | None]]) -> Outcome | None:
    """Look whether an earlier request had its effect, for a kind with `OnUnknown.READ_BACK`. None if it had not.

    `look` makes calls without an effect and returns the outcome if it finds the effect, None if it does not. An effect
    may come late. So if the first look finds nothing, the second is made `B2COPY_LATE_EFFECT` later.

    The first look counts only for the next claim. Its mark is still stored while a request is sent after the second
    look, and if this process is lost then, two looks are due again.
    """
    if not attempt.claim.outcome_unknown:
        return None
    if (found := await look()) is not None:
        return found
    progress = dict(attempt.progress or {})
    now = time.time()
    looked_at, looked_in = progress.pop(LOOKED_AT, now), progress.pop(LOOKED_IN, None)
    looked_at = min(now, looked_at) if looked_in == attempt.claim.fence - 1 else now
    wait_s = looked_at + attempt.settings.late_effect - now
    if wait_s > 0:
        attempt.progress = {**progress, LOOKED_AT: looked_at, LOOKED_IN: attempt.claim.fence}
        return Later(wait_s, "not found, looking again")
    attempt.progress = progress  # without the first look: if the outcome becomes unknown again, two are due again
    return None


def _problems(error: ValidationError, known: Iterable[str]) -> str:
    """Return what is wrong with the fields, in a text with a limit: the caller chooses the names and their number."""
    problems: list[str] = []
    found = error.errors(include_url=False, include_input=False)
    for problem in found[:_LISTED]:
        name = _field_name(problem["loc"])
        if problem["type"] == _NO_FIELD:
            problems.append(f"{name} is not a field: there are {', '.join(known)}")
        elif problem["type"] == "missing":
            problems.append(f"{name} is missing")
        elif problem["type"] == "int_type":
            problems.append(f"{name} must be a whole number in digits, without quotes, decimals or exponent: 123")
        elif problem["type"] == "string_too_short" and problem.get("ctx", {}).get("min_length") == 1:
            problems.append(f"{name} is empty")
        else:
            problems.append(f"{name}: {problem['msg'].removeprefix('Value error, ').removeprefix(f'{name}: ')}")
    if len(found) > _LISTED:
        problems.append(f"and {len(found) - _LISTED} more")
    return "; ".join(problems)


def _field_name(location: Iterable[int | str]) -> str:
    name = ".".join(str(part) for part in location)
    return name if len(name) <= _NAME_LIMIT else f"{name[:_NAME_LIMIT]}..."
