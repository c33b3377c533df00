"""Whether workers run, and whether another Celery app shares our Redis database."""

from collections.abc import Iterator

import redis
from kombu.exceptions import OperationalError
from sqlalchemy.exc import SQLAlchemyError

from worker.app import app
from worker.doctor import CheckResult
from worker.doctor.check_redis import connect, remedy_for
from worker.doctor.other_redis_users import MOVE, Node, known_queues, listeners, nodes
from worker.errors import SettingsError
from worker.ledger import open_ledger
from worker.ledger.overview import overview
from worker.report.thresholds import DUE_LATE_S
from worker.settings import CrmSettings


def check(settings: CrmSettings) -> Iterator[CheckResult]:
    client = connect(settings)
    try:
        connected = listeners(client)
        found = nodes(app, connected)
    except SettingsError:
        yield CheckResult("workers", "skip", "not asked before the settings are right")
        return
    except (redis.ConnectionError, redis.TimeoutError):
        yield CheckResult("workers", "skip", "cannot be asked without Redis")
        return
    except (OperationalError, redis.RedisError) as error:
        yield CheckResult("workers", "FAIL", f"cannot be asked: {error}", remedy_for(error))
        return
    finally:
        client.close()
    if ours := [node.name for node in found if node.ours]:
        yield CheckResult("workers", "ok", ", ".join(ours))
    elif connected and (silent := connected - len(found)) > 0:  # other programs' workers answer, too
        message = f"{silent} connected, and none answers: the worker is frozen or stopped"
        remedy = (
            "restart it. Other workers take its operations over after 10 s. The kind decides whether a request is sent"
            " again"
        )
        yield CheckResult("workers", "FAIL", f"{message} ({', '.join(_addresses(settings))})", remedy)
    else:
        late_s = _due_for_s(settings)
        remedy = "start one: `b2copy-sync worker`"
        if late_s > DUE_LATE_S:
            message = f"none runs; something is due, and no worker has worked on its lane for {late_s:.0f} s"
            yield CheckResult("workers", "FAIL", message, remedy)
        else:
            yield CheckResult("workers", "warn", "none answers", remedy)
    for node in found:
        yield from _foreign(node, known_queues(settings))


def _due_for_s(settings: CrmSettings) -> float:
    """Return for how long something in the ledger has been due; 0 if the ledger cannot be read."""
    try:
        ledger = open_ledger(settings.database_url)
    except (SettingsError, SQLAlchemyError):  # reported by the check of the ledger
        return 0.0
    try:
        return max((lane.late_s or 0.0 for lane in overview(ledger).lanes), default=0.0)
    finally:
        ledger.close()


def _addresses(settings: CrmSettings) -> list[str]:
    """Return the addresses from which workers are connected, so that a person finds the right one."""
    client = connect(settings)
    try:
        return sorted(str(one["addr"]) for one in client.client_list() if one["psub"] != "0")
    finally:
        client.close()


def _foreign(node: Node, known: frozenset[str]) -> Iterator[CheckResult]:
    if foreign := node.queues - known:
        message = f"{node.name} serves {', '.join(sorted(foreign))}, which is not ours"
        remedy = f"B2COPY_REDIS_URL should name a Redis database of this system alone; {MOVE}"
        yield CheckResult("workers", "warn", message, remedy)
