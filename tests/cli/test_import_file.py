"""import: many operations from a file."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from tasks.enqueue import BATCH
from tests.cli.conftest import Command
from tests.operations import claim_due, record_operations, succeed
from worker.cli.exit_codes import Stop
from worker.cli.text_encoding import open_file, spooled
from worker.ledger import Ledger, find, pause, search
from worker.ledger.batches import begin_batch, cancel_batch, find_batch, pause_batch, resume_batch
from worker.ledger.restore import distrust_restored
from worker.testbed.local_system import Environment


def test_asks_for_each_row_once_however_often_it_is_run(b2copy_sync: Command, ledger: Ledger, tmp_path: Path) -> None:
    file = tmp_path / "withdrawals.csv"
    # As a spreadsheet of another region writes it.
    file.write_bytes(b"\xef\xbb\xbfaccount_login;request_id\r\n007;W1\r\n8;W2\r\n")

    first = b2copy_sync("import", str(file), "--by", "ann")
    again = b2copy_sync("import", str(file), "--json")

    assert first.out.startswith("2 operations accepted in lane bulk, 0 known already\nimport withdrawals-")
    assert again.document["rows"] == again.document["known"] == 2
    assert again.document["accepted"] == again.document["new"] == 0
    operation = find(ledger, "fees.process:W1")
    assert operation is not None
    assert operation.payload == {"account_login": "007", "request_id": "W1"}
    assert (operation.lane, operation.requested_by) == ("bulk", "ann")


def test_one_unusable_row_stops_all_with_its_line(b2copy_sync: Command, ledger: Ledger, tmp_path: Path) -> None:
    file = tmp_path / "withdrawals.csv"
    file.write_text("account_login,request_id,amount\n7,W1,\n,W2,\n8,W 3,5\n")

    ran = b2copy_sync("import", str(file))

    assert ran.code == 2
    assert ran.err.splitlines()[0] == (
        f"{file}, line 1: the column amount is no field of fees.process (account_login, request_id):"
        " --ignore-extra leaves it out"
    )
    assert f"{file}, line 3: fees.process: account_login is missing" in ran.err
    assert f"{file}, line 4: fees.process: request_id: " in ran.err
    assert "2 of 3 rows cannot be used: nothing was recorded" in ran.err
    assert search(ledger) == []


def test_tells_of_an_unknown_column_once(b2copy_sync: Command, ledger: Ledger, tmp_path: Path) -> None:
    file = tmp_path / "withdrawals.csv"
    rows = "".join(f"7,W{number},1,EUR\n" for number in range(120))
    file.write_text(f"account_login,request_id,amount,currency\n{rows}")

    ran = b2copy_sync("import", str(file))

    assert ran.code == 2
    assert ran.err == (
        f"{file}, line 1: the columns amount, currency are no fields of fees.process (account_login, request_id):"
        " --ignore-extra leaves them out\nnothing was recorded\n"
    )
    assert search(ledger) == []


def test_a_row_that_repeats_another_is_not_called_known(b2copy_sync: Command, ledger: Ledger, tmp_path: Path) -> None:
    file = tmp_path / "withdrawals.csv"
    file.write_text("account_login,request_id\n7,W1\n7,W1\n")

    ran = b2copy_sync("import", str(file))
    again = b2copy_sync("import", str(file), "--json")

    repeats = "1 row repeats another row of this file (line 3)"
    assert ran.out.splitlines()[0] == f"1 operation accepted in lane bulk, 0 known already; {repeats}"
    assert (again.document["known"], again.document["repeated"], again.document["accepted"]) == (1, 1, 0)


def test_leaves_out_unknown_columns_if_an_option_says_so(b2copy_sync: Command, ledger: Ledger, tmp_path: Path) -> None:
    file = tmp_path / "withdrawals.csv"
    file.write_text("account_login,request_id,amount\n7,W1,100.00\n")

    dry = b2copy_sync("import", str(file), "--ignore-extra", "--dry-run")
    nothing = search(ledger)
    done = b2copy_sync("import", str(file), "--ignore-extra", "--lane", "money")

    assert dry.out == "1 row: 1 new, 0 known, 0 conflicting; nothing was recorded\n"
    assert nothing == []
    assert done.out.startswith("1 operation accepted in lane money, 0 known already\n")


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
        ("a.csv", b"\xff\xfea\x00\n\x00", "the first line must name the columns"),
        (
            "a.csv",
            b'account_login,request_id\n7,"W\n0"\n7,W1\n"7,W2\n7,W3\n7,W4\n',
            "line 5: not CSV: a quotation mark that opens here is never closed",
        ),
        ("a.csv", b'account_login,request_id\n"7"7,W1\n', "after line 2: not CSV: "),
        ("a.jsonl", b"{\n", "line 1: not JSON"),
        ("a.jsonl", b"[]\n", "line 1: must be a JSON object"),
        ("a.jsonl", b'\n{"account_login": "' + b"7" * 2_000_000, "line 2: has more than 1,048,576 characters"),
        (
            "a.csv",
            b"account_login,request_id\n" + b"7," * 1_000_000 + b"\n",
            "line 2: has more than 1,048,576 characters",
        ),
        ("a.csv", b"a" * 2_000_000 + b"\n", "line 1: has more than 1,048,576 characters"),
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
    ("payload", "problem"),
    [
        ('{""a"": 1, ""a"": 2}', "payload: 'a' is given twice"),
        ('{""a"": 12345678901234567.891}', "payload: 12345678901234567.891 has more digits than a JSON number keeps"),
        ('{""a"": NaN}', "payload: NaN is no JSON"),
    ],
)
def test_a_cell_of_json_that_would_be_changed_is_refused(
    payload: str, problem: str, b2copy_sync: Command, ledger: Ledger, tmp_path: Path
) -> None:
    file = tmp_path / "a.csv"
    file.write_text(f'path,key,payload\n/api/admin/users/v2/user/userservice/tag,C1,"{payload}"\n')

    ran = b2copy_sync("import", str(file), "--kind", "call")

    assert ran.code == 2
    assert f"line 2: {problem}" in ran.err
    assert search(ledger) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("account_login,request_id,account_login\n7,W1,8\n", "line 1: the heading names 'account_login' twice"),
        ("account_login,request_id\n1.23457E+11,W1\n", "line 2: account_login: '1.23457E+11' is a rounded number"),
        ("account_login;request_id\n1,23457E+11;W1\n", "line 2: account_login: '1,23457E+11' is a rounded number"),
        ("account_login,request_id\n3-Jan,W1\n", "line 2: fees.process: account_login: '3-Jan' is what a spreadsheet"),
        ("account_login,request_id\n123.456,W1\n", "line 2: fees.process: account_login: '123.456' is a number with"),
        ("account_login,request_id\n7,W1\n7,NULL\n", "line 3: fees.process: request_id: 'NULL' is what a program"),
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


HEADING = "account_login,request_id\n"


@pytest.mark.parametrize(
    ("content", "arguments"),
    [
        (("\ufeff" + HEADING + "7,W1\n").encode(), []),
        ((HEADING + "7,W1\n").encode("utf-16"), []),
        (("\ufeff" + HEADING + "7,W1\n").encode("utf-16-be"), []),
        ((HEADING + "7,W1\n").encode("utf-16-le"), ["--encoding", "utf-16-le"]),
        ((" Account_Login ;REQUEST_ID;note \n7;W1;caf\u00e9\n").encode("cp1252"), ["--encoding", "cp1252"]),
        (b"account_login|request_id|note, of whom\n7|W1|x\n", []),
        (b'note,account_login,request_id\n"a, b\nc",7,W1\n', []),
        (b'\n{"account_login": "7", "request_id": "W1", "note": 1}\n', []),
    ],
    ids=["UTF-8 with a mark", "UTF-16", "UTF-16 BE", "UTF-16 LE said", "CP1252 said", "bars", "line breaks", "JSON"],
)
def test_reads_what_spreadsheets_of_all_regions_write(
    content: bytes, arguments: list[str], b2copy_sync: Command, ledger: Ledger, tmp_path: Path
) -> None:
    file = tmp_path / "book.txt"
    file.write_bytes(content)

    ran = b2copy_sync("import", str(file), "--ignore-extra", *arguments)

    assert ran.code == 0, ran.err
    assert [one.payload for one in search(ledger)] == [{"account_login": "7", "request_id": "W1"}]


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (HEADING.encode() + b"7,W1\n8,W\xe9\n", [], "line 3: byte E9 is not UTF-8. Say which encoding it is"),
        (HEADING.encode() + b"7,W1\n8,W\xe9\n", [], "reads '8,W\u00e9' then"),
        (HEADING.encode() + b"7,\x81\n", ["--encoding", "cp1252"], "line 2: byte 81 is not CP1252"),
        (HEADING.encode("utf-16-le"), [], "say --encoding utf-16-le or utf-16-be"),
        (HEADING.encode(), ["--encoding", "utf-16"], "is not UTF-16 (UTF-16 stream does not start with BOM): correct"),
        (HEADING.encode("utf-16"), ["--encoding", "cp1252"], "--encoding cp1252 cannot be right"),
        (HEADING.encode(), ["--encoding", "latin-17"], "there is no such encoding"),
        (HEADING.encode("utf-32"), [], "is in UTF-32: save it in UTF-8"),
        (b"PK\x03\x04rest", [], "is a workbook (.xlsx, .ods): save the sheet as CSV"),
    ],
)
def test_never_guesses_an_encoding(
    content: bytes, arguments: list[str], message: str, b2copy_sync: Command, ledger: Ledger, tmp_path: Path
) -> None:
    file = tmp_path / "book.csv"
    file.write_bytes(content)

    ran = b2copy_sync("import", str(file), *arguments)

    assert ran.code == 2
    assert message in ran.err
    assert search(ledger) == []


def test_lists_every_unusable_row_up_to_a_hundred(b2copy_sync: Command, ledger: Ledger, tmp_path: Path) -> None:
    file = tmp_path / "book.csv"
    bad = "".join(f"{number},W {number}\n" for number in range(120))
    file.write_text(f'{HEADING}7,W1\n"8\n",W2\n9,W3,x\n{bad}')

    ran = b2copy_sync("import", str(file))

    lines = ran.err.splitlines()
    assert lines[0].startswith(f"{file}, line 3: account_login: ")
    assert lines[1] == f"{file}, line 5: 2 columns are needed, there are 3"
    assert len(lines) == 102
    assert lines[-2:] == ["... and 22 more", "122 of 123 rows cannot be used: nothing was recorded"]
    assert search(ledger) == []


def test_tells_zeros_that_a_spreadsheet_has_dropped(b2copy_sync: Command, ledger: Ledger, tmp_path: Path) -> None:
    file = tmp_path / "book.csv"
    file.write_text(HEADING + "000123,W1\n000456,W2\n000789,W3\n4711,W4\n123456,W5\n")

    ran = b2copy_sync("import", str(file))
    allowed = b2copy_sync("import", str(file), "--as-is", "account_login", "--dry-run")

    assert ran.code == 2
    assert f"{file}, line 5: account_login: '4711' has 4 digits, and 3 others that begin with 0 have 6" in ran.err
    assert allowed.code == 0, allowed.err


def test_a_row_whose_ids_have_both_lost_their_zeros_is_one_row(
    b2copy_sync: Command, ledger: Ledger, tmp_path: Path
) -> None:
    file = tmp_path / "book.csv"
    whole = "".join(f"00010{number},00020{number}\n" for number in range(3))
    file.write_text(HEADING + whole + "4711,4712\n" + "4711,000209\n" + "000109,471\n" + "4711,4712\n" * 9)

    ran = b2copy_sync("import", str(file))

    lines = ran.err.splitlines()
    assert ran.code == 2
    assert lines[0].startswith(f"{file}, line 5: account_login: '4711' has 4 digits")
    assert "; request_id: '4712' has 4 digits" in lines[0]
    assert [line.partition(": ")[0] for line in lines[:-1]] == [f"{file}, line {number}" for number in range(5, 17)]
    assert lines[-1] == "12 of 15 rows cannot be used: nothing was recorded"


def test_rows_with_lost_zeros_are_counted_beyond_those_that_are_listed(
    b2copy_sync: Command, ledger: Ledger, tmp_path: Path
) -> None:
    file = tmp_path / "book.csv"
    whole = "".join(f"00010{number},00020{number}\n" for number in range(4))
    cut = "".join(f"{number},{number}\n" for number in range(1000, 1150))
    file.write_text(HEADING + whole + cut)

    lines = b2copy_sync("import", str(file)).err.splitlines()

    assert len(lines) == 102
    assert lines[-2:] == ["... and 50 more", "150 of 154 rows cannot be used: nothing was recorded"]


def test_a_row_that_has_lost_zeros_and_conflicts_is_one_row(
    b2copy_sync: Command, ledger: Ledger, tmp_path: Path
) -> None:
    file = tmp_path / "book.csv"
    file.write_text(HEADING + "000123,W1\n000456,W2\n000789,W3\n4711,W3\n")

    ran = b2copy_sync("import", str(file))

    assert ran.err.splitlines()[-1] == "1 of 4 rows cannot be used: nothing was recorded"


def test_if_a_spreadsheet_dropped_all_zeros_the_number_of_digits_tells(
    b2copy_sync: Command, ledger: Ledger, tmp_path: Path
) -> None:
    file = tmp_path / "book.csv"
    file.write_text(HEADING + "123,W1\n456,W2\n123456,W3\n")

    found = b2copy_sync("import", str(file), "--digits", "account_login=6")
    mistyped = b2copy_sync("import", str(file), "--digits", "login=6")
    file.write_text(HEADING + "000123,W1\n123456,W3\n")
    right = b2copy_sync("import", str(file), "--digits", "account_login=6", "--dry-run")

    assert found.code == 2
    assert [line.partition(": account_login: ")[0] for line in found.err.splitlines()[:2]] == [
        f"{file}, line 2",
        f"{file}, line 3",
    ]
    assert "'123' does not have the 6 digits of --digits account_login=6" in found.err
    assert "2 of 3 rows cannot be used" in found.err
    assert (mistyped.code, right.code) == (2, 0), right.err
    assert "--digits login=6: the columns that hold ids are account_login, request_id" in mistyped.err


DOUBTFUL = [
    "123.456", "1.234.567", "1.234", "1'234", "3-Jan", "Jan-45", "01.02.2026", "2026-01-02", "1/2/2026",
    "1234567890123450000",
]  # fmt: skip


def test_an_id_that_a_spreadsheet_may_have_changed_is_taken_if_a_person_confirms_its_column(
    b2copy_sync: Command, ledger: Ledger, tmp_path: Path
) -> None:
    file = tmp_path / "book.csv"
    honest = [
        "W1",
        "2024-01",
        "W-2026-01-02",
        "INV.2024.000123",
        "2024-000123",
        "12-MARIA/7",
        "1234567890123456",
        "{6f1c}",
    ]
    file.write_text(HEADING + "".join(f"7,{id_}\n" for id_ in honest + DOUBTFUL))

    refused = b2copy_sync("import", str(file))
    confirmed = b2copy_sync("import", str(file), "--as-is", "request_id")

    assert refused.code == 2
    lines = refused.err.splitlines()
    for number, (line, id_) in enumerate(zip(lines[:-1], DOUBTFUL, strict=True), start=len(honest) + 2):
        assert line.startswith(f"{file}, line {number}: request_id: {id_!r} "), line
        assert line.endswith("export the column as text; if its ids are right: --as-is request_id")
    assert confirmed.code == 0, confirmed.err
    assert len(search(ledger)) == len(honest) + len(DOUBTFUL)


@pytest.mark.parametrize("client", ["1.23457E+11", "123457000000.0", "true", "1234567890123450000", "NaN", "0012"])
def test_a_number_that_a_spreadsheet_changed_is_refused_with_its_column(
    client: str, b2copy_sync: Command, ledger: Ledger, tmp_path: Path
) -> None:
    file = tmp_path / "book.csv"
    file.write_text(f"login,product_currency_id,client_id\n7,1,{client}\n")

    ran = b2copy_sync("import", str(file), "--kind", "accounts.create")

    assert ran.code == 2
    assert f"{file}, line 2: " in ran.err
    assert "client_id" in ran.err
    assert search(ledger) == []


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_file_that_may_have_been_cut_in_its_last_id_is_refused(
    encoding: str, b2copy_sync: Command, ledger: Ledger, tmp_path: Path
) -> None:
    file = tmp_path / "book.csv"
    file.write_text(HEADING + "7,W1\n8,W23", encoding=encoding)

    cut = b2copy_sync("import", str(file))
    whole = b2copy_sync("import", str(file), "--whole", "--dry-run")
    file.write_text(HEADING + '7,W1\n8,"W23"', encoding=encoding)
    quoted = b2copy_sync("import", str(file), "--dry-run")

    assert cut.code == 2
    assert "as if the file was cut off: it ends with '8,W23'" in cut.err
    assert (whole.code, quoted.code) == (0, 0), whole.err + quoted.err


APPEND_ONCE_READ = """
from worker.cli import import_file, main

