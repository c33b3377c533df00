"""Each worker notes in the ledger that it runs, and if it delivers notices, that the CRM wants them.

It stops when its code may no longer run on the ledger's schema, when the ledger belongs to another B2COPY, or when
workers of another ledger were on our Redis database first.
"""

import logging
import threading
import time
from typing import Any

import redis
from celery import bootsteps, signals
from celery.platforms import EX_FAILURE
from celery.worker import state

from worker.errors import SettingsError
from worker.instances import ledger
from worker.ledger import DATABASE_UNAVAILABLE_ERRORS
from worker.ledger.b2copy_host import check_b2copy_host
from worker.ledger.notices import want_notices
from worker.ledger.running_workers import NOTE_EVERY_S, ThisWorker, note_running, note_stopped
from worker.ledgers_in_redis import LedgersInRedis, shared_redis_problem
from worker.per_process import fork_lock
from worker.settings import crm_settings, worker_settings
from worker.watch.outage_log import OutageLog

log = logging.getLogger(__name__)

_no_fork = fork_lock()

WANT_NOTICES_EVERY_S = 60.0
END_WAIT_S = 5.0  # seconds that the shutdown waits for a note that is being written


class RunningNote(bootsteps.StartStopStep):
    """Uses its own thread.

    In the dispatch thread a slow dispatch could delay the note beyond `RUNNING_S`, and the worker would count as dead.
    """

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        self._myself = ThisWorker(rate_limit=worker_settings().rate_limit)
        self._ledgers = LedgersInRedis(crm_settings())
        self._other_ledgers: list[str] = []
        self._is_noted = False  # our ledger, in Redis
        self._want_notices_at = 0.0  # monotonic seconds
        self._stopping = threading.Event()
        self._outage = OutageLog(log, "this worker cannot note that it runs, `migrate` may not know of it")
        self._thread = threading.Thread(target=self._run, name="b2copy-running-note", daemon=True)

    def start(self, worker: Any) -> None:
        """Start the thread. Celery stops this step before the last calls have ended, so the signal ends the thread."""
        signals.worker_shutdown.connect(self._end, sender=worker)
        self._thread.start()

    def _end(self, **_: Any) -> None:
        self._stopping.set()
        self._thread.join(END_WAIT_S)
        try:
            with ledger().writing() as connection:
                note_stopped(connection, self._myself)
        except (SettingsError, *DATABASE_UNAVAILABLE_ERRORS) as error:  # the note ages out
            log.warning("this worker could not note its end: %s", type(error).__name__)

    def _run(self) -> None:
        while True:
            try:
                with _no_fork, ledger().writing() as connection:
                    may_continue = note_running(connection, self._myself)
                    check_b2copy_host(connection, worker_settings().host)
                self._want_notices()
            except SettingsError as error:  # the ledger was unavailable at the start, or has been replaced or moved
                log.critical("%s; this worker stops", error)
                state.should_stop = EX_FAILURE
                return
            except Exception as error:
                self._outage.failed(error)
            else:
                self._outage.succeeded()
                if not may_continue:
                    log.critical(
                        "the ledger's schema has been changed so that b2copy-sync %s cannot use it any more: this"
                        " worker stops. Install the version that made the change, or if an older ledger was restored,"
                        " run `b2copy-sync migrate`",
                        self._myself.version,
                    )
                    state.should_stop = EX_FAILURE
                    return
                if self._is_redis_of_another_ledger(ledger().id):
                    state.should_stop = EX_FAILURE
                    return
            if self._stopping.wait(NOTE_EVERY_S):
                return

    def _want_notices(self) -> None:
        if worker_settings().wants_notices and time.monotonic() >= self._want_notices_at:
            with _no_fork:
                want_notices(ledger())
            self._want_notices_at = time.monotonic() + WANT_NOTICES_EVERY_S

    def _is_redis_of_another_ledger(self, ledger_id: str) -> bool:
        """Note our ledger in Redis. Return whether another one was there first, and this worker must stop.

        Of another ledger that comes later only the log tells: its workers stop, and ours must not.
        """
        try:
            others = self._ledgers.others(ledger_id)
            if others and not self._is_noted:  # the ledger or Redis was unavailable at the start
                log.critical("%s; this worker stops", shared_redis_problem(others))
                return True
            self._ledgers.note(ledger_id)
        except (redis.RedisError, OSError):  # Celery logs that Redis is away
            return False
        self._is_noted = True
        if others and others != self._other_ledgers:
            log.critical("%s: see `b2copy-sync doctor`", shared_redis_problem(others))
        self._other_ledgers = others
        return False
