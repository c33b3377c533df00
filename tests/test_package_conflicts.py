"""A CRM's own `tasks.py` or `worker.py` hides our packages: the error names the file and the other ways."""

import subprocess
import sys
from pathlib import Path

import pytest

from worker.doctor.check_settings import check
from worker.package_conflicts import hiding_files
from worker.testbed.local_system import Environment

CELERY = "from celery.__main__ import main; import sys; sys.argv = ['celery', '-A', 'worker.app', 'report']; main()"


def run(folder: Path, code: str, environment: Environment) -> str:
    """Run code as a script in that folder. Returns the end of what it writes to stderr."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment.variables, capture_output=True, text=True, timeout=50
    )
    assert done.returncode != 0
    return " ".join(done.stderr.split())


@pytest.mark.parametrize("package", [False, True])
@pytest.mark.parametrize(("name", "code"), [("worker", "from tasks import enqueue"), ("tasks", CELERY)])
def test_an_import_that_finds_a_file_of_the_crm_says_which_and_names_the_other_ways(
    tmp_path: Path, environment: Environment, name: str, code: str, package: bool
) -> None:
    theirs = tmp_path / name / "__init__.py" if package else tmp_path / f"{name}.py"
    theirs.parent.mkdir(exist_ok=True)
    theirs.write_text("x = 1\n")

    error = run(tmp_path, code, environment)

    assert f"{theirs} hides" in error
    assert "b2copy.inbox" in error
    assert "b2copy_requests" in error


def test_doctor_names_the_files_in_the_current_folder_that_hide_ours(
    tmp_path: Path, active_environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tasks.py").touch()
    monkeypatch.chdir(tmp_path)

    results = list(check())

    assert [one.message for one in results if "hides" in one.message] == [
        f"{tmp_path}/tasks.py hides ours from `celery -A worker.app` and from scripts in this folder"
    ]


def test_our_own_folder_hides_nothing() -> None:
    assert hiding_files(Path(__file__).parents[1]) == []
