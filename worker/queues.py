"""The queues: which messages go where, and in which order dispatch wakes the lanes."""

NOTIFY = "notify"
"""The lane of notices to the CRM. Nobody requests these operations: the ledger records them."""

MONEY = "money"
REQUEST_LANES = (MONEY, "default", "bulk")
"""The lanes of operations at B2COPY, in the order in which dispatch wakes them. Money has a reserve of permits."""

B2COPY, CRM = "b2copy", "crm"
"""The destinations: what operations talk to."""

LANES = (*REQUEST_LANES, NOTIFY)
"""All lanes, in the order in which dispatch wakes them."""

INBOX = "b2copy.inbox"  # messages with arguments, from anywhere
HOUSEKEEPING = "b2copy.housekeeping"  # the scheduled jobs: renewal of the session, dispatch, reconciliation
READS = "b2copy.reads"  # what a CRM wants to read at B2COPY now
ANSWERS = "b2copy:answer:"  # no queue: prefix of the keys of the answers to reads
# No queues: the keys of kombu's notes of the messages that our workers took and have not acknowledged. Each Celery app
# that keeps kombu's names (`unacked`) shares its notes with all others on the Redis database. After the shorter one of
# the visibility timeouts, one app then moves the messages that the other still works on, and by its own rules.
UNACKED, UNACKED_INDEX, UNACKED_MUTEX = "b2copy:unacked", "b2copy:unacked_index", "b2copy:unacked_mutex"
WAKE_UP_LASTS_S = 0.02  # seconds; a wake-up also serves what its sender enqueues within this time


def destination_of(lane: str) -> str:
    """Return the destination of a lane's operations."""
    return CRM if lane == NOTIFY else B2COPY


def is_urgent(lane: str) -> bool:
    """Return whether a part of the rate limit is reserved for the lane."""
    return lane == MONEY


def queue_of(lane: str) -> str:
    """Return the queue of a lane's wake-ups."""
    return f"b2copy.{lane}"


QUEUES = (INBOX, HOUSEKEEPING, *map(queue_of, LANES), READS)
"""All queues that a worker serves."""

MIN_CONCURRENCY = len(LANES) + 2
"""Slots a worker needs: one drains each lane, one takes messages in, one is for housekeeping."""
