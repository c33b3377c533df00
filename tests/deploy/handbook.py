"""The blocks of deploy/README.md, for tests that run what it prints."""

import re
from pathlib import Path

DEPLOY = Path(__file__).parents[2] / "deploy"
TEXT = (DEPLOY / "README.md").read_text()


def blocks_of(language: str) -> list[str]:
    return [
        re.sub(r"(?m)^ {0,3}", "", block) for block in re.findall(rf"^ *```{language}\n(.*?)^ *```", TEXT, re.S | re.M)
    ]


def lines_of(language: str) -> list[str]:
    return [line for block in blocks_of(language) for line in block.splitlines() if line.strip()]


def block_with(text: str) -> str:
    """Return the only block of shell commands that holds this text."""
    [block] = [block for language in ("sh", "console") for block in blocks_of(language) if text in block]
    return block
