"""How processes start: on valid settings with the plain celery commands; on others they end with a line and exit 2."""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from celery.__main__ import main as celery_main
from celery.concurrency import get_implementation
from celery.concurrency.base import BasePool
from sqlalchemy import text

from tests import forked
from tests.forked import Ran
from tests.support import until
from worker.app import check_options
from worker.errors import SettingsError
from worker.ledger import open_ledger
from worker.ledger.engine import connect
from worker.ledger.migrations import migrate
from worker.ledger.schema_version import version_of
from worker.per_process import PerProcess
from worker.testbed.local_system import Environment, b2copy_sync, wait_for_worker

CELERY = (sys.executable, "-m", "celery", "-A", "worker.app")

Run = Callable[..., Ran]


@pytest.fixture
def run(environment: Environment, tmp_path: Path) -> Run:
    """Run `celery -A worker.app <arguments>` with settings changed, until it ends."""

    def celery(*arguments: str, **changes: str) -> Ran:
        return forked.run(
            celery_main, tmp_path, environment.variables | changes, ["celery", "-A", "worker.app", *arguments]
        )

    return celery


def empty_database(environment: Environment) -> str:
    """Make an empty file for the ledger, as nothing but `migrate` makes one. Returns its URL."""
    Path(environment.database_url.removeprefix("sqlite:///")).touch()
    return environment.database_url


def refused(ran: Ran) -> list[str]:
    """Return the lines on stderr of a process that did not start."""
    assert ran.code == 2, ran.err
    assert "Traceback" not in ran.err + ran.out
    return [line for line in ran.err.splitlines() if line.strip()]


@pytest.mark.parametrize("start", [b2copy_sync(), CELERY], ids=["b2copy-sync", "celery"])
@pytest.mark.parametrize(
    ("command", "missing"),
    [("worker", "B2COPY_HOST"), ("beat", "B2COPY_REDIS_URL")],
)
def test_a_missing_setting_is_one_line_and_exit_2(
    environment: Environment, start: Sequence[str], command: str, missing: str
) -> None:
    variables = {name: value for name, value in environment.variables.items() if name != missing}

    ran = subprocess.run([*start, command], env=variables, capture_output=True, text=True, timeout=30, check=False)

    [line] = refused(Ran(ran.returncode, ran.stdout, ran.stderr))

    assert line.startswith(f"{missing} is not set: ")


def test_a_misspelt_setting_is_one_line_and_exit_2(run: Run) -> None:
    [line] = refused(run("worker", B2COPY_RATELIMIT="5/second"))

    assert line == "B2COPY_RATELIMIT is not a setting: did you mean B2COPY_RATE_LIMIT?"


@pytest.mark.parametrize("command", ["worker", "beat"])
def test_a_redis_url_with_an_option_is_one_line_and_exit_2(environment: Environment, run: Run, command: str) -> None:
    [line] = refused(run(command, B2COPY_REDIS_URL=f"{environment.broker.url}?health_check_interval=30"))

    assert line.startswith("B2COPY_REDIS_URL must not hold the option 'health_check_interval'")
    assert environment.broker.url.split(":")[2].partition("@")[0] not in line


@pytest.mark.parametrize("command", ["worker", "beat"])
def test_a_missing_redis_authority_is_one_line_and_exit_2(environment: Environment, run: Run, command: str) -> None:
    url = environment.broker.url.replace("redis://", "rediss://")
    [line] = refused(run(command, B2COPY_REDIS_URL=url, B2COPY_REDIS_CA_FILE="/no/such/file"))

    assert line.startswith("B2COPY_REDIS_CA_FILE is not usable: /no/such/file does not hold PEM certificates")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("-c", "1"), "-c 1 is too few: a worker needs 6 slots"),
        (("-c", "4"), "-c 4 is too few"),
        (("-P", "processes", "-c", "2"), "-c 2 is too few"),
        (("--autoscale=8,2",), "--autoscale is not supported"),
        (("-P", "solo"), "--pool solo is not supported"),
        (("-c", "auto"), "-c auto may be too few"),
        (("--purge",), "--purge is not supported: it deletes what CRMs have asked for"),
        (("-Q", "b2copy.inbox,nosuch"), "-Q, -X: there is no queue 'nosuch'; there are b2copy.inbox"),
        (("-X", "nosuch"), "-Q, -X: there is no queue 'nosuch'"),
        (("-P", "processes", "--time-limit", "60"), "--time-limit is not supported"),
        (("-P", "processes", "--soft-time-limit", "60"), "--soft-time-limit is not supported"),
        (("-P", "processes", "--max-tasks-per-child", "100"), "--max-tasks-per-child is not supported"),
        (("-P", "processes", "--max-memory-per-child", "9"), "--max-memory-per-child is not supported"),
        (("-P", "processes", "--pool-start-method", "spawn"), "--pool-start-method spawn is not supported"),
    ],
    ids=" ".join,
)
def test_options_that_would_starve_the_inbox_or_end_the_worker_are_refused(
    run: Run, options: tuple[str, ...], problem: str
) -> None:
    [line] = refused(run("worker", *options))

    assert line.startswith(problem)


