"""The CRM as a destination of operations: what carries a notice there."""

from collections.abc import Callable, Mapping
from typing import Any

from worker.b2copy.route import Route
from worker.http.curl import always_allowed
from worker.operation import OnUnknown
from worker.settings import Settings
from worker.webhook.endpoint import Endpoint
from worker.webhook.notice_routes import PUBLISH
from worker.webhook.notify_task import NotifyTask


class Crm:
    """Carries notices to the CRM. Safe to share between threads and across a fork."""

    def __init__(self, settings: Settings) -> None:
        self._endpoint, self._task = Endpoint(settings), NotifyTask(settings)

    async def send(
        self,
        route: Route[Any],
        body: Mapping[str, Any],
        on_unknown: OnUnknown,
        before_send: Callable[[], None] = always_allowed,
    ) -> Any:
        """Carry one notice: `id`, `body` (text) and `trace_id`. See `Endpoint.deliver` and `NotifyTask.publish`."""
        notice = body["id"], body["body"], body.get("trace_id"), before_send
        if route.name == PUBLISH.name:
            return await self._task.publish(*notice)
        return await self._endpoint.deliver(*notice)

    def login_of(self, route: Route[Any]) -> str | None:
        """There is no login that could fail."""
        return None
