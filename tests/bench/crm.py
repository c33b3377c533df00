"""The process of the CRM that enqueues for our worker."""

from collections.abc import Iterator
from typing import Any

from tasks import enqueue
from tests.bench.serve import paced, serve

PATH = "/api/admin/bench/v1/bench/benchservice/apply"


def _rows(batch: str, count: int) -> Iterator[dict[str, str]]:
    return ({"account_login": "123456", "request_id": f"{batch}-{number}"} for number in range(count))


def many(batch: str, count: int) -> None:
    """Enqueue all in one call, to the lane `bulk`."""
    enqueue.many("fees.process", _rows(batch, count), lane="bulk")


def feed(batch: str, count: int, per_second: float = 0.0) -> dict[str, Any]:
    """Enqueue one by one, as fast as possible or at a rate. `calls`: id, begin and duration of each, if at a rate."""
    calls: list[tuple[str, float, float]] = []
    for name in paced(batch, count, per_second, calls):
        enqueue.fees(account_login="123456", request_id=name)
    return {"calls": calls}


def once(batch: str, count: int) -> None:
    """Enqueue calls that must not be repeated if their outcome is unknown."""
    for name in paced(batch, count, 0.0, []):
        enqueue.call(PATH, {"account_login": "123456", "request_id": name}, key=name)


if __name__ == "__main__":
    serve(many=many, feed=feed, once=once)
