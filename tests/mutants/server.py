"""Run tests in forks of one process that has imported the libraries. It runs in a copy of the tree.

A fork imports our code, so it sees the fault that was written into the copy since the last fork. The server reads one
JSON object per line and answers with one:

    {"tests": [node ids, in the order of the run], "limit_s": 60, "test_limit_s": 20}  run them until one fails
    {"files": [...], "limit_s": 600}  run all tests of these files and store which lines each of them runs

`limit_s` is for one fork. The answers: `{"result": "killed", "by": node id}`, or `survived` or `timeout`; and what
`Collection` notes.
"""

import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

LIBRARIES = (
    "alembic.command", "celery.bin.celery", "celery.worker.consumer", "coverage", "cryptography.fernet", "httpx2",
    "hypothesis", "jwt", "kombu", "limits", "psycopg", "pycurl", "pydantic_settings", "redis", "requests", "rich.table",
    "sqlalchemy.orm", "sqlalchemy.dialects.postgresql", "starlette.applications", "tenacity", "typer",
)  # fmt: skip
OPTIONS = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb", "short",
           "-W", "ignore::pytest.PytestAssertRewriteWarning")  # fmt: skip
COLLECTED = Path(".collected")  # coverage data, with a folder for the processes that each test file started
PROCESSES = {"one_broker", "one_sandbox", "fleet"}  # fixtures that start processes
POSTGRES = "MUTANTS_POSTGRES"  # environment variable: the folder of a PostgreSQL server for the ledger's tests


def main() -> None:
    for name in LIBRARIES:
        __import__(name)
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(_in_a_fork(order) if "files" in order else result_of(order)), flush=True)


def result_of(order: dict[str, Any]) -> dict[str, Any]:
    """Run tests until one fails. One that fails once only does not kill: on a busy machine it may fail by itself.

    A second fork confirms the failure: the first one still has the threads, ports and caches that the failure left.
    """
    left = list(order["tests"])
    while left:
        first = _in_a_fork(order | {"tests": left})
        if first["result"] != "killed":
            return first
        suspects = [first["by"]] if first["by"] in left else left  # no test is to blame if the process ended
        second = _in_a_fork(order | {"tests": suspects})
        if second["result"] == "killed":
            return first
        if second["result"] == "timeout":
            return second
        left = [test for test in left if test not in suspects]
    return {"result": "survived", "by": None}


def _in_a_fork(order: dict[str, Any]) -> dict[str, Any]:
    answer, ends = Path("answer.json"), time.monotonic() + order["limit_s"]
    answer.unlink(missing_ok=True)
    pid = os.fork()
    if not pid:
        _be_the_fork(order, answer)
    while not os.waitpid(pid, os.WNOHANG)[0]:
        if time.monotonic() > ends:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return {"result": "timeout", "by": None}
        time.sleep(0.01)
    with suppress(ProcessLookupError):  # what a test has left behind
        os.killpg(pid, signal.SIGKILL)
    if not answer.exists():
        return {"result": "killed", "by": "the process ended"}
    return dict(json.loads(answer.read_text()))


def _be_the_fork(order: dict[str, Any], answer: Path) -> None:
    os.setsid()
    for number in (1, 2):
        os.dup2(os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    try:
        found = _collect(order["files"]) if "files" in order else _run(order["tests"], order["test_limit_s"])
        answer.write_text(json.dumps(found))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(0)


def _run(tests: Sequence[str], test_limit_s: float) -> dict[str, Any]:
    selection = Selection(tests)
    files = list(dict.fromkeys(test.partition("::")[0] for test in tests))
    code = pytest.main([*OPTIONS, "-x", f"--timeout={test_limit_s}", *files], plugins=[selection])
    if not code:
        return {"result": "survived", "by": None}
    return {"result": "killed", "by": selection.failed or f"exit {int(code)}"}


def _use_the_running_postgres() -> None:
    if folder := os.environ.get(POSTGRES):
        from tests.ledger import conftest
        from tests.postgres import Postgres

        schemas = count(os.getpid() * 1000)

        class Running(Postgres):
            def __init__(self) -> None:
                self.folder, self._schemas = Path(str(folder)), schemas

            def start(self) -> Postgres:
                return self

            def stop(self) -> None:
                pass

        vars(conftest)["Postgres"] = Running


class Selection:
    """Runs the given tests only, in the given order, but first those that start no process."""

    def __init__(self, tests: Sequence[str]) -> None:
        self._place = {test: place for place, test in enumerate(tests)}
        self.failed: str | None = None

    def pytest_sessionstart(self) -> None:
        _use_the_running_postgres()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        def order(item: pytest.Item) -> tuple[bool, int]:
            starts_processes = not PROCESSES.isdisjoint(getattr(item, "fixturenames", ()))
            return starts_processes, self._place[item.nodeid]

        items[:] = sorted((item for item in items if item.nodeid in self._place), key=order)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and self.failed is None:
            self.failed = report.nodeid


def _collect(files: Sequence[str]) -> dict[str, Any]:
    import coverage

    shutil.rmtree(COLLECTED, ignore_errors=True)
    COLLECTED.mkdir()
    measured = coverage.Coverage(
        data_file=str((COLLECTED / "data").absolute()), data_suffix=True, branch=False, config_file="pyproject.toml"
    )
    measured.start()
    collection = Collection(measured)
    pytest.main([*OPTIONS, *files], plugins=[collection])
    measured.stop()
    measured.save()
    data = measured.get_data().data_filename()
    return {"data": data, "seconds": collection.seconds, "failed": collection.failed, "files": collection.files}


class Collection:
    """Notes how long each test takes, and which lines it and the processes that it starts run."""

    def __init__(self, measured: Any) -> None:
        self._measured = measured
        self.seconds: dict[str, float] = {}
        self.failed: list[str] = []
        self.files: list[str] = []

    def pytest_sessionstart(self) -> None:
        _use_the_running_postgres()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
        self._measured.switch_context(item.nodeid)
        result = yield
        self._measured.switch_context("")
        file = item.nodeid.partition("::")[0]
        if nextitem is None or nextitem.nodeid.partition("::")[0] != file:
            folder = COLLECTED / str(len(self.files))
            folder.mkdir()
            self.files.append(file)
            ours = Path(self._measured.get_data().data_filename()).name
            for data in COLLECTED.glob("data.*"):
                if data.name != ours:
                    data.rename(folder / data.name)
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self.seconds[report.nodeid] = report.duration
        if report.failed and report.nodeid not in self.failed:
            self.failed.append(report.nodeid)


if __name__ == "__main__":
    main()
