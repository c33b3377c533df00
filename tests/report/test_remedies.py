"""A command in a remedy is one that a person can paste: set apart from the prose, and accepted by the shell."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import worker

FOLDER = Path(worker.__file__).parent
FILES = [*sorted((FOLDER / "doctor").glob("*.py")), FOLDER / "report" / "sentences.py"]
COMMAND = re.compile(
    r"b2copy-sync (?!that)[a-z]|celery -|redis-cli|sudo |openssl |\bdf -|\bexport |\bchmod |CONFIG SET|systemctl "
)


def texts_of(file: Path) -> Iterator[str]:
    """Return every text in a file, with an x for each value in it. Docstrings of several lines are left out."""
    tree = ast.parse(file.read_text())
    formatted = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    parts = {id(part) for node in formatted for part in ast.walk(node)}
    plain = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in parts]
    found = [node.value for node in plain if isinstance(node.value, str) and "\n" not in node.value]
    for node in formatted:
        found.append("".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values))
    return (re.sub(r"\{\w+\}", "x", text) for text in found)


def test_every_command_in_a_remedy_stands_in_backticks_and_parses() -> None:
    found = 0
    for text in (text for file in FILES for text in texts_of(file)):
        parts = text.split("`")
        assert len(parts) % 2 == 1, f"an open backtick: {text}"
        prose, commands = " ".join(parts[::2]), parts[1::2]
        assert not COMMAND.search(prose), f"a command without backticks: {text}"
        for command in commands:
            subprocess.run(["sh", "-n", "-c", command], check=True)
            found += 1
    assert found >= 15
