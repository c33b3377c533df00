"""The PostgreSQL server of the tests."""

import subprocess
from pathlib import Path

from tests.postgres import copy_installation, find_installation


def test_a_copy_of_the_programs_finds_its_libraries(tmp_path: Path) -> None:
    copy = copy_installation(find_installation(), tmp_path)

    initdb = subprocess.run([copy / "bin" / "initdb", "--version"], capture_output=True, text=True, check=True)

    assert initdb.stdout.startswith("initdb (PostgreSQL)")
