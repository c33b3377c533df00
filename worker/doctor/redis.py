"""Whether Redis answers, stores messages safely, and is ours alone."""

import time
from collections.abc import Iterator
from typing import Any

import redis

from worker.doctor import CheckResult
from worker.doctor.shared_redis_check import foreign_queues
from worker.redis_connection import redis_client
from worker.settings import CrmSettings
from worker.watch.redact import redacted

_LISTED = 5  # queues of others that are named


def check(settings: CrmSettings) -> Iterator[CheckResult]:
    url = redacted(settings.redis_url)
    client = connect(settings)
    try:
        began = time.monotonic()
        client.ping()
        took_ms = (time.monotonic() - began) * 1000
        info = client.info()
        server = f"{info.get('server_name', 'redis')} {info.get('valkey_version') or info.get('redis_version')}"
        yield CheckResult("redis", "ok", f"{url}, {server}, answers in {took_ms:.1f} ms")
        yield from _configuration(info)
        if foreign := sorted(foreign_queues(client)):
            listed = ", ".join(foreign[:_LISTED]) + (" ..." if len(foreign) > _LISTED else "")
            remedy = (
                "give us a Redis database of our own (the /0 in the URL): the shortest visibility timeout rules all"
            )
            yield CheckResult("redis", "warn", f"queues of somebody else, now or once: {listed}", remedy)
    except redis.RedisError as error:
        yield CheckResult("redis", "FAIL", f"{url}: {error}", "is Redis running, and B2COPY_REDIS_URL right?")
    finally:
        client.close()


def connect(settings: CrmSettings) -> redis.Redis:
    """Return a client that gives up soon. Nothing is connected yet."""
    return redis_client(settings, timeout_s=5, connect_timeout_s=3)


def _configuration(info: dict[str, Any]) -> Iterator[CheckResult]:
    """Report what in Redis' configuration may lose the session or messages."""
    if (policy := info.get("maxmemory_policy", "noeviction")) != "noeviction":
        message = f"maxmemory-policy is {policy}: sessions and messages may be evicted"
        yield CheckResult("redis", "warn", message, "set noeviction")
    if not info.get("aof_enabled", 1):
        message = "appendonly is off: messages that no worker has recorded are lost with Redis"
        yield CheckResult("redis", "warn", message, "set appendonly yes")
