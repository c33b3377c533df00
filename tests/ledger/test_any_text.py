"""Whatever text the other side or a person gives, both databases store it: no success is lost because of a text."""

import json
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as any_

from tests.operations import LedgerClock, attempt_record, claim_one, fail, find_operation, make_wait, record_operations
from worker.ledger import LEASE_S, Ledger, attempts_of, audit_of, identity_of, settle
from worker.ledger.operator_actions import resolve
from worker.operation import State, Transition
from worker.watch.redact import MASK

NAMES = count(1)
KINDS = any_.sampled_from(["clients.register", "accounts.create", "call"])
TEXTS = any_.text(any_.sampled_from("a\0\ud800\udfff\u202e\ufffdé"), max_size=6) | any_.text(max_size=6)
RESULTS = any_.dictionaries(
    any_.sampled_from(["client_id", "account_id", "payment_account", "crm_id"]) | TEXTS,
    TEXTS | any_.tuples(TEXTS) | any_.floats() | any_.dictionaries(TEXTS, TEXTS, max_size=2),
    max_size=4,
)
on_both_databases = hypothesis_settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def begun(ledger: Ledger, kind: str) -> tuple[str, str]:
    """Record an operation. Returns its login and its name."""
    login = str(next(NAMES))
    record_operations(ledger, f"1/{login}", kind=kind, payload={"login": login, "platform": 1}, lane="default")
    return login, f"1/{login}"


@on_both_databases
@given(kind=KINDS, text=TEXTS, result=RESULTS)
@example(kind="clients.register", text="\ud800\0", result={"client_id": "5\0", "account_id": "\ud800"})
@example(kind="accounts.create", text="\udfff", result={"client_id": "\udfff", "x\0": ("\0",), "n": float("nan")})
def test_a_success_ends_and_teaches_its_ids_whatever_its_texts_hold(
    ledger: Ledger, kind: str, text: str, result: dict[str, Any]
) -> None:
    login, name = begun(ledger, kind)
    claim = claim_one(ledger, lane="default")
    make_wait(ledger, claim, due_in_s=0, progress={"step": text})
    claim = claim_one(ledger, lane="default")
    assert claim.progress == json.loads(json.dumps({"step": text}))
    evidence = attempt_record(message=text, request_id=text)

    assert settle(ledger, [Transition(claim, State.SUCCEEDED, result=result, attempt=evidence)]) == []

    found = find_operation(ledger, name, kind)
    assert found.state == State.SUCCEEDED
    assert len(found.result or {}) <= len(result)
    assert len(attempts_of(ledger, claim.id)) == 1
    if kind == "clients.register":
        known = identity_of(ledger, "1", login)
        assert known is not None
        assert (known.client_id is None) == (not isinstance(result.get("client_id"), str) or not result["client_id"])


@pytest.mark.parametrize("kind", ["clients.register", "accounts.create"])
def test_a_person_may_give_a_result_with_any_text(ledger: Ledger, kind: str) -> None:
    login, name = begun(ledger, kind)
    fail(ledger, claim_one(ledger, lane="default"), failure_reason="unresolved", outcome_unknown=True)

    resolve(ledger, f"{kind}:{name}", "ada", "looked", succeeded=True, result={"client_id": "5\0\ud800", "x": "\0"})

    assert find_operation(ledger, name, kind).result == {"client_id": "5\ufffd\ufffd", "x": "\ufffd"}
    known = identity_of(ledger, "1", login)
    assert known is not None
    assert known.client_id == "5\ufffd\ufffd"


@pytest.mark.parametrize("by", ["an attempt", "a late answer", "a person"])
def test_no_result_is_stored_with_its_secrets(ledger: Ledger, clock: LedgerClock, by: str) -> None:
    _, name = begun(ledger, "clients.register")
    result = {"client_id": 5, "answer": {"client": {"password": "hunter2"}, "access_token": "hunter2"}}
    claim = claim_one(ledger, lane="default")
    if by != "an attempt":
        clock.advance(LEASE_S + 1)
        second = claim_one(ledger, "worker 2", lane="default")
        settle(ledger, [Transition(second, State.FAILED, failure_reason="unresolved", outcome_unknown=True)])
    if by == "a person":
        resolve(ledger, f"clients.register:{name}", "ada", "looked", succeeded=True, result=result)
    else:
        settle(ledger, [Transition(claim, State.SUCCEEDED, result=result, outcome_known=True)])

    found = find_operation(ledger, name, "clients.register")
    assert found.state == State.SUCCEEDED
    assert found.result == {"client_id": 5, "answer": {"client": {"password": MASK}, "access_token": MASK}}
    assert "hunter2" not in str(audit_of(ledger, found.key))
