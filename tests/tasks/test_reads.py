"""Reads: a CRM host without any key reads at B2COPY through a worker."""

import pickle
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tasks import enqueue
from tasks.reads import READS
from tests.conftest import forget
from tests.session.fleet import token_calls
from tests.session.frames import shown_by
from tests.session.test_secrets import dumped
from tests.support import until
from tests.tasks.conftest import ALONE, control, ended, name, running_fleet
from worker.app import app
from worker.errors import AccessRejected, BadPayload, CircuitOpen, NoAnswerInTime, NoSeamlessUrl, NotFound, Unavailable
from worker.instances import ledger
from worker.ledger import open_ledger
from worker.ledger.migrations import migrate
from worker.messages.sealed_answer import OneTimeKey
from worker.operation import State
from worker.queues import ANSWERS, INBOX, UNACKED
from worker.queues import READS as QUEUE
from worker.sandbox.control_client import SandboxControl
from worker.settings import CrmSettings, load
from worker.testbed.broker import Broker
from worker.testbed.local_system import Environment, Sandbox

__all__ = ["control", "name"]

SECRET = "sandbox-secret"
URL = "https://copy.broker.example/"
DROPPED = "a message that is no usable read was dropped"
SLOW_S = 4.0  # seconds that B2COPY takes for a slow read


def write_secret(environment: Environment) -> dict[str, str]:
    """Return the settings of a worker that may answer every read."""
    file = environment.folder / "secret"
    file.write_text(SECRET)
    file.chmod(0o600)
    return {"B2COPY_SEAMLESS_SECRET_FILE": str(file), "B2COPY_READS": ",".join(READS)}


@pytest.fixture(scope="module")
def fleet(one_broker: Broker, one_sandbox: Sandbox, migrated_file: Path) -> Iterator[Environment]:
    """A worker that logs everything and sends events, and this process without any key: a CRM host."""
    with (
        running_fleet(
            one_broker, one_sandbox, migrated_file, *ALONE, "-E", "--loglevel", "DEBUG", prepare=write_secret
        ) as environment,
        pytest.MonkeyPatch.context() as patch,
    ):
        kept = {"B2COPY_DATABASE_URL", "B2COPY_REDIS_URL"}
        for variable in environment.settings.keys() - kept:
            patch.delenv(variable)
        forget()
        yield environment
    forget()


@pytest.fixture
def account(control: SandboxControl, name: Callable[[], str]) -> str:
    """The MT login of a master account at B2COPY."""
    login = name()
    opened = enqueue.open_account(login=login, product_currency_id=2, client_id=1, is_master=True)
    assert ended(opened.key).state is State.SUCCEEDED
    return login


def answer_keys(broker: Broker) -> list[Any]:
    with broker.client as client:
        return list(client.scan_iter(match=f"{ANSWERS}*"))


def calls(control: SandboxControl, route: str) -> int:
    return int(control.counters()["calls"].get(route, 0))


def count_operations() -> int:
    with closing(open_ledger(load(CrmSettings).database_url)) as ledger, ledger.engine.connect() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM b2copy_operations").scalar_one())


def test_a_host_without_a_key_reads_everything_and_leaves_no_row(
    fleet: Environment, account: str, one_broker: Broker
) -> None:
    rows = count_operations()

    [found] = enqueue.read("accounts", login=account)
    detail = enqueue.read("account_detail", login=account)
    statistics = enqueue.read("account_statistics", login=account, platform=1)
    leaders = enqueue.read("leaderboard", product=1)
    url = enqueue.read("seamless_url", login=account)

    assert (found["number"], found["is_master"], found["client_id"]) == (account, True, "1")
    assert (detail["aum"], detail["followers"]) == ("0.00", 0)
    assert statistics["raw"]["profit"] == []
    assert account in [leader["login"] for leader in leaders]
    assert url.reveal().startswith(URL)
    assert count_operations() == rows
    assert answer_keys(one_broker) == []


def test_an_account_without_a_number_is_left_out(fleet: Environment, control: SandboxControl) -> None:
    """It would be of no use to the CRM, and the others are."""
    control.add_accounts([{"accountNumber": None, "clientId": 7007}, {"accountNumber": "N7007", "clientId": 7007}])

    found = enqueue.read("accounts", email="client-7007@sandbox.example")

    assert [account["number"] for account in found] == ["N7007"]


