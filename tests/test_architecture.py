"""What each package may import, that no two files import each other, and names that outsiders rely on."""

import inspect

import pytest

from tasks.registry import KINDS
from tests.import_graph import ROOT, graph_of, in_circles, package_of
from worker.app import app
from worker.beat_schedule import schedule
from worker.messages.inbox import STORE_TASK
from worker.queues import HOUSEKEEPING, INBOX, LANES, READS, queue_of

# Package -> what of ours it may import, besides itself. A package may import only packages below it in the table. A
# package here is a folder of `worker`, a file of `worker`, or `tasks`.
MAY_IMPORT = {
    "worker/crm_testing": {
        "tasks", "worker/b2copy", "worker/crm", "worker/flow", "worker/http", "worker/instances.py", "worker/ledger",
        "worker/operation.py", "worker/queues.py", "worker/sandbox", "worker/settings.py", "worker/webhook",
    },
    "worker/entry.py": {"worker/celery_commands.py", "worker/cli", "worker/watch"},
    "worker/cli": {
        "tasks", "worker/app.py", "worker/b2copy", "worker/celery_commands.py", "worker/console",
        "worker/current_user.py", "worker/demo", "worker/doctor", "worker/doubtful_ids.py", "worker/errors.py",
        "worker/exact_json.py", "worker/http", "worker/id_fields.py",
        "worker/instances.py", "worker/operation_kind.py", "worker/ledger", "worker/messages", "worker/operation.py",
        "worker/per_process.py", "worker/queues.py", "worker/reconcile", "worker/report", "worker/sandbox",
        "worker/secret_file.py", "worker/session", "worker/settings.py", "worker/spooled_list.py", "worker/testbed",
        "worker/watch",
        "worker/webhook",
    },
    "worker/console": {
        "tasks", "worker/current_user.py", "worker/errors.py", "worker/instances.py", "worker/ledger",
        "worker/messages", "worker/operation.py", "worker/per_process.py", "worker/plaintext.py", "worker/queues.py",
        "worker/report", "worker/secret_file.py", "worker/session", "worker/settings.py", "worker/storable.py",
        "worker/watch",
    },
    "worker/demo": {
        "tasks", "worker/instances.py", "worker/ledger", "worker/operation.py", "worker/sandbox", "worker/testbed",
    },
    "worker/testbed": {"worker/errors.py", "worker/ledger", "worker/sandbox", "worker/settings.py"},
    "tasks": {
        "worker/app.py", "worker/b2copy", "worker/crm", "worker/current_user.py", "worker/errors.py", "worker/flow",
        "worker/http", "worker/id_fields.py", "worker/instances.py", "worker/operation_kind.py", "worker/ledger",
        "worker/messages", "worker/operation.py", "worker/per_process.py", "worker/queues.py", "worker/reconcile",
        "worker/settings.py", "worker/spooled_list.py", "worker/storable.py", "worker/watch", "worker/webhook",
    },
    "worker/crm": {
        "worker/errors.py", "worker/exact_json.py", "worker/operation_kind.py", "worker/ledger", "worker/messages",
        "worker/operation.py",
        "worker/queues.py", "worker/settings.py",
    },
    "worker/messages": {
        "worker/app.py", "worker/errors.py", "worker/exact_json.py", "worker/instances.py",
        "worker/operation_kind.py", "worker/ledger",
        "worker/ledgers_in_redis.py", "worker/operation.py", "worker/per_process.py", "worker/queues.py",
        "worker/redis_connection.py", "worker/settings.py", "worker/watch",
    },
    "worker/doctor": {
        "worker/app.py", "worker/b2copy", "worker/errors.py", "worker/http", "worker/instances.py", "worker/ledger",
        "worker/ledgers_in_redis.py",
        "worker/operation.py", "worker/package_conflicts.py", "worker/plaintext.py", "worker/queues.py",
        "worker/redis_connection.py", "worker/redis_url.py", "worker/report", "worker/session", "worker/settings.py",
        "worker/watch",
    },
    "worker/celery_commands.py": {"worker/app.py", "worker/errors.py"},
    "worker/app.py": {
        "worker/celery_settings.py", "worker/errors.py", "worker/http", "worker/instances.py", "worker/ledger",
        "worker/ledgers_in_redis.py", "worker/operation.py", "worker/package_conflicts.py", "worker/queues.py",
        "worker/session", "worker/settings.py", "worker/watch", "worker/webhook",
    },
    "worker/instances.py": {
        "worker/b2copy", "worker/current_user.py", "worker/http", "worker/ledger", "worker/per_process.py",
        "worker/queues.py", "worker/session", "worker/settings.py", "worker/webhook",
    },
    "worker/webhook": {
        "worker/b2copy", "worker/celery_settings.py", "worker/errors.py", "worker/http", "worker/iso_time.py",
        "worker/operation.py", "worker/per_process.py", "worker/refused_addresses.py", "worker/secret_file.py",
        "worker/session", "worker/settings.py",
    },
    "worker/celery_settings.py": {
        "worker/beat_schedule.py", "worker/queues.py", "worker/redis_connection.py", "worker/redis_url.py",
        "worker/settings.py",
    },
    "worker/reconcile": {
        "worker/b2copy", "worker/errors.py", "worker/flow", "worker/ledger", "worker/queues.py", "worker/settings.py",
    },
    "worker/report": {
        "worker/errors.py", "worker/iso_time.py", "worker/operation_kind.py", "worker/ledger", "worker/operation.py",
        "worker/queues.py", "worker/session", "worker/settings.py", "worker/watch",
    },
    "worker/flow": {
        "worker/b2copy", "worker/errors.py", "worker/http", "worker/ledger", "worker/operation.py",
        "worker/operation_kind.py", "worker/per_process.py", "worker/queues.py", "worker/redis_connection.py",
        "worker/settings.py", "worker/watch",
    },
    "worker/b2copy": {
        "worker/errors.py", "worker/http", "worker/operation.py", "worker/secret_file.py", "worker/session",
        "worker/settings.py", "worker/storable.py", "worker/watch",
    },
    "worker/session": {
        "worker/errors.py", "worker/http", "worker/per_process.py", "worker/redis_connection.py",
        "worker/secret_file.py", "worker/settings.py", "worker/watch",
    },
    "worker/http": {
        "worker/certificates.py", "worker/errors.py", "worker/exact_json.py", "worker/operation.py",
        "worker/per_process.py", "worker/settings.py", "worker/watch",
    },
    "worker/ledger": {
        "worker/certificates.py", "worker/database_url.py", "worker/errors.py", "worker/iso_time.py",
        "worker/operation.py", "worker/queues.py", "worker/storable.py", "worker/watch",
    },
    "worker/sandbox": set(),
    "worker/operation_kind.py": {"worker/errors.py", "worker/operation.py", "worker/settings.py"},
    "worker/ledgers_in_redis.py": {"worker/redis_connection.py", "worker/settings.py"},
    "worker/redis_connection.py": {"worker/errors.py", "worker/redis_url.py", "worker/settings.py"},
    "worker/beat_schedule.py": {"worker/queues.py"},
    "worker/watch": {
        "worker/errors.py", "worker/iso_time.py", "worker/operation.py", "worker/per_process.py", "worker/settings.py",
    },
    "worker/settings.py": {
        "worker/certificates.py", "worker/database_url.py", "worker/errors.py", "worker/plaintext.py",
        "worker/redis_url.py", "worker/refused_addresses.py", "worker/secret_file.py",
    },
    "worker/secret_file.py": {"worker/errors.py"},
    "worker/redis_url.py": {"worker/plaintext.py"},
    "worker/plaintext.py": {"worker/database_url.py"},
    "worker/certificates.py": set(),
    "worker/database_url.py": set(),
    "worker/refused_addresses.py": set(),
    "worker/id_fields.py": {"worker/doubtful_ids.py"},
    "worker/doubtful_ids.py": set(),
    "worker/spooled_list.py": set(),
    "worker/package_conflicts.py": set(),
    "worker/per_process.py": set(),
    "worker/exact_json.py": set(),
    "worker/iso_time.py": set(),
    "worker/storable.py": set(),
    "worker/queues.py": set(),
    "worker/current_user.py": set(),
    "worker/operation.py": set(),
    "worker/errors.py": set(),
}  # fmt: skip


