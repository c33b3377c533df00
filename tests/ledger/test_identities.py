"""The identity map: written in the transaction that ends an operation as succeeded."""

import time

import pytest
from sqlalchemy import update

from tests.operations import (
    OWNER,
    LedgerClock,
    attempt_record,
    claim_due,
    claim_one,
    fail,
    find_operation,
    hold_operation,
    record_operations,
    succeed,
)
from worker.errors import NotAllowed
from worker.ledger import (
    Identity,
    Ledger,
    attempts_of,
    audit_of,
    cancel,
    compare_identities,
    identities_of,
    identity_of,
    mark_closed,
    replay,
    settle,
    store_identities,
)
from worker.ledger import identities as identity_map
from worker.ledger.batches import pause_batch, sweep
from worker.ledger.identities import OPENING, RECONCILED
from worker.ledger.operator_actions import resolve
from worker.ledger.schema import identities, operations
from worker.operation import OnUnknown, State, Transition

REGISTERED = {"client_id": 17, "payment_account": "9", "raw": {"id": 17}}


def registration(ledger: Ledger, login: str = "700100", crm_id: str | None = None) -> None:
    payload = {"login": login, "platform": 1, "crm_id": crm_id}
    record_operations(ledger, f"1/{login}", kind="clients.register", payload=payload, lane="default")


def opening(ledger: Ledger, login: str = "700100") -> None:
    record_operations(
        ledger, f"1/{login}", kind="accounts.create", payload={"login": login, "platform": 1}, lane="default"
    )


def known(ledger: Ledger, login: str = "700100") -> Identity:
    found = identity_of(ledger, "1", login)
    assert found is not None
    return found


def test_a_registration_and_an_account_teach_one_identity(ledger: Ledger) -> None:
    registration(ledger, crm_id="C-1")
    succeed(ledger, claim_one(ledger, lane="default"), result=REGISTERED)
    first = known(ledger)
    assert (first.crm_id, first.client_id, first.payment_account, first.account_id) == ("C-1", "17", "9", None)
    assert first.learned_from == "clients.register:1/700100"

    opening(ledger)
    succeed(ledger, claim_one(ledger, lane="default"), result={"account_id": "33", "client_id": "17"})

    both = known(ledger)
    assert (both.crm_id, both.client_id, both.payment_account, both.account_id) == ("C-1", "17", "9", "33")
    assert both.learned_from == "accounts.create:1/700100"
    assert identities_of(ledger, crm_id="C-1") == identities_of(ledger, login="700100") == [both]
    assert identity_of(ledger, "2", "700100") is None


def test_an_account_tells_its_own_id_and_a_client_only_if_none_is_known(ledger: Ledger) -> None:
    opening(ledger)
    succeed(ledger, claim_one(ledger, lane="default"), result={"account_id": "33", "client_id": 5, "crm_id": "C-9"})
    assert (known(ledger).client_id, known(ledger).crm_id) == ("5", None)
    registration(ledger, crm_id="C-1")
    succeed(ledger, claim_one(ledger, lane="default"), result=REGISTERED)
    assert (known(ledger).client_id, known(ledger).account_id, known(ledger).crm_id) == ("17", "33", "C-1")

    registration(ledger, "700101")
    succeed(ledger, claim_one(ledger, lane="default"), result=REGISTERED)
    opening(ledger, "700101")
    succeed(ledger, claim_one(ledger, lane="default"), result={"account_id": "34", "client_id": 5})
    assert (known(ledger, "700101").client_id, known(ledger, "700101").account_id) == ("17", "34")


def test_an_older_operation_adds_to_a_newer_identity_and_overwrites_nothing(ledger: Ledger, clock: LedgerClock) -> None:
    registration(ledger, crm_id="C-1")
    fail(ledger, claim_one(ledger, lane="default"), failure_reason="unresolved", outcome_unknown=True)
    clock.advance(60)
    store_identities(ledger, [Identity("1", "700100", client_id="99")])
    imported = known(ledger)

    resolve(ledger, "clients.register:1/700100", "ada", "looked it up", succeeded=True, result=REGISTERED)

    found = known(ledger)
    assert (found.client_id, found.crm_id, found.payment_account) == ("99", "C-1", "9")
    assert (found.learned_from, found.learned_at) == ("import", imported.learned_at)


