"""What a person does with the console: once, with a reason, and only to what that person saw."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.conftest import forget
from tests.console.conftest import client_of
from tests.console.forms import fields_of, fill_and_send
from tests.operations import (
    claim_named,
    fail,
    fail_operation,
    find_operation,
    hold_operation,
    make_wait,
    record_operation,
)
from worker.console import pause_and_renew
from worker.console.process_state import Console
from worker.console.serve import make_console
from worker.ledger import Ledger, active_flags, audit_of, pause, replay
from worker.ledger.approvals import OPEN_LIMIT, decide_or_propose, open_approvals
from worker.ledger.four_eyes import Rule
from worker.ledger.identities import identity_of
from worker.ledger.migrations import migrate
from worker.ledger.pauses import resume
from worker.operation import FailureReason, OnUnknown, State, WaitReason
from worker.session import SharedSession
from worker.settings import ConsoleSettings, Settings, load
from worker.testbed.local_system import Environment

OpenConsole = Callable[..., Console]
NO_CERTIFICATES = {"redis_url": "rediss://127.0.0.1:1/0", "redis_ca_file": Path("/nowhere/ca.pem")}
W1 = "?key=fees.process:W1"


def test_a_replay_says_what_it_does_and_stores_who_and_why(open_console: OpenConsole, ledger: Ledger) -> None:
    key = fail_operation(ledger, "W1")
    client = client_of(open_console())

    page = client.get(f"/operation/replay{W1}").text
    answer = fill_and_send(client, f"/operation/replay{W1}", note="the account has positions again")

    assert "is sent to B2COPY" in page
    assert "moves money" in page
    assert (answer.status_code, answer.headers["location"]) == (303, "/operation?key=fees.process%3AW1")
    assert find_operation(ledger).state == State.QUEUED
    [entry] = audit_of(ledger, key)
    assert (entry.actor, entry.action, entry.note) == ("ann", "replay", "the account has positions again")


@pytest.mark.parametrize("note", ["", "   ", "short", "x" * 1001])
def test_without_a_reason_nothing_is_done(open_console: OpenConsole, ledger: Ledger, note: str) -> None:
    fail_operation(ledger, "W1")

    answer = fill_and_send(client_of(open_console()), f"/operation/replay{W1}", note=note)

    assert answer.status_code == 400
    assert "Give your reason" in answer.text
    assert find_operation(ledger).state == State.FAILED


def test_a_double_click_is_one_act_with_one_answer(open_console: OpenConsole, ledger: Ledger) -> None:
    key = fail_operation(ledger, "W1")
    client = client_of(open_console())
    form = fields_of(client.get(f"/operation/replay{W1}").text) | {"note": "clicked twice, as people do"}

    first, second = (client.post(f"/operation/replay{W1}", data=form) for _ in range(2))

    assert (first.status_code, first.headers["location"]) == (second.status_code, second.headers["location"])
    assert len(audit_of(ledger, key)) == 1


def test_an_operation_that_has_changed_meanwhile_is_left_as_it_is(open_console: OpenConsole, ledger: Ledger) -> None:
    key = fail_operation(ledger, "W1")
    client = client_of(open_console())
    form = fields_of(client.get(f"/operation/replay{W1}").text) | {"note": "this page is an old one"}
    replay(ledger, [key], "bob", "meanwhile")
    fail(ledger, claim_named(ledger, "W1"))

    answer = client.post(f"/operation/replay{W1}", data=form)

    assert answer.status_code == 409
    assert "has changed since you looked" in answer.text
    assert find_operation(ledger).replays == 1


def test_what_an_operation_does_not_permit_is_not_offered_and_not_done(
    open_console: OpenConsole, ledger: Ledger
) -> None:
    fail_operation(ledger, "W1", kind="call", failure_reason=FailureReason.UNRESOLVED, on_unknown=OnUnknown.STOP)
    client = client_of(open_console())
    page = client.get("/operation?key=call:W1").text

    answer = client.post("/operation/replay?key=call:W1", data={"note": "I press it all the same", "seen": ""})

    assert "/operation/replay?" not in page
    assert "/operation/replay-not-done?" in page
    assert answer.status_code == 409
    assert find_operation(ledger, kind="call").state == State.FAILED


def test_what_b2copy_had_begun_and_failed_without_its_answer_is_not_offered_for_a_replay(
    open_console: OpenConsole, ledger: Ledger
) -> None:
    claim = hold_operation(ledger, on_unknown=OnUnknown.STOP)
    make_wait(ledger, claim, wait_reason=WaitReason.PENDING_AT_B2COPY, due_in_s=0.0)
    fail(ledger, claim_named(ledger, "W1"), failure_reason=FailureReason.EXHAUSTED)
    client = client_of(open_console())

    page = client.get(f"/operation{W1}").text
    answer = fill_and_send(client, f"/operation/replay-not-done{W1}")

    assert "/operation/replay?" not in page
    assert answer.status_code == 303
    assert find_operation(ledger).state == State.QUEUED


@pytest.mark.parametrize(
    ("action", "state"),
    [("resolve-done", State.SUCCEEDED), ("resolve-failed", State.FAILED), ("replay-not-done", State.QUEUED)],
)
def test_a_person_who_has_looked_says_what_was_done(
    open_console: OpenConsole, ledger: Ledger, action: str, state: State
) -> None:
    fail_operation(ledger, "W1", kind="call", failure_reason=FailureReason.UNRESOLVED, on_unknown=OnUnknown.STOP)

    assert fill_and_send(client_of(open_console()), f"/operation/{action}?key=call:W1").status_code == 303

    operation = find_operation(ledger, kind="call")
    assert (operation.state, operation.outcome_unknown) == (state, False)


def test_what_a_person_found_out_is_not_called_b2copys_refusal(open_console: OpenConsole, ledger: Ledger) -> None:
    fail_operation(ledger, "W1", FailureReason.UNRESOLVED, on_unknown=OnUnknown.STOP)
    client = client_of(open_console())
    fill_and_send(client, f"/operation/resolve-failed{W1}", note="not in the panel")

    listed, form = client.get("/operations").text, client.get(f"/operation/replay{W1}").text

    assert "B2COPY refused it, or a person found that it was not done" in listed
    assert "ann found that it was not done: not in the panel" in form
    assert "refused" not in form


def test_it_was_done_says_what_follows(open_console: OpenConsole, ledger: Ledger) -> None:
    unknown = {"failure_reason": FailureReason.UNRESOLVED, "on_unknown": OnUnknown.STOP}
    fail_operation(ledger, "W1", **unknown)
    fail_operation(ledger, "C1", kind="call", lane="default", **unknown)
    fail_operation(ledger, "N1", kind="crm.notify", lane="notify", destination="crm", **unknown)
    client = client_of(open_console())

    money, call, notice = (
        client.get(f"/operation/resolve-done?key={key}").text for key in ("fees.process:W1", "call:C1", "crm.notify:N1")
    )

    assert (
        "You say that you have looked at B2COPY and that it was done. It ends as succeeded. The CRM learns this and may"
        " pay the withdrawal, and operations that wait for this one start. Nothing is sent to B2COPY."
    ) in money
    assert "The CRM learns this, and operations that wait for this one start." in call
    assert "It ends as succeeded. Nothing is sent to the CRM." in notice


def test_an_action_names_the_destination_of_its_operation(open_console: OpenConsole, ledger: Ledger) -> None:
    of_crm = {"kind": "crm.notify", "lane": "notify", "destination": "crm"}
    fail_operation(ledger, "replayable", on_unknown=OnUnknown.REPEAT, **of_crm)
    fail_operation(ledger, "unknown", FailureReason.UNRESOLVED, on_unknown=OnUnknown.STOP, **of_crm)
    make_wait(ledger, hold_operation(ledger, "sent", **of_crm), wait_reason=WaitReason.BACKOFF)
    record_operation(ledger, "unsent", **of_crm)
    client = client_of(open_console())
    offered = {
        "replay": "replayable", "resolve-done": "unknown", "resolve-failed": "unknown", "replay-not-done": "unknown",
        "stop-asking": "sent", "poll-now": "sent", "cancel": "unsent",
    }  # fmt: skip

    for action, name in offered.items():
        page = client.get(f"/operation/{action}?key=crm.notify:{name}").text
        [effect] = re.findall('<p class="effect">(.*?)</p>', page)
        assert "the CRM" in effect, action
        assert "B2COPY" not in effect, action


def test_what_was_not_sent_is_cancelled_and_what_was_sent_is_not_asked_any_more(
    open_console: OpenConsole, ledger: Ledger
) -> None:
    record_operation(ledger, "W1")
    make_wait(ledger, hold_operation(ledger, "W2"), wait_reason=WaitReason.PENDING_AT_B2COPY)
    client = client_of(open_console())

    fill_and_send(client, f"/operation/cancel{W1}")
    fill_and_send(client, "/operation/stop-asking?key=fees.process:W2")

    assert find_operation(ledger, "W1").state == State.CANCELLED
    assert find_operation(ledger, "W2").failure_reason == FailureReason.UNRESOLVED


def test_an_operation_that_waits_is_asked_about_now(open_console: OpenConsole, ledger: Ledger) -> None:
    make_wait(ledger, hold_operation(ledger, "W1"), wait_reason=WaitReason.PENDING_AT_B2COPY, due_in_s=3600)
    before = find_operation(ledger).due_at or 0

    assert fill_and_send(client_of(open_console()), f"/operation/poll-now{W1}", note="").status_code == 303

    assert (find_operation(ledger).due_at or 0) < before - 3_000_000


def test_what_may_send_an_operation_is_not_called_a_question(open_console: OpenConsole, ledger: Ledger) -> None:
    make_wait(ledger, hold_operation(ledger, "W1"), wait_reason=WaitReason.NO_SESSION, due_in_s=3600)

    page = client_of(open_console()).get(f"/operation/poll-now{W1}").text

    assert "<h1>Try now</h1>" in page
    assert "a worker asks B2COPY about it, or sends it" in page


def test_a_lane_is_paused_and_resumed(open_console: OpenConsole, ledger: Ledger) -> None:
    client = client_of(open_console())

    fill_and_send(client, "/fleet/pause?lane=money", note="B2COPY is in maintenance")
    assert active_flags(ledger)["pause:money"].actor == "ann"
    assert "Lane money is paused" in client.get("/").text
    fill_and_send(client, "/fleet/resume?lane=money")

    assert active_flags(ledger) == {}


@pytest.mark.parametrize(("lane", "others"), [("money", "all lanes, lane bulk"), ("all", "lane money, lane bulk")])
def test_a_resume_names_the_pauses_that_go_on(
    open_console: OpenConsole, ledger: Ledger, lane: str, others: str
) -> None:
    client = client_of(open_console())
    text = "Still paused afterwards: "
    pause(ledger, lane, "ann", "the gateway is restarted")
    assert text not in client.get(f"/fleet/resume?lane={lane}").text
    for other in ("bulk", "all", "money"):
        pause(ledger, other, "bob", "B2COPY is in maintenance")

    assert f"{text}{others}. Nothing is sent from there." in client.get(f"/fleet/resume?lane={lane}").text
    assert text not in client.get(f"/fleet/pause?lane={lane}").text


def test_a_lane_that_is_paused_with_all_lanes_is_resumed_with_them(open_console: OpenConsole, ledger: Ledger) -> None:
    client = client_of(open_console())
    pause(ledger, "all", "ann", "the gateway is restarted")
    pause(ledger, "bulk", "bob", "B2COPY is in maintenance")

    now, system = client.get("/").text, client.get("/system").text

    assert now.count('<a class="button" href="/fleet/resume?lane=all">Resume all</a>') == 4
    assert "/fleet/pause" not in now
    assert "/fleet/resume?lane=bulk" in now
    assert '<span class="state succeeded">open</span>' not in now + system


def test_a_stale_page_ends_no_newer_pause(open_console: OpenConsole, ledger: Ledger) -> None:
    client = client_of(open_console())
    pause(ledger, "money", "ann", "the gateway is restarted")
    stale = fields_of(client.get("/fleet/resume?lane=money").text) | {"note": "the gateway is back"}
    resume(ledger, "money", "ann", "the gateway is back")
    pause(ledger, "money", "bob", "B2COPY charges fees twice")

    answer = client.post("/fleet/resume?lane=money", data=stale)

    assert (answer.status_code, active_flags(ledger)["pause:money"].actor) == (409, "bob")
    assert "another pause than the one that you have seen" in answer.text


def test_who_pauses_what_is_paused_is_told_that_the_reason_is_not_stored(
    open_console: OpenConsole, ledger: Ledger
) -> None:
    pause(ledger, "money", "ann", "the gateway is restarted")

    answer = fill_and_send(client_of(open_console()), "/fleet/pause?lane=money", note="B2COPY charges fees twice")

    assert answer.status_code == 409
    assert "it is paused already, and your reason is not stored" in answer.text


def test_a_running_console_obeys_a_rule_that_migrate_stores(
    open_console: OpenConsole, ledger: Ledger, console_url: str
) -> None:
    fail(ledger, hold_operation(ledger, "W1"), failure_reason=FailureReason.UNRESOLVED, outcome_unknown=True)
    client = client_of(open_console())
    migrate(console_url, four_eyes="money")

    answer = fill_and_send(client, f"/operation/resolve-done{W1}")

    assert answer.headers["location"].startswith("/approvals")
    assert find_operation(ledger).state == State.FAILED


@pytest.mark.parametrize(
    ("own", "of_ledger", "rule"), [("off", "off", "off"), ("off", "money", "money"), ("all", "money", "all")]
)
def test_the_pages_show_the_rule_of_four_eyes_that_counts(
    open_console: OpenConsole, console_url: str, own: str, of_ledger: Rule, rule: str
) -> None:
    client = client_of(open_console(four_eyes=own))
    migrate(console_url, four_eyes=of_ledger)

    approvals, system = client.get("/approvals").text, client.get("/system").text

    means = {
        "off": "one person decides",
        "money": "a second person approves decisions about money",
        "all": "a second person approves decisions about every operation, and the end of a pause",
    }[rule]
    assert f"Four eyes ({rule}): {means}." in approvals
    assert f"<dt>four eyes</dt><dd>{rule}: {means}</dd>" in system
    assert "B2COPY_FOUR_EYES" not in approvals + system


def test_a_host_without_keys_cannot_renew_the_session_and_says_where_to(open_console: OpenConsole) -> None:
    answer = fill_and_send(client_of(open_console()), "/fleet/renew")

    assert answer.status_code == 409
    assert "b2copy-sync session renew" in answer.text


def test_a_host_that_cannot_use_the_session_says_which_setting_is_wrong(
    active_environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("B2COPY_WEBHOOK_CA_FILE", "/nowhere/ca.pem")
    console = make_console(load(ConsoleSettings), True, lambda lane: None)
    client = client_of(console)

    shown, refused = client.get("/system"), fill_and_send(client, "/fleet/renew")

    assert (shown.status_code, refused.status_code) == (200, 409)
    for page in (shown, refused):
        assert "B2COPY_WEBHOOK_CA_FILE is not usable: /nowhere/ca.pem" in page.text
    console.ledger.close()


def test_the_session_is_renewed_and_the_audit_says_why(active_environment: Environment) -> None:
    console = make_console(load(ConsoleSettings), True, lambda lane: None)
    client = client_of(console)

    answer = fill_and_send(client, "/fleet/renew", note="the key was registered again")

    assert (answer.status_code, answer.headers["location"]) == (303, "/system?renewed=login")
    assert "The session was renewed by a login." in client.get(answer.headers["location"]).text
    assert [(entry.action, entry.note) for entry in audit_of(console.ledger, "session")] == [
        ("renew", "the key was registered again")
    ]
    assert "generation" in client.get("/system").text
    console.ledger.close()


def test_the_console_logs_what_the_session_says_of_a_refused_login(
    active_environment: Environment, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("B2COPY_KEY_ID", "another")
    forget()
    console = make_console(load(ConsoleSettings), True, lambda lane: None)

    answer = fill_and_send(client_of(console), "/fleet/renew")

    assert answer.status_code == 409
    assert "B2COPY refused the login with key another" in caplog.text
    console.ledger.close()


def test_a_renewal_that_did_not_happen_is_no_success(
    active_environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pause_and_renew, "RENEWAL_S", 0.0)
    console = make_console(load(ConsoleSettings), True, lambda lane: None)
    client = client_of(console)
    fill_and_send(client, "/fleet/renew")

    busy = fill_and_send(client, "/fleet/renew")  # B2COPY is asked once in two seconds
    console.session = SharedSession(load(Settings).model_copy(update=NO_CERTIFICATES))
    unusable = fill_and_send(client, "/fleet/renew")

    assert (busy.status_code, unusable.status_code) == (409, 409)
    assert "was not renewed: another process renews it" in busy.text
    assert "was not renewed: Redis does not answer" in unusable.text
    console.ledger.close()


@pytest.mark.parametrize("path", ["/system?renewed=", "/approvals?made="])
@pytest.mark.parametrize("text", ["All is well", "A1 and more", "A", "busy", "fresh", "A\u0661"])
def test_no_text_of_the_address_is_shown_as_done(open_console: OpenConsole, path: str, text: str) -> None:
    page = client_of(open_console()).get(f"{path}{text}").text

    assert 'role="status"' not in page


def test_money_needs_a_second_person(open_console: OpenConsole, ledger: Ledger) -> None:
    fail_operation(ledger, "W1")
    console = open_console(four_eyes="money")
    ann, bob = client_of(console, "ann"), client_of(console, "bob")

    answer = fill_and_send(ann, f"/operation/replay{W1}")
    assert answer.headers["location"] == "/approvals?made=A1"
    assert find_operation(ledger).state == State.FAILED
    assert "Your own proposal" in ann.get("/approvals").text
    assert ann.post("/approvals/approve?id=1", data={"note": "I approve my own"}).status_code == 409
    assert find_operation(ledger).state == State.FAILED

    assert fill_and_send(bob, "/approvals/approve?id=1").status_code == 303

    assert find_operation(ledger).state == State.QUEUED
    assert bob.post("/approvals/approve?id=1", data={"note": "once more, please"}).status_code == 409


def test_an_approver_sees_what_would_be_done(open_console: OpenConsole, ledger: Ledger) -> None:
    console = open_console(four_eyes="all")
    ann, bob = client_of(console, "ann"), client_of(console, "bob")
    for name in ("resolve-done", "resolve-failed", "replay-not-done"):
        fail_operation(ledger, name, FailureReason.UNRESOLVED, on_unknown=OnUnknown.STOP)
        fill_and_send(ann, f"/operation/{name}?key=fees.process:{name}")
    fail_operation(ledger, "replay")
    fill_and_send(ann, "/operation/replay?key=fees.process:replay")
    fail_operation(ledger, "corrected")
    wrong = find_operation(ledger, "corrected")
    corrected = wrong.payload | {"account_login": "8"}
    decide_or_propose(console.ledger, "correct", wrong, "ann", "mistyped", payload=corrected)

    listed = bob.get("/approvals").text
    pages = {number: bob.get(f"/approvals/approve?id={number}").text for number in range(1, 6)}
    effects = {number: re.findall('<p class="effect">(.*?)</p>', page) for number, page in pages.items()}

    assert "fees.process:resolve-done</a> with succeeded=true" in listed
    assert "fees.process:resolve-failed</a> with succeeded=false" in listed
    assert "fees.process:replay-not-done</a> with not_done=true" in listed
    assert "proposes to resolve with succeeded=true: " in bob.get("/operation?key=fees.process:resolve-done").text
    at_once = " It is done at once, and both names are stored."
    assert effects == {
        1: [
            "ann says that ann has looked at B2COPY and that it was done. It ends as succeeded. The CRM learns this and"
            " may pay the withdrawal, and operations that wait for this one start. Nothing is sent to B2COPY." + at_once
        ],
        2: [
            "ann says that ann has looked at B2COPY and that it was not done. It stays failed, as rejected, and may be"
            " replayed. Nothing is sent to B2COPY." + at_once
        ],
        3: [
            "ann says that ann has looked at B2COPY and that it was not done. It is queued again and sent to B2COPY. If"
            " it was done after all, it is done twice." + at_once
        ],
        4: ["It is queued again with fresh attempts and a fresh deadline, and is sent to B2COPY." + at_once],
        5: ["It is queued again with the payload shown here and is sent to B2COPY." + at_once],
    }
    assert "&#34;account_login&#34;: &#34;8&#34;" in pages[5]

    fill_and_send(bob, "/approvals/reject?id=1")
    assert '<td data-label="With">succeeded=true</td>' in bob.get("/approvals").text


def test_who_only_operates_withdraws_an_own_proposal(open_console: OpenConsole, ledger: Ledger) -> None:
    fail_operation(ledger, "W1")
    client = client_of(open_console(four_eyes="all"), "operator")

    fill_and_send(client, f"/operation/replay{W1}")
    page = client.get("/approvals").text
    answer = fill_and_send(client, "/approvals/withdraw?id=1")

    assert "/approvals/withdraw?id=1" in page
    assert "/approvals/approve" not in page
    assert answer.status_code == 303
    assert "withdrawn" in client.get("/approvals").text


def test_a_proposal_is_rejected_or_withdrawn(open_console: OpenConsole, ledger: Ledger) -> None:
    fail_operation(ledger, "W1")
    console = open_console(four_eyes="all")
    ann, bob = client_of(console, "ann"), client_of(console, "bob")

    fill_and_send(ann, f"/operation/replay{W1}")
    fill_and_send(bob, "/approvals/reject?id=1")
    fill_and_send(ann, f"/operation/replay{W1}")
    assert bob.get("/approvals/withdraw?id=2").text.count("Only the person who proposed it") == 1
    assert bob.post("/approvals/withdraw?id=2", data={"note": "it is not mine"}).status_code == 409
    fill_and_send(ann, "/approvals/withdraw?id=2")

    decided = ann.get("/approvals").text
    assert "rejected" in decided
    assert "withdrawn" in decided
    assert find_operation(ledger).state == State.FAILED


def test_a_proposal_behind_many_others_is_found_by_its_number(open_console: OpenConsole, ledger: Ledger) -> None:
    columns = "action, subject, seen, proposed_at, proposed_by, note, expires_at"
    in_an_hour = round(time.time() * 1000) + 3_600_000
    with ledger.writing() as connection:
        for number in range(OPEN_LIMIT):
            values = f"'replay', 'fees.process:other {number}', '', 0, 'ann', 'x', {in_an_hour}"
            connection.execute(text(f"INSERT INTO b2copy_approvals ({columns}) VALUES ({values})"))
    fail_operation(ledger, "W1")
    console = open_console(four_eyes="all")
    ann, bob = client_of(console, "ann"), client_of(console, "bob")
    last = fill_and_send(ann, f"/operation/replay{W1}").headers["location"].partition("made=A")[2]

    pages = [bob.get(path).text for path in ("/", "/todo")]
    approved = fill_and_send(bob, f"/approvals/approve?id={last}")

    assert int(last) == OPEN_LIMIT + 1
    assert [f"{OPEN_LIMIT}+" in page for page in pages] == [True, True]
    assert approved.status_code == 303
    assert find_operation(ledger).state == State.QUEUED


def test_a_proposal_that_is_closed_says_how_and_by_whom(open_console: OpenConsole, ledger: Ledger) -> None:
    fail_operation(ledger, "W1")
    fail_operation(ledger, "W2")
    console = open_console(four_eyes="all")
    ann, bob = client_of(console, "ann"), client_of(console, "bob")
    for name in ("W1", "W2"):
        fill_and_send(ann, f"/operation/replay?key=fees.process:{name}")
    form = fields_of(ann.get("/approvals/withdraw?id=1").text) | {"note": "I have thought again"}
    fill_and_send(bob, "/approvals/approve?id=1")
    with ledger.writing() as connection:
        connection.execute(text("UPDATE b2copy_approvals SET expires_at = 1 WHERE id = 2"))

    too_late = ann.post("/approvals/withdraw?id=1", data=form)
    closed, expired = (bob.get(f"/approvals/reject?id={number}").text for number in (1, 2))
    unknown = bob.get("/approvals/approve?id=900")

    assert too_late.status_code == 409
    assert "Nothing was done. A1 is approved already, by bob" in too_late.text
    assert "Only the person who proposed it" not in too_late.text
    assert "A1 is approved already, by bob." in closed
    assert "A2 is expired already, by b2copy-sync." in expired
    assert ['<form class="act"' in page for page in (too_late.text, closed, expired)] == [False, False, False]
    assert (unknown.status_code, "A900: there is no such proposal" in unknown.text) == (404, True)


def unresolved_registration(ledger: Ledger) -> str:
    registration = {"login": "1007", "platform": 1, "crm_id": "C7"}
    unresolved = FailureReason.UNRESOLVED
    return fail_operation(ledger, "1/1007", unresolved, kind="clients.register", lane="default", payload=registration)


def test_who_resolves_a_registration_as_done_gives_its_client_id(open_console: OpenConsole, ledger: Ledger) -> None:
    key = unresolved_registration(ledger)
    client = client_of(open_console())
    path = f"/operation/resolve-done?key={key}"

    assert fill_and_send(client, path, client_id="4" * 65).status_code == 400
    assert fill_and_send(client, path, client_id=" 4711 ").status_code == 303

    resolved = find_operation(ledger, "1/1007", kind="clients.register")
    known = identity_of(ledger, "1", "1007")
    assert (resolved.state, resolved.result) == (State.SUCCEEDED, {"client_id": 4711})
    assert known is not None
    assert (known.client_id, known.crm_id) == ("4711", "C7")


def test_an_id_that_no_operation_would_find_is_refused(open_console: OpenConsole, ledger: Ledger) -> None:
    key = unresolved_registration(ledger)
    client = client_of(open_console())
    path = f"/operation/resolve-done?key={key}"

    refused = fill_and_send(client, path, client_id="4711x")

    assert refused.status_code == 400
    assert "Nothing was done. result of clients.register: client_id must be a whole number in digits" in refused.text
    assert find_operation(ledger, "1/1007", kind="clients.register").state == State.FAILED
    assert fill_and_send(client, path, client_id="4711").status_code == 303


def test_the_given_client_id_is_part_of_the_proposal(open_console: OpenConsole, ledger: Ledger) -> None:
    key = unresolved_registration(ledger)
    client = client_of(open_console(four_eyes="all"))

    fill_and_send(client, f"/operation/resolve-done?key={key}", client_id="4711")

    [proposal] = open_approvals(ledger)
    assert proposal.arguments == {"succeeded": True, "result": {"client_id": 4711}}


def test_only_what_succeeds_has_ids(open_console: OpenConsole, ledger: Ledger) -> None:
    key = unresolved_registration(ledger)
    fees = fail_operation(ledger, "W1", FailureReason.UNRESOLVED)
    client = client_of(open_console())

    for path in (f"/operation/resolve-failed?key={key}", f"/operation/resolve-done?key={fees}"):
        assert "client_id" not in client.get(path).text, path
