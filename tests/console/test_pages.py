"""What the pages that change nothing say."""

import html
import re
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text

from tests.console.conftest import client_of
from tests.operations import (
    LedgerClock,
    attempt_record,
    claim_due,
    claim_named,
    fail,
    fail_operation,
    hold_operation,
    make_wait,
    record_operations,
)
from worker.console import read_only_pages
from worker.console.process_state import Console
from worker.ledger import Ledger, leave_request, pause, queries, try_start_dispatch
from worker.ledger.overview import overview
from worker.ledger.pauses import resume
from worker.operation import FailureReason, WaitReason
from worker.report.health import health_of
from worker.report.overview import SystemOverview, concerns
from worker.report.sentences import paused_by
from worker.report.thresholds import DUE_LATE_S

OpenConsole = Callable[..., Console]


def test_a_paused_lane_shows_what_is_open_in_it(open_console: OpenConsole, ledger: Ledger) -> None:
    record_operations(ledger, "B1", "B2", lane="bulk")
    pause(ledger, "bulk", "bob", "B2COPY is in maintenance")

    page = client_of(open_console()).get("/").text

    assert '<td class="number" data-label="Open">2</td>\n<td class="number" data-label="Due">0</td>' in page
    assert "Lane bulk is paused since" in page


def test_the_list_does_not_call_answers_tries(open_console: OpenConsole, ledger: Ledger) -> None:
    claim = hold_operation(ledger, "W1")
    make_wait(ledger, claim, wait_reason=WaitReason.BACKOFF, attempt=attempt_record("server_error", http_status=500))

    page = client_of(open_console()).get("/operations").text

    assert '<td class="number" data-label="Answers that count">0</td>' in page
    assert '<th scope="col" class="number">Answers that count</th>' in page


FINE = "What is due is being done."


def be_late(ledger: Ledger, fault: str) -> None:
    """Make something wrong of which the page Now, `status` and `health` must speak."""
    if fault == "old money":
        record_operations(ledger, "W1")
        LedgerClock(ledger).advance(600)
        make_wait(ledger, claim_named(ledger, "W1"), wait_reason=WaitReason.BACKOFF)
    elif fault == "a row that nobody takes":
        leave_request(ledger, "fees.process", "{}", "crm", None)
        with ledger.writing() as connection:
            connection.execute(text("UPDATE b2copy_requests SET requested_at = requested_at - 600000"))
    elif fault == "an open circuit":
        make_wait(ledger, hold_operation(ledger, "B1", lane="bulk"), wait_reason=WaitReason.CIRCUIT_OPEN)
    elif fault == "an open circuit of the CRM":
        make_wait(ledger, hold_operation(ledger, "N1", lane="notify"), wait_reason=WaitReason.CIRCUIT_OPEN)
    elif fault == "a late notice":
        record_operations(ledger, "N1", lane="notify")
        LedgerClock(ledger).advance(1200)
        make_wait(ledger, claim_named(ledger, "N1", lane="notify"), wait_reason=WaitReason.BACKOFF)
    elif fault == "no access":
        make_wait(ledger, hold_operation(ledger, "B1", lane="bulk"), wait_reason=WaitReason.NO_ACCESS)
    elif fault == "what is unresolved":
        fail_operation(ledger, "B1", failure_reason=FailureReason.UNRESOLVED, lane="bulk")
    elif fault == "what has failed":
        fail_operation(ledger, "B1", lane="bulk")
    elif fault == "a pause":
        pause(ledger, "bulk", "bob", "B2COPY is in maintenance")
    else:
        with ledger.writing() as connection:
            connection.execute(text("UPDATE b2copy_ledger SET dispatched_at = dispatched_at - 600000"))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("old money", "b2copy-sync list --lane money --age 120s"),
        ("a row that nobody takes", "no worker has taken a row for 10 min"),
        ("an open circuit", "destination b2copy is unavailable, 1 operation waiting"),
        ("an open circuit of the CRM", "a way of notices to the CRM is unavailable, 1 operation waiting"),
        ("a late notice", "lane notify: a notice has waited for 20 min"),
        ("no access", "B2COPY refuses our access to 1 operation"),
        ("what is unresolved", "1 operation unresolved"),
        ("what has failed", "1 operation failed: "),
        ("a pause", "by bob: B2COPY is in maintenance"),
        ("no dispatch", "no worker has looked at the ledger for 10 min"),
    ],
)
def test_now_status_and_health_say_the_same(open_console: OpenConsole, ledger: Ledger, fault: str, said: str) -> None:
    client = client_of(open_console())
    assert try_start_dispatch(ledger)
    assert FINE in client.get("/").text
    assert concerns_of(ledger) == []

    be_late(ledger, fault)

    page = re.sub(r"<[^>]+>|  +", "", html.unescape(client.get("/").text))
    found, shown = health_of(ledger, DUE_LATE_S), concerns_of(ledger)
    assert FINE not in page
    assert said in page
    assert said in " ".join(shown)
    everything = [*found.problems, *found.notes, *(paused_by(one) for one in found.pauses)]
    assert said in " ".join(everything)
    assert len(shown) == len(everything) == 1
    assert all(one.replace("`", "") in page for one in (*found.problems, *found.notes))


