"""Whether Redis answers, stores messages safely, and is ours alone."""

import time
from collections.abc import Iterator
from shlex import quote
from typing import Any
from urllib.parse import urlsplit

import redis
from sqlalchemy.exc import SQLAlchemyError

from worker.doctor import CheckResult, name_authority
from worker.doctor.other_redis_users import MOVE, foreign_queues, known_queues
from worker.errors import SettingsError
from worker.ledger import open_ledger
from worker.ledgers_in_redis import LedgersInRedis, shared_redis_problem
from worker.redis_connection import redis_client
from worker.redis_url import without_password
from worker.settings import CrmSettings
from worker.watch.redact import redacted

_LISTED = 5  # most queues of other programs that are named


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
        if others := _other_ledgers(settings):
            yield CheckResult("redis", "FAIL", shared_redis_problem(others), _own_database(client, info, settings))
        if foreign := sorted(foreign_queues(client, known_queues(settings))):
            listed = ", ".join(foreign[:_LISTED]) + (" ..." if len(foreign) > _LISTED else "")
            message = f"queues of somebody else, now or once: {listed}. A flush of this database deletes our messages"
            yield CheckResult("redis", "warn", message, f"{MOVE}. {_own_database(client, info, settings)}")
    except redis.RedisError as error:
        remedy = remedy_for(error) or _remedy_for_connection(error)
        yield CheckResult("redis", "FAIL", f"{url}: {error}", remedy)
    finally:
        client.close()


def _other_ledgers(settings: CrmSettings) -> list[str]:
    """Return the other ledgers whose workers use our Redis database. Raises `RedisError`."""
    try:
        ledger = open_ledger(settings.database_url)
    except (SettingsError, SQLAlchemyError, ModuleNotFoundError):  # reported by the check of the ledger
        return []
    ledger.close()
    ledgers = LedgersInRedis(settings)
    try:
        return ledgers.others(ledger.id)
    finally:
        ledgers.close()


def remedy_for(error: Exception) -> str:
    """Return what to do if Redis refuses to its user what we need; nothing for any other error."""
    if not any(isinstance(one, redis.exceptions.NoPermissionError) for one in (error, error.__cause__)):
        return ""
    return "give the user the rights in deploy/redis/users.acl: `ACL LOG`, as Redis' admin, names what was refused"


def _remedy_for_connection(error: Exception) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return name_authority("B2COPY_REDIS_CA_FILE")
    return "is Redis running, and B2COPY_REDIS_URL right?"


def connect(settings: CrmSettings) -> redis.Redis:
    """Return a client that gives up soon. Nothing is connected yet."""
    return redis_client(settings, timeout_s=5, connect_timeout_s=3)


def _configuration(info: dict[str, Any]) -> Iterator[CheckResult]:
    """Report what in Redis' configuration may lose the session or messages."""
    if (policy := info.get("maxmemory_policy", "noeviction")) != "noeviction":
        message = f"maxmemory-policy is {policy}: sessions and messages may be evicted"
        yield CheckResult("redis", "FAIL", message, _set("maxmemory-policy noeviction"))
    if not info.get("aof_enabled", 1):
        message = "appendonly is off: messages that no worker has recorded are lost with Redis"
        yield CheckResult("redis", "FAIL", message, _set("appendonly yes"))


def _set(directive: str) -> str:
    """Return where it is set for the next start, and the command that sets it now."""
    return f'set it in redis.conf for later starts, and now: `redis-cli -u "$B2COPY_REDIS_URL" CONFIG SET {directive}`'


def _own_database(client: redis.Redis, info: dict[str, Any], settings: CrmSettings) -> str:
    """Return how to name a database of our own: the first that is empty, where Redis says how many there are."""
    try:
        count = int(client.config_get("databases")["databases"] or 0)
    except (redis.RedisError, KeyError, ValueError):  # a managed Redis may forbid CONFIG
        return "end B2COPY_REDIS_URL with the number of a Redis database that nobody else uses, for all our processes"
    empty = next((number for number in range(count) if f"db{number}" not in info), None)
    if empty is None:
        return "every database of this Redis is in use: give us a Redis of our own"
    new = without_password(settings.redis_url, empty)
    has_password_in_url = settings.redis_password_file is None and urlsplit(settings.redis_url).password
    hint = ", with the password put back into it" if has_password_in_url else ""
    return f"database {empty} is empty. For all our processes{hint}: `export B2COPY_REDIS_URL={quote(new)}`"
