"""The effect log: what the sandbox carried out, and how often. Tests compare with it."""

from dataclasses import dataclass
from typing import Any

MAX_EFFECTS = 500_000  # distinct effects that are stored; older ones are removed and counted in `forgotten`


@dataclass(slots=True)
class Effect:
    """One effect. `*_at` are on the server's monotonic clock, s; `body` is the request's, or None."""

    kind: str
    key: str
    times: int
    first_at: float
    last_at: float
    body: Any = None


class Effects:
    def __init__(self) -> None:
        self._all: dict[tuple[str, str], Effect] = {}
        self.forgotten = 0
        self.summary: dict[str, dict[str, int]] = {}  # per kind: distinct effects, times in all, more than once

    def record(self, kind: str, key: str, at: float, body: Any = None) -> None:
        totals = self.summary.setdefault(kind, {"distinct": 0, "times": 0, "more_than_once": 0})
        totals["times"] += 1
        effect = self._all.get((kind, key))
        if effect is None:
            totals["distinct"] += 1
            self._all[kind, key] = Effect(kind, key, 1, at, at, body)
            if len(self._all) > MAX_EFFECTS:
                del self._all[next(iter(self._all))]
                self.forgotten += 1
        else:
            effect.times += 1
            effect.last_at = at
            totals["more_than_once"] += effect.times == 2

    def select(self, kind: str | None, key: str | None, at_least: int, limit: int) -> list[Effect]:
        if kind and key:
            found = self._all.get((kind, key))
            return [found] if found and found.times >= at_least else []
        chosen: list[Effect] = []
        for effect in self._all.values():
            if len(chosen) == limit:
                break
            if (not kind or effect.kind == kind) and (not key or effect.key == key) and effect.times >= at_least:
                chosen.append(effect)
        return chosen
