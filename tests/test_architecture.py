"""The house stands as it was drawn: imports go one way, and names that outsiders rely on are there."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.registry import KINDS
from worker.app import app
from worker.queues import HOUSEKEEPING, INBOX, LANES, queue_of
from worker.schedule import schedule

ROOT = Path(__file__).parents[1]
ABOVE = ("worker.app", "worker.cli", "worker.sandbox", "tasks")

# room -> what of ours it may import; a room may always import itself
MAY_IMPORT = {
    "worker/errors.py": (),
    "worker/settings.py": ("worker.errors",),
    "worker/ledger": ("worker.errors", "worker.settings", "worker.watch"),
    "worker/session": ("worker.errors", "worker.settings", "worker.watch"),
    "worker/b2copy": ("worker.errors", "worker.settings", "worker.watch", "worker.session"),
    "worker/flow": ("worker.errors", "worker.settings", "worker.watch", "worker.ledger"),
}


def files(room: str) -> list[Path]:
    path = ROOT / room
    return [path] if path.suffix else sorted(path.rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Modules of ours that a file imports, at its top or in a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in {"worker", "tasks", "tests"})


def within(name: str, modules: tuple[str, ...]) -> bool:
    return any(name == module or name.startswith(module + ".") for module in modules)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_what_lies_below_it(room: str) -> None:
    itself = room.removesuffix(".py").replace("/", ".")
    allowed = (*MAY_IMPORT[room], itself)

    assert files(room)
    assert [(path.name, name) for path in files(room) for name in imported(path) if not within(name, allowed)] == []


def test_nothing_below_knows_what_stands_above() -> None:
    below = [path for room in ("ledger", "session", "b2copy", "flow", "watch") for path in files(f"worker/{room}")]

    assert [(path.name, name) for path in below for name in imported(path) if within(name, ABOVE)] == []


def test_the_worker_names_tasks_only_as_strings_save_the_command_line() -> None:
    rest = [path for path in files("worker") if "cli" not in path.relative_to(ROOT).parts]

    assert [(path.name, name) for path in rest for name in imported(path) if within(name, ("tasks",))] == []


def test_nothing_that_runs_imports_tests_or_the_sandbox() -> None:
    shipped = [*files("tasks"), *(path for path in files("worker") if not {"cli", "sandbox"} & set(path.parts))]

    found = [(path.name, name) for path in shipped for name in imported(path)]
    assert [pair for pair in found if within(pair[1], ("tests", "worker.sandbox"))] == []


@pytest.fixture
def registered(in_stage: object) -> dict[str, object]:
    app.loader.import_default_modules()
    return {name: task for name, task in app.tasks.items() if not name.startswith("celery.")}


def test_the_tasks_that_outsiders_name_are_there(registered: dict[str, object]) -> None:
    assert set(registered) >= {
        "b2copy.fees.process",
        "b2copy.call",
        "b2copy.push",
        "b2copy.ledger.dispatch",
        "b2copy.session.refresh",
    }
    assert all(name.startswith("b2copy.") for name in registered)


def test_the_schedule_names_tasks_that_exist_and_queues_that_are_served(registered: dict[str, object]) -> None:
    served = {queue.name for queue in app.conf.task_queues}
    assert app.conf.beat_schedule

    for entry in app.conf.beat_schedule.values():
        assert entry["task"] in registered
        assert entry["options"]["queue"] in served


def test_every_queue_we_name_is_served_and_none_that_is_not_ours(registered: dict[str, object]) -> None:
    served = {queue.name for queue in app.conf.task_queues}

    assert served == {INBOX, HOUSEKEEPING, *map(queue_of, LANES)}
    assert served == {"b2copy.inbox", "b2copy.housekeeping", "b2copy.money", "b2copy.default", "b2copy.bulk"}
    assert "celery" not in served
    assert all(queue.exchange.name == queue.routing_key == queue.name for queue in app.conf.task_queues)
    for task in registered:
        assert app.amqp.router.route({}, task)["queue"].name in served


@pytest.mark.parametrize("life", [5.0, 60.0, 600.0, 86400.0])
def test_the_session_is_looked_at_well_within_a_tokens_life(life: float) -> None:
    refresh = next(entry for entry in schedule(life).values() if entry["task"] == "b2copy.session.refresh")

    assert refresh["schedule"] <= min(30.0, life / 10)
    assert all(entry["options"]["expires"] <= entry["schedule"] for entry in schedule(life).values())


def test_no_task_takes_a_token(registered: dict[str, object]) -> None:
    for task in registered.values():
        names = inspect.signature(task.run).parameters  # type: ignore[attr-defined]
        assert not [name for name in names if "token" in name or "secret" in name]


def test_every_kind_can_be_asked_for_by_a_message(registered: dict[str, object]) -> None:
    assert {f"b2copy.{kind}" for kind in KINDS} <= set(registered)


def test_messages_are_acknowledged_after_the_ledger_and_the_rest_before(registered: dict[str, object]) -> None:
    late = {name for name, task in registered.items() if task.acks_late}  # type: ignore[attr-defined]

    assert late == {f"b2copy.{kind}" for kind in KINDS}
