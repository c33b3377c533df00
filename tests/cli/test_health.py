"""health: is what is due being done, and could a worker work?"""

from pathlib import Path

from tests.cli.conftest import Command
from tests.operations import claim_due, hold_operation, make_wait, record_operation, record_operations
from tests.support import until
from worker.ledger import Ledger, leave_request, pause, try_start_dispatch
from worker.operation import WaitReason
from worker.report.thresholds import DISPATCH_LATE_S, DUE_LATE_S
from worker.sandbox.control_client import SandboxControl


def make_older(ledger: Ledger, seconds: float) -> None:
    with ledger.writing() as connection:
        connection.exec_driver_sql(
            f"UPDATE b2copy_operations SET requested_at = requested_at - {round(seconds * 1000)}"
        )


def test_an_old_withdrawal_is_a_problem_whatever_it_waits_for(b2copy_sync: Command, ledger: Ledger) -> None:
    make_wait(ledger, hold_operation(ledger), wait_reason=WaitReason.BACKOFF)
    make_older(ledger, 150)

    red = b2copy_sync("health", "--json")
    longer = b2copy_sync("health", "--money-late", "5m")

    assert (red.code, longer.code) == (1, 0)
    assert red.document["oldest_s"]["money"] >= 150
    said = "s old by our clock, more than 120 s: `b2copy-sync list --lane money --age 120s` shows what it waits for"
    assert said in red.document["problems"][0]
    assert said in b2copy_sync("status", "--json").document["concerns"][0]


def test_a_withdrawal_that_b2copy_has_begun_is_no_problem_of_ours(b2copy_sync: Command, ledger: Ledger) -> None:
    make_wait(ledger, hold_operation(ledger), wait_reason=WaitReason.PENDING_AT_B2COPY)
    make_older(ledger, 150)
    with ledger.writing() as connection:
        connection.exec_driver_sql("UPDATE b2copy_operations SET state_since = state_since - 149000")

    assert b2copy_sync("health").code == 0


def test_a_row_of_a_crm_that_no_worker_takes_is_a_problem(b2copy_sync: Command, ledger: Ledger) -> None:
    leave_request(ledger, "fees.process", "{}", "crm", None)
    new = b2copy_sync("health", "--json")
    with ledger.writing() as connection:
        connection.exec_driver_sql("UPDATE b2copy_requests SET requested_at = requested_at - 600000")

    red = b2copy_sync("health", "--json")
    longer = b2copy_sync("health", "--late", "15m")
    concerns = b2copy_sync("status", "--json").document["concerns"]

    assert (new.code, red.code, longer.code) == (0, 1, 0)
    assert new.document["requests_age_s"] < 60 < red.document["requests_age_s"]
    assert "b2copy_requests: no worker has taken a row for 10 min" in "".join(red.document["problems"])
    assert "b2copy_requests: no worker has taken a row for 10 min" in "".join(concerns)
    assert "requests: the oldest row of b2copy_requests waits for" in longer.out


def test_what_is_due_for_longer_than_half_a_minute_is_a_problem_for_every_command(
    b2copy_sync: Command, ledger: Ledger
) -> None:
    record_operation(ledger, lane="bulk")

    def make_due_for(seconds: float) -> None:
        with ledger.writing() as connection:
            connection.exec_driver_sql(f"UPDATE b2copy_operations SET due_at = requested_at - {round(seconds * 1000)}")

    def concerns_about_lanes() -> list[str]:
        return [text for text in b2copy_sync("status", "--json").document["concerns"] if "lane bulk" in text]

    def grade_of_workers() -> str:
        checks = b2copy_sync("doctor", "--json").document["checks"]
        return "".join(one["grade"] for one in checks if one["check"] == "workers")

    make_due_for(DUE_LATE_S - 12)
    assert (b2copy_sync("health").code, concerns_about_lanes(), grade_of_workers()) == (0, [], "warn")

    make_due_for(DUE_LATE_S + 1)
    assert (b2copy_sync("health").code, len(concerns_about_lanes()), grade_of_workers()) == (1, 1, "FAIL")


