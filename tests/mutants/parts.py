"""Which code is mutated, and which tests must notice."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """`files` and `tests` are paths in the project. `without` names files that hold nothing to mutate.

    `readers` are tests that read what the modules hold, without running the lines that use it.
    """

    files: tuple[str, ...]
    tests: tuple[str, ...]
    without: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()


VALUES = "tests/test_values.py"

PARTS = {
    "messages": Part(
        ("worker/messages",),
        (
            "tests/messages",
            "tests/crm",
            "tests/tasks",
            "tests/flow/test_shared_wake_ups.py",
            "tests/watch/test_json_logs.py",
            "tests/watch/test_log_redaction.py",
            "tests/watch/test_tracing.py",
        ),
        readers=("tests/messages/test_consumer.py",),
    ),
    "tasks": Part(
        ("tasks",),
        (
            "tests/tasks",
            "tests/messages",
            "tests/crm",
            "tests/reconcile",
            "tests/b2copy",
            "tests/watch",
            "tests/webhook",
            "tests/flow/test_attempt.py",
            "tests/flow/test_notices.py",
            "tests/flow/test_retry_policy.py",
            "tests/flow/test_shared_wake_ups.py",
            "tests/report/test_sentences.py",
            "tests/session/test_back_office.py",
            "tests/session/test_beat.py",
            "tests/test_app.py",
            "tests/test_package_conflicts.py",
        ),
        readers=("tests/tasks/test_number_fields.py",),
    ),
    "b2copy": Part(
        ("worker/b2copy",),
        ("tests/b2copy", "tests/tasks", VALUES),
        readers=("tests/b2copy/test_requests.py", VALUES),
    ),
    "flow": Part(
        ("worker/flow",),
        (
            "tests/flow",
            "tests/tasks",
            "tests/watch",
            "tests/webhook",
            "tests/reconcile",
            "tests/session/test_back_office.py",
            "tests/test_redis_connection.py",
            VALUES,
        ),
        readers=(VALUES,),
    ),
    "session": Part(
        ("worker/session",),
        (
            "tests/session",
            "tests/http/test_client.py",
            "tests/watch/test_log_redaction.py",
            "tests/watch/test_metrics.py",
            "tests/test_redis_connection.py",
            VALUES,
        ),
        readers=(VALUES,),
    ),
    "ledger": Part(
        ("worker/ledger",),
        (
            "tests/ledger",
            "tests/crm",
            "tests/report",
            "tests/reconcile",
            "tests/tasks",
            "tests/session/test_back_office.py",
            VALUES,
        ),
        # What these hold is names, types and SQL that the tests of a migration compare.
        ("worker/ledger/__init__.py", "worker/ledger/migrations", "worker/ledger/schema.py"),
        ("tests/ledger/test_moves.py", VALUES),
    ),
}
