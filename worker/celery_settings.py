"""Celery's settings, and an app that takes them from nowhere else.

Celery reads CELERY_BROKER_URL, CELERY_RESULT_BACKEND, CELERY_LOADER and CELERY_CONFIG_MODULE before the settings of
its app. A CRM's host has such variables for the CRM's own Celery.
"""

from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.loaders.app import AppLoader
from kombu.entity import Exchange, Queue
from kombu.transport import TRANSPORT_ALIASES

from worker.beat_schedule import schedule
from worker.queues import HOUSEKEEPING, INBOX, QUEUES, READS, UNACKED, UNACKED_INDEX, UNACKED_MUTEX
from worker.redis_url import without_password, without_query
from worker.settings import CrmSettings, crm_settings

CONCURRENCY = 8  # Celery's threads: at most one for each lane; the others record messages and run the scheduled jobs

_TRANSPORT = "b2copy-redis"  # logs show this name, because kombu writes the transport as the scheme of its URL
TRANSPORT_ALIASES[_TRANSPORT] = "worker.messages.broker_transport:Transport"


_CONNECTION_OPTIONS = {
    # Without these a frozen Redis hangs the process for as long as it is frozen.
    "socket_timeout": 5,
    "socket_connect_timeout": 3,
    "socket_keepalive": True,
    "health_check_interval": 5,
    "max_connections": 32,
    # kombu's defaults try for 6 s: a CRM that enqueues while Redis is unavailable would wait at every call.
    "max_retries": 1,
    "interval_start": 0,
    "interval_step": 0.1,
    "interval_max": 0.1,
}


class _Loader(AppLoader):
    def read_configuration(self, env: str = "") -> dict[str, Any]:
        """Return no settings: CELERY_CONFIG_MODULE is somebody else's."""
        return {}

    def import_from_cwd(self, module: str, imp: Any = None, package: str | None = None) -> Any:
        """Import a module of ours. Celery would look in the current folder first, where a CRM may have a `tasks.py`."""
        return self.import_module(module, package)


class App(Celery):
    """An app whose broker is the `redis_url` of its settings, and which stores no results."""

    backend_cls = "disabled"
    # In a CRM on Django, Celery would set Django up, and fail because our loader is a class.
    builtin_fixups: frozenset[str] = frozenset()

    def __init__(
        self,
        name: str = "b2copy",
        settings: Callable[[], CrmSettings] = crm_settings,
        celery_settings: Callable[[CrmSettings], dict[str, Any]] | None = None,
    ) -> None:
        """`celery_settings` are its settings; without it they are added later."""
        super().__init__(name, set_as_current=False, loader=_Loader)
        self._settings = settings
        if celery_settings is not None:
            self.add_defaults(lambda: celery_settings(settings()))

    def finalize(self, auto: bool = False) -> None:
        """Bind the tasks. Settings are read first: an error half-way would leave the tasks unbound for good."""
        _ = self.conf.broker_url
        super().finalize(auto)

    def connection_for_read(self, url: str | None = None, **options: Any) -> Any:
        """Return a connection that consumes."""
        return super().connection_for_read(without_query(self._settings().redis_url), **options)

    def connection_for_write(self, url: str | None = None, **options: Any) -> Any:
        """Return a connection that publishes."""
        return super().connection_for_write(without_query(self._settings().redis_url), **options)

    @property
    def producer_pool(self) -> Any:
        """Return the pool of producers, of which there are no more than connections.

        kombu makes twice as many. One that finds no free connection waits for it without end, because
        `broker_pool_acquire_timeout` bounds only the wait for a producer.
        """
        pool = super().producer_pool
        pool._shrink_down()
        return pool


def publishing_settings(settings: CrmSettings) -> dict[str, Any]:
    """Return the settings of an app that only publishes, to the `redis_url` of `settings`."""
    from worker.redis_connection import tls_options

    return {
        # Without the password, which `connection_for_write` adds: Celery's frames hold these settings.
        "broker_url": without_password(without_query(settings.redis_url)),
        "broker_transport": _TRANSPORT,
        "broker_use_ssl": tls_options(settings) or None,
        "task_serializer": "json",
        "task_ignore_result": True,
        "broker_connection_timeout": 3,
        "broker_pool_limit": 10,
        # Celery's default waits without end for a producer. While Redis is frozen, other threads may hold all of them.
        "broker_pool_acquire_timeout": 1,
        "broker_transport_options": _CONNECTION_OPTIONS,
    }


def celery_settings() -> dict[str, Any]:
    """Return Celery's settings. The ledger holds the truth, so that messages may be lost, doubled or late."""
    settings = crm_settings()
    return publishing_settings(settings) | {
        "imports": (
            "tasks.kind_tasks",
            "tasks.drain_lane",
            "tasks.housekeeping",
            "tasks.reconcile",
            "tasks.answer_reads",
        ),
        # Arguments come from outside: pickle would let a message run code.
        "accept_content": ["json"],
        # What became of an operation stands in the ledger; results and their texts would only spread it.
        "task_store_errors_even_if_ignored": False,
        # Inbox tasks ask for late acks themselves; everything else is repeated by the ledger, not by the broker.
        "task_acks_late": False,
        "task_reject_on_worker_lost": False,
        # Published by queue name, which Celery does through the anonymous exchange: a flushed Redis loses no binding.
        # Each queue is bound by its name too, so that a message to the default exchange does not reach all of them.
        "task_queues": [Queue(name, Exchange(name), routing_key=name) for name in QUEUES],
        "task_create_missing_queues": False,
        "task_default_queue": INBOX,
        "task_routes": {"b2copy.session.*": HOUSEKEEPING, "b2copy.ledger.*": HOUSEKEEPING, "b2copy.read": READS},
        # Threads: one process, and warm shutdowns that lose nothing. Every call has a deadline of its own.
        "worker_pool": "threads",
        "worker_concurrency": CONCURRENCY,
        # Stores what cannot become a task as a failed operation.
        "worker_consumer": "worker.messages.consumer:CheckingConsumer",
        "worker_prefetch_multiplier": 1,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_enable_remote_control": True,  # questions only: see worker/messages/remote_control.py
        "worker_send_task_events": False,
        # A worker outlives any outage of Redis, also a replica that is read-only or a Redis without memory.
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_channel_error_retry": True,
        # Try once more. If that fails too, the next dispatch sends the wake-up.
        "task_publish_retry_policy": {"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.1},
        "broker_transport_options": _CONNECTION_OPTIONS
        | {
            # A killed worker's messages come back after 10 s. The keys are our own, so that this timeout applies to no
            # other app on the Redis database, and no other app's to us.
            "visibility_timeout": 10,
            "unacked_key": UNACKED,
            "unacked_index_key": UNACKED_INDEX,
            "unacked_mutex_key": UNACKED_MUTEX,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
            # Seconds for which a worker that was killed while it restored messages holds this lock. The default is 300.
            "unacked_mutex_expire": 5,
        },
        # The schedule is all intervals: nothing to remember between two runs, no file to write.
        "beat_scheduler": "worker.messages.bounded_scheduler:BoundedScheduler",
        "beat_max_loop_interval": 1,
        "beat_schedule": schedule(settings.token_ttl, settings.reconcile_every is not None),
    }
