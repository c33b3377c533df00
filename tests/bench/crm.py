"""The process of the CRM that enqueues for our worker."""

import time
from collections.abc import Iterator
from typing import Any

from tasks import enqueue
from tests.bench.part import serve


def _rows(batch: str, count: int) -> Iterator[dict[str, str]]:
    return ({"account_login": "123456", "request_id": f"{batch}-{number}"} for number in range(count))


def many(batch: str, count: int) -> None:
    """Enqueue all in one call, to the lane `bulk`."""
    enqueue.many("fees.process", _rows(batch, count), lane="bulk")


def singly(batch: str, count: int, per_second: float = 0.0) -> dict[str, Any]:
    """Enqueue one by one, as fast as possible or at a rate. `calls`: request_id, begin and duration of each, s."""
    calls = []
    begin = time.monotonic()
    for number, row in enumerate(_rows(batch, count)):
        if per_second:
            time.sleep(max(0.0, begin + number / per_second - time.monotonic()))
        began = time.monotonic()
        enqueue.fees(account_login=row["account_login"], request_id=row["request_id"])
        calls.append((row["request_id"], began, time.monotonic() - began))
    return {"calls": calls}


if __name__ == "__main__":
    serve(many=many, singly=singly)
