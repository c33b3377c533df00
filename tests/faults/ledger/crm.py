"""A CRM that asks for things at a steady rate, by one door or both, and notes what was accepted.

    enqueue   `tasks.enqueue`: accepted when it returns
    message   a foreign Celery app's `send_task`: accepted when a worker has recorded it

An ask that fails is asked again until it is taken, as a CRM's own job would.
"""

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError
from sqlalchemy.exc import SQLAlchemyError

from tasks import enqueue
from worker.settings import crm_settings

PATH = "/api/admin/crm/v2/notes/noteservice/add"
DOORS = ("enqueue", "message")

# What is asked for, in turn: fee runs by how they go (the sandbox has a rule for each login), and generic calls.
MIX = ("none_due", "pending", "call", "none_due", "error", "repeatable", "none_due", "pending", "ordered", "none_due")


def ask_of(door: str, number: int) -> tuple[str, str, dict[str, Any]]:
    """The ask of a number: what of the mix, the operation's key, and its fields."""
    name, what = f"{door}-{number}", MIX[number % len(MIX)]
    if what in {"none_due", "pending", "error"}:
        return what, f"fees.process:{name}", {"account_login": what, "request_id": name}
    fields: dict[str, Any] = {"path": PATH, "payload": {"name": name}, "key": name}
    if what == "repeatable":
        fields["repeatable"] = True
    if what == "ordered":
        fields["entity"] = f"client-{number // len(MIX) % 20}"
    return what, f"call:{name}", fields


def by_enqueue(key: str, fields: dict[str, Any]) -> None:
    if key.startswith("fees"):
        enqueue.fees(**fields)
    else:
        enqueue.call(fields.pop("path"), fields.pop("payload"), **fields)


def by_message(app: Celery) -> Callable[[str, dict[str, Any]], None]:
    def send(key: str, fields: dict[str, Any]) -> None:
        task = "b2copy.fees.process" if key.startswith("fees") else "b2copy.call"
        app.send_task(task, kwargs=fields, queue="b2copy.inbox")

    return send


def foreign_app(broker_url: str) -> Celery:
    """An app that knows of us no more than names and the broker's URL."""
    app = Celery("crm", broker=broker_url, set_as_current=False)
    app.conf.broker_transport_options = {"socket_timeout": 3, "socket_connect_timeout": 1}
    app.conf.task_publish_retry = False
    return app


def keep_asking(door: str, give: Callable[[str, dict[str, Any]], None], folder: Path, per_second: float) -> None:
    """Ask until the file `stop` appears; note what was asked for, its key, and when it was taken, s since 1970."""
    due, number = time.monotonic(), 0
    with (folder / f"{door}.notes").open("w", buffering=1) as notes:
        while not (folder / "stop").exists():
            time.sleep(max(0.0, due - time.monotonic()))
            due = max(due + 1 / per_second, time.monotonic() - 1.0)
            what, key, fields = ask_of(door, number)
            try:
                give(key, fields)
            except (SQLAlchemyError, OperationalError, OSError):
                continue  # the same again, in its turn
            notes.write(json.dumps([what, key, time.time()]) + "\n")
            number += 1


def main(task: dict[str, Any]) -> None:
    gives = {"enqueue": by_enqueue, "message": by_message(foreign_app(crm_settings().redis_url))}
    threads = [
        threading.Thread(target=keep_asking, args=(door, gives[door], Path(task["folder"]), task["per_second"]))
        for door in task["doors"]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
