"""Which code is mutated, and which tests are left out because they notice nothing about it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """`files` are paths in the project. `without` names files that hold nothing to mutate."""

    files: tuple[str, ...]
    without: tuple[str, ...] = ()


PARTS = {
    "ledger": Part(
        ("worker/ledger",),
        # What these hold is names, types and SQL that the tests of a migration compare.
        ("worker/ledger/__init__.py", "worker/ledger/migrations", "worker/ledger/schema.py"),
    ),
    "flow": Part(("worker/flow",)),
    "session": Part(("worker/session",)),
    "b2copy": Part(("worker/b2copy",)),
    "messages": Part(("worker/messages",)),
    "tasks": Part(("tasks",)),
}

# Fault runs and measurements take long; the others run copies of the code, or look at other files.
LEFT_OUT = (
    "tests/bench", "tests/console/test_browser.py", "tests/demo", "tests/deploy", "tests/faults", "tests/sandbox",
    "tests/testbed", "tests/test_cases.py", "tests/test_developer_guide.py", "tests/test_readme.py",
)  # fmt: skip
