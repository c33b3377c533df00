"""The table of faults that were found names tests that exist."""

import re
from pathlib import Path

TESTS = Path(__file__).parent
ROWS = [line for line in (TESTS / "cases.md").read_text().splitlines() if line.startswith("| ")][1:]


def test_each_row_names_tests_that_exist() -> None:
    missing = []
    for row in ROWS:
        named = re.findall(r"`([\w/.]+\.py)::(\w+)`", row)
        assert named, row
        missing += [
            f"{file}::{name}"
            for file, name in named
            if not (TESTS / file).exists() or not re.search(rf"def {name}\(", (TESTS / file).read_text())
        ]

    assert missing == []


def test_the_table_has_its_rows() -> None:
    assert len(ROWS) > 50
