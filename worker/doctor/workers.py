"""Whether workers run, and whether another Celery app shares our Redis database."""

from collections.abc import Iterator

import redis
from kombu.exceptions import OperationalError

from worker.app import app
from worker.doctor import CheckResult
from worker.doctor.redis import connect
from worker.doctor.shared_redis_check import Node, listeners, nodes
from worker.errors import SettingsError
from worker.settings import CrmSettings


def check(settings: CrmSettings) -> Iterator[CheckResult]:
    client = connect(settings)
    try:
        own_timeout_s = float(app.conf.broker_transport_options["visibility_timeout"])
        found = nodes(app, listeners(client))
    except SettingsError:
        yield CheckResult("workers", "skip", "not asked before the settings are right")
        return
    except (redis.ConnectionError, redis.TimeoutError):
        yield CheckResult("workers", "skip", "cannot be asked without Redis")
        return
    except (OperationalError, redis.RedisError) as error:
        yield CheckResult("workers", "FAIL", f"cannot be asked: {error}")
        return
    finally:
        client.close()
    if ours := [node.name for node in found if node.ours]:
        yield CheckResult("workers", "ok", ", ".join(ours))
    else:
        yield CheckResult("workers", "warn", "none answers", "start one: celery -A worker.app worker")
    for node in found:
        yield from _foreign(node, own_timeout_s)


def _foreign(node: Node, own_timeout_s: float) -> Iterator[CheckResult]:
    if node.foreign_queues:
        message = f"{node.name} serves {', '.join(sorted(node.foreign_queues))}, which is not ours"
        yield CheckResult(
            "workers", "warn", message, "B2COPY_REDIS_URL must name a Redis database of this system alone"
        )
    if node.visibility_timeout is not None and node.visibility_timeout != own_timeout_s:
        message = f"{node.name} has a visibility timeout of {node.visibility_timeout:g} s, ours is {own_timeout_s:g} s"
        remedy = "the shortest one on a Redis database rules all of them: give each system its own database"
        yield CheckResult("workers", "warn", message, remedy)
