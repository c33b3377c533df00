"""What a worker starts beside its work: the metrics server."""

import logging
import os
from pathlib import Path
from typing import Any

from celery import bootsteps

from worker.settings import worker_settings
from worker.watch import metrics_server

log = logging.getLogger(__name__)


class MetricsServer(bootsteps.StartStopStep):
    """Serves metrics from the worker's main process."""

    requires = ("celery.worker.components:Pool",)

    def start(self, worker: Any) -> None:
        """Serve the metrics. If the port is taken, work without."""
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


def uses_processes(pool: Any) -> bool:
    """Return whether a pool (its class or its name) works in processes."""
    return "prefork" in str(pool) or str(pool) == "processes"
