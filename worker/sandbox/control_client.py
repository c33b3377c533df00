"""The client of the sandbox's control routes."""

from typing import Any

import requests

Record = dict[str, Any]


class SandboxControl:
    """Switches and counters of a running sandbox. Raises requests.HTTPError with the sandbox's message."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self._http = requests.Session()
        self._http.trust_env = False

    def switches(self, **changes: Any) -> Record:
        """Change switches (`worker.sandbox.switches.Switches`) and return them all."""
        answer: Record = self._ask("PATCH" if changes else "GET", "switches", changes or None)
        return answer

    def faults(self, *faults: dict[str, Any]) -> None:
        """Set the faults (`worker.sandbox.switches.Fault`); without arguments, remove them all."""
        self.switches(faults=list(faults))

    def counters(self) -> Record:
        answer: Record = self._ask("GET", "counters")
        return answer

    def effects(
        self, kind: str | None = None, key: str | None = None, at_least: int = 1, limit: int = 100_000
    ) -> list[Record]:
        """What was carried out, oldest first: kind, key, times, first_at, last_at, body."""
        query: dict[str, Any] = {"kind": kind, "key": key, "at_least": at_least, "limit": limit}
        answer: list[Record] = self._ask("GET", "effects", query=query)
        return answer

    def pairs(self) -> list[Record]:
        """Every token pair issued: number, session, origin, access, refresh, presented, ..."""
        answer: list[Record] = self._ask("GET", "pairs")
        return answer

    def token_calls(self) -> list[Record]:
        """Every call for a token: route, started, ended (the server's monotonic clock, s), status."""
        answer: list[Record] = self._ask("GET", "token-calls")
        return answer

    def calls(self) -> list[Record]:
        """Every other call while the switch `call_log` was on: route, arrived, answered (monotonic, s), status."""
        answer: list[Record] = self._ask("GET", "calls")
        return answer

    def reset(self, **switches: Any) -> None:
        """Clear the state; keys and switches are again those of the start, with the given changes."""
        self._ask("POST", "reset", switches)

    def revoke_all(self, refresh_too: bool = True) -> None:
        """End all access tokens, and with `refresh_too` the sessions behind them."""
        self._ask("POST", "revoke-all", {"refresh_too": refresh_too})

    def finish_fees(
        self,
        account_login: str | None = None,
        request_id: str | None = None,
        status: str = "SUCCESS",
        message: str = "",
    ) -> int:
        """Finish the fee runs that match; return how many."""
        wanted = {"account_login": account_login, "request_id": request_id, "status": status, "message": message}
        ended: int = self._ask("POST", "fees", wanted)["ended"]
        return ended

    def add_accounts(self, accounts: list[Record]) -> None:
        """Add accounts to B2COPY's list that nobody has created here: `clientId`, `accountNumber`, ..."""
        for first in range(0, len(accounts), 10_000):  # a request's body has a limit
            self._ask("POST", "accounts", {"accounts": accounts[first : first + 10_000]})

    def close_accounts(self, numbers: list[str]) -> int:
        """Remove accounts from B2COPY by their MT logins; return how many."""
        closed: int = self._ask("DELETE", "accounts", {"numbers": numbers})["closed"]
        return closed

    def go_away(self, seconds: float) -> None:
        """Close every connection and refuse new ones for some seconds; the state stays."""
        self._ask("POST", "away", {"seconds": seconds})

    def register_key(self, key_id: str, public_key: str) -> None:
        self._ask("PUT", "keys", {"key_id": key_id, "public_key": public_key})

    def withdraw_key(self, key_id: str) -> None:
        self._ask("DELETE", "keys", {"key_id": key_id})

    def _ask(self, method: str, what: str, body: Any = None, query: dict[str, Any] | None = None) -> Any:
        # A new connection for each request, because switches may close reused connections.
        headers = {"Connection": "close"}
        response = self._http.request(
            method, f"{self.base_url}/_sandbox/{what}", json=body, params=query, headers=headers, timeout=30
        )
        if not response.ok:
            raise requests.HTTPError(f"sandbox {method} {what}: {response.text}")
        return response.json()
