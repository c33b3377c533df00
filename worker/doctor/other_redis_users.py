"""Who else uses our Redis database, and may flush it with our messages. It should be ours alone.

A CRM that reads its notices from our broker uses it as the settings say.
"""

from typing import Any, NamedTuple

import redis

from worker.queues import ANSWERS, QUEUES
from worker.settings import CrmSettings, Settings

OURS = frozenset(QUEUES)
MOVE = (
    'see "Move to another Redis database" in deploy/README.md: the workers must stay on this one until each CRM host'
    " has changed and `b2copy.inbox` here is empty"
)
"""What to heed before B2COPY_REDIS_URL names another database."""

_BINDING = "_kombu.binding."
_KEYS_MAX = 20_000  # most keys that are examined; a database with more holds keys of other programs
_CELERY_QUEUES = ("celery.pidbox", "reply.celery.pidbox", "celeryev")  # every Celery app has these queues, ours too


class Node(NamedTuple):
    """A Celery worker that answered."""

    name: str
    queues: frozenset[str]

    @property
    def ours(self) -> bool:
        return bool(self.queues & OURS)


def known_queues(settings: CrmSettings) -> frozenset[str]:
    """Return our queues, and the one of B2COPY_NOTIFY_TASK if the CRM reads it from our broker."""
    if not isinstance(settings, Settings) or settings.notify_task is None:
        return OURS
    is_on_ours = settings.notify_broker_url in (None, settings.redis_url)
    return OURS | {settings.notify_queue} if is_on_ours else OURS


def foreign_queues(client: redis.Redis, known: frozenset[str]) -> set[str]:
    """Return the queues on this Redis database that are not known: bound, or with messages. Raises `RedisError`."""
    found: set[str] = set()
    for number, key in enumerate(client.scan_iter(match=f"{_BINDING}*", count=1000)):
        if number >= _KEYS_MAX:
            break
        for member in client.smembers(key):  # routing key, pattern and queue
            found.add(_text(member).rpartition("\x06\x16")[2])
    for number, key in enumerate(client.scan_iter(_type="list", count=1000)):
        if number >= _KEYS_MAX:
            break
        found.add(_text(key).partition("\x06\x16")[0])  # kombu's priorities are lists of their own
    return {name for name in found if not (name in known or _is_shared(name))}


def _is_shared(name: str) -> bool:
    return name.startswith(ANSWERS) or any(own in name for own in _CELERY_QUEUES)


def listeners(client: redis.Redis) -> int | None:
    """Count the connections on which workers of this database listen for remote control; None if Redis forbids that.

    A managed Redis may forbid CLIENT or rename it. Raises `RedisError`.
    """
    database = str(client.connection_pool.connection_kwargs.get("db", 0))
    try:
        connections = client.client_list()
    except redis.ResponseError:  # no permission, or no such command
        return None
    return sum(connection["db"] == database and connection["psub"] != "0" for connection in connections)


def nodes(app: Any, limit: int | None, patience: float = 2.0) -> list[Node]:
    """Ask every Celery worker on the broker which queues it serves. Raises as kombu.

    Waits for `limit` answers, as many as there are `listeners`, but no longer than `patience` seconds.
    """
    if limit == 0:
        return []
    inspect = app.control.inspect(timeout=patience, limit=limit)
    queues = inspect.active_queues() or {}
    return [Node(name, frozenset(queue["name"] for queue in served)) for name, served in sorted(queues.items())]


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