def test_no_sink_holds_a_seamless_url_or_its_secret(fleet: Environment, account: str, one_broker: Broker) -> None:
    url = enqueue.read("seamless_url", login=account)
    token = url.token.get_secret_value()
    assert len(token) > 20
    try:
        raise ValueError(f"a fault of the CRM about {url}")
    except ValueError as error:
        shown = [text for _, text in shown_by(error)] + traceback.format_exception(error) + [repr(locals()["url"])]
    with pytest.raises(TypeError, match="a seamless URL is a login"):
        pickle.dumps(url)

    [process] = fleet.processes
    until(lambda: "seamless_url" in process.log.read_text())
    proc = Path(f"/proc/{process.pid}")
    ledger = [path.read_bytes().decode("latin-1") for path in fleet.folder.glob("ledger.sqlite*")]
    sinks = [*dumped(one_broker), *ledger, process.log.read_text(), *shown]
    sinks += [(proc / what).read_bytes().decode() for what in ("environ", "cmdline")]
    assert any("b2copy:answer:" in sink for sink in sinks)  # the sealed answer is in Redis' file
    for secret in (token, SECRET):
        assert [sink[:200] for sink in sinks if secret in sink] == []


def test_what_b2copy_refuses_is_raised_with_its_words(
    fleet: Environment, control: SandboxControl, name: Callable[[], str]
) -> None:
    with pytest.raises(NotFound, match=r"account N\d+ is not found") as caught:
        enqueue.read("account_detail", login=name())
    assert caught.value.status == 404

    control.switches(secret_key="another")
    with pytest.raises(NoSeamlessUrl, match="B2COPY refuses the shared secret"):
        enqueue.read("seamless_url", login="1")
    presented = calls(control, "auth_url")
    with pytest.raises(NoSeamlessUrl, match="presented once a minute"):
        enqueue.read("seamless_url", login="1")
    assert calls(control, "auth_url") == presented
    with closing(open_ledger(load(CrmSettings).database_url)) as ledger, ledger.writing() as connection:
        connection.exec_driver_sql("DELETE FROM b2copy_flags")  # the next tests present it again


