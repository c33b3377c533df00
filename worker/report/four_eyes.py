"""Which decisions of people need a second person."""

from collections.abc import Callable
from dataclasses import replace

from worker.ledger.database import Ledger, NeedsApproval, no_approval
from worker.ledger.fleet_flags import RESUME
from worker.ledger.four_eyes import Rule, stricter
from worker.queues import LANES
from worker.report.sentences import Kinds


def under_rule(ledger: Ledger, own: Rule, kinds: Callable[[], Kinds]) -> Ledger:
    """Return the ledger under the stricter of its own rule and this process's (B2COPY_FOUR_EYES)."""
    return replace(ledger, needs_approval=needs_approval(stricter(own, ledger.four_eyes), kinds))


def needs_approval(four_eyes: str, kinds: Callable[[], Kinds]) -> NeedsApproval:
    """Return the rule of B2COPY_FOUR_EYES: `off`, `money` or `all`. `kinds` is only called if the rule needs it."""

    def moves_money(kind: str, lane: str) -> bool:
        if kind == RESUME:
            return False
        known = kinds().get(kind)
        return known is None or known.moves_money or lane == LANES[0]

    match four_eyes:
        case "all":
            return lambda kind, lane: True
        case "money":
            return moves_money
    return no_approval
