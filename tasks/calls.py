"""Calls of any other Admin v2 method, with a path and payload of the caller's."""

from typing import Annotated, Any

from pydantic import Field, JsonValue, field_validator

from tasks.fees import Id
from tasks.inbox import TAKES_IN, take_in
from tasks.kind import Kind, Payload
from worker.app import app
from worker.b2copy import B2Copy
from worker.b2copy.client import checked_path
from worker.flow.outcome import Outcome
from worker.ledger import Claim, New
from worker.settings import crm_settings


class Call(Payload):
    """`key` names the call: the same key is done once. Calls that share an `entity` go one after the other.

    `repeatable` is the caller's word that the call may be made again when its outcome is unknown.
    """

    path: str
    payload: dict[str, JsonValue]
    key: Id
    entity: Id | None = None
    parent: Annotated[str, Field(min_length=1)] | None = None
    repeatable: bool = False

    @field_validator("path")
    @classmethod
    def _known_shape(cls, path: str) -> str:
        return checked_path(path)


def describe(call: Call) -> New:
    """The caller's key names it."""
    return New(
        kind=CALL.name,
        key=f"{CALL.name}:{call.key}",
        payload=call.model_dump(),
        lane="default",
        entity=call.entity,
        parent=call.parent,
        deadline=crm_settings().calls_deadline,
        repeatable=call.repeatable,
    )


def act(b2copy: B2Copy, call: Call, claim: Claim) -> Outcome:
    """Make the call once."""
    answer = b2copy.call(call.path, call.payload, repeatable=call.repeatable)
    return Outcome("done", result=answer if isinstance(answer, dict) else {"answer": answer})


CALL = Kind("call", Call, describe, act)


@app.task(name="b2copy.call", **TAKES_IN)
def call(self: Any, *args: Any, **kwargs: Any) -> None:
    """Take in a message that asks for a call: `path`, `payload`, `key`."""
    take_in(CALL, self.request, args, kwargs)
