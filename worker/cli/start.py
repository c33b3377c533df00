"""`worker` and `beat`: Celery's commands, listed beside ours. `worker.entry` starts them without this command line."""

import typer

from worker.celery_commands import run

ALL_OPTIONS = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def worker(context: typer.Context) -> None:
    """Start a worker process: Celery's `worker` with our app (options: `worker --help`).

    Options that would lose messages or end calls in flight are refused.
    """
    run("worker", context.args)


def beat(context: typer.Context) -> None:
    """Start the scheduler of the recurring jobs: Celery's `beat` with our app (options: `beat --help`)."""
    run("beat", context.args)
