"""A book of a million rows is loaded by an import that is killed three times."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.faults.imports.killed import killed_import
from tests.faults.table import Scenario
from worker.ledger.migrations import migrate

TITLE = "An import is killed three times, and run again"
PEAK_MB = 150


def on_sqlite() -> Mapping[str, Any]:
    with tempfile.TemporaryDirectory(prefix="b2copy-import-") as folder:
        url = f"sqlite:///{folder}/ledger.db"
        migrate(url)
        return killed_import(Path(folder), url, 1_000_000, (50_000, 400_000, 800_000))


def holds(figures: Mapping[str, Any]) -> Sequence[str]:
    wanted = {"kills": 3, "recorded": figures["rows"], "keys": figures["rows"], "imports": 1}
    problems = [f"{name}: {figures[name]} instead of {is_}" for name, is_ in wanted.items() if figures[name] != is_]
    if figures["peak MB"] > PEAK_MB:
        problems.append(f"the importing process took {figures['peak MB']} MB")
    return problems


SCENARIOS = [Scenario("a million rows, SQLite", on_sqlite, holds)]
