"""How many SQL statements an operation takes: drains in this process, which counts them. `B2COPY_*` say where.

A statement for many rows counts once.
"""

import json
from collections import Counter
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

from tasks import enqueue
from tasks.drain_lane import pusher
from worker.ledger import open_ledger
from worker.settings import crm_settings

BULK, SINGLY = 2000, 50


def main() -> None:
    open_ledger(crm_settings().database_url, create=True).close()
    count: Counter[str] = Counter()

    @event.listens_for(Engine, "before_cursor_execute")
    def note(*_: Any) -> None:
        count["statements"] += 1

    def drained(lane: str) -> int:
        before = count["statements"]
        pusher().drain(lane)
        return count["statements"] - before

    def rows(batch: str, number: int) -> list[dict[str, str]]:
        return [{"account_login": "1", "request_id": f"{batch}-{n}"} for n in range(number)]

    enqueue.many("fees.process", rows("warm", 100), lane="bulk")
    drained("bulk")
    before = count["statements"]
    enqueue.many("fees.process", rows("bulk", BULK), lane="bulk")
    found = {"enqueue, in one call": (count["statements"] - before) / BULK, "bulk": drained("bulk") / BULK}
    singly, enqueued = 0, 0
    for row in rows("single", SINGLY):
        before = count["statements"]
        enqueue.fees(account_login="1", request_id=row["request_id"])
        enqueued += count["statements"] - before
        singly += drained("money")
    print(json.dumps(found | {"enqueue, singly": enqueued / SINGLY, "singly": singly / SINGLY}))


if __name__ == "__main__":
    main()
