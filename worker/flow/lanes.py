"""The lanes: which queue an operation's wake-ups go through, and who goes first."""

from worker.ledger import LANES

INBOX = "b2copy.inbox"  # messages with arguments, from anywhere
HOUSEKEEPING = "b2copy.session"  # the session's refresh and the ledger's dispatch
WAKE_UP_LASTS = 0.02  # seconds for which a wake-up serves what its sender enqueues after it

__all__ = ["HOUSEKEEPING", "INBOX", "LANES", "WAKE_UP_LASTS", "queue_of"]


def queue_of(lane: str) -> str:
    """Return the queue of a lane's wake-ups."""
    return f"b2copy.{lane}"