def concerns_of(ledger: Ledger) -> list[str]:
    """Return what `status` says first."""
    pauses = health_of(ledger, DUE_LATE_S).pauses
    return concerns(SystemOverview(overview(ledger), pauses, None, ""))


def test_the_audit_says_pause_and_resume(open_console: OpenConsole, ledger: Ledger) -> None:
    pause(ledger, "money", "bob", "B2COPY is in maintenance")
    resume(ledger, "money", "bob", "the maintenance is over")

    page = client_of(open_console()).get("/audit").text

    assert ('data-label="What">pause<' in page, 'data-label="What">resume<' in page) == (True, True)
    assert '<a href="/audit?subject=pause%3Amoney">lane money</a>' in page


@pytest.mark.parametrize(
    ("parameters", "found"),
    [
        ("since=2026-01-02T10:00", ["new"]),
        ("until=2026-01-02T10:00", ["old"]),
        ("since=2026-01-02T08:59:59&until=2026-01-02T09:01", ["old"]),
        ("since=2026-01-03", []),
    ],
)
def test_a_list_begins_and_ends_at_a_time(
    open_console: OpenConsole, ledger: Ledger, parameters: str, found: list[str]
) -> None:
    for name, at in (("old", 1_767_344_400_000), ("new", 1_767_348_000_000)):  # 2026-01-02, 9:00 and 10:00 UTC
        key = fail_operation(ledger, name)
        with ledger.writing() as connection:
            aged = text("UPDATE b2copy_operations SET state_since = :at WHERE key = :key")
            connection.execute(aged, {"at": at, "key": key})

    page = client_of(open_console()).get(f"/operations.csv?state=failed&{parameters}").text

    assert [line.partition(",")[0] for line in page.splitlines()[1:]] == [f"fees.process:{name}" for name in found]


@pytest.mark.parametrize("wrong", ["yesterday", "2026-02-30T10:00", "2026-01-02T25:00", "12:00", "\u0662026-01-02"])
def test_a_time_that_does_not_exist_is_refused_by_name(open_console: OpenConsole, wrong: str) -> None:
    answer = client_of(open_console()).get("/operations", params={"since": wrong})

    assert answer.status_code == 400
    assert "since must be a" in answer.text


def test_a_page_shows_the_newest_attempts_and_says_that_there_are_more(
    open_console: OpenConsole, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_only_pages, "ATTEMPTS_LIMIT", 2)
    claim = hold_operation(ledger, "W1")
    for number in range(3):
        record = attempt_record("pending", message=f"answer {number}", request_id="W1")
        make_wait(ledger, claim, wait_reason=WaitReason.PENDING_AT_B2COPY, due_in_s=0, attempt=record)
        claim = claim_named(ledger, "W1")
    client = client_of(open_console())

    page = client.get("/operation?key=fees.process:W1").text

    assert [f"answer {number}" in page for number in range(3)] == [False, True, True]
    assert "The newest 2 attempts" in page
    assert len(client.get("/evidence.json?key=fees.process:W1").json()["evidence"]["attempts"]) == 3


def test_a_command_in_a_sentence_is_set_apart_and_stays_text(open_console: OpenConsole, ledger: Ledger) -> None:
    fail_operation(ledger, "<b>`W1")

    page = client_of(open_console()).get("/todo").text

    assert "<code>b2copy-sync failed correct " in page
    assert "<b>`W1" not in page


def record_many(ledger: Ledger, count: int, **fields: Any) -> None:
    """Record operations of account 7: N0, N1 and so on."""
    record_operations(ledger, *(f"N{number}" for number in range(count)), **fields)


def follow(client: Any, address: str) -> Any:
    """Return the page that a search leads to."""
    answer = client.get(address)
    assert answer.status_code == 303, answer.text
    return client.get(answer.headers["location"])


