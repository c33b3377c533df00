"""What a worker's main process starts: the metrics server, and the heartbeat that a liveness probe checks.

Kubernetes restarts a worker whose probe fails. Docker and systemd do not: there the process must end by itself.
"""

import faulthandler
import logging
import os
import sys
import threading
from pathlib import Path
from typing import Any

from celery import bootsteps, signals

from worker.settings import worker_settings
from worker.watch import heartbeat, metrics_server
from worker.watch.outage_log import OutageLog

log = logging.getLogger(__name__)

STALLED_CALLS = 5  # calls of full length after which a loop counts as stalled, because an attempt may make several
LOG_PATIENCE_S = 5.0  # seconds that a process that ends itself waits for its last lines of log
END_AFTER = 120  # looks, one every `TOUCH_EVERY_S`; a probe fails much earlier, so that its supervisor acts first


class MetricsServer(bootsteps.StartStopStep):
    """Serves metrics from the worker's main process."""

    requires = ("celery.worker.components:Pool",)

    def start(self, worker: Any) -> None:
        """Serve the metrics. If the port is taken, the worker runs without them."""
        listen = worker_settings().metrics_listen
        if listen is None:
            return
        in_processes = uses_processes(worker.pool_cls)
        if in_processes:
            metrics_server.remove_files(Path(os.environ[metrics_server.FOLDER_VARIABLE]))
        try:
            if in_processes:
                metrics_server.serve(listen, metrics_server.pool_registry())
            else:
                metrics_server.serve(listen)
        except OSError as error:
            log.error("no metrics: B2COPY_METRICS_LISTEN=%s cannot be used: %s", listen, error)
        else:
            log.info("metrics are served at http://%s/metrics", listen)


class Heartbeat(bootsteps.StartStopStep):
    """Watches the loops of the main process; touches B2COPY_HEARTBEAT_FILE as long as none is stalled."""

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        self._stopping = threading.Event()

    def start(self, worker: Any) -> None:
        """Start the thread."""
        _start_watching(worker_settings().heartbeat_file, self._stopping)

    def stop(self, worker: Any) -> None:
        """End the thread. The supervisor that stops this worker also ends it if a loop is stalled now."""
        self._stopping.set()


@signals.worker_process_init.connect
def watch_pool_process(**_: Any) -> None:
    """Watch the loops of a child of `--pool processes`. If it ends itself, the pool starts another one."""
    _start_watching(None, threading.Event())


def _start_watching(path: Path | None, stopping: threading.Event) -> None:
    threading.Thread(target=_watch_loops, args=(path, stopping), name="b2copy-heartbeat", daemon=True).start()


def _watch_loops(path: Path | None, stopping: threading.Event) -> None:
    """Touch the file while no loop is stalled. End the process if one has been stalled for `END_AFTER` looks in a row.

    What counts is how often this thread has looked, not the time. If the process was suspended or the machine slept,
    the loops begin another pass before this thread has looked so often.
    """
    outage = OutageLog(log, "a loop is stalled, or the heartbeat file cannot be touched")
    longest_s = STALLED_CALLS * worker_settings().call_deadline
    looks = 0
    while True:
        if stalled := heartbeat.stalled_loops(longest_s):
            looks += 1
            outage.failed(TimeoutError(f"loop {', '.join(stalled)} has begun no pass for {longest_s:.0f} s"))
        else:
            looks = 0
            try:
                if path is not None:
                    heartbeat.touch(path)
            except OSError as error:
                outage.failed(error)
            else:
                outage.succeeded()
        if looks > END_AFTER:
            _end_process(stalled)
        if stopping.wait(heartbeat.TOUCH_EVERY_S):
            return


def _end_process(stalled: list[str]) -> None:
    """End this process at once, as a kill does. Its operations are taken over when their leases have lapsed."""
    try:
        # What stalls the loop may be the log, and then the next line does not return either.
        threading.Timer(LOG_PATIENCE_S, os._exit, [heartbeat.STALLED_EXIT]).start()
        log.critical(
            "loop %s is permanently stalled: this process ends itself (exit code %d), so that its supervisor starts"
            " another one. What its threads do:",
            ", ".join(stalled),
            heartbeat.STALLED_EXIT,
        )
        if sys.__stderr__ is not None:  # Celery may have replaced sys.stderr, and its proxy has no file
            faulthandler.dump_traceback(sys.__stderr__)  # functions and lines, no values
    finally:
        os._exit(heartbeat.STALLED_EXIT)


def uses_processes(pool: Any) -> bool:
    """Return whether a pool (its class or its name) works in processes."""
    return "prefork" in str(pool) or str(pool) == "processes"
