"""What runs: one module per kind of operation, the internal jobs, reads, and `enqueue`, which a CRM calls."""

from importlib.util import find_spec

_found = find_spec("worker")
try:
    _ours = find_spec("worker.package_conflicts")
except ModuleNotFoundError:  # `worker` is no package
    _ours = None
if _ours is None:
    raise ImportError(
        f"{_found and _found.origin} hides b2copy-sync's package 'worker'. Rename it, or start elsewhere, or use"
        " a way that imports nothing of ours: Celery's send_task to the queue b2copy.inbox, or an INSERT into"
        " b2copy_requests"
    )
