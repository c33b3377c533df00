"""What a worker's main process starts: the metrics server, and the heartbeat that a liveness probe checks."""

import logging
import os
import threading
from pathlib import Path
from typing import Any

from celery import bootsteps

from worker.settings import worker_settings
from worker.watch import heartbeat, metrics_server
from worker.watch.outage_log import OutageLog

log = logging.getLogger(__name__)


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
    """Touches B2COPY_HEARTBEAT_FILE from a thread of the main process, as long as no lane's loop is stalled."""

    STALLED_CALLS = 5  # calls of full length after which a loop counts as stalled, because an attempt may make several

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        self._stopping = threading.Event()
        self._outage = OutageLog(log, "the heartbeat file is not touched")

    def start(self, worker: Any) -> None:
        """Start the thread if a file is named."""
        if (path := worker_settings().heartbeat_file) is not None:
            threading.Thread(target=self._run, args=(path,), name="b2copy-heartbeat", daemon=True).start()

    def stop(self, worker: Any) -> None:
        """End the thread."""
        self._stopping.set()

    def _run(self, path: Path) -> None:
        longest_s = self.STALLED_CALLS * worker_settings().call_deadline
        while True:
            try:
                if stalled := heartbeat.stalled_loops(longest_s):
                    raise TimeoutError(f"loop {', '.join(stalled)} has not come round for {longest_s:.0f} s")
                heartbeat.touch(path)
            except OSError as error:
                self._outage.failed(error)
            else:
                self._outage.succeeded()
            if self._stopping.wait(heartbeat.TOUCH_EVERY_S):
                return


def uses_processes(pool: Any) -> bool:
    """Return whether a pool (its class or its name) works in processes."""
    return "prefork" in str(pool) or str(pool) == "processes"
