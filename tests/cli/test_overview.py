"""status without a key, and list: what is going on, and which operations are meant."""

import re

import pytest

from tests.cli import terminal
from tests.cli.conftest import Command
from tests.operations import (
    LedgerClock,
    claim_named,
    fail_operation,
    hold_operation,
    make_wait,
    record_operation,
    succeed_operation,
)
from worker.ledger import Ledger, pause
from worker.ledger.running_workers import ThisWorker, note_running
from worker.operation import NOTICE_KIND, FailureReason, OnUnknown, WaitReason
from worker.testbed.local_system import Environment


def test_the_overview_says_first_what_to_look_at(b2copy_sync: Command, ledger: Ledger) -> None:
    record_operation(ledger, "W1")
    make_wait(ledger, hold_operation(ledger, "W2", lane="bulk"), wait_reason=WaitReason.NO_ACCESS)
    fail_operation(ledger, "W3")
    succeed_operation(ledger, "W4")
    pause(ledger, "bulk", "ann@desk", "B2COPY is upgraded")
    with ledger.writing() as connection:
        connection.exec_driver_sql("UPDATE b2copy_operations SET due_at = due_at - 60000 WHERE state = 'queued'")
        connection.exec_driver_sql("UPDATE b2copy_operations SET ended_at = ended_at - 60000")
        connection.exec_driver_sql("UPDATE b2copy_operations SET state_since = state_since - 60000")

    ran = b2copy_sync("status")
    found = b2copy_sync("status", "--json").document

    assert ran.code == 0
    alarms = [line for line in ran.out.splitlines() if line.startswith("! ")]
    assert "lane money: something is due, and no worker has worked on the lane for" in alarms[0]
    assert "lane bulk is paused since" in alarms[1]
    assert "by ann@desk: B2COPY is upgraded" in alarms[1]
    assert "B2COPY refuses our access to 1 operation; our requests come from 127.0.0.1" in alarms[2]
    money = next(lane for lane in found["lanes"] if lane["lane"] == "money")
    assert (money["open"], money["succeeded_per_minute"], money["failed_per_minute"]) == (1, 0.2, 0.2)
    assert (found["waiting"], found["failed"]) == ({"no_access": 1}, {"rejected": 1})
    assert found["session"] == {"generation": None, "expires_in_s": None}


def test_the_overview_names_the_command_for_what_is_unresolved(b2copy_sync: Command, ledger: Ledger) -> None:
    fail_operation(ledger, failure_reason=FailureReason.UNRESOLVED)

    concerns = b2copy_sync("status", "--json").document["concerns"]

    command = "`b2copy-sync failed list --reason unresolved`; `b2copy-sync failed show KEY` names the command"
    assert f"1 operation unresolved: {command}" in concerns


def test_what_has_never_been_is_said_so(b2copy_sync: Command, ledger: Ledger) -> None:
    ran = b2copy_sync("status")
    document = b2copy_sync("status", "--json").document
    b2copy_sync("doctor")  # tries to write
    after_doctor = b2copy_sync("status")

    for shown in (ran.out, after_doctor.out):
        lines = [line.strip().split(maxsplit=1) for line in shown.splitlines() if line]
        assert ["dispatched", "never"] in lines
        assert ["workers", "none seen"] in lines
        assert "! no worker and no beat has ever looked at this ledger" in shown
    assert re.search(r"^session +none yet: the next call logs in *$", ran.out, re.M)
    assert (document["dispatch_age_s"], document["workers"]) == (None, [])


def test_the_overview_names_the_versions_that_run(b2copy_sync: Command, ledger: Ledger) -> None:
    with ledger.writing() as connection:
        for host, version in (("host-a", "0.1.0"), ("host-b", "0.1.0"), ("host-c", "0.2.0")):
            note_running(connection, ThisWorker(host, 7, version))

    shown = b2copy_sync("status").out
    workers = b2copy_sync("status", "--json").document["workers"]
    checked = b2copy_sync("doctor").out

    assert re.search(r"^workers +2 of version 0.1.0, 1 of version 0.2.0 *$", shown, re.M)
    assert [(one["host"], one["pid"], one["version"]) for one in workers] == [
        ("host-a", 7, "0.1.0"), ("host-b", 7, "0.1.0"), ("host-c", 7, "0.2.0"),
    ]  # fmt: skip
    assert "workers of several versions run" in checked
    assert "0.2.0 on host-c (pid 7)" in checked


def test_different_rate_limits_are_named_because_they_add_up(b2copy_sync: Command, ledger: Ledger) -> None:
    with ledger.writing() as connection:
        for host, limit in (("host-a", "10/second"), ("host-b", "10/second")):
            note_running(connection, ThisWorker(host, 7, rate_limit=limit))
    equal = b2copy_sync("status", "--json").document
    with ledger.writing() as connection:
        note_running(connection, ThisWorker("host-c", 7, rate_limit="20/second"))
    text = "workers have different B2COPY_RATE_LIMIT: 10/second (2), 20/second (1). The limits add up"

    shown = b2copy_sync("status", "--json").document
    checked = b2copy_sync("doctor", "--json").document["checks"]

    assert not any("B2COPY_RATE_LIMIT" in one for one in equal["concerns"])
    assert [one["rate_limit"] for one in shown["workers"]] == ["10/second", "10/second", "20/second"]
    assert any(one.startswith(text) for one in shown["concerns"])
    assert [one["grade"] for one in checked if one["message"].startswith(text)] == ["warn"]


