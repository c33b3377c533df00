"""A CRM on Celery, with nothing of b2copy-sync: it sends a message, and a task of its own is told what became of it.

    CRM_BROKER_URL=redis://.../1  B2COPY_REDIS_URL=redis://.../0  celery -A celery_crm worker
    python celery_crm.py W1 123456

The workers of b2copy-sync have B2COPY_NOTIFY_TASK=celery_crm.fees_ended and B2COPY_NOTIFY_BROKER_URL=redis://.../1.
"""

import os
import sqlite3
import sys
from contextlib import closing

from celery import Celery

app = Celery("celery_crm", broker=os.environ["CRM_BROKER_URL"])
b2copy = Celery("b2copy", broker=os.environ["B2COPY_REDIS_URL"], set_as_current=False)
UPSERT = """INSERT INTO fees (key, state, sequence) VALUES (:key, :state, :sequence)
    ON CONFLICT (key) DO UPDATE SET state = excluded.state, sequence = excluded.sequence
    WHERE excluded.sequence > fees.sequence"""  # a notice may come twice, or after a newer one


# Without these options a notice is lost if the task raises (the database is locked), or its process is killed: Celery
# acknowledges the message all the same, and nobody sends it again.
NONE_IS_LOST = {
    "acks_late": True,  # acknowledge after the task has ended, not before
    "reject_on_worker_lost": True,  # a message whose process was killed comes again
    "autoretry_for": (Exception,),
    "max_retries": None,  # for ever
    "retry_backoff": True,  # after 1, 2, 4, ... seconds, at most 60
    "retry_backoff_max": 60,
}


@app.task(name="celery_crm.fees_ended", **NONE_IS_LOST)
def fees_ended(notice):
    """Store what became of an operation. `notice` is the body of the webhook; the task's id is the notice's id.

    Before a withdrawal is paid, compare `notice["data"]["payload"]["account_login"]` with its account, too.
    """
    if notice["type"].startswith("operation."):  # not of `b2copy-sync webhook test`
        with closing(sqlite3.connect(os.environ["CRM_DATABASE"])) as crm, crm:
            crm.execute(UPSERT, notice["data"])


def request_fees(withdrawal, login):
    """Ask for the fees of a withdrawal. The same message twice is one operation."""
    fields = {"account_login": login, "request_id": withdrawal}
    b2copy.send_task("b2copy.fees.process", kwargs=fields, queue="b2copy.inbox", ignore_result=True)


if __name__ == "__main__":
    request_fees(*sys.argv[1:])
