"""Which workers run, by which code, and with which rate limit: each notes itself every few seconds.

`migrate` asks before it removes what older code still uses; `status`, `doctor` and the metrics show the versions.
"""

import os
import socket
import uuid
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import Connection, and_, delete, func, insert, select, update

from worker.ledger.schema import HEAD, now_ms, workers
from worker.ledger.schema_version import may_run
from worker.operation import VERSION

NOTE_EVERY_S = 5.0  # seconds between two notes of a worker
RUNNING_S = 30.0  # seconds after its last note during which a worker counts as running
_REMOVED_AFTER_S = 86_400.0  # seconds after its last note; the next worker that starts removes the row
_SHOWN_MAX = 1_000

_RUNNING_MS, _REMOVED_AFTER_MS = round(RUNNING_S * 1000), round(_REMOVED_AFTER_S * 1000)
_w = workers.c
# The upper limit: after the database's clock was set back, the note of a dead worker lies in the future. Without this
# limit it would count as running until the clock reaches it.
_is_running = and_(_w.seen_at > now_ms() - _RUNNING_MS, _w.seen_at < now_ms() + _RUNNING_MS)
_RUNNING = (
    select(
        _w.host,
        _w.pid,
        _w.version,
        _w.schema_revision,
        _w.started_at,
        (now_ms() - _w.seen_at).label("seen_ms_ago"),
        _w.rate_limit,
    )
    .where(_is_running)
    .order_by(_w.version, _w.host, _w.pid)
    .limit(_SHOWN_MAX)
)

_COUNT = select(func.count()).select_from(workers).where(_is_running)


class RunningWorker(NamedTuple):
    """A worker that has noted itself lately. `schema_revision`: the newest that its code knows."""

    host: str
    pid: int
    version: str
    schema_revision: str
    started_at: int  # ms since the epoch
    seen_ms_ago: int
    rate_limit: str = ""

    def __str__(self) -> str:
        seen = f"seen {max(0, self.seen_ms_ago) / 1000:.0f} s ago"
        return f"{self.host} pid {self.pid}: b2copy-sync {self.version}, schema {self.schema_revision}, {seen}"


@dataclass(frozen=True)
class ThisWorker:
    """This worker, as it notes itself. `id` is new for each start, because a container's pid is always the same."""

    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    version: str = VERSION
    schema_revision: str = HEAD
    rate_limit: str = ""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)


def note_running(connection: Connection, myself: ThisWorker) -> bool:
    """Note that this worker runs. Returns `may_run` of its code."""
    if not connection.execute(update(workers).where(_w.id == myself.id).values(seen_at=now_ms())).rowcount:
        connection.execute(delete(workers).where(_w.seen_at < now_ms() - _REMOVED_AFTER_MS))
        connection.execute(
            insert(workers).values(
                id=myself.id, host=myself.host, pid=myself.pid, version=myself.version,
                schema_revision=myself.schema_revision, rate_limit=myself.rate_limit, started_at=now_ms(),
                seen_at=now_ms(),
            )
        )  # fmt: skip
    return may_run(connection, myself.schema_revision)


def note_stopped(connection: Connection, myself: ThisWorker) -> None:
    """Note that this worker has ended."""
    connection.execute(delete(workers).where(_w.id == myself.id))


def running_workers(connection: Connection) -> list[RunningWorker]:
    """Return the workers that have noted themselves within `RUNNING_S`, by version; at most 1,000."""
    return [RunningWorker(*row) for row in connection.execute(_RUNNING)]


def count_running(connection: Connection) -> int:
    """Count the workers that have noted themselves within `RUNNING_S`."""
    return int(connection.execute(_COUNT).scalar_one())


def workers_by_version(workers: Iterable[RunningWorker]) -> dict[str, int]:
    """Return how many workers run each version of the code. Two versions: an upgrade is under way."""
    return dict(sorted(Counter(worker.version for worker in workers).items()))


def workers_by_rate_limit(workers: Iterable[RunningWorker]) -> dict[str, int]:
    """Return how many workers run with each B2COPY_RATE_LIMIT. Two limits: each part of the fleet obeys its own."""
    return dict(sorted(Counter(worker.rate_limit for worker in workers if worker.rate_limit).items()))