def test_the_overview_needs_no_redis(b2copy_sync: Command, ledger: Ledger) -> None:
    ran = b2copy_sync("status", "--json", B2COPY_REDIS_URL="redis://127.0.0.1:1/0")

    assert ran.code == 0
    assert "the session cannot be read" in "".join(ran.document["concerns"])


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ([], ["W4", "W3", "W2", "W1"]),
        (["--account", "8"], ["W2"]),
        (["--request-id", "W1"], ["W1"]),
        (["--request-id", "8"], []),
        (["--request-id", "W2", "--account", "8"], ["W2"]),
        (["--lane", "notify"], []),
        (["--state", "failed"], ["W3"]),
        (["--open"], ["W2", "W1"]),
        (["--reason", "no_access"], ["W2"]),
        (["--lane", "bulk", "--open"], ["W2"]),
        (["--kind", "fees.process", "--batch", "october"], ["W1"]),
        (["--older", "1h"], []),
    ],
)
def test_list_finds_what_is_meant(options: list[str], names: list[str], b2copy_sync: Command, ledger: Ledger) -> None:
    record_operation(ledger, "W1", batch="october")
    payload = {"account_login": "8", "request_id": "W2"}
    make_wait(ledger, hold_operation(ledger, "W2", lane="bulk", payload=payload), wait_reason=WaitReason.NO_ACCESS)
    fail_operation(ledger, "W3")
    succeed_operation(ledger, "W4")

    found = b2copy_sync("list", "--json", *options).document

    assert [one["key"].partition(":")[2] for one in found["operations"]] == names
    assert found["next"] is None


@pytest.mark.parametrize(
    "words",
    [
        ("list", "--after", "9" * 20),
        ("list", "--after", "-1"),
        ("list", "--limit", "9" * 20),
        ("failed", "list", "--limit", "9" * 20),
    ],
)
def test_a_number_that_no_page_has_is_refused(words: tuple[str, ...], b2copy_sync: Command, ledger: Ledger) -> None:
    ran = b2copy_sync(*words)

    assert ran.code == 2
    assert "Input should be " in ran.err
    assert "Traceback" not in ran.err


def test_list_finds_what_is_old_although_it_was_just_tried(b2copy_sync: Command, ledger: Ledger) -> None:
    succeed_operation(ledger, "W1")
    record_operation(ledger, "W2")
    record_operation(ledger, "W3", lane="bulk")
    LedgerClock(ledger).advance(7200)
    make_wait(ledger, claim_named(ledger, "W2"), wait_reason=WaitReason.BACKOFF)

    aged = b2copy_sync("list", "--json", "--age", "1h").document
    older = b2copy_sync("list", "--json", "--open", "--older", "1h").document

    assert [one["key"].partition(":")[2] for one in aged["operations"]] == ["W3", "W2"]
    assert [one["key"].partition(":")[2] for one in older["operations"]] == ["W3"]


def test_list_and_status_say_the_same_of_a_notice(b2copy_sync: Command, ledger: Ledger) -> None:
    fields = {"kind": NOTICE_KIND, "lane": "notify", "destination": "crm", "on_unknown": OnUnknown.REPEAT}
    key = fail_operation(ledger, "N1", FailureReason.EXHAUSTED, **fields)

    [listed] = b2copy_sync("list", "--json", "--lane", "notify").document["operations"]

    assert listed["standing"] == b2copy_sync("status", key, "--json").document["standing"]
    assert "could not be delivered" in listed["standing"]


def test_list_says_how_to_continue(b2copy_sync: Command, ledger: Ledger) -> None:
    for name in ("W1", "W2", "W3"):
        record_operation(ledger, name)

    first = b2copy_sync("list", "--limit", "2")
    after = first.err.split()[-1]
    second = b2copy_sync("list", "--limit", "2", "--after", after)

    assert [line.split()[0] for line in first.out.splitlines()[1:]] == ["fees.process:W3", "fees.process:W2"]
    assert [line.split()[0] for line in second.out.splitlines()[1:]] == ["fees.process:W1"]
    assert second.err == ""


def test_a_narrow_terminal_breaks_no_key(environment: Environment, ledger: Ledger) -> None:
    message = "the account 700200 is not found, and this is a long answer that needs more than one line of the screen"
    fail_operation(ledger, "withdrawal-2026-000471", message=message)

    for columns in (80, 100):
        screen = terminal.without_colours(terminal.shown(["list"], columns, environment.variables)).splitlines()
        heading, others, row, *lines = (re.sub(" +", " ", line.strip()) for line in screen)
        assert f"{heading} {others}" == "Key Lane State Reason Since (UTC) Last message"
        assert row.startswith("fees.process:withdrawal-2026-000471 money failed rejected")
        assert " ".join(lines).endswith(message)
        assert max(map(len, screen)) <= columns

    wide = terminal.without_colours(terminal.shown(["list"], 250, environment.variables)).splitlines()
    assert wide[0].rstrip().endswith("Last message")
    assert wide[1].rstrip().endswith(message)
