"""Calls of any other Admin v2 method, with a path and payload from the caller."""

from pydantic import JsonValue, field_validator

from worker.b2copy.routes.generic import check_allowed, checked_path, route_to
from worker.errors import PathNotListed
from worker.id_fields import Id, Key
from worker.operation import Done, Later, OnUnknown, Outcome
from worker.operation_kind import Attempt, Description, Kind, Payload
from worker.settings import crm_settings

NOT_ALLOWED_WAIT_S = 30.0  # seconds that an accepted call waits before it looks again for a worker that allows its path


class Call(Payload):
    """`key` names the call: the same key is done once. Calls that share an `entity` are made one after the other.

    `repeatable` is the caller's word that the call may be made again when its outcome is unknown.
    """

    path: str
    payload: dict[str, JsonValue]
    key: Id
    entity: Id | None = None
    parent: Key | None = None
    repeatable: bool = False

    @field_validator("path")
    @classmethod
    def _check_path(cls, path: str) -> str:
        return checked_path(path)


def describe(call: Call) -> Description:
    """The caller's key names the call, and the caller says what an unknown outcome permits.

    Raises `PathNotListed` if the path is not among B2COPY_CALL_PATHS.
    """
    check_allowed(call.path, crm_settings().call_paths, call.entity)
    on_unknown = OnUnknown.REPEAT if call.repeatable else OnUnknown.STOP
    return Description(call.key, entity=call.entity, parent=call.parent, on_unknown=on_unknown)


async def attempt(attempt: Attempt, call: Call) -> Outcome:
    """Make the call once. It waits if this worker has other B2COPY_CALL_PATHS than the host that requested it."""
    try:
        check_allowed(call.path, attempt.settings.call_paths)
    except PathNotListed as error:
        return Later(NOT_ALLOWED_WAIT_S, str(error))
    return Done(await attempt.call(route_to(call.path), call.payload))


CALL = Kind(
    name="call",
    payload=Call,
    describe=describe,
    attempt=attempt,
    on_unknown=OnUnknown.STOP,
    time_allowed_s=lambda settings: settings.calls_deadline,
)