@pytest.mark.parametrize(
    ("what", "parameters", "problem"),
    [
        ("account", {}, "'account' is no read: there are accounts (login, platform"),
        ("account_detail", {}, "account_detail: login is missing"),
        ("account_detail", {"login": "a b"}, "printable ASCII"),
        ("account_detail", {"login": "../x"}, "is not a login"),
        ("account_detail", {"login": "1", "account": "1"}, "account is not a field: there are login, platform"),
        ("accounts", {"limit": 201}, "limit: "),
        ("leaderboard", {"product": 4}, "product: "),
        ("accounts", {"timeout_s": 61}, "timeout_s: 61 must be a number of seconds up to 60"),
        ("accounts", {"timeout_s": 0}, "timeout_s: 0 must be"),
        ("accounts", {"timeout_s": float("nan")}, "timeout_s: nan must be"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_sent(what: str, parameters: Any, problem: str) -> None:
    with pytest.raises(BadPayload) as caught:
        enqueue.read(what, **parameters)

    assert problem in str(caught.value)


def test_slow_reads_hold_up_no_withdrawal_and_those_that_expire_are_not_sent(
    fleet: Environment, control: SandboxControl, name: Callable[[], str]
) -> None:
    control.switches(latency={"widget.detail": SLOW_S})
    before = calls(control, "widget.detail")
    with ThreadPoolExecutor(30) as hosts:
        reads = [hosts.submit(enqueue.read, "account_detail", login="1", timeout_s=2) for _ in range(30)]
        began = time.monotonic()
        until(lambda: calls(control, "widget.detail") - before == 10)  # B2COPY_CONCURRENCY
        keys = [enqueue.fees(account_login="1", request_id=name()).key for _ in range(20)]
        assert {ended(key).state for key in keys} == {State.SUCCEEDED}
        assert time.monotonic() - began < SLOW_S
        assert [type(read.exception()) for read in reads] == [NoAnswerInTime] * 30
    [process] = fleet.processes
    until(lambda: process.log.read_text().count("not answered before its deadline") >= 30)
    assert calls(control, "widget.detail") - before == 10


@pytest.mark.parametrize("status", [500, 401])
def test_a_broken_widget_stops_the_reads_and_no_withdrawal(
    fleet: Environment, control: SandboxControl, name: Callable[[], str], status: int
) -> None:
    assert isinstance(enqueue.read("leaderboard"), list)
    before = token_calls(control)
    control.faults({"what": "status", "status": status, "route": "widget.statistics"})

    def is_refused() -> bool:
        with pytest.raises((Unavailable, AccessRejected, CircuitOpen)) as caught:
            enqueue.read("account_statistics", login="1")
        return isinstance(caught.value, CircuitOpen)

    until(is_refused)  # the fifth failure in a row opens the circuit; reads of an earlier test may still succeed

    def probing() -> list[str]:
        is_refused()
        with fleet.broker.client as client:
            return [name for name in ("b2copy", "b2copy.reads") if client.exists(f"b2copy:gate:{name}:probe")]

    assert until(probing) == ["b2copy.reads"]  # the fleet's next probe of B2COPY is left to operations

    assert ended(enqueue.fees(account_login="1", request_id=name()).key).state is State.SUCCEEDED
    assert token_calls(control) - before == (1 if status == 401 else 0)

    control.faults()

    def is_served() -> bool:
        try:
            return isinstance(enqueue.read("leaderboard"), list)
        except CircuitOpen:
            return False

    until(is_served)


def test_a_worker_of_another_ledger_reads_nothing(
    fleet: Environment, control: SandboxControl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = len(control.calls())
    url = f"sqlite:///{tmp_path}/other.sqlite"
    migrate(url)
    monkeypatch.setenv("B2COPY_DATABASE_URL", url)
    forget()
    try:
        with pytest.raises(Unavailable, match=r"leaderboard: a worker of another ledger .* B2COPY_REDIS_URL"):
            enqueue.read("leaderboard")
    finally:
        monkeypatch.undo()
        forget()

    assert len(control.calls()) == calls
    [process] = fleet.processes
    assert "a read came from another ledger" in process.log.read_text()
    assert isinstance(enqueue.read("leaderboard"), list)


@pytest.mark.parametrize(
    "arguments",
    [
        {"key": "no key"},
        {"key": ""},
        {"ends_at": "soon"},
        {"ends_at": 10**30},
        {"parameters": []},
        {"parameters": {"login": "a b"}},
        {"name": "nothing\n2026-01-01 forged"},
        {"name": ["x"]},
        {"read_id": 5},
        {"ledger_id": 5},
        {"ledger_id": "other\n2026-01-01 forged"},
    ],
    ids=str,
)
def test_no_message_harms_the_worker(fleet: Environment, control: SandboxControl, arguments: Any) -> None:
    whole = {
        "name": "accounts", "parameters": {}, "read_id": "x", "key": OneTimeKey().public, "ends_at": 2**53,
        "ledger_id": ledger().id,
    }  # fmt: skip
    app.send_task("b2copy.read", kwargs=whole | arguments, queue=QUEUE)

    assert isinstance(enqueue.read("leaderboard"), list)
    [process] = fleet.processes
    assert process.started == 1
    assert "\n2026-01-01 forged" not in process.log.read_text()


def test_a_message_that_is_no_read_is_counted_and_leaves_nothing(fleet: Environment, one_broker: Broker) -> None:
    [process] = fleet.processes
    rows, email = count_operations(), "client@example.com"
    for queue in (QUEUE, INBOX):
        app.send_task("b2copy.read", kwargs={"email": email}, queue=queue)
        app.send_task("b2copy.read", args=[email] * 9, queue=queue)
        app.send_task("b2copy.read", kwargs={"email": email}, queue=queue, countdown=60)
    with one_broker.client as client:
        client.lpush(QUEUE, f'{{"email": "{email}"}}')

    until(lambda: DROPPED in process.log.read_text())
    assert isinstance(enqueue.read("leaderboard"), list)
    with one_broker.client as client:
        until(lambda: not client.llen(QUEUE) and not client.llen(INBOX) and not client.hlen(UNACKED))
    assert count_operations() == rows
    assert email not in process.log.read_text()


def test_an_operation_in_the_wrong_queue_is_kept(fleet: Environment, name: Callable[[], str]) -> None:
    request = {"account_login": "1", "request_id": name()}
    app.send_task("b2copy.fees.process", kwargs=request, queue=QUEUE)
    wrong = app.send_task("b2copy.fees.process", kwargs=request, queue=QUEUE, countdown=60)

    assert ended(f"fees.process:{request['request_id']}").state is State.SUCCEEDED
    assert ended(f"message:{wrong.id}").state is State.FAILED
