"""Suites of CRMs in processes of their own: one whose test fails, and one that has no use for the plugin."""

import re
import subprocess
import sys
from pathlib import Path

from worker.crm_testing.b2copy_fixture import Sandbox
from worker.testbed.processes import clean_environment

PAGE = (Path(__file__).parents[2] / "deploy" / "testing-your-crm.md").read_text()

OTHER_PLUGINS = [f"-pno:{name}" for name in ("django", "schemathesis", "valkey", "xdist", "cacheprovider", "anyio")]
FAILS = """
from tasks import enqueue

def test_fees(b2copy):
    b2copy.fees("7", pending_polls=1)
    enqueue.fees(account_login="7", request_id="W1")
    b2copy.run_until_idle()
    assert b2copy.operation("fees.process:W1").state == "failed"

def test_nothing_of_it(): assert False
"""
BREAKS = """
import pytest
from sqlalchemy import Connection
from tasks import enqueue

def test_outage(b2copy, monkeypatch):
    enqueue.fees(account_login="7", request_id="W1")
    monkeypatch.setattr(Connection, "execute", lambda *_, **__: pytest.importorskip("sqlalchemy").nothing_there)
    assert False

def test_nothing_of_it(): pass
"""
WITHOUT = """
import sys

def test_its_own():
    heavy = {"tasks", "worker", "sqlalchemy", "aiohttp", "pydantic", "celery"}
    assert "pytest_b2copy" in sys.modules
    assert heavy & sys.modules.keys() == set()
"""


def run_suite(folder: Path, test: str, code: int) -> str:
    (folder / "test_crm.py").write_text(test)
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *OTHER_PLUGINS],
        cwd=folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert ran.returncode == code, ran.stdout + ran.stderr
    return ran.stdout


def test_a_failed_test_shows_the_calls_and_operations(tmp_path: Path) -> None:
    output = run_suite(tmp_path, FAILS, code=1)

    assert len(re.findall("b2copy sandbox", output)) == 1  # not for the test that did not use it
    assert re.search(r'processext \{"account_login":"7","request_id":"W1"\} -> 200 \{.*"status":1\}', output)
    assert re.search(r"^fees.process:W1  succeeded$", output, re.M)


def test_a_failed_test_that_made_the_database_unusable_does_not_end_the_suite(tmp_path: Path) -> None:
    output = run_suite(tmp_path, BREAKS, code=1)

    assert "1 failed, 1 passed" in output
    assert "what happened cannot be read: AttributeError" in output


def test_the_sample_of_the_page_passes(tmp_path: Path) -> None:
    (sample,) = re.findall(r"```python\n# test_withdrawal.py\n(.*?)```", PAGE, re.S)

    assert "1 passed" in run_suite(tmp_path, sample, code=0)


def test_the_page_names_everything_that_the_fixture_has() -> None:
    table = re.findall(r"^\| (`.*?) \|", PAGE, re.M)
    named = {name for cell in table for name in re.findall(r"`(\w+)", cell)}

    assert named == {name for name in vars(Sandbox) if not name.startswith("_")} - {"close"}


def test_a_suite_without_the_fixture_loads_nothing_of_ours_but_the_plugin(tmp_path: Path) -> None:
    run_suite(tmp_path, WITHOUT, code=0)


def test_a_crm_with_a_package_of_the_same_name_is_told_why_it_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text("")

    output = run_suite(tmp_path, "def test_x(b2copy): pass", code=1)

    assert "the fixture b2copy cannot be used" in output
    assert "no other packages called worker or tasks" in re.sub(r"\s+", " ", output)
