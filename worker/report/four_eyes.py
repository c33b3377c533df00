"""Which decisions of people need a second person."""

from collections.abc import Callable
from dataclasses import replace

from worker.ledger.database import Ledger, NeedsApproval, always_approval, no_approval
from worker.ledger.four_eyes import Rule, stricter
from worker.ledger.pauses import RESUME
from worker.report.replayable import moves_money
from worker.report.sentences import Kinds

RULE_MEANINGS: dict[Rule, str] = {
    "off": "one person decides",
    "money": "a second person approves decisions about money",
    "all": "a second person approves decisions about every operation, and the end of a pause",
}
"""What each rule says, for people."""


def under_rule(ledger: Ledger, own: Rule, kinds: Callable[[], Kinds]) -> Ledger:
    """Return the ledger under the stricter of its own rule and this process's (B2COPY_FOUR_EYES)."""
    return replace(ledger, needs_approval=needs_approval(stricter(own, ledger.four_eyes), kinds))


def needs_approval(four_eyes: str, kinds: Callable[[], Kinds]) -> NeedsApproval:
    """Return the rule of B2COPY_FOUR_EYES: `off`, `money` or `all`. `kinds` is only called if the rule needs it."""
    match four_eyes:
        case "all":
            return always_approval
        case "money":
            return lambda kind, lane: kind != RESUME and moves_money(kind, lane, kinds())
    return no_approval
