"""A CRM on Celery, with nothing of b2copy-sync: it sends a message, and a task of its own is told what became of it.

    CRM_BROKER_URL=redis://.../1  B2COPY_REDIS_URL=redis://.../0  celery -A celery_crm worker
    python celery_crm.py W1 123456

The workers of b2copy-sync have B2COPY_NOTIFY_TASK=celery_crm.fees_ended and B2COPY_NOTIFY_BROKER_URL=redis://.../1.
"""

import os
import sqlite3
import sys

from celery import Celery

app = Celery("celery_crm", broker=os.environ["CRM_BROKER_URL"])
app.conf.task_acks_late = True  # a message whose worker is killed comes again
b2copy = Celery("b2copy", broker=os.environ["B2COPY_REDIS_URL"], set_as_current=False)
UPSERT = """INSERT INTO fees (key, state, sequence) VALUES (:key, :state, :sequence)
    ON CONFLICT (key) DO UPDATE SET state = excluded.state, sequence = excluded.sequence
    WHERE excluded.sequence > fees.sequence"""  # a notice may come twice, or after a newer one


@app.task(name="celery_crm.fees_ended")
def fees_ended(notice):
    """Store what became of an operation. `notice` is the body of the webhook; the task's id is the notice's id."""
    if notice["type"].startswith("operation."):
        with sqlite3.connect(os.environ["CRM_DATABASE"]) as crm:
            crm.execute(UPSERT, notice["data"])


def request_fees(withdrawal, login):
    """Ask for the fees of a withdrawal. The same message twice is one operation."""
    fields = {"account_login": login, "request_id": withdrawal}
    b2copy.send_task("b2copy.fees.process", kwargs=fields, queue="b2copy.inbox", ignore_result=True)


if __name__ == "__main__":
    request_fees(*sys.argv[1:])
