"""The sandbox's own routes under /_sandbox/, for tests and the demo; `worker.sandbox.control_client` is their client.

GET|PATCH switches · GET counters · GET effects · GET pairs · GET token-calls · GET calls · POST reset ·
POST revoke-all · POST fees · POST|DELETE accounts · POST away · PUT|DELETE keys · GET /openapi.json
"""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Protocol

from aiohttp import web

from worker.sandbox.b2copy import B2Copy
from worker.sandbox.counters import Counters
from worker.sandbox.listener import Listener
from worker.sandbox.openapi import DOCUMENT
from worker.sandbox.switches import TOKEN_ROUTES, Switches


class Controlled(Protocol):
    """The server that these routes control: see `worker.sandbox.server.Server`."""

    b2copy: B2Copy
    counters: Counters
    listener: Listener

    def switch(self, changes: dict[str, Any]) -> Switches: ...

    def forget(self) -> None: ...


class Control:
    def __init__(self, server: Controlled) -> None:
        self._server = server
        self._start_switches = server.b2copy.switches
        self._start_keys = server.b2copy.keys.copy()
        self._tasks: set[asyncio.Task[None]] = set()
        self._handlers: dict[tuple[str, str], Callable[[dict[str, str], Any], Any]] = {
            ("GET", "switches"): self._switches,
            ("PATCH", "switches"): self._switch,
            ("GET", "counters"): self._counters,
            ("GET", "effects"): self._effects,
            ("GET", "pairs"): self._pairs,
            ("GET", "token-calls"): self._token_calls,
            ("GET", "calls"): self._calls,
            ("POST", "reset"): self._reset,
            ("POST", "revoke-all"): self._revoke_all,
            ("POST", "fees"): self._finish_fees,
            ("POST", "accounts"): self._add_accounts,
            ("DELETE", "accounts"): self._close_accounts,
            ("POST", "away"): self._away,
            ("PUT", "keys"): self._register_key,
            ("DELETE", "keys"): self._withdraw_key,
        }

    async def handle(self, request: web.BaseRequest) -> web.Response:
        path = request.rel_url.path
        if path == "/openapi.json":
            return web.json_response(DOCUMENT)
        handler = self._handlers.get((request.method, path.removeprefix("/_sandbox/").rstrip("/")))
        if handler is None:
            return web.json_response({"error": f"no such control route: {request.method} {path}"}, status=404)
        raw = await request.read()
        try:
            return web.json_response(handler(dict(request.rel_url.query), json.loads(raw) if raw else {}))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            return web.json_response({"error": str(error)}, status=400)

    def _switches(self, query: dict[str, str], body: Any) -> Any:
        return self._server.b2copy.switches.model_dump(mode="json")

    def _switch(self, query: dict[str, str], body: Any) -> Any:
        return self._server.switch(body).model_dump(mode="json")

    def _counters(self, query: dict[str, str], body: Any) -> Any:
        counters, b2copy = self._server.counters, self._server.b2copy
        tokens = b2copy.tokens
        return {
            "logins": tokens.logins,
            "refreshes": tokens.refreshes,
            "refresh_reuses": tokens.reuses,
            "refresh_presented_max": max(tokens.presented.values(), default=0),
            "unauthorized": sum(
                statuses[401] for route, statuses in counters.statuses.items() if route not in TOKEN_ROUTES
            ),
            "token_calls_at_once_max": counters.token_calls_at_once_max,
            "calls": dict(counters.calls),
            "statuses": {route: dict(statuses) for route, statuses in counters.statuses.items()},
            "faults": dict(counters.faults),
            "fee_runs": len(b2copy.fees.runs),
            "effects": b2copy.effects.summary,
            "effects_forgotten": b2copy.effects.forgotten,
            "keys": b2copy.keys.names(),
        }

    def _effects(self, query: dict[str, str], body: Any) -> Any:
        found = self._server.b2copy.effects.select(
            query.get("kind"), query.get("key"), int(query.get("at_least", "1")), int(query.get("limit", "100000"))
        )
        return [asdict(effect) for effect in found]

    def _pairs(self, query: dict[str, str], body: Any) -> Any:
        tokens = self._server.b2copy.tokens
        return [asdict(pair) | {"presented": tokens.presented[pair.refresh]} for pair in tokens.pairs.values()]

    def _token_calls(self, query: dict[str, str], body: Any) -> Any:
        return self._server.counters.token_calls_list()

    def _calls(self, query: dict[str, str], body: Any) -> Any:
        return self._server.counters.api_calls_list()

    def _reset(self, query: dict[str, str], body: Any) -> Any:
        """Clear the state; keys and switches are again those of the start, with the changes of the body."""
        self._server.b2copy.switches = self._start_switches
        self._server.b2copy.keys = self._start_keys.copy()
        self._server.switch({"faults": [], **body})
        self._server.forget()
        return {}

    def _revoke_all(self, query: dict[str, str], body: Any) -> Any:
        self._server.b2copy.tokens.revoke_all(body.get("refresh_too", True), time.monotonic())
        self._server.b2copy.sign_in.end_all()
        return {}

    def _finish_fees(self, query: dict[str, str], body: Any) -> Any:
        status = body.get("status", "SUCCESS")
        if status not in ("SUCCESS", "ERROR"):
            raise ValueError("status must be SUCCESS or ERROR")
        fees = self._server.b2copy.fees
        login, request_id = body.get("account_login"), body.get("request_id")
        return {"ended": fees.finish(login, request_id, status, body.get("message", ""))}

    def _add_accounts(self, query: dict[str, str], body: Any) -> Any:
        self._server.b2copy.accounts.add(body["accounts"], self._server.b2copy.now())
        return {"added": len(body["accounts"])}

    def _close_accounts(self, query: dict[str, str], body: Any) -> Any:
        return {"closed": self._server.b2copy.accounts.close(body["numbers"])}

    def _away(self, query: dict[str, str], body: Any) -> Any:
        """Refuse connections for `seconds`, as soon as this answer is sent."""
        seconds = float(body["seconds"])

        async def go() -> None:
            await asyncio.sleep(0.02)
            await self._server.listener.go_away(seconds)

        task = asyncio.get_running_loop().create_task(go())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return {}

    def _register_key(self, query: dict[str, str], body: Any) -> Any:
        self._server.b2copy.keys.register(body["key_id"], body["public_key"])
        return {"keys": self._server.b2copy.keys.names()}

    def _withdraw_key(self, query: dict[str, str], body: Any) -> Any:
        self._server.b2copy.keys.withdraw(body["key_id"])
        return {"keys": self._server.b2copy.keys.names()}
