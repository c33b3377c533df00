"""Serve the metrics over HTTP: a worker from its main process, `b2copy-sync metrics` those of the ledger.

With `--pool processes` the values are in files of the pool processes, under PROMETHEUS_MULTIPROC_DIR. The main process
reads them all. A counter of a pool process that has ended stays in its file, because it must not go down.
"""

import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry, Metric, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from worker.errors import SettingsError

log = logging.getLogger(__name__)

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_FILE = re.compile(r"[a-z]+(?:_[a-z]+)?_(\d+)\.db")


def serve(listen: str, registry: CollectorRegistry = REGISTRY) -> None:
    """Serve a registry at `host:port`, in threads of this process. Raises `OSError` if the port is taken."""
    host, _, port = listen.rpartition(":")
    start_http_server(int(port), addr=host.strip("[]"), registry=registry)


def check_folder() -> None:
    """Raises `SettingsError` if the pool processes have no folder for their metrics."""
    folder = os.environ.get(FOLDER_VARIABLE, "")
    if not folder or not os.access(folder, os.W_OK):
        raise SettingsError(
            f"B2COPY_METRICS_LISTEN with --pool processes needs {FOLDER_VARIABLE}: name a folder of this worker alone"
            " that it may write to, on a tmpfs"
        )


def pool_registry() -> CollectorRegistry:
    """Return a registry that reads the files of all pool processes."""
    registry = CollectorRegistry()
    registry.register(_PoolProcesses(os.environ[FOLDER_VARIABLE]))
    return registry


class _PoolProcesses(Collector):
    """The metrics of all pool processes, without the gauges of those that have ended."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._files: Collector = MultiProcessCollector(None, folder)  # type: ignore[no-untyped-call]

    def collect(self) -> Iterable[Metric]:
        remove_files(self._folder, gauges_only=True)
        return self._files.collect()


def remove_files(folder: Path, gauges_only: bool = False) -> None:
    """Remove the files of processes that have ended: all of them, or only those of the gauges."""
    for file in folder.glob("gauge_live*_*.db" if gauges_only else "*.db"):
        found = _FILE.fullmatch(file.name)
        if found and not _runs(int(found[1])):
            file.unlink(missing_ok=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's process
        return True
    return True