read = import_file.open_file


def read_and_append(file, encoding, stack):
    source = read(file, encoding, stack)
    with file.open("a") as stream:
        stream.write("7,W12")
    return source


import_file.open_file = read_and_append
main()
"""


def test_of_a_file_that_grows_only_what_was_checked_is_recorded(
    environment: Environment, ledger: Ledger, tmp_path: Path
) -> None:
    file = tmp_path / "book.csv"
    file.write_text(HEADING + "7,W1\n")

    command = [sys.executable, "-c", APPEND_ONCE_READ, "import", str(file)]
    ran = subprocess.run(command, env=environment.variables, capture_output=True, text=True, timeout=30)

    assert ran.returncode == 0, ran.stderr
    assert [one.key for one in search(ledger)] == ["fees.process:W1"]


def test_the_lines_of_a_source_are_those_of_its_digest_whatever_is_written_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "book.csv"
    file.write_text("H\n7,W1\n")
    with ExitStack() as stack:
        source = open_file(file, None, stack)
        with file.open("ab") as stream:
            stream.write(b"7,W12")
        appended = list(source.lines())
        file.write_bytes(b"H\n8,W\xc3")
        rewritten = list(source.lines())

    assert appended == rewritten == ["H\n", "7,W1\n"]
    assert source.digest == hashlib.sha256(b"H\n7,W1\n").hexdigest()


@pytest.mark.parametrize("added", ["7,W2\n", ""], ids=["grows", "is written again"])
def test_a_file_that_changes_while_it_is_copied_is_refused(
    added: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "book.csv"
    file.write_text(HEADING + "7,W1\n")
    os.utime(file, (1, 1))

    def copy_and_write(stream: BinaryIO, into: BinaryIO) -> BinaryIO:
        copied = spooled(stream, into)
        file.write_text(HEADING + "7,W1\n" + added)
        return copied

    monkeypatch.setattr("worker.cli.text_encoding.spooled", copy_and_write)

    with ExitStack() as stack, pytest.raises(Stop) as refused:
        open_file(file, None, stack)

    assert refused.value.lines == (f"{file} was changed while it was read: wait until it is complete, and try again",)


def test_says_what_is_new_known_and_conflicting_before_anything_is_recorded(
    b2copy_sync: Command, ledger: Ledger, tmp_path: Path
) -> None:
    (tmp_path / "first.csv").write_text(HEADING + "7,W1\n8,W2\n")
    assert b2copy_sync("import", str(tmp_path / "first.csv")).code == 0
    file = tmp_path / "book.csv"

    file.write_text(HEADING + "7,W1\n9,W3\n9,W3\n")
    good = b2copy_sync("import", str(file), "--dry-run")
    file.write_text(HEADING + "7,W1\n80,W2\n9,W3\n90,W3\n")
    conflicting = b2copy_sync("import", str(file))

    assert good.out == (
        "3 rows: 1 new, 1 known, 0 conflicting; 1 row repeats another row of this file (line 4); nothing was recorded\n"
    )
    assert conflicting.code == 2
    assert conflicting.err.splitlines() == [
        f"{file}, line 3: fees.process:W2 is queued in the ledger with another account_login",
        f"{file}, line 5: fees.process:W3 stands on line 4 with another account_login",
        "2 of 4 rows cannot be used: nothing was recorded; 2 of them conflict: one key is one operation",
    ]
    assert len(search(ledger)) == 2


def test_an_import_is_shown_paused_resumed_and_cancelled_by_its_name(
    b2copy_sync: Command, ledger: Ledger, tmp_path: Path
) -> None:
    file = tmp_path / "book.csv"
    file.write_text(HEADING + "7,W1\n8,W2\n")
    name = b2copy_sync("import", str(file), "--json", "--by", "ann").document["batch"]
    claim_due(ledger, lane="bulk", limit=1)

    paused = b2copy_sync("import", "pause", name, "--why", "wrong file?", "--by", "bob")
    shown = b2copy_sync("import", "status", name)
    resumed = b2copy_sync("import", "resume", name, "--why", "right file", "--json")
    refused = b2copy_sync("import", "cancel", name, "--why", "wrong file")
    cancelled = b2copy_sync("import", "cancel", name, "--why", "wrong file", "--yes")
    again = b2copy_sync("import", str(file), "--json")
    listed = b2copy_sync("import", "status", "--json").document["imports"]
    nothing = b2copy_sync("import", "pause", "boook", "--why", "wrong file?")

    assert paused.out == f"import {name} is paused: nothing more of it is started\n"
    assert "by bob: wrong file?" in shown.out
    assert "2 of 2" in shown.out
    assert "1 queued, 1 running" in shown.out
    assert resumed.document == {"batch": name, "decision": None}
    assert refused.code == 2
    assert "a cancelled operation is never sent, and the same id cannot be requested again" in refused.err
    assert f'b2copy-sync import pause {name} --why "..."' in refused.err
    assert cancelled.out == f"import {name} is cancelled: 1 operation cancelled, 1 not: sent already, or being sent\n"
    assert (again.code, again.document["accepted"], again.document["known_by_state"]["cancelled"]) == (3, 0, 1)
    assert again.err == (
        "1 row will not be done: cancelled, which is final, and the same id cannot be requested again\n"
    )
    assert [(one["batch"], one["cancelled"], one["states"]["cancelled"], one["requested_by"]) for one in listed] == [
        (name, True, 1, "ann")
    ]
    assert nothing.code == 5


def test_after_a_restore_a_cancelled_import_says_what_may_have_been_done(
    b2copy_sync: Command, ledger: Ledger, tmp_path: Path
) -> None:
    file = tmp_path / "book.csv"
    file.write_text(HEADING + "7,W1\n8,W2\n")
    name = b2copy_sync("import", str(file), "--json").document["batch"]
    distrust_restored(ledger, {}, "ada", "restored")

    cancelled = b2copy_sync("import", "cancel", name, "--why", "wrong file", "--yes")
    replayed = b2copy_sync(
        "failed", "replay", "--reason", "unresolved", "--why", "as the alert says", "--yes", "--json"
    )
    shown = b2copy_sync("failed", "show", "W1")

    assert replayed.document["replayed"] == []
    assert set(replayed.document["left_alone"]) == {"fees.process:W1", "fees.process:W2"}
    assert "Its import was cancelled after a restore, and this ledger has not sent it" in shown.out
    assert "b2copy-sync failed resolve fees.process:W1 --failed" in shown.out
    assert cancelled.out == (
        f"import {name} is cancelled: 0 operations cancelled, 0 not: sent already, or being sent\n"
        "2 operations may have been done before the ledger was restored, and end as unresolved:"
        " `b2copy-sync failed list --reason unresolved`\n"
    )


def test_after_a_restore_nobody_is_told_to_run_an_import_again_without_a_look(
    b2copy_sync: Command, ledger: Ledger, tmp_path: Path
) -> None:
    file = tmp_path / "book.csv"
    file.write_text(HEADING + "7,W1\n7,W2\n7,W3\n")
    begin_batch(ledger, "book", kind="fees.process", lane="bulk", source="book.csv", rows=3, by="ann")
    record_operations(ledger, "W1", lane="bulk", batch="book")
    distrust_restored(ledger, {}, "ada", "restored")
    with ledger.writing() as connection:
        connection.exec_driver_sql("UPDATE b2copy_batches SET requested_at = requested_at - 2000")
        connection.exec_driver_sql("UPDATE b2copy_audit SET at = at - 1000")
    begin_batch(ledger, "later", kind="fees.process", lane="bulk", source="later.csv", rows=3, by="ann")
    record_operations(ledger, "W9", lane="bulk", batch="later")

    under_way = b2copy_sync("import", "status", "book").out
    later = b2copy_sync("import", "status", "later").out
    succeed(ledger, *claim_due(ledger, lane="bulk"))
    ended = b2copy_sync("import", "status", "book").out
    dry = b2copy_sync("import", str(file), "--batch", "book", "--dry-run")
    ran = b2copy_sync("import", str(file), "--batch", "book")

    perhaps_done = (
        "the ledger came from a backup since the import began, so rows that are not recorded may have been done: see"
        " 'After a restore' in deploy/README.md"
    )
    assert under_way.splitlines()[0] == f"import book: 1 of 3 recorded: {perhaps_done}; 1 to do"
    assert ended.splitlines()[0] == f"import book: all ended but 2 rows: {perhaps_done}"
    assert "1 of 3 recorded: run the import again if it was interrupted" in later
    assert (dry.err, dry.out) == (f"{perhaps_done}\n", "3 rows: 2 new, 1 known, 0 conflicting; nothing was recorded\n")
    assert (ran.code, ran.err) == (0, f"{perhaps_done}\n")


def test_an_import_that_runs_waits_while_it_is_paused_and_ends_when_it_is_cancelled(
    environment: Environment, ledger: Ledger, tmp_path: Path
) -> None:
    file = tmp_path / "book.csv"
    file.write_text(HEADING + "".join(f"7,W{number}\n" for number in range(BATCH + 1)))
    begin_batch(ledger, "book", kind="fees.process", lane="bulk", source="book.csv", rows=BATCH + 1, by="ann")
    pause_batch(ledger, "book", "ada", "wrong file?")

    command = [sys.executable, "-m", "worker.cli", "import", str(file), "--batch", "book"]
    with subprocess.Popen(command, env=environment.variables, stderr=subprocess.PIPE, text=True) as importing:
        assert importing.stderr is not None
        told = next(line for line in importing.stderr if not line.startswith(("checking", "looking up", "recording")))
        cancel_batch(ledger, "book", "ada", "wrong file")
        ended = importing.stderr.read()
        code = importing.wait(30)

    assert f"paused after {BATCH:,} rows, by ada: wrong file?; it goes on when resumed" in told
    assert code == 3
    assert f"ended after {BATCH:,} rows: import book was cancelled by ada: wrong file" in ended


def test_an_import_that_is_interrupted_says_what_is_recorded_and_how_to_go_on_or_cancel(
    environment: Environment, ledger: Ledger, tmp_path: Path, b2copy_sync: Command
) -> None:
    file = tmp_path / "book.csv"
    file.write_text(HEADING + "".join(f"7,W{number}\n" for number in range(BATCH + 1)))
    begin_batch(ledger, "book", kind="fees.process", lane="bulk", source="book.csv", rows=BATCH + 1, by="ann")
    pause_batch(ledger, "book", "ada", "wrong file?")  # so that it stops between two transactions

    # Where tests run in the background, SIGINT may be ignored.
    start = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from worker.cli import main; main()"
    )
    command = [sys.executable, "-c", start, "import", str(file), "--batch", "book"]
    with subprocess.Popen(command, env=environment.variables, stderr=subprocess.PIPE, text=True) as importing:
        assert importing.stderr is not None
        assert next(line for line in importing.stderr if line.startswith("paused after"))
        importing.send_signal(signal.SIGINT)
        told = importing.stderr.read()
        code = importing.wait(30)
    resume_batch(ledger, "book", "ada", "right file")
    listed = b2copy_sync("import", "status")

    assert code == 4
    assert told[told.index("interrupted") :] == (  # it may say again before that it is paused
        f"interrupted: {BATCH:,} of {BATCH + 1:,} rows are recorded, and the same command records the rest\n"
        "workers send them, unless the import or its lane is paused\n"
        'to cancel them, which is final: b2copy-sync import cancel book --why "..." --yes\n'
    )
    assert f"{BATCH:,} of {BATCH + 1:,} recorded: run the import again if it was interrupted" in listed.out
    assert f"{BATCH:,} to do" in listed.out


def test_an_import_that_the_database_ends_says_how_far_it_came(
    b2copy_sync: Command, ledger: Ledger, tmp_path: Path
) -> None:
    file = tmp_path / "book.csv"
    file.write_text(HEADING + "".join(f"7,W{number}\n" for number in range(BATCH + 1)))
    with ledger.writing() as connection:
        connection.exec_driver_sql(
            f"CREATE TRIGGER refuse BEFORE INSERT ON b2copy_operations WHEN NEW.key = 'fees.process:W{BATCH}'"
            " BEGIN SELECT RAISE(ABORT, 'the disk is gone'); END"
        )

    ran = b2copy_sync("import", str(file), "--batch", "book")

    assert ran.code == 1
    assert ran.err.splitlines()[:2] == [
        f"not finished: at least {BATCH:,} of {BATCH + 1:,} rows are recorded",
        "the ledger (B2COPY_DATABASE_URL) cannot be used: the disk is gone",
    ]


def test_a_name_of_an_import_is_refused_to_another_file_and_to_one_that_has_grown(
    b2copy_sync: Command, ledger: Ledger, tmp_path: Path
) -> None:
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    first.write_text(HEADING + "7,W1\n8,W2\n")
    second.write_text(HEADING + "9,W3\n")
    assert b2copy_sync("import", str(first), "--batch", "july").code == 0

    other = b2copy_sync("import", str(second), "--batch", "july")
    first.write_text(HEADING + "7,W1\n8,W2\n9,W4\n")
    grown = b2copy_sync("import", str(first), "--batch", "july")
    renamed = b2copy_sync("import", str(first), "--batch", "july 2", "--json")

    remedy = "give this import another name with --batch; rows that are recorded already are not recorded again\n"
    assert (other.code, grown.code) == (1, 1)
    assert other.err == f"july is the import of a.csv (rows: 2), and this file is b.csv (rows: 1): {remedy}"
    assert grown.err == f"july is the import of a.csv (rows: 2), and this file is a.csv (rows: 3): {remedy}"
    assert (renamed.document["accepted"], renamed.document["known"]) == (1, 2)
    assert {one.key: one.batch for one in search(ledger)} == {
        "fees.process:W1": "july", "fees.process:W2": "july", "fees.process:W4": "july 2",
    }  # fmt: skip


def test_two_files_of_one_name_and_size_are_not_one_import(
    b2copy_sync: Command, ledger: Ledger, tmp_path: Path
) -> None:
    files = [tmp_path / month / "export.csv" for month in ("june", "july")]
    for file, rows in zip(files, ("7,W1\n8,W2\n", "8,W2\n9,W3\n"), strict=True):
        file.parent.mkdir()
        file.write_text(HEADING + rows)
    assert b2copy_sync("import", str(files[0]), "--batch", "book").code == 0

    dry = b2copy_sync("import", str(files[1]), "--batch", "book", "--dry-run")
    ran = b2copy_sync("import", str(files[1]), "--batch", "book")

    assert (dry.code, ran.code, len(search(ledger))) == (1, 1, 2)
    assert dry.err == ran.err
    assert ran.err == (
        "book holds operations that are not in this file (at least 1): give this import another name with --batch; rows"
        " that are recorded already are not recorded again\n"
    )


@pytest.mark.parametrize(
    ("begun", "is_cancelled"),
    [
        ({"kind": "clients.register"}, False),
        ({"lane": "default"}, False),
        ({"source": "b.csv"}, False),
        ({"rows": 2}, False),
        ({}, True),
    ],
    ids=["another kind", "another lane", "another file", "another number of rows", "cancelled"],
)
def test_a_dry_run_is_refused_if_the_import_would_be(
    begun: dict[str, Any], is_cancelled: bool, b2copy_sync: Command, ledger: Ledger, tmp_path: Path
) -> None:
    file = tmp_path / "a.csv"
    file.write_text(HEADING + "7,W1\n")
    fresh = b2copy_sync("import", str(file), "--batch", "july", "--dry-run")
    assert fresh.out == "1 row: 1 new, 0 known, 0 conflicting; nothing was recorded\n"
    assert find_batch(ledger, "july") is None
    usual: dict[str, Any] = {"kind": "fees.process", "lane": "bulk", "source": "a.csv", "rows": 1, "by": "ann"}
    begin_batch(ledger, "july", **usual | begun)
    if is_cancelled:
        cancel_batch(ledger, "july", "ada", "wrong file")

    dry = b2copy_sync("import", str(file), "--batch", "july", "--dry-run")
    ran = b2copy_sync("import", str(file), "--batch", "july")

    assert ran.code == 1
    assert "another name" in ran.err
    assert (dry.code, dry.out, dry.err) == (1, "", ran.err)


def test_an_import_into_a_paused_lane_says_by_whom_it_is_paused_and_how_to_resume(
    b2copy_sync: Command, ledger: Ledger, tmp_path: Path
) -> None:
    file = tmp_path / "book.csv"
    file.write_text(HEADING + "7,W1\n")
    pause(ledger, "bulk", "ada", "maintenance")

    ran = b2copy_sync("import", str(file), "--batch", "book")
    shown, listed = b2copy_sync("import", "status", "book"), b2copy_sync("import", "status")
    document = b2copy_sync("import", "status", "book", "--json").document
    pause(ledger, "all", "bob", "upgrade")
    both = b2copy_sync("import", "status", "book")

    paused = r"lane bulk is paused since [^\n]+ UTC by ada: maintenance"
    remedy = r': b2copy-sync resume --lane bulk --why "..."\n'
    assert ran.code == 0
    assert re.fullmatch(paused + remedy, ran.err)
    assert re.search(f"1 to do, {paused}", shown.out)
    assert re.search(f"1 to do, {paused}", listed.out)
    assert re.fullmatch(paused + remedy, shown.err)
    assert re.fullmatch(paused + remedy, listed.err)
    assert [one["actor"] for one in document["lane_pauses"]] == ["ada"]
    assert re.search(r'all lanes are paused since [^\n]+ UTC by bob: upgrade: b2copy-sync resume --why "..."', both.err)


def test_an_import_that_is_paused_ends_when_all_is_recorded(
    environment: Environment, ledger: Ledger, tmp_path: Path
) -> None:
    file = tmp_path / "book.csv"
    file.write_text(HEADING + "7,W1\n8,W2\n")
    begin_batch(ledger, "book", kind="fees.process", lane="bulk", source="book.csv", rows=2, by="ann")
    pause_batch(ledger, "book", "ada", "wrong file?")

    command = [sys.executable, "-m", "worker.cli", "import", str(file), "--batch", "book"]
    ran = subprocess.run(command, env=environment.variables, capture_output=True, text=True, check=True, timeout=30)

    assert ran.stdout.startswith("2 operations accepted in lane bulk")
    assert "the import is paused, by ada: wrong file?; its operations wait" in ran.stderr
    assert len(search(ledger)) == 2


def test_reads_a_pipe_and_names_its_import_by_what_is_in_it(environment: Environment, ledger: Ledger) -> None:
    """As `import <(zcat book.csv.gz)` in a shell, which names the pipe by a number."""
    rows, names = (HEADING + "7,W1\n").encode(), []
    for pipe in ("/dev/stdin", "/dev/fd/0"):
        command = [sys.executable, "-m", "worker.cli", "import", pipe, "--json"]
        ran = subprocess.run(command, env=environment.variables, input=rows, stdout=subprocess.PIPE, check=True)
        names.append(json.loads(ran.stdout)["batch"])

    assert names[0].startswith("pipe-")
    assert names[0] == names[1]
    assert len(search(ledger)) == 1


def test_identities_are_read_from_a_pipe_too(environment: Environment, ledger: Ledger) -> None:
    rows = b"login;client_id\n700200;1\n"
    for pipe, counts in (("/dev/stdin", b"1 new, 0 changed, 0"), ("-", b"0 new, 0 changed, 1")):
        command = [sys.executable, "-m", "worker.cli", "identity", "import", pipe]
        ran = subprocess.run(command, env=environment.variables, input=rows, stdout=subprocess.PIPE, check=True)

        assert ran.stdout == b"1 row: " + counts + b" known already\n"


def test_a_folder_and_a_file_that_is_not_there_are_called_what_they_are(
    b2copy_sync: Command, ledger: Ledger, tmp_path: Path
) -> None:
    folder = b2copy_sync("import", str(tmp_path))
    nothing = b2copy_sync("import", str(tmp_path / "book.csv"))

    assert (folder.code, nothing.code) == (2, 2)
    assert "is a folder: name a file" in folder.err
    assert "there is no such file" in nothing.err


def test_reads_standard_input(environment: Environment, ledger: Ledger) -> None:
    command = [sys.executable, "-m", "worker.cli", "import", "-", "--json"]
    rows = (HEADING + "7,W1\n").encode()
    ran = subprocess.run(command, env=environment.variables, input=rows, capture_output=True, check=True)

    assert json.loads(ran.stdout)["batch"].startswith("stdin-")
    assert len(search(ledger)) == 1


@pytest.mark.parametrize("second", [HEADING, "Account_Login, Request_ID\n", "request_id,account_login\n"])
def test_a_heading_between_two_joined_files_is_no_operation(
    b2copy_sync: Command, ledger: Ledger, tmp_path: Path, second: str
) -> None:
    file = tmp_path / "joined.csv"
    file.write_text(f"{HEADING}7,W1\n{second}7,W2\n")

    ran = b2copy_sync("import", str(file))

    assert ran.code == 2
    assert "line 3: is the heading again" in ran.err
    assert search(ledger) == []


def test_an_import_that_was_interrupted_does_not_count_as_ended(b2copy_sync: Command, ledger: Ledger) -> None:
    begin_batch(ledger, "book", kind="fees.process", lane="bulk", source="book.csv", rows=100_000, by="ann")
    record_operations(ledger, "W1", lane="bulk", batch="book")
    succeed(ledger, claim_due(ledger, lane="bulk")[0])

    shown = b2copy_sync("import", "status", "book").out

    assert "all ended but 99,999 rows" in " ".join(shown.split())


def test_the_list_of_imports_says_that_there_are_more(b2copy_sync: Command, ledger: Ledger) -> None:
    for number in range(21):
        begin_batch(ledger, f"book-{number}", kind="fees.process", lane="bulk", source="book.csv", rows=1, by="ann")

    first, first_json = b2copy_sync("import", "status"), b2copy_sync("import", "status", "--json").document
    all_of_them = b2copy_sync("import", "status", "--limit", "21")
    all_json = b2copy_sync("import", "status", "--limit", "21", "--json").document

    assert len(first.out.splitlines()) == 21
    assert first.err == "these are the newest 20: --limit shows more\n"
    assert (len(first_json["imports"]), first_json["more"]) == (20, True)
    assert (len(all_of_them.out.splitlines()), all_of_them.err) == (22, "")
    assert (len(all_json["imports"]), all_json["more"]) == (21, False)
