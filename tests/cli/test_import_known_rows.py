"""An import of rows that are known in part: each new key becomes one operation, wherever its row stands."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cli.conftest import Command
from tests.operations import fail_operation, new_operation, record_operations
from worker.cli.check_rows import CHUNK, Checked, check_against_ledger, check_rows
from worker.cli.read_rows import Row
from worker.ledger import Ledger, find, search
from worker.ledger.batches import cancel_batch
from worker.ledger.operator_actions import correct
from worker.ledger.record_operations import record_rows

NAMES = [f"W{number}" for number in range(12)]
A_FEW = 30  # examples


def test_a_new_row_behind_a_repeat_in_another_chunk_is_recorded(
    b2copy_sync: Command, ledger: Ledger, tmp_path: Path
) -> None:
    known = [f"K{number}" for number in range(CHUNK)]
    record_operations(ledger, *known, lane="bulk")
    file = tmp_path / "a.csv"
    file.write_text("account_login,request_id\n" + "".join(f"7,{name}\n" for name in (*known, known[0], "W1")))

    dry = b2copy_sync("import", str(file), "--dry-run", "--json")
    ran = b2copy_sync("import", str(file), "--json")

    assert (dry.document["new"], dry.document["known_by_state"]) == (1, {"queued": CHUNK})
    assert (ran.document["new"], ran.document["accepted"]) == (1, 1)
    assert find(ledger, "fees.process:W1") is not None


def test_an_import_whose_rows_are_all_known_begins_none_and_may_be_run_again(
    b2copy_sync: Command, ledger: Ledger, tmp_path: Path
) -> None:
    file = tmp_path / "a.csv"
    file.write_text("account_login,request_id\n7,W1\n")
    assert b2copy_sync("import", str(file), "--batch", "book").code == 0
    cancel_batch(ledger, "book", "ada", "wrong file")

    again = b2copy_sync("import", str(file), "--batch", "book")
    file.write_text("account_login,request_id\n7,W1\n7,W2\n")
    more = b2copy_sync("import", str(file), "--batch", "book")

    assert again.out == "0 operations accepted in lane bulk, 1 known already\n"
    assert more.code != 0
    assert "was cancelled by ada" in more.err
    assert [one.key for one in search(ledger)] == ["fees.process:W1"]


def test_a_row_from_before_a_correction_is_known_and_the_import_is_completed(
    b2copy_sync: Command, ledger: Ledger, tmp_path: Path
) -> None:
    file = tmp_path / "a.csv"
    file.write_text("account_login,request_id\n7,W1\n7,W2\n")
    key = fail_operation(ledger, "W1")  # recorded before the import was killed
    correct(ledger, key, {"account_login": "8", "request_id": "W1"}, "ada", "the login was mistyped")

    ran = b2copy_sync("import", str(file))

    assert ran.code == 0, ran.err
    assert ran.out.startswith("1 operation accepted in lane bulk, 1 known already\n")


@settings(
    max_examples=A_FEW,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(known=st.sets(st.sampled_from(NAMES)), rows=st.lists(st.sampled_from(NAMES), min_size=1, max_size=12))
def test_as_many_are_new_as_there_are_keys_that_the_ledger_does_not_know(
    known: set[str], rows: list[str], ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.cli.check_rows.CHUNK", 3)
    with ledger.writing() as connection:
        connection.exec_driver_sql("DELETE FROM b2copy_operations")
    if known:
        record_operations(ledger, *sorted(known))
    checked = Checked("money", "book", "a test")

    read = (Row(line, {"name": name}, "") for line, name in enumerate(rows, 2))
    check_rows(checked, read, lambda fields: new_operation(fields["name"]), None, lambda done: None)
    check_against_ledger(checked, ledger, lambda done: None)
    created = sum(one.created for one in record_rows(ledger, list(checked.rows())))

    assert (checked.new, checked.known.total()) == (len(set(rows) - known), len(set(rows) & known))
    assert created == len(set(rows) - known)
    assert checked.repeated == len(rows) - len(set(rows))
