"""The next version of the code: a copy with a migration more, for tests of an upgrade.

The migration is the example of the developer guide (worker/README.md), which only adds. `removes=True` adds one more,
which removes a column that this version uses.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from tests.guide_examples import change, copy_code, examples

VERSION = "9.9.9"  # of the copy

_REMOVES = '''"""Notices are counted elsewhere. Code older than this schema cannot run on it."""

from alembic import op

revision = "0003"
down_revision = "0002"
oldest_reader = "0003"


def upgrade() -> None:
    op.drop_column("b2copy_operations", "notice_sequence")
'''


class NextVersion:
    """Makes the copy in `folder`. `python(...)` is a command that runs its code, in `environment(...)`."""

    def __init__(self, folder: Path, removes: bool = False) -> None:
        self.folder = folder
        self.head = "0003" if removes else "0002"
        copy_code(folder)
        [migration] = (example for example in examples() if example.title == "a migration")
        for language, file, text in migration.changes:
            change(folder, language, file, text)
        if removes:
            (folder / "worker/ledger/migrations/versions/0003_notices.py").write_text(_REMOVES)
            change(folder, "diff", "worker/ledger/schema.py", '-HEAD = "0002"\n+HEAD = "0003"\n')
        package = folder / f"b2copy_sync-{VERSION}.dist-info"  # where `importlib.metadata` reads the version
        package.mkdir()
        (package / "METADATA").write_text(f"Metadata-Version: 2.1\nName: b2copy-sync\nVersion: {VERSION}\n")

    def python(self, *arguments: str) -> list[str]:
        """Return the command. The current folder must not come before the copy, because it holds this version."""
        return [sys.executable, "-P", *arguments]

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        return {**variables, "PYTHONPATH": str(self.folder), "PYTHONSAFEPATH": "1"}
