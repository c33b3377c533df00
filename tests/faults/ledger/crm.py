"""A CRM that requests operations at a steady rate, and writes down which requests were accepted.

    enqueue      `tasks.enqueue`: accepted when it returns
    message      `send_task` of a foreign Celery app: accepted when a worker has recorded it
    transaction  `tasks.enqueue` inside a transaction of the CRM: accepted when that commits; one in ten rolls back
    sql          an INSERT into `b2copy_requests`: accepted when its transaction commits; every second one rolls back

A request that fails is repeated until it is accepted, as a job of the CRM would do.
"""

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError
from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from tasks import enqueue
from worker.instances import ledger
from worker.settings import crm_settings

PATH = "/api/admin/crm/v2/notes/noteservice/add"
CLIENTS = ("enqueue", "message", "transaction", "sql")

# What is requested, in this order: fee runs by how they end (the sandbox has a rule for each login), generic calls.
MIX = ("none_due", "pending", "call", "none_due", "error", "repeatable", "none_due", "pending", "ordered", "none_due")
FEE_RUNS = {"none_due", "pending", "error"}
ENTITIES = 3  # that share the ordered calls; so few that long lines form during a fault
ROLLED_BACK = "rolled back"  # stands in the notes where the kind of request stands


class RolledBack(Exception):
    """The CRM's own transaction was rolled back, so the request does not exist."""


Send = Callable[[str, dict[str, Any]], None]


def request_of(client: str, number: int, mix: tuple[str, ...], entities: int) -> tuple[str, str, dict[str, Any]]:
    """Return the request with this number: what of the mix, the operation's key, and its fields."""
    name, what = f"{client}-{number}", mix[number % len(mix)]
    if what in FEE_RUNS:
        return what, f"fees.process:{name}", {"account_login": what, "request_id": name}
    fields: dict[str, Any] = {"path": PATH, "payload": {"name": name}, "key": name}
    if what == "repeatable":
        fields["repeatable"] = True
    if what == "ordered":
        fields["entity"] = f"client-{number // len(mix) % entities}"
    return what, f"call:{name}", fields


def by_enqueue(key: str, fields: dict[str, Any], **options: Any) -> None:
    if key.startswith("fees"):
        enqueue.fees(**fields, **options)
    else:
        named = {name: value for name, value in fields.items() if name not in {"path", "payload"}}
        enqueue.call(fields["path"], fields["payload"], **named, **options)


def by_message(app: Celery) -> Send:
    def send(key: str, fields: dict[str, Any]) -> None:
        task = "b2copy.fees.process" if key.startswith("fees") else "b2copy.call"
        app.send_task(task, kwargs=fields, queue="b2copy.inbox")

    return send


def by_transaction(key: str, fields: dict[str, Any]) -> None:
    """Raises RolledBack for every tenth request."""
    with ledger().writing() as connection:
        by_enqueue(key, fields, connection=connection)
        if key.endswith("7"):
            raise RolledBack


def by_sql(database_url: str) -> Send:
    engine = create_engine(database_url)

    def send(key: str, fields: dict[str, Any]) -> None:
        """Raises RolledBack for every second request."""
        with engine.begin() as connection:
            kind = "fees.process" if key.startswith("fees") else "call"
            connection.execute(
                text("INSERT INTO b2copy_requests (kind, payload) VALUES (:kind, :payload)"),
                {"kind": kind, "payload": json.dumps(fields)},
            )
            if int(key[-1]) % 2:
                raise RolledBack

    return send


def foreign_app(broker_url: str) -> Celery:
    """Return an app that knows nothing of ours but the names of tasks and queues, and the broker's URL."""
    app = Celery("crm", broker=broker_url, set_as_current=False)
    app.conf.broker_transport_options = {"socket_timeout": 3, "socket_connect_timeout": 1}
    app.conf.task_publish_retry = False
    return app


def keep_requesting(
    client: str, send: Send, folder: Path, per_second: float, mix: tuple[str, ...], entities: int
) -> None:
    """Request until the file `stop` appears. Each accepted request is one line: what, key, and when (Unix time, s)."""
    due, number = time.monotonic(), 0
    with (folder / f"{client}.notes").open("w", buffering=1) as notes:
        while not (folder / "stop").exists():
            time.sleep(max(0.0, due - time.monotonic()))
            due = max(due + 1 / per_second, time.monotonic() - 1.0)
            what, key, fields = request_of(client, number, mix, entities)
            try:
                send(key, fields)
            except RolledBack:
                what = ROLLED_BACK
            except (SQLAlchemyError, OperationalError, OSError) as error:
                print(f"{key} is requested again: {type(error).__name__}: {error}", file=sys.stderr)
                continue
            notes.write(json.dumps([what, key, time.time()]) + "\n")
            number += 1


def main(task: dict[str, Any]) -> None:
    senders: dict[str, Send] = {
        "enqueue": by_enqueue,
        "message": by_message(foreign_app(crm_settings().redis_url)),
        "transaction": by_transaction,
        "sql": by_sql(crm_settings().database_url),
    }
    options = Path(task["folder"]), task["per_second"], tuple(task["mix"]), task["entities"]
    with ThreadPoolExecutor() as threads:
        clients = [threads.submit(keep_requesting, client, senders[client], *options) for client in task["clients"]]
    for client in clients:
        client.result()  # raises what ended the client


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
