"""Which code is mutated, and which tests must notice. The tests that find most mutants, and are quick, come first."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """`files` and `tests` are paths in the project. `without` names files that hold nothing to mutate."""

    files: tuple[str, ...]
    tests: tuple[str, ...]
    without: tuple[str, ...] = ()


_LEDGER = tuple(
    f"tests/ledger/test_{name}.py"
    for name in (
        "moves", "settle", "claims", "record", "operator_actions", "resolve_and_correct", "late_answers", "ordering",
        "on_operation_end", "due", "flags", "audit", "purge", "database_url", "random_state_machine",
        "postgres_lock_conflicts", "database",
    )
)  # fmt: skip

PARTS = {
    "ledger": Part(
        ("worker/ledger",),
        (*_LEDGER, "tests/report"),
        # What these hold is names, types and SQL that the tests of a migration compare.
        ("worker/ledger/__init__.py", "worker/ledger/migrations", "worker/ledger/schema.py"),
    ),
    "flow": Part(("worker/flow",), ("tests/flow", "tests/tasks/test_worker_failures.py")),
    "session": Part(("worker/session",), ("tests/session",)),
    "b2copy": Part(("worker/b2copy",), ("tests/b2copy", "tests/tasks/test_id_fields.py")),
    "messages": Part(
        ("worker/messages",),
        ("tests/messages/test_inbox.py", "tests/messages", "tests/tasks/test_housekeeping.py"),
    ),
    "tasks": Part(
        ("tasks",),
        (
            "tests/tasks/test_id_fields.py", "tests/tasks/test_enqueue.py", "tests/tasks/test_many.py", "tests/tasks",
            "tests/b2copy", "tests/test_package_conflicts.py",
        ),
    ),
}  # fmt: skip
