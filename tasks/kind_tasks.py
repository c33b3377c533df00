"""A Celery task for each kind: `b2copy.<kind>` takes in messages that ask for an operation."""

from tasks.registry import KINDS
from worker.messages.inbox import register_task

for kind in KINDS.values():
    register_task(kind)