def test_an_operation_that_was_replayed_since_is_newer(ledger: Ledger, clock: LedgerClock) -> None:
    payload = {"login": "700100", "platform": 1, "crm_id": None}
    record_operations(ledger, "1/700100", kind="clients.register", payload=payload, lane="default", time_allowed_s=3600)
    fail(ledger, claim_one(ledger, lane="default"))
    clock.advance(60)
    store_identities(ledger, [Identity("1", "700100", client_id="99")])
    replay(ledger, ["clients.register:1/700100"], "ada", "corrected at B2COPY")

    succeed(ledger, claim_one(ledger, lane="default"), result=REGISTERED)

    assert known(ledger).client_id == "17"


def test_what_failed_or_is_of_another_kind_teaches_nothing(ledger: Ledger) -> None:
    registration(ledger)
    fail(ledger, claim_one(ledger, lane="default"))
    succeed(ledger, hold_operation(ledger, "W1"), result=REGISTERED)

    assert identities_of(ledger, login="700100") == []


def test_a_person_who_resolves_a_registration_teaches_its_result(ledger: Ledger) -> None:
    registration(ledger)
    fail(ledger, claim_one(ledger, lane="default"), failure_reason="unresolved", outcome_unknown=True)

    resolve(ledger, "clients.register:1/700100", "ada", "looked it up", succeeded=True, result={"client_id": "18"})

    assert known(ledger).client_id == "18"


@pytest.mark.parametrize("result", [None, {}, {"client_id": True}, {"client_id": [1], "account_id": ""}])
def test_a_result_without_ids_still_ends_the_operation(ledger: Ledger, result: dict[str, object] | None) -> None:
    registration(ledger)

    succeed(ledger, claim_one(ledger, lane="default"), result=result)

    assert known(ledger) == Identity(
        "1", "700100", learned_from="clients.register:1/700100", learned_at=known(ledger).learned_at
    )


