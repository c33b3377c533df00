"""The routes of a notice to the CRM: a webhook, a Celery task of the CRM, or both. Light, because a CRM imports it."""

from dataclasses import replace
from typing import Any

from worker.b2copy.route import Route
from worker.settings import Settings

GONE = 410  # the status by which a receiver says, by Standard Webhooks, that it wants no further notice

DELIVER = Route(
    name="notice",
    page_url="https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md",
    method="POST",
    path="",
    read=lambda body, sent: body,
    login=None,
    has_effect=False,  # the CRM recognizes a repeated notice by its id
)
PUBLISH = Route(
    name="notify_task",
    page_url="https://docs.celeryq.dev/en/stable/userguide/calling.html",
    method="",
    path="",
    read=lambda body, sent: body,
    login=None,
    has_effect=False,
    over_http=False,
)


def notice_routes(settings: Settings) -> tuple[Route[Any], ...]:
    """Return the routes that the settings name. Each of two has a gate of its own, so that one holds up no other."""
    if settings.notify_task and settings.webhook_url:
        return replace(PUBLISH, own_gate="crm.task"), replace(DELIVER, own_gate="crm.webhook")
    wanted = ((PUBLISH, settings.notify_task), (DELIVER, settings.webhook_url))
    return tuple(route for route, is_set in wanted if is_set)
