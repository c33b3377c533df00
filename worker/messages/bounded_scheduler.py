"""Beat's scheduler: Celery's, which sends nothing while too many of its messages wait.

Redis removes no message from a queue because it has expired. While beat runs and no worker does, beat's messages would
fill Redis, and Redis would then refuse those of the CRMs.
"""

import logging
from typing import Any

import redis
from celery.beat import Scheduler
from kombu.exceptions import KombuError

from worker.queues import HOUSEKEEPING
from worker.watch.outage_log import OutageLog

log = logging.getLogger(__name__)
_queue_is_full = OutageLog(log, "beat sends nothing, because its messages are not taken. Does a worker run?")

WAITING_MAX = 100  # messages; what one of them starts does the work of all that wait


class BoundedScheduler(Scheduler):
    """Celery's scheduler, which skips what is due while `WAITING_MAX` messages wait. Set as `beat_scheduler`."""

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        """Send the message of an entry of the schedule."""
        if (waiting := _count_waiting(producer)) >= WAITING_MAX:
            _queue_is_full.failed(TimeoutError(f"{waiting} wait in {HOUSEKEEPING}"))
            return
        _queue_is_full.succeeded()
        super().apply_entry(entry, producer)


def _count_waiting(producer: Any) -> int:
    """Return how many of beat's messages wait, and 0 if Redis does not tell: sending then logs what is wrong."""
    try:
        return int(producer.channel.client.llen(HOUSEKEEPING))
    except (redis.RedisError, KombuError, OSError):
        return 0
