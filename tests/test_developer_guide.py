"""worker/README.md stays true: its meaning table is the code's, and its examples work on a copy of the code."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.guide_examples import GUIDE, ROOT, Example, change, copy_code, examples
from tests.test_architecture import MAY_IMPORT
from worker.flow.meaning_table import TABLE, Meaning
from worker.ledger.migrations import migrate
from worker.session.redis_store import IDENTITIES, SESSION_KEYS
from worker.testbed.local_system import Environment

MARK = "<!-- meaning table -->\n"


def meaning_table() -> str:
    """Return the table of meanings as the guide shows it."""
    rows = ["| learned | word | becomes | circuit | login | counted | may have left | outcome |", "|" + "---|" * 8]
    rows += [_row(learned, meaning) for learned, meaning in TABLE]
    return "\n".join(rows) + "\n"


def _row(learned: str, meaning: Meaning) -> str:
    becomes = meaning.becomes.value
    if becomes == "waiting" and meaning.wait_reason:
        becomes += f" {meaning.wait_reason}"
    cells = (
        learned, f"`{meaning.word}`", becomes, meaning.circuit or "-", meaning.login or "-", meaning.counted.value,
        "yes" if meaning.may_have_left else "no", meaning.outcome.replace("_", " "),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def test_its_meaning_table_is_that_of_the_code() -> None:
    guide = GUIDE.read_text()

    assert meaning_table() in guide, f"put this table behind {MARK}{meaning_table()}"


def test_it_names_every_redis_key_of_the_session() -> None:
    named = set(re.findall(r"`b2copy:\{<identity>\}:(\w+)`", GUIDE.read_text()))

    assert named == set(SESSION_KEYS)
    assert f"`{IDENTITIES}`" in GUIDE.read_text()


def path_of(name: str) -> Path:
    """Return the path of a file that the guide names below the project, or below worker/."""
    return ROOT / name if (ROOT / name).exists() else ROOT / "worker" / name


def test_the_files_it_names_exist() -> None:
    named = re.findall(r"`((?:[a-z_]+/)*[a-z0-9_]+\.py)`", GUIDE.read_text().partition("## How to add")[0])

    assert len(named) > 30
    assert [name for name in named if not path_of(name).exists()] == []


def test_the_functions_that_it_sends_readers_to_are_in_these_files() -> None:
    index = GUIDE.read_text().partition("## Where to look")[2].partition("\n## ")[0]
    named = [
        (file, name)
        for file, names in re.findall(r"`([a-z0-9_/]+\.py)`: ((?:`\w+`(?:, )?)+)", index)
        for name in re.findall(r"`(\w+)`", names)
    ]

    assert len(named) > 10
    missing = [
        (file, name)
        for file, name in named
        if not re.search(rf"^ *(?:(?:async )?def |class )?{name}\b(?:\(| = |:)", path_of(file).read_text(), re.M)
    ]
    assert missing == []


def test_its_list_of_packages_is_that_of_the_architecture_test() -> None:
    block = GUIDE.read_text().partition("## Packages")[2].split("```")[1]
    named = [line.split()[0] for line in block.strip().splitlines()]

    assert named == [package.removeprefix("worker/").removesuffix(".py") for package in MAY_IMPORT]


def test_there_are_examples() -> None:
    assert len(examples()) >= 6
    assert all(example.changes and example.check for example in examples())


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.title)
def test_its_examples_work_on_a_copy_of_the_code(example: Example, environment: Environment, tmp_path: Path) -> None:
    copy_code(tmp_path)
    migrate(environment.database_url)

    for language, file, text in example.changes:
        change(tmp_path, language, file, text)

    (tmp_path / "check.py").write_text(example.check)
    done = subprocess.run(
        [sys.executable, "-W", "error", "check.py"],
        env=environment.variables | {"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
