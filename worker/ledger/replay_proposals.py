"""Propose the replay of many operations, where a second person must approve each (four eyes)."""

from collections.abc import Iterable

from worker.errors import NotAllowed
from worker.ledger.approvals import propose
from worker.ledger.database import Ledger
from worker.operation import Operation


def propose_replays(
    ledger: Ledger, wanted: Iterable[Operation], actor: str, note: str, not_done: bool = False
) -> tuple[dict[str, str], dict[str, str]]:
    """Propose to replay each of these. Returns the name of each proposal by key, and by key why there is none."""
    proposed, refused = dict[str, str](), dict[str, str]()
    arguments = {"not_done": True} if not_done else {}
    for one in wanted:
        try:
            proposed[one.key] = propose(ledger, "replay", one.key, actor, note, one.change_mark, arguments).name
        except NotAllowed as error:
            refused[one.key] = str(error)
    return proposed, refused