def test_every_package_is_in_the_table() -> None:
    assert {package_of(file) for file in graph_of(ROOT)} - {"worker/__init__.py"} == set(MAY_IMPORT)


def test_the_table_has_no_circle() -> None:
    order = list(MAY_IMPORT)

    assert [
        (package, below)
        for package, allowed in MAY_IMPORT.items()
        for below in allowed
        if order.index(below) <= order.index(package)
    ] == []


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_what_the_table_allows(package: str) -> None:
    graph = graph_of(ROOT)
    files = [file for file in graph if package_of(file) == package]
    allowed = MAY_IMPORT[package] | {package}

    assert files
    assert [(file, name) for file in files for name in graph[file] if package_of(name) not in allowed] == []


def test_a_circle_is_found_around_other_nodes() -> None:
    assert in_circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a", "d"}}) == ["a", "b", "c"]


def test_no_two_files_import_each_other_directly_or_around() -> None:
    assert in_circles(graph_of(ROOT)) == []


@pytest.fixture
def registered(active_environment: object) -> dict[str, object]:
    app.loader.import_default_modules()
    ours = {name: task for name, task in app.tasks.items() if not name.startswith("celery.")}
    return {name: task for name, task in ours.items() if not task.__module__.startswith("tests.")}


def test_the_tasks_that_outsiders_name_are_there(registered: dict[str, object]) -> None:
    assert set(registered) >= {
        "b2copy.fees.process",
        "b2copy.clients.register",
        "b2copy.accounts.create",
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

    assert served == {INBOX, HOUSEKEEPING, READS, *map(queue_of, LANES)}
    assert served == {
        "b2copy.inbox", "b2copy.housekeeping", "b2copy.money", "b2copy.default", "b2copy.bulk", "b2copy.notify",
        "b2copy.reads",
    }  # fmt: skip
    assert "celery" not in served
    assert all(queue.exchange.name == queue.routing_key == queue.name for queue in app.conf.task_queues)
    for task in registered:
        assert app.amqp.router.route({}, task)["queue"].name in served


@pytest.mark.parametrize("life", [10.0, 60.0, 600.0, 86400.0])
def test_the_session_is_examined_well_within_a_tokens_life(life: float) -> None:
    refresh = next(entry for entry in schedule(life).values() if entry["task"] == "b2copy.session.refresh")

    assert refresh["schedule"] <= min(30.0, life / 10)


@pytest.mark.parametrize("life", [1.0, 5.0])
def test_beat_sends_each_message_once_a_second_at_most(life: float) -> None:
    """Messages pile up while no worker runs, and workers renew a token by themselves when it is due."""
    assert all(entry["schedule"] >= 1.0 for entry in schedule(life, reconciles=True).values())


@pytest.mark.parametrize("life", [5.0, 60.0, 600.0, 86400.0])
def test_a_scheduled_message_expires_soon_but_not_because_two_clocks_differ(life: float) -> None:
    entries = schedule(life, reconciles=True).values()

    assert all(entry["options"]["expires"] == max(entry["schedule"], 60.0) for entry in entries)


def test_no_task_takes_a_token(registered: dict[str, object]) -> None:
    for task in registered.values():
        names = inspect.signature(task.run).parameters  # type: ignore[attr-defined]
        assert not [name for name in names if "token" in name or "secret" in name]


def test_every_kind_can_be_requested_by_a_message(registered: dict[str, object]) -> None:
    assert {f"b2copy.{kind}" for kind in KINDS} <= set(registered)


def test_messages_are_acknowledged_after_the_ledger_has_them_and_the_rest_before(registered: dict[str, object]) -> None:
    late = {name for name, task in registered.items() if task.acks_late}  # type: ignore[attr-defined]

    assert late == {f"b2copy.{kind}" for kind in KINDS} | {STORE_TASK}
