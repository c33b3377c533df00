"""The Celery app, and what each process holds one of: `settings()`, `b2copy()`, `ledger()`.

Importing this connects to nothing and reads no setting, so that a CRM can import the door to it and a fork finds
no socket to share.
"""

import logging
import os
import signal
import sys
import threading
from typing import Any

from celery import Celery, current_app, signals
from kombu.entity import Exchange, Queue

from worker.b2copy import B2Copy
from worker.errors import SettingsError
from worker.http import Http
from worker.http import check as check_transport
from worker.ledger import Ledger, open_ledger
from worker.process import PerProcess
from worker.queues import HOUSEKEEPING, INBOX, LANES, queue_of
from worker.schedule import schedule
from worker.session import SharedSession, check_keys
from worker.settings import crm_settings, worker_settings
from worker.watch.redact import guard

CONCURRENCY = 8  # Celery's threads: at most one drains each lane, the others take messages in and keep house


@PerProcess
def ledger() -> Ledger:
    """This process's ledger. Raises `SettingsError` if its schema is not this version's."""
    return open_ledger(crm_settings().database_url)


@PerProcess
def session() -> SharedSession:
    """This process's view of the session that the whole fleet shares."""
    return SharedSession(worker_settings())


@PerProcess
def b2copy() -> B2Copy:
    """This process's client."""
    settings = worker_settings()
    # Each lane has senders of its own.
    return B2Copy(Http({"service_admin": session()}, settings, connections=settings.concurrency * len(LANES)))


def _config() -> dict[str, Any]:
    """Celery's settings. The ledger holds the truth, so that messages may be lost, doubled or late."""
    settings = crm_settings()
    return {
        "broker_url": settings.redis_url,
        "imports": ("tasks.registry", "tasks.push", "tasks.housekeeping"),
        # Arguments come from outside: pickle would let a message run code.
        "accept_content": ["json"],
        "task_serializer": "json",
        # What became of an operation stands in the ledger; results and their texts would only spread it.
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": False,
        # Inbox tasks ask for late acks themselves; everything else is repeated by the ledger, not by the broker.
        "task_acks_late": False,
        "task_reject_on_worker_lost": False,
        # Published by queue name, which Celery does through the anonymous exchange: a flushed Redis loses no binding.
        # Bound by name all the same: else whoever publishes to the default exchange would reach all of them.
        "task_queues": [
            Queue(name, Exchange(name), routing_key=name) for name in (INBOX, HOUSEKEEPING, *map(queue_of, LANES))
        ],
        "task_default_queue": INBOX,
        "task_routes": {"b2copy.session.*": HOUSEKEEPING, "b2copy.ledger.*": HOUSEKEEPING},
        # Threads: a worker of 50 MB, warm shutdowns that lose nothing. Every call has a deadline of its own.
        "worker_pool": "threads",
        "worker_concurrency": CONCURRENCY,
        "worker_consumer": "worker.messages.consumer:Inbox",  # stores what cannot become a task as a failed operation
        "worker_prefetch_multiplier": 1,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_enable_remote_control": True,
        "worker_send_task_events": False,
        # A worker outlives any outage of Redis.
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_connection_timeout": 3,
        "broker_pool_limit": 10,
        # One repeat: a publish that fails costs nothing but the second until the next dispatch.
        "task_publish_retry_policy": {"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.1},
        "broker_transport_options": {
            # A killed worker's messages come back after 10 s. The shortest visibility timeout of any app on a Redis
            # database rules all of them: this one must be ours alone.
            "visibility_timeout": 10,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
            # Without these a frozen Redis hangs the process for as long as it is frozen.
            "socket_timeout": 5,
            "socket_connect_timeout": 3,
            "socket_keepalive": True,
            "health_check_interval": 5,
            "max_connections": 32,
            # kombu's defaults try for 6 s: a CRM that enqueues while Redis is away would wait them out at every call.
            "max_retries": 1,
            "interval_start": 0,
            "interval_step": 0.1,
            "interval_max": 0.1,
        },
        # The schedule is all intervals: nothing to remember between two runs, no file to write.
        "beat_scheduler": "celery.beat:Scheduler",
        "beat_max_loop_interval": 1,
        "beat_schedule": schedule(settings.token_ttl),
    }


def _config_or_exit() -> dict[str, Any]:
    """Under the celery command a bad setting ends the process; a CRM that imports us gets the exception."""
    try:
        return _config()
    except SettingsError as error:
        if os.path.basename(sys.argv[0]) in {"celery", "__main__.py"}:
            stop(error)
        raise


def stop(error: SettingsError) -> None:
    """End the process with the reason on stderr and exit code 2."""
    print(error, file=sys.stderr)  # noqa: T201
    sys.exit(2)


app = Celery("b2copy", set_as_current=False)
app.add_defaults(_config_or_exit)
app.steps["worker"].add("worker.messages.dispatch_timer:DispatchTimer")


@signals.celeryd_init.connect
def check_before_work(conf: Any = None, **_: Any) -> None:
    """Refuse to start on bad settings, keys or schema: a task must not be the first to find out."""
    if conf is not app.conf:
        return
    try:
        check_keys(worker_settings())
        check_transport(worker_settings().ca_file)
        ledger()
    except SettingsError as error:
        stop(error)


@signals.after_setup_logger.connect
@signals.after_setup_task_logger.connect
def set_up_logs(logger: Any = None, **_: Any) -> None:
    """The last gate before a line leaves, whoever wrote it. Celery's two lines per message are left out: wake-ups come
    by the thousand and say nothing, and what became of an operation stands in the ledger."""
    if current_app != app:  # a CRM's own worker, which only imports the door
        return
    guard(logger)
    for chatty in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


@signals.beat_init.connect
def end_beat_between_ticks(sender: Any = None, **_: Any) -> None:
    """Let SIGTERM and SIGINT end beat at its next tick, within a second.

    Celery raises SystemExit wherever beat happens to be. Amid a call of Redis the client turns it into an error of its
    own, which beat logs, and it then runs on until it is killed.
    """
    if sender.app is app and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: sender.stop())
