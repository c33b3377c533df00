"""The Celery app. Importing this connects to nothing and reads no setting, so that a fork finds no socket to share."""

import logging
import os
import signal
import sys
import threading
from typing import Any

import redis
from celery import current_app, signals

from worker.celery_settings import CONCURRENCY, App, celery_settings
from worker.errors import SettingsError
from worker.instances import ledger, sessions
from worker.ledger import DATABASE_UNAVAILABLE_ERRORS, Ledger, open_ledger
from worker.ledger.b2copy_host import check_b2copy_host
from worker.ledger.engine import note_outage
from worker.ledger.notices import want_notices
from worker.ledgers_in_redis import SEEN_S, LedgersInRedis, shared_redis_problem
from worker.operation import VERSION
from worker.package_conflicts import check_ours
from worker.queues import MIN_CONCURRENCY, NOTIFY, QUEUES, queue_of
from worker.settings import Settings, crm_settings, worker_settings
from worker.watch.log_redaction import guard, guard_our_loggers
from worker.watch.log_repeat_limit import limit_repeats
from worker.watch.redact import redacted

check_ours("tasks")  # which the app imports by name


def _settings_or_exit() -> dict[str, Any]:
    """Under the celery command a bad setting ends the process; a CRM that imports us gets the exception."""
    try:
        return celery_settings()
    except SettingsError as error:
        if os.path.basename(sys.argv[0]) in {"celery", "__main__.py"}:
            stop(error)
        raise


def stop(error: SettingsError) -> None:
    """End the process with the reason on stderr and exit code 2."""
    print(error, file=sys.stderr)  # noqa: T201
    sys.exit(2)


app = App()
app.add_defaults(_settings_or_exit)
app.steps["worker"].add("worker.messages.dispatch_timer:DispatchTimer")
app.steps["worker"].add("worker.messages.note_running_worker:RunningNote")
app.steps["worker"].add("worker.watch.metrics_and_heartbeat_steps:MetricsServer")
app.steps["worker"].add("worker.watch.metrics_and_heartbeat_steps:Heartbeat")


@signals.celeryd_init.connect
def check_before_work(conf: Any = None, options: Any = None, **_: Any) -> None:
    """Refuse to start on bad settings, options, keys or schema, before a task needs them."""
    if conf is not app.conf:
        return
    from worker.http import check as check_transport
    from worker.ledger.schema import HEAD
    from worker.watch import metrics
    from worker.watch.metrics_and_heartbeat_steps import uses_processes
    from worker.watch.tracing import check_tracing
    from worker.webhook.endpoint import check_webhook

    try:
        check_options(options or {})
        in_processes = uses_processes((options or {}).get("pool"))
        if in_processes:
            check_process_pool(worker_settings())
        check_transport()
        for shared in sessions().values():
            shared.check()
        check_webhook(worker_settings())
        check_tracing()
        metrics.BUILD_INFO.labels(VERSION, HEAD, "processes" if in_processes else "threads").set(1)
        if not (worker_settings().wants_notices or (options or {}).get("queues")):
            app.amqp.queues.deselect([queue_of(NOTIFY)])  # this worker cannot deliver notices: leave them to others
        prepare_ledger()
        made = open_ledger(crm_settings().database_url)
        _check_host(made)
        made.close()
        check_redis_is_not_shared(made.id)
        if worker_settings().wants_notices:
            want_notices(ledger())
    except SettingsError as error:
        stop(error)
    except DATABASE_UNAVAILABLE_ERRORS as error:  # `RunningNote` checks the schema when the ledger is available
        reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
        print(redacted(f"the ledger is unavailable, this worker waits for it: {reason}"), file=sys.stderr)  # noqa: T201


@signals.worker_process_init.connect
def prepare_ledger(**_: Any) -> None:
    """Prepare the ledger of this worker or pool process as soon as it is opened.

    If it is unavailable at the start, it is opened before anything is claimed.
    """
    if current_app == app:
        ledger.prepare_each(_check_host)
        ledger.prepare_each(_prepare)


def _prepare(made: Ledger) -> None:
    """Measure the transactions, and take over no lapsed lease in the first seconds.

    An outage of the ledger may have ended just now, and this process has not seen it. Leases have lapsed then although
    their holders live and know an answer.
    """
    from worker.watch.observe import observe_transactions

    observe_transactions(made.engine)
    note_outage(made.engine)


def _check_host(made: Ledger) -> None:
    try:
        made.write(lambda connection: check_b2copy_host(connection, worker_settings().host))
    except BaseException:
        made.close()
        raise


@signals.worker_process_shutdown.connect
@signals.worker_shutdown.connect
def send_last_spans(**_: Any) -> None:
    """Send the spans of this worker or pool process before it ends."""
    if current_app == app:
        from worker.watch.tracing import flush

        flush()


