"""What the sandbox saw: calls by route and status, and every call for a token."""

import time
from collections import Counter, deque
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(slots=True)
class TokenCall:
    """Times are on the server's monotonic clock, s; `status` 0 means the answer was never given."""

    route: str
    started: float
    ended: float = 0.0
    status: int = 0


@dataclass(slots=True)
class ApiCall:
    """A call that is no token call. Times are on the server's monotonic clock, s; `status` 0: never answered."""

    route: str
    arrived: float
    answered: float
    status: int


class Counters:
    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.statuses: dict[str, Counter[int]] = {}
        self.faults: Counter[str] = Counter()
        self.token_calls_at_once = 0
        self.token_calls_at_once_max = 0
        self.token_calls: deque[TokenCall] = deque(maxlen=10_000)
        self.api_calls: deque[ApiCall] = deque(maxlen=100_000)

    def answered(self, route: str, status: int) -> None:
        statuses = self.statuses.get(route)
        if statuses is None:
            statuses = self.statuses[route] = Counter()
        statuses[status] += 1

    def token_call_starts(self, route: str) -> TokenCall:
        self.token_calls_at_once += 1
        self.token_calls_at_once_max = max(self.token_calls_at_once_max, self.token_calls_at_once)
        call = TokenCall(route, time.monotonic())
        self.token_calls.append(call)
        return call

    def token_call_ends(self, call: TokenCall) -> None:
        self.token_calls_at_once -= 1
        call.ended = time.monotonic()

    def token_calls_told(self) -> list[dict[str, Any]]:
        return [asdict(call) for call in self.token_calls]

    def api_calls_told(self) -> list[dict[str, Any]]:
        return [asdict(call) for call in self.api_calls]