def test_purge_deletes_no_message(environment: Environment, run: Run) -> None:
    with environment.broker.client as client:
        client.lpush("b2copy.inbox", "a withdrawal")
        refused(run("worker", "--purge"))

        assert client.lrange("b2copy.inbox", 0, -1) == ["a withdrawal"]


def test_options_that_change_nothing_here_are_taken() -> None:
    check_options({"concurrency": 0, "queues": ["b2copy.inbox"], "exclude_queues": "b2copy.bulk,b2copy.notify"})
    check_options({"purge": False, "time_limit": None, "pool_start_method": "fork", "concurrency": "64"})


@pytest.mark.parametrize("name", ["gevent", "eventlet", "solo", "custom"])
def test_only_threads_and_processes_are_pools_of_a_worker(name: str) -> None:
    pool = type("TaskPool", (BasePool,), {"__module__": f"celery.concurrency.{name}"})

    for given in (pool, name):  # Celery's command line gives the class
        with pytest.raises(SettingsError, match=f"--pool {name} is not supported: leave --pool out"):
            check_options({"pool": given})
    for supported in ("threads", "processes", "prefork", None):
        check_options({"pool": supported})
        check_options({"pool": supported and get_implementation(supported)})


def test_a_key_that_others_may_read_stops_a_worker(environment: Environment, run: Run, tmp_path: Path) -> None:
    copy = tmp_path / "key.pem"
    copy.write_bytes(environment.keys.private_file.read_bytes())
    copy.chmod(0o644)

    ran = run("worker", B2COPY_PRIVATE_KEY_FILE=str(copy))

    assert any("B2COPY_PRIVATE_KEY_FILE" in line for line in refused(ran))
    assert "PRIVATE KEY" not in ran.err + ran.out


@pytest.mark.parametrize(
    ("version", "remedy"), [("0000", "run `b2copy-sync migrate`"), ("9999", "install the b2copy-sync that made it")]
)
def test_another_schema_stops_a_worker_and_names_the_remedy(
    environment: Environment, run: Run, version: str, remedy: str
) -> None:
    engine = connect(empty_database(environment))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE b2copy_schema_version (version_num TEXT, oldest_reader TEXT)"))
        connection.execute(text("INSERT INTO b2copy_schema_version VALUES (:version, :version)"), {"version": version})
    engine.dispose()

    [line] = refused(run("worker"))

    assert line.startswith(f"B2COPY_DATABASE_URL: the ledger's schema is {version}")
    assert remedy in line


def test_another_b2copy_stops_a_worker_and_names_both_hosts(environment: Environment, run: Run) -> None:
    worker = environment.worker(restarts=False)
    wait_for_worker(worker)
    elsewhere = "https://b2copy.example.com"

    for stop in (None, worker.stop):  # while a worker with the first host runs, and after it
        if stop:
            assert stop() == 0
        [line] = refused(run("worker", B2COPY_HOST=elsewhere))
        assert line.startswith(f"B2COPY_HOST is {elsewhere}, and this ledger belongs to {environment.sandbox.url}: ")
        assert f"`b2copy-sync migrate --b2copy-host {elsewhere} --why" in line

    again = environment.worker(name="again", restarts=False)
    wait_for_worker(again)
    assert again.stop() == 0


def test_a_redis_database_that_another_ledger_uses_stops_a_worker(
    environment: Environment, run: Run, tmp_path: Path
) -> None:
    worker = environment.worker(restarts=False)
    wait_for_worker(worker)
    theirs = open_ledger(environment.database_url)
    theirs.close()
    with environment.broker.client as client:
        until(lambda: client.zrange("b2copy:ledgers", 0, -1) == [theirs.id])
        assert 0 < client.ttl("b2copy:ledgers") <= 30
    url = f"sqlite:///{tmp_path}/other.sqlite"
    migrate(url)

    [line] = refused(run("worker", B2COPY_DATABASE_URL=url))

    assert line.startswith(f"B2COPY_REDIS_URL: workers of another ledger ({theirs.id}) use this Redis database")
    assert "give each system a Redis database of its own" in line
    again = environment.worker(name="again", restarts=False)  # of the same ledger
    wait_for_worker(again)
    assert (worker.stop(), again.stop()) == (0, 0)


