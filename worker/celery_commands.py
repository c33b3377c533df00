"""`b2copy-sync worker` and `b2copy-sync beat`: Celery's commands with our app, without their option --detach.

Some other options of the worker are refused (`worker.app.check_options`).

They do what `celery -A worker.app worker` does, with two differences. Python does not search the current folder for
modules, so that a `tasks.py` or `worker.py` of the CRM there hides nothing of ours. And Celery's other commands are not
loaded: a process needs 7 MB less, because one of them loads a whole toolkit for interactive terminals.
"""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click

NAMES = ("worker", "beat")


def celery_command(name: str) -> "click.Command":
    """Return Celery's command, without the option --detach.

    The detached process would be started as `celery` with the options of this one, so that it would get another app.

    https://docs.celeryq.dev/en/stable/reference/cli.html#celery-worker
    """
    from celery.bin.beat import beat
    from celery.bin.worker import worker

    command: click.Command = copy.copy({"worker": worker, "beat": beat}[name])
    command.params = [param for param in command.params if param.name != "detach"]
    command.help = f"Start Celery's {name} with the app of b2copy-sync."
    return command


def run(name: str, options: Sequence[str]) -> None:
    """Run a Celery worker or Celery beat in this process until it ends, and exit. `options` are those of Celery.

    Exits with 2 if a setting is wrong.
    """
    from celery.bin.base import CLIContext

    from worker.app import app, stop
    from worker.errors import SettingsError

    context = CLIContext(app, no_color=None, workdir=None)
    prefix = f"CELERY_{name.upper()}"  # of environment variables that set options, as for `celery`
    try:
        celery_command(name).main(list(options), f"b2copy-sync {name}", obj=context, auto_envvar_prefix=prefix)
    except SettingsError as error:
        stop(error)