def test_a_search_finds_the_account_of_an_old_operation(open_console: OpenConsole, ledger: Ledger) -> None:
    key = fail_operation(ledger, "old", payload={"account_login": "123456", "request_id": "old"})
    record_many(ledger, 5_100)
    client = client_of(open_console())

    first = follow(client, "/operations?find=123456")
    more = re.search('rel="next" href="([^"]+)"', first.text)

    assert "there are more operations" in first.text
    assert more is not None
    assert key in client.get(html.unescape(more[1])).text


def test_a_search_finds_the_account_of_an_open_operation_behind_many_newer_ones(
    open_console: OpenConsole, ledger: Ledger
) -> None:
    record_operations(ledger, "old", lane="bulk", payload={"account_login": "123456", "request_id": "old"})
    record_many(ledger, 5_100)

    assert "fees.process:old" in follow(client_of(open_console()), "/operations?find=123456").text


def test_a_search_for_an_account_has_pages_and_a_file_of_its_own(open_console: OpenConsole, ledger: Ledger) -> None:
    record_many(ledger, 60, payload={"account_login": "123456", "request_id": "-"})
    record_operations(ledger, "other")
    client = client_of(open_console())

    page = follow(client, "/operations?find=123456").text
    file = re.search('href="(/operations.csv[^"]*)"', page)

    assert "<b>60</b> match" in page
    assert 'rel="next"' in page
    assert file is not None
    rows = client.get(html.unescape(file[1])).text.splitlines()[1:]
    assert len(rows) == 60
    assert {row.split(",")[5] for row in rows} == {"123456"}


def test_an_id_that_is_an_account_too_leads_to_both(open_console: OpenConsole, ledger: Ledger) -> None:
    record_operations(ledger, "123456")
    client = client_of(open_console())
    assert client.get("/operations?find=123456").headers["location"] == "/operation?key=fees.process%3A123456"

    record_operations(ledger, "W2", payload={"account_login": "123456", "request_id": "W2"})
    page = client.get("/operations?find=123456").text

    assert "fees.process:123456" in page
    assert 'href="/operations?account=123456"' in page
    assert "/operations.csv" not in page


def export(client: Any, address: str) -> tuple[str, int]:
    """Return the name of an exported file, and how many rows it holds."""
    answer = client.get(address)
    [name] = re.findall('filename="([^"]+)"', answer.headers["content-disposition"])
    return name, len(answer.text.splitlines()) - 1


def test_a_file_that_is_cut_says_so_by_its_name(open_console: OpenConsole, ledger: Ledger) -> None:
    record_many(ledger, 1_001)
    fail(ledger, *claim_due(ledger, limit=1_001))
    client = client_of(open_console())

    assert export(client, "/operations.csv?state=failed") == ("operations-incomplete.csv", 1_000)
    assert "operations-incomplete.csv" in client.get("/operations?state=failed").text

    with ledger.writing() as connection:
        connection.execute(text("DELETE FROM b2copy_operations WHERE key = 'fees.process:N0'"))
    assert export(client, "/operations.csv?state=failed") == ("operations.csv", 1_000)


def test_a_file_holds_what_matches_behind_the_first_window(
    open_console: OpenConsole, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_operation(ledger, "old", payload={"account_login": "123456", "request_id": "old"})
    record_many(ledger, 5_100)
    client = client_of(open_console())

    assert export(client, "/operations.csv?account=123456") == ("operations.csv", 1)
    assert export(client, "/operations.csv?account=7&state=open") == ("operations-incomplete.csv", 1_000)

    monkeypatch.setattr(read_only_pages, "EXPORT_WINDOWS", 1)
    assert export(client, "/operations.csv?account=123456") == ("operations-incomplete.csv", 0)


def test_a_file_of_decisions_that_is_cut_says_so_by_its_name(
    open_console: OpenConsole, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        pause(ledger, "money", "bob", f"pause {number}")
        resume(ledger, "money", "ann", "over")
    client = client_of(open_console())

    assert export(client, "/audit.csv") == ("audit.csv", 6)

    monkeypatch.setattr(read_only_pages, "EXPORT_LIMIT", 5)
    assert export(client, "/audit.csv") == ("audit-incomplete.csv", 5)

    monkeypatch.setattr(read_only_pages, "EXPORT_LIMIT", 4)
    monkeypatch.setattr(queries, "AUDIT_WINDOW", 2)
    assert export(client, "/audit.csv?actor=bob") == ("audit.csv", 3)