@pytest.mark.parametrize("exists", [False, True], ids=["absent", "empty"])
def test_a_worker_without_a_ledger_stops_and_makes_none(environment: Environment, run: Run, exists: bool) -> None:
    url = empty_database(environment) if exists else environment.database_url

    [line] = refused(run("worker"))

    assert line == f"B2COPY_DATABASE_URL: there is no ledger at {url}: correct the URL, or run `b2copy-sync migrate`"
    assert version_of(url) is None
    assert Path(url.removeprefix("sqlite:///")).exists() is exists


def test_beat_needs_no_key(environment: Environment) -> None:
    without = ("B2COPY_HOST", "B2COPY_ADMIN_ID", "B2COPY_KEY_ID", "B2COPY_PRIVATE_KEY_FILE", "B2COPY_DEVICE_IP")

    worker = environment.worker("--without-mingle", "--without-gossip", restarts=False)
    for name in without:
        del environment.settings[name]
    beat = environment.beat(restarts=False)

    wait_for_worker(worker)
    until(lambda: "Sending due task" in beat.current_log())
    assert (worker.stop(), beat.stop()) == (0, 0)


CRM = """
import os, sys

import celery
mine = celery.Celery("crm")
mine.set_current()

from tasks import enqueue
from worker.errors import SettingsError

assert celery.current_app._get_current_object() is mine, "the CRM's own app is not the current one any more"
assert "worker.sandbox" not in sys.modules
assert not [thread for thread in __import__("threading").enumerate() if thread.name != "MainThread"]

try:
    enqueue.fees(account_login="7", request_id="W1")
except SettingsError as error:
    assert "B2COPY_DATABASE_URL is not set" in str(error), error
else:
    raise AssertionError("recorded without a ledger")

os.environ["B2COPY_DATABASE_URL"], os.environ["B2COPY_REDIS_URL"] = sys.argv[1:]
recorded = enqueue.fees(account_login="7", request_id="W1")
print(recorded.key, recorded.state.value, enqueue.status("fees.process:W1").state.value)
assert celery.current_app._get_current_object() is mine
"""


def test_a_crm_needs_database_and_redis_only_and_its_own_celery_stays_current(
    environment: Environment, tmp_path: Path
) -> None:
    migrate(environment.database_url)
    script = tmp_path / "crm.py"
    script.write_text(CRM)
    variables = {name: value for name, value in environment.variables.items() if not name.startswith("B2COPY_")}
    command = [sys.executable, "-W", "error", str(script), environment.database_url, environment.broker.url]

    crm = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=30, check=False)

    assert crm.returncode == 0, crm.stderr
    assert crm.stdout.split() == ["fees.process:W1", "queued", "queued"]


class TestPerProcess:
    def test_makes_one_object_at_first_use(self) -> None:
        made: list[object] = []

        def make() -> object:
            made.append(object())
            return made[-1]

        one = PerProcess(make)

        assert one.existing is None
        assert one() is one()
        assert len(made) == 1
        one.forget()
        assert one() is made[1]

    def test_a_forked_child_makes_its_own(self) -> None:
        pids = PerProcess(os.getpid)
        assert pids() == os.getpid()
        reading, writing = os.pipe()

        child = os.fork()
        if not child:
            os.write(writing, pickle.dumps((pids(), os.getpid())))
            os._exit(0)
        os.waitpid(child, 0)
        answer, pid = pickle.loads(os.read(reading, 100))
        os.close(reading)
        os.close(writing)

        assert answer == pid == child


def test_beat_ends_on_sigterm_during_a_call_of_the_broker(environment: Environment) -> None:
    beat = environment.beat(restarts=False)

    def sent() -> int:
        return beat.current_log().count("Sending due task")

    with environment.broker.client as client:  # between two ticks: nobody takes what beat sends
        before = until(lambda: sent() if sent() == client.llen("b2copy.housekeeping") else 0)
    os.kill(environment.broker.pid, signal.SIGSTOP)
    try:
        until(lambda: sent() > before, within=20)  # now beat waits for the frozen broker
        beat.terminate()
    finally:
        os.kill(environment.broker.pid, signal.SIGCONT)

    assert beat.wait(5) == 0
