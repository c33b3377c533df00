"""The examples of the developer guide (worker/README.md), and how they change a copy of the code."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "worker" / "README.md"


@dataclass(frozen=True)
class Example:
    """One section of "How to add ...": the changes it makes to files, and the script that checks the result."""

    title: str
    changes: list[tuple[str, str, str]]  # language, file, text
    check: str


def examples() -> list[Example]:
    guide = GUIDE.read_text()
    sections = re.split(r"^### ", guide[guide.index("## How to add") :], flags=re.M)[1:]
    return [_example(section) for section in sections]


def _example(section: str) -> Example:
    title, _, body = section.partition("\n")
    blocks = re.findall(r"^```(python|diff)\n# (.+?)\n(.*?)^```", body, re.S | re.M)
    return Example(
        title.strip(),
        [block for block in blocks if block[1] != "check"],
        "".join(text for _, file, text in blocks if file == "check"),
    )


def copy_code(folder: Path) -> None:
    """Copy the product's code into `folder`."""
    for name in ("worker", "tasks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))


def change(copy: Path, language: str, file: str, text: str) -> None:
    """Make one change of an example to a copy of the code."""
    path = copy / file
    if language == "python":
        assert not path.exists(), f"{file} exists already"
        path.write_text(text)
        return
    content = path.read_text()
    for old, new in re.findall(r"((?:^-.*\n)+)((?:^\+.*\n)*)", text, re.M):
        before, after = (re.sub(r"^[-+]", "", part, flags=re.M) for part in (old, new))
        assert content.count(before) == 1, f"{file} holds these lines {content.count(before)} times:\n{before}"
        content = content.replace(before, after)
    path.write_text(content)
