"""The blocks of deploy/README.md, for tests that run what it prints."""

import re
from pathlib import Path

DEPLOY = Path(__file__).parents[2] / "deploy"
TEXT = (DEPLOY / "README.md").read_text()


def blocks_of(language: str, text: str = TEXT) -> list[str]:
    """Return the blocks of a language, without their indentation."""
    found = re.findall(rf"^ *```{language}\n(.*?)^ *```", text, re.S | re.M)
    return [re.sub(r"^ {0,3}", "", block, flags=re.M) for block in found]


def lines_of(language: str) -> list[str]:
    return [line for block in blocks_of(language) for line in block.splitlines() if line.strip()]


def block_with(text: str, section: str) -> str:
    """Return the only block of shell commands in a section that holds this text."""
    inside = TEXT.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    [block] = [block for language in ("sh", "console") for block in blocks_of(language, inside) if text in block]
    return block