def test_identity_and_end_are_one_transaction(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the identity cannot be written, the operation has not ended; if it has ended, the identity is there."""
    registration(ledger)
    claim = claim_one(ledger, lane="default")
    transition = Transition(claim, State.SUCCEEDED, result=REGISTERED, outcome_known=True)
    with monkeypatch.context() as broken:
        broken.setattr(identity_map, "_upsert", {}.__getitem__)
        with pytest.raises(KeyError):
            settle(ledger, [transition])
    assert identities_of(ledger, login="700100") == []

    assert settle(ledger, [transition]) == []
    assert known(ledger).client_id == "17"


def test_a_late_answer_teaches_too(ledger: Ledger) -> None:
    payload = {"login": "700100", "platform": 1, "crm_id": None}
    record_operations(
        ledger, "1/700100", kind="clients.register", payload=payload, lane="default", on_unknown=OnUnknown.STOP
    )
    first = claim_one(ledger, OWNER, lane="default")
    with ledger.writing() as connection:
        connection.exec_driver_sql("UPDATE b2copy_operations SET due_at = 1")
    claim_one(ledger, "worker 2", lane="default")

    settle(ledger, [Transition(first, State.SUCCEEDED, result=REGISTERED, outcome_known=True)])

    assert known(ledger).client_id == "17"


def test_identities_found_out_elsewhere_are_stored_and_newer_values_win(ledger: Ledger) -> None:
    assert store_identities(ledger, [Identity("1", "7", crm_id="C", client_id="1"), Identity("2", "7")]) == 2
    assert store_identities(ledger, [Identity("1", "7", client_id="2")]) == 1

    given = [
        Identity("1", "7", client_id="2"),
        Identity("2", "7", crm_id="C-2"),
        Identity("3", "7"),
        Identity("2", "8"),
    ]
    assert compare_identities(ledger, given) == (2, 1, 1)
    [first, second] = identities_of(ledger, login="7")
    assert (first.platform, first.crm_id, first.client_id, first.learned_from) == ("1", "C", "2", "import")
    assert second.platform == "2"


@pytest.mark.parametrize("shown_by", [f"{OPENING}1/700100", RECONCILED])
@pytest.mark.parametrize("is_shown_first", [True, False])
def test_an_import_of_ids_does_not_make_an_account_without_id_forgotten(
    ledger: Ledger, shown_by: str, is_shown_first: bool
) -> None:
    known_here = [
        Identity("1", "700100", learned_from=shown_by, learned_at=1),
        Identity("1", "700100", crm_id="C-1", learned_at=2),
    ]

    for one in known_here if is_shown_first else reversed(known_here):
        store_identities(ledger, [one])

    assert known(ledger).has_account
    assert (known(ledger).crm_id, known(ledger).learned_from) == ("C-1", shown_by)


def test_of_two_values_of_one_instant_the_later_one_wins(ledger: Ledger) -> None:
    for client_id in ("1", "2"):
        store_identities(ledger, [Identity("1", "7", client_id=client_id, learned_at=5)])

    assert [one.client_id for one in identities_of(ledger, login="7")] == ["2"]


def test_a_person_closes_an_account_and_takes_it_back(ledger: Ledger) -> None:
    store_identities(ledger, [Identity("1", "7", account_id="33"), Identity("2", "7", account_id="34")])

    assert mark_closed(ledger, "1", "7", "ann", "the client left")
    assert not mark_closed(ledger, "1", "7", "bob", "the client left")  # it is closed
    assert not mark_closed(ledger, "1", "8", "bob", "nobody knows it")

    store_identities(ledger, [Identity("1", "7", account_id="35", crm_id="C-1")])
    first, other = identities_of(ledger, login="7")
    assert (first.closed_at is not None, first.account_id, other.closed_at) == (True, "35", None)
    assert mark_closed(ledger, "1", "7", "ann", "a mistake", is_closed=False)
    assert known(ledger, "7").closed_at is None
    entries = [(entry.action, entry.actor, entry.note) for entry in audit_of(ledger, "identity 1/7")]
    assert entries == [("close", "ann", "the client left"), ("reopen", "ann", "a mistake")]
    assert audit_of(ledger, "identity 1/8") == []


def set_closed_at(ledger: Ledger, ms: int | None) -> None:
    with ledger.writing() as connection:
        connection.execute(update(identities).values(closed_at=ms))


@pytest.mark.parametrize("begun", ["request", "attempt"])
@pytest.mark.parametrize("later_ms", [-1, 0])
def test_an_opening_that_begins_in_the_very_ms_of_the_closing_is_later(
    ledger: Ledger, clock: LedgerClock, begun: str, later_ms: int
) -> None:
    store_identities(ledger, [Identity("1", "700100", client_id="5")])
    opening(ledger)
    if begun == "attempt":
        clock.advance(60)
    started_at = round(time.time() * 1000) - (60_000 if begun == "request" else 0)
    claim = claim_one(ledger, lane="default")
    fail(ledger, claim, failure_reason="unresolved", attempt=attempt_record("no_answer", started_at=started_at))
    [attempt] = attempts_of(ledger, claim.id)
    requested_at = find_operation(ledger, "1/700100", "accounts.create").requested_at
    set_closed_at(ledger, (requested_at if begun == "request" else attempt.started_at) - later_ms)

    resolve(ledger, f"{OPENING}1/700100", "ada", "looked it up", succeeded=True, result={"account_id": "33"})

    assert (known(ledger).closed_at is None) == (later_ms == 0)


def test_an_account_is_no_longer_closed_once_an_opening_that_was_requested_later_succeeds(
    ledger: Ledger, clock: LedgerClock
) -> None:
    store_identities(ledger, [Identity("1", "700100", client_id="5")])
    opening(ledger)
    a_second_ago = attempt_record("no_answer", started_at=round(time.time() * 1000) - 1000)
    fail(
        ledger, claim_one(ledger, lane="default"), failure_reason="unresolved", outcome_unknown=True,
        attempt=a_second_ago,
    )  # fmt: skip
    clock.advance(1)
    mark_closed(ledger, "1", "700100", "ann", "the client left")
    resolve(ledger, f"{OPENING}1/700100", "ada", "looked it up", succeeded=True, result={"account_id": "33"})
    assert known(ledger).closed_at is not None  # requested before

    record_operations(
        ledger, "1/700100#9", kind="accounts.create", payload={"login": "700100", "platform": 1}, lane="default"
    )
    succeed(ledger, claim_one(ledger, lane="default"), result={"account_id": "34"})

    assert (known(ledger).closed_at, known(ledger).account_id) == (None, "34")


def test_an_account_is_no_longer_closed_once_an_opening_succeeds_that_was_accepted_before_and_sent_later(
    ledger: Ledger,
) -> None:
    """A row of b2copy_requests, or an INSERT in a CRM's open transaction, is no operation yet when a person closes."""
    payload = {"login": "700100", "platform": 1}
    store_identities(ledger, [Identity("1", "700100", client_id="5"), Identity("2", "700100"), Identity("1", "7")])
    requested_at = round(time.time() * 1000) - 1000
    for platform, login in (("1", "700100"), ("2", "700100"), ("1", "7")):
        assert mark_closed(ledger, platform, login, "ann", "the client left")
    record_operations(
        ledger, "1/700100", kind="accounts.create", payload=payload, lane="default", requested_at=requested_at
    )

    succeed(ledger, claim_one(ledger, lane="default"), result={"account_id": "34"})

    assert (known(ledger).closed_at, known(ledger).account_id) == (None, "34")
    others = [identity_of(ledger, "2", "700100"), identity_of(ledger, "1", "7")]
    assert [one and one.closed_at is not None for one in others] == [True, True], "other accounts are closed still"


def test_a_registration_that_succeeds_later_leaves_an_account_closed(ledger: Ledger) -> None:
    store_identities(ledger, [Identity("1", "700100", account_id="33")])
    mark_closed(ledger, "1", "700100", "ann", "the client left")
    registration(ledger)

    succeed(ledger, claim_one(ledger, lane="default"), result=REGISTERED)

    assert known(ledger).closed_at is not None


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("1/700100", {"entity": "1/700100"}),
        ("1/700100", {"parent": "clients.register:1/700100"}),  # it names its registration, and has no entity
        ("1/700100#9", {"entity": "1/700100"}),  # a reconciliation opens the account again
        ("1/700100", {"entity": "1/700100", "batch": "book"}),  # of an import that is paused
    ],
)
def test_an_account_that_an_operation_will_open_is_not_closed(
    ledger: Ledger, name: str, fields: dict[str, str]
) -> None:
    store_identities(ledger, [Identity("1", "700100"), Identity("1", "70010")])
    record_operations(ledger, name, kind="accounts.create", lane="bulk", **fields)
    record_operations(ledger, "1/700100", kind="clients.register", lane="bulk", entity="1/700100")
    if "batch" in fields:
        pause_batch(ledger, "book", "ann", "wrong file?")
        assert sweep(ledger, 5.0)

    with pytest.raises(NotAllowed, match=f"{OPENING}{name} opens this account and is queued"):
        mark_closed(ledger, "1", "700100", "ann", "the client left")
    assert mark_closed(ledger, "1", "70010", "ann", "the client left")  # another account
    assert audit_of(ledger, "identity 1/700100") == []

    cancel(ledger, OPENING + name, "ann", "the client left")
    assert mark_closed(ledger, "1", "700100", "ann", "the client left")


@pytest.mark.parametrize(
    "payload",
    ["{", "[1, 2]", "[" * 100_000, "{}", '{"platform": 1, "login": {"a": 1}}', '{"platform": null, "login": "700100"}'],
)
def test_a_registration_whose_payload_somebody_else_wrote_stops_no_others(ledger: Ledger, payload: str) -> None:
    registration(ledger)
    registration(ledger, "700101")
    foreign, other = claim_due(ledger, lane="default")
    with ledger.writing() as connection:
        connection.execute(update(operations).where(operations.c.id == foreign.id).values(payload=payload))

    assert succeed(ledger, foreign, other, result=REGISTERED) == []

    assert find_operation(ledger, "1/700100", "clients.register").state == State.SUCCEEDED
    assert known(ledger, "700101").client_id == "17"
    assert identity_of(ledger, "1", "700100") is None
