"""What runs: one module per kind of operation, the internal jobs, and `enqueue`, which a CRM calls."""

try:
    import worker.packages
except ModuleNotFoundError as error:
    if error.name != "worker.packages":
        raise
    import worker

    raise ImportError(
        f"{worker.__file__} hides b2copy-sync's package 'worker'. Rename it, or start in another folder, or use a way"
        " that imports nothing of ours: Celery's send_task to the queue b2copy.inbox, or an INSERT into b2copy_requests"
    ) from None