def check_redis_is_not_shared(ledger_id: str) -> None:
    """Raises `SettingsError` if workers of another ledger use our Redis database.

    This worker would record the messages of the other system's CRM. If Redis does not answer, the worker starts, and
    `RunningNote` ends it if it finds another ledger there later.
    """
    ledgers = LedgersInRedis(crm_settings())
    try:
        others = ledgers.others(ledger_id)
    except (redis.RedisError, OSError):
        return
    finally:
        ledgers.close()
    if others:
        raise SettingsError(
            f"{shared_redis_problem(others)}: give each system a Redis database of its own. If that ledger is not used"
            f" any more, wait {SEEN_S} s after its last worker has ended"
        )


def check_process_pool(settings: Settings) -> None:
    """Raises `SettingsError` if `settings` cannot be served by a worker whose lanes run in child processes."""
    from worker.watch.metrics_server import check_folder

    if settings.metrics_listen:
        check_folder()
    if settings.heartbeat_file:
        # The main process touches the file. It would do so although every lane is stalled.
        raise SettingsError(
            "B2COPY_HEARTBEAT_FILE cannot be used with --pool processes: remove it, or leave --pool out"
        )


_POOLS = {"thread", "threads", "prefork", "processes"}  # modules of celery.concurrency, and words of --pool


def check_pool(pool: Any) -> None:
    """Raises `SettingsError` if the lanes cannot be drained in this pool (its class or its name; None: the default).

    solo has one slot, so that messages wait behind a backlog. gevent and eventlet replace threads and sockets under
    libcurl's event loop, so that every operation would fail.
    """
    name = getattr(pool, "__module__", str(pool)).rpartition(".")[2]
    if pool is not None and name not in _POOLS:
        raise SettingsError(f"--pool {name} is not supported: leave --pool out (threads), or use --pool processes")


_IN_FLIGHT = "a lane is one task as long as it has work, and its calls in flight would end with it"
_REFUSED_OPTIONS = {
    "autoscale": "threads cost little, set their number with -c",
    "purge": "it deletes what CRMs have asked for and no worker has recorded, withdrawals included. Leave it out",
    "time_limit": f"{_IN_FLIGHT}. Each call has a deadline of its own, B2COPY_CALL_DEADLINE",
    "max_tasks_per_child": f"{_IN_FLIGHT}, and a new child takes seconds to start",
    "max_memory_per_child": f"{_IN_FLIGHT}, and a new child takes seconds to start",
    "soft_time_limit": f"{_IN_FLIGHT}. Each call has a deadline of its own, B2COPY_CALL_DEADLINE",
}


def check_queues(names: Any) -> None:
    """Raises `SettingsError` if a name given to -Q or -X is no queue of ours: Celery would end in a traceback."""
    for name in names.split(",") if isinstance(names, str) else names:
        if name not in QUEUES:
            raise SettingsError(f"-Q, -X: there is no queue {name!r}; there are {', '.join(QUEUES)}")


def check_options(options: dict[str, Any]) -> None:
    """Raises `SettingsError` if a command line would lose messages, starve the inbox or end calls in flight."""
    for option, why in _REFUSED_OPTIONS.items():
        if options.get(option):
            raise SettingsError(f"--{option.replace('_', '-')} is not supported: {why}")
    if options.get("pool_start_method") == "spawn":
        raise SettingsError("--pool-start-method spawn is not supported: leave it out, children are forked")
    check_pool(options.get("pool"))
    for option in ("queues", "exclude_queues"):
        check_queues(options.get(option) or ())
    # Celery's `auto` is the number of CPUs. 0 is the same as without -c.
    concurrency = str(options.get("concurrency") or CONCURRENCY)
    if not concurrency.isdigit() or int(concurrency) < MIN_CONCURRENCY:
        too_few = "may be too few" if concurrency == "auto" else "is too few"
        raise SettingsError(
            f"-c {concurrency} {too_few}: a worker needs {MIN_CONCURRENCY} slots, or messages wait behind a backlog"
            " (one for each lane, one for the inbox, one for housekeeping). Leave -c out, or limit the calls to B2COPY"
            " with B2COPY_CONCURRENCY"
        )


@signals.after_setup_logger.connect
@signals.after_setup_task_logger.connect
def set_up_logs(logger: Any = None, **_: Any) -> None:
    """Redact secrets in all Celery log handlers, limit repeats, and silence Celery's two lines per message.

    The two lines are silenced because there are thousands of wake-ups, and the ledger has what became of an operation.
    With B2COPY_LOG_FORMAT=json the handlers write a JSON object a line, also for warnings and uncaught exceptions.
    """
    if current_app != app:  # a CRM's own worker, which only imports `tasks.enqueue`
        return
    from worker.watch.json_logs import log_what_nobody_catches, use_json
    from worker.watch.log_count import count_records

    if crm_settings().log_format == "json":
        use_json(logger)
    guard(logger)
    limit_repeats(logger)
    count_records(logger)
    log_what_nobody_catches()
    for chatty in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


@signals.beat_init.connect
def end_beat_between_ticks(sender: Any = None, **_: Any) -> None:
    """Let SIGTERM and SIGINT end beat at its next tick, within a second.

    Celery raises SystemExit at any point of beat's code. During a call of Redis, the Redis client turns SystemExit into
    an error of its own. Beat logs that error and then runs until it is killed.
    """
    if sender.app is app and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: sender.stop())


guard_our_loggers()  # also in a CRM's process, whose handlers we leave alone
