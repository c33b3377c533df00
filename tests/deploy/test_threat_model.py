"""Every claim of deploy/threat-model.md names a test that exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "deploy" / "threat-model.md").read_text()


def test_every_claim_names_a_test_that_exists() -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("| ") and not line.startswith("| claim")]
    without_test = [row for row in rows if not re.search(r"`test_\w+`", row.rpartition(" | ")[2])]
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    tests = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        tests |= set(re.findall(r"def (test_\w+)\(", path.read_text()))

    assert len(rows) > 20
    assert without_test == []
    assert named - tests == set()
