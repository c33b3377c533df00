"""import: many operations from a file."""

from pathlib import Path

import pytest

from tests.cli.conftest import Command
from worker.ledger import Ledger, find, search


def test_asks_for_each_row_once_however_often_it_is_run(b2copy_sync: Command, ledger: Ledger, tmp_path: Path) -> None:
    file = tmp_path / "withdrawals.csv"
    # As a spreadsheet of another region writes it.
    file.write_bytes(b"\xef\xbb\xbfaccount_login;request_id\r\n007;W1\r\n8;W2\r\n")

    first = b2copy_sync("import", str(file), "--by", "ann")
    again = b2copy_sync("import", str(file), "--json")

    assert first.out == "2 operations accepted in lane bulk, 0 known already\n"
    assert again.document == {"rows": 2, "dry_run": False, "accepted": 0, "known": 2}
    operation = find(ledger, "fees.process:W1")
    assert operation is not None
    assert operation.payload == {"account_login": "007", "request_id": "W1"}
    assert (operation.lane, operation.requested_by) == ("bulk", "ann")


def test_one_unusable_row_stops_all_with_its_line(b2copy_sync: Command, ledger: Ledger, tmp_path: Path) -> None:
    file = tmp_path / "withdrawals.csv"
    file.write_text("account_login,request_id,amount\n7,W1,\n,W2,\n8,W 3,5\n")

    ran = b2copy_sync("import", str(file))

    assert ran.code == 2
    assert f"{file}, line 3: fees.process: account_login is missing" in ran.err
    assert f"{file}, line 4: fees.process: request_id: " in ran.err
    assert "amount is not a field" in ran.err
    assert "2 of 3 rows cannot be taken: nothing was recorded" in ran.err
    assert search(ledger) == []


def test_leaves_out_columns_it_does_not_know_if_told(b2copy_sync: Command, ledger: Ledger, tmp_path: Path) -> None:
    file = tmp_path / "withdrawals.csv"
    file.write_text("account_login,request_id,amount\n7,W1,100.00\n")

    dry = b2copy_sync("import", str(file), "--ignore-extra", "--dry-run")
    nothing = search(ledger)
    done = b2copy_sync("import", str(file), "--ignore-extra", "--lane", "money")

    assert dry.out == "1 row can be taken; nothing was recorded\n"
    assert nothing == []
    assert done.out == "1 operation accepted in lane money, 0 known already\n"


def test_takes_json_lines_for_what_is_nested(b2copy_sync: Command, ledger: Ledger, tmp_path: Path) -> None:
    file = tmp_path / "calls.jsonl"
    file.write_text('{"path": "/api/admin/users/v2/user/userservice/tag", "payload": {"id": 7}, "key": "C1"}\n\n')

    ran = b2copy_sync("import", str(file), "--kind", "call")

    assert ran.code == 0, ran.err
    operation = find(ledger, "call:C1")
    assert operation is not None
    assert operation.payload["payload"] == {"id": 7}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"login,id\n7,W1\n", "the first line must name the columns: account_login, request_id"),
        ("a.csv", b"account_login,request_id\n7\n", "line 2: 2 columns are needed"),
        ("a.csv", b"account_login,request_id\n", "no rows"),
        ("a.csv", b"\xff\xfea\x00", "not CSV in UTF-8"),
        ("a.csv", b'account_login,request_id\n"7,W1\n', "not CSV in UTF-8"),
        ("a.jsonl", b"{\n", "line 1: not JSON"),
        ("a.jsonl", b"[]\n", "line 1: must be a JSON object"),
    ],
)
def test_says_what_is_wrong_with_a_file(
    name: str, content: bytes, said: str, b2copy_sync: Command, ledger: Ledger, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)

    ran = b2copy_sync("import", str(tmp_path / name))

    assert ran.code == 2
    assert said in ran.err
    assert search(ledger) == []