def test_a_backlog_is_no_problem_while_a_worker_sends_it(b2copy_sync: Command, ledger: Ledger) -> None:
    record_operations(ledger, *(f"W{number}" for number in range(200)), lane="bulk")
    with ledger.writing() as connection:
        connection.exec_driver_sql("UPDATE b2copy_operations SET due_at = due_at - 120000")
    untouched = b2copy_sync("health", "--json")
    concerned = b2copy_sync("status", "--json").document["concerns"]

    claim_due(ledger, limit=5, lane="bulk")
    claimed = b2copy_sync("health", "--json")

    assert (untouched.code, claimed.code) == (1, 0)
    assert "no worker has worked on the lane for 2 min" in "".join(untouched.document["problems"])
    assert "no worker has worked on the lane for 2 min" in concerned[0]
    assert claimed.document["late_s"]["bulk"] < 30
    assert "no worker has worked" not in "".join(b2copy_sync("status", "--json").document["concerns"])


def test_that_no_worker_runs_is_a_problem_although_nothing_is_due(b2copy_sync: Command, ledger: Ledger) -> None:
    """A CRM that posts Celery messages alone leaves nothing in the ledger until a worker takes them."""

    def make_older(seconds: float) -> None:
        with ledger.writing() as connection:
            connection.exec_driver_sql(
                f"UPDATE b2copy_ledger SET dispatched_at = dispatched_at - {round(seconds * 1000)}"
            )

    new = b2copy_sync("health", "--json")
    pause(ledger, "all", "ann", "a quiet hour")
    assert try_start_dispatch(ledger), "each worker dispatches all the time, also while all is paused"
    paused = b2copy_sync("health", "--json")
    make_older(DISPATCH_LATE_S + 1)
    red = b2copy_sync("health", "--late", "1h", "--json")

    assert [one.code for one in (new, paused, red)] == [0, 0, 1]
    [problem] = red.document["problems"]
    assert problem.startswith("no worker has looked at the ledger for 1")


def test_an_old_backfill_is_no_problem(b2copy_sync: Command, ledger: Ledger) -> None:
    make_wait(ledger, hold_operation(ledger, lane="bulk"), wait_reason=WaitReason.BACKOFF)
    make_older(ledger, 150)

    assert b2copy_sync("health").code == 0


def test_ready_means_ledger_redis_and_a_login_that_is_not_refused(
    b2copy_sync: Command, ledger: Ledger, sandbox: SandboxControl
) -> None:
    ready = b2copy_sync("health", "--ready", "--json")
    without_redis = b2copy_sync("health", "--ready", B2COPY_REDIS_URL="redis://127.0.0.1:1/0")
    without_certificates = b2copy_sync(
        "health", "--ready", B2COPY_REDIS_URL="rediss://127.0.0.1:1/0", B2COPY_REDIS_CA_FILE="/nowhere/ca.pem"
    )
    without_ledger = b2copy_sync("health", "--ready", B2COPY_DATABASE_URL="sqlite:////nowhere/ledger")
    assert sandbox.counters()["calls"] == {}
    sandbox.faults({"what": "status", "status": 401, "route": "token"})
    # A busy Redis may answer too late for a login.
    until(lambda: "the login is refused" in b2copy_sync("doctor").out, within=30)
    refused = b2copy_sync("health", "--ready", "--json")

    assert (ready.code, ready.document) == (0, {"ready": True, "problem": None})
    assert (without_redis.code, without_ledger.code, refused.code) == (1, 1, 1)
    assert "Redis cannot be used" in without_redis.err
    assert (without_certificates.code, "B2COPY_REDIS_CA_FILE" in without_certificates.err) == (2, True)
    assert "there is no ledger" in without_ledger.err
    assert "our login fails" in refused.document["problem"]


def test_a_key_that_cannot_be_read_means_not_ready_and_no_traceback(
    b2copy_sync: Command, ledger: Ledger, tmp_path: Path
) -> None:
    ran = b2copy_sync("health", "--ready", "--json", B2COPY_STORAGE_KEY_FILE=str(tmp_path / "absent"))

    assert (ran.code, ran.document["ready"]) == (1, False)
    assert "B2COPY_STORAGE_KEY_FILE" in ran.document["problem"]


def test_live_asks_nobody(b2copy_sync: Command) -> None:
    ran = b2copy_sync("health", "--live", B2COPY_REDIS_URL="redis://127.0.0.1:1/0")

    assert ran.code == 1
    assert "B2COPY_HEARTBEAT_FILE is not set" in ran.err
