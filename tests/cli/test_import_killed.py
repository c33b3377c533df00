"""An import that is killed and run again is complete, and holds no row twice."""

from pathlib import Path

import pytest

from tests.faults.imports.killed import killed_import


@pytest.mark.timeout(180)  # three processes, each of which checks all rows
def test_a_killed_import_goes_on_where_it_was(tmp_path: Path, migrated_file: Path) -> None:
    ledger_file = tmp_path / "ledger.db"
    ledger_file.write_bytes(migrated_file.read_bytes())

    figures = killed_import(tmp_path, f"sqlite:///{ledger_file}", 20_000, (1, 10_001))

    assert (figures["recorded"], figures["keys"], figures["imports"]) == (20_000, 20_000, 1)
    assert figures["kills"] >= 1, "the last run may be quicker than the kill"
    assert figures["peak MB"] < 150
