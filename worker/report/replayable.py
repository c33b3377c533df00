"""Which failed operations may be replayed, why others may not, and which move money."""

from shlex import quote

from worker.operation import MESSAGE_KIND, Operation, State, is_replayable
from worker.queues import MONEY
from worker.report.sentences import Kinds


def why_not_replayable(operation: Operation, was_not_done: bool = False) -> str:
    """Return why a replay would do nothing, or harm; empty if the operation may be replayed.

    `was_not_done`: a person has looked at the destination and says so.
    """
    if is_replayable(operation, was_not_done):
        return ""
    if operation.state != State.FAILED:
        return f"it is {operation.state}"
    if operation.kind == MESSAGE_KIND:
        return "it only stores a message that could not be used"
    return (
        "whether it was done is not known, and it must not be done twice:"
        f" `b2copy-sync failed show {quote(operation.key)}` says where to look, and the command for what you find"
    )


def moves_money(kind: str, lane: str, kinds: Kinds) -> bool:
    """Return whether operations of this kind in this lane move money.

    They do if the kind does, if the lane is the one for money, or if the kind is not known.
    """
    known = kinds.get(kind)
    return known is None or known.moves_money or lane == MONEY
