"""Text from outside is data on every page: no element, no attribute, no control character, no secret comes of it."""

import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text

from tests.console.conftest import client_of
from tests.console.markup import check
from tests.console.sample import HOSTILE, fill_hostile
from tests.operations import fail_operation, hold_operation, make_wait
from tests.support import until
from worker.console.process_state import Console
from worker.ledger import Ledger, pause, replay
from worker.ledger.batches import list_batches
from worker.operation import WaitReason

OpenConsole = Callable[..., Console]


@pytest.fixture
def keys(ledger: Ledger) -> list[str]:
    keys = fill_hostile(ledger)
    with ledger.writing() as connection:  # as another program with rights to the database could have stored it
        connection.execute(text("UPDATE b2copy_audit SET actor = actor || char(27) || '[31m', note = note || '\u202e'"))
    return keys


def test_no_page_takes_data_for_markup(open_console: OpenConsole, ledger: Ledger, keys: list[str]) -> None:
    client = client_of(open_console(four_eyes="off"))
    pages = ["/", "/todo", "/operations", "/operations?state=failed", "/operations?state=open", "/approvals", "/audit"]
    pages += ["/imports", "/system", "/fleet/resume?lane=default", "/bulk/replay?state=failed"]
    for path in pages:
        answer = client.get(path)
        assert answer.status_code == 200, path
        check(answer.text, path)
    for key in keys:
        for path in ("/operation", "/operation/cancel", "/operation/replay"):
            answer = client.get(path, params={"key": key})
            assert answer.status_code == 200, (path, key)
            check(answer.text, path)
    for batch in list_batches(ledger):
        for path in ("/imports/resume", "/imports/cancel"):
            answer = client.get(path, params={"batch": batch.id})
            assert answer.status_code == 200, (path, batch.id)
            check(answer.text, path)


@pytest.mark.parametrize("canary", [HOSTILE[0], HOSTILE[3], "\u202e\x1b[31m", "\ud800", "a\x00b"])
def test_no_parameter_becomes_markup_or_an_error(open_console: OpenConsole, canary: str) -> None:
    client = client_of(open_console())
    canary = canary.encode("utf-8", "surrogatepass").decode("latin-1")
    for name in (
        "find",
        "account",
        "batch",
        "state",
        "reason",
        "older",
        "age",
        "after",
        "actor",
        "subject",
        "before",
        "key",
        "made",
    ):
        for path in ("/operations", "/audit", "/operation", "/imports", "/imports/pause", "/approvals", "/system"):
            answer = client.get(path, params={name: canary}, follow_redirects=True)
            assert answer.status_code in (200, 400, 404), (path, name)
            check(answer.text, path)


def test_a_spreadsheet_reads_no_formula(open_console: OpenConsole, ledger: Ledger) -> None:
    key = fail_operation(ledger, "=1+1", payload={"account_login": "@SUM(A1)"})
    fail_operation(ledger, "2", payload={"account_login": "7;=1+1;"})
    replay(ledger, [key], "-2+3", "=HYPERLINK(1)")
    pause(ledger, "money", "ann", '7; "@SUM(A1)"\t+1|-1')
    client = client_of(open_console())

    for path in ("/operations.csv", "/audit.csv"):
        for separator in (",", ";", "|", "\t"):
            cells = [cell for line in client.get(path).text.splitlines()[1:] for cell in line.split(separator)]
            assert not [cell for cell in cells if re.match(r'[ "]*[=+@-]', cell)], cells
    assert "'@SUM(A1)" in client.get("/operations.csv").text


def test_the_evidence_has_its_digest_and_no_secret(open_console: OpenConsole, keys: list[str]) -> None:
    client = client_of(open_console())

    for key in keys:
        answer = client.get("/evidence.json", params={"key": key})
        bundle = answer.json()
        canonical = json.dumps(bundle["evidence"], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        assert bundle["evidence"]["attempts"]
        assert bundle["sha256_of_evidence"] == hashlib.sha256(canonical.encode()).hexdigest()
        assert "eyJhbGciOiJFUzI1NiJ9" not in answer.text


def test_two_exports_of_the_same_evidence_are_equal(open_console: OpenConsole, ledger: Ledger) -> None:
    make_wait(ledger, hold_operation(ledger, "W1"), wait_reason=WaitReason.PENDING_AT_B2COPY, due_in_s=5000.4)
    client = client_of(open_console())

    def export() -> dict[str, Any]:
        return dict(client.get("/evidence.json?key=fees.process:W1").json())

    first = export()
    until(lambda: export()["exported_at"] != first["exported_at"])
    second = export()

    assert "next look in" in first["standing"]
    assert "next look in" not in json.dumps(first["evidence"])
    assert (first["evidence"], first["sha256_of_evidence"]) == (second["evidence"], second["sha256_of_evidence"])
