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
    assert "2 of 3 rows cannot be used: nothing was recorded" in ran.err
    assert search(ledger) == []


def test_leaves_out_unknown_columns_if_an_option_says_so(b2copy_sync: Command, ledger: Ledger, tmp_path: Path) -> None:
    file = tmp_path / "withdrawals.csv"
    file.write_text("account_login,request_id,amount\n7,W1,100.00\n")

    dry = b2copy_sync("import", str(file), "--ignore-extra", "--dry-run")
    nothing = search(ledger)
    done = b2copy_sync("import", str(file), "--ignore-extra", "--lane", "money")

    assert dry.out == "1 row can be recorded; nothing was recorded\n"
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
    ("name", "content", "message"),
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
    name: str, content: bytes, message: str, b2copy_sync: Command, ledger: Ledger, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)

    ran = b2copy_sync("import", str(tmp_path / name))

    assert ran.code == 2
    assert message in ran.err
    assert search(ledger) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("account_login,request_id,account_login\n7,W1,8\n", "line 1: the heading names 'account_login' twice"),
        ("account_login,request_id\n1.23457E+11,W1\n", "line 2: fees.process: account_login: "),
        ("account_login,request_id\n123456.0,W1\n", "line 2: fees.process: account_login: "),
        ("account_login,request_id\n7,W1\n8,nan\n", "line 3: fees.process: request_id: "),
        ("account_login,request_id\n'00123,W1\n", 'line 2: account_login: "\'00123" begins with the apostrophe'),
        ('account_login,request_id\n7,"=""W1"""\n', "line 2: request_id: '=\"W1\"' is a formula"),
        ('account_login,request_id\n7,"123,456"\n', "line 2: request_id: '123,456' is a number with separators"),
        ("account_login;request_id\n7;#N/A\n", "line 2: request_id: '#N/A' is an error of a spreadsheet"),
        ("account_login,request_id\n7, W1\n", "line 2: request_id: ' W1' has blanks around it"),
        ("account_login,request_id\n\u202d7\u202c,W1\n", "line 2: fees.process: account_login: "),
    ],
)
def test_what_a_spreadsheet_damaged_is_refused_with_line_and_column(
    content: str, message: str, b2copy_sync: Command, ledger: Ledger, tmp_path: Path
) -> None:
    file = tmp_path / "a.csv"
    file.write_text(content)

    ran = b2copy_sync("import", str(file))

    assert ran.code == 2
    assert message in ran.err
    assert search(ledger) == []


def test_every_kind_can_be_imported_from_csv(b2copy_sync: Command, ledger: Ledger, tmp_path: Path) -> None:
    file = tmp_path / "calls.csv"
    file.write_text(
        "path,payload,key,repeatable\n"
        '/api/admin/users/v2/user/userservice/tag,"{""id"": 7, ""tag"": ""a""}",0017,true\n'
    )

    ran = b2copy_sync("import", str(file), "--kind", "call")

    assert ran.code == 0, ran.err
    operation = find(ledger, "call:0017")
    assert operation is not None
    assert operation.payload["payload"] == {"id": 7, "tag": "a"}
    assert operation.payload["repeatable"] is True


def test_a_doubled_name_in_a_line_of_json_is_refused(b2copy_sync: Command, ledger: Ledger, tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"account_login": "7", "request_id": "W1", "account_login": "8"}\n')

    ran = b2copy_sync("import", str(file))

    assert ran.code == 2
    assert "line 1: not JSON: 'account_login' is given twice" in ran.err
    assert search(ledger) == []
