"""`b2copy-sync worker` and `b2copy-sync beat`: Celery's commands, with little of Celery's command line."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import until
from worker.ledger.migrations import migrate
from worker.testbed.local_system import Environment, wait_for_worker

B2COPY_SYNC = str(Path(sys.executable).with_name("b2copy-sync"))
LOADED = """
import sys
from worker import celery_commands, entry
celery_commands.run = lambda name, options: celery_commands.celery_command(name)
entry.run = celery_commands.run
sys.argv = ["b2copy-sync", sys.argv[1]]
entry.main()
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


@pytest.mark.parametrize("name", ["worker", "beat"])
def test_no_toolkit_for_terminals_is_loaded(name: str) -> None:
    ran = subprocess.run([sys.executable, "-c", LOADED, name], capture_output=True, text=True, check=True)

    loaded = set(ran.stdout.split())
    assert "celery" in loaded
    assert {"prompt_toolkit", "click_repl", "typer", "rich"} & loaded == set()


@pytest.mark.parametrize("name", ["worker", "beat"])
def test_help_lists_celerys_options_and_no_detach(name: str) -> None:
    ran = subprocess.run([B2COPY_SYNC, name, "--help"], capture_output=True, text=True, check=True)

    assert ran.stdout.startswith(
        f"Usage: b2copy-sync {name} [OPTIONS]\n\n  Start Celery's {name} with the app of b2copy"
    )
    assert "--loglevel" in ran.stdout
    assert "--detach" not in ran.stdout


def test_an_option_that_does_not_exist_is_refused() -> None:
    ran = subprocess.run([B2COPY_SYNC, "worker", "--detach"], capture_output=True, text=True, check=False)

    assert ran.returncode == 2
    assert "No such option '--detach'" in ran.stderr


def test_a_worker_starts_beside_a_crms_files_and_starts_again_on_sighup(
    environment: Environment, tmp_path: Path
) -> None:
    for name in ("tasks.py", "worker.py", "celery.py"):
        (tmp_path / name).write_text("raise SystemExit('a file of the CRM was imported')\n")
    migrate(environment.database_url)
    command = f"cd {tmp_path} && exec {B2COPY_SYNC} worker --loglevel INFO"
    worker = environment.run("worker", "sh", "-c", command, restarts=False)
    wait_for_worker(worker)

    os.kill(worker.pid, signal.SIGHUP)

    until(lambda: worker.log.read_text().count(" ready.") == 2, within=20)
    assert worker.stop() == 0
