"""What a process counts and measures. Base units, and no ids in labels.

A label's values are fixed words of ours, registered kinds, routes or lanes. What the ledger holds is not here, because
ten workers would run ten equal queries: `worker/report/ledger_metrics.py` exports it once.

With `--pool processes` each pool process writes its values to files in PROMETHEUS_MULTIPROC_DIR. `multiprocess_mode`
says how the gauges of these processes become one.
"""

from prometheus_client import Counter, Gauge, Histogram

_CALL_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TRANSACTION_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)

BUILD_INFO = Gauge(
    "b2copy_build_info",
    "1. Two versions at the same time: an upgrade is going on.",
    ["version", "schema", "pool"],
    multiprocess_mode="livemax",
)

ATTEMPTS = Counter("b2copy_attempts", "Attempts whose result was written, by outcome.", ["kind", "outcome"])
ATTEMPT_SECONDS = Histogram("b2copy_attempt_seconds", "Duration of an attempt.", ["kind"], buckets=_CALL_BUCKETS)
POLLS = Counter("b2copy_polls", "Attempts that asked about a pending operation.", ["kind", "outcome"])
ENDED = Counter(
    "b2copy_operations_ended",
    "Operations that ended in this process. `reason` says why one failed.",
    ["kind", "lane", "state", "reason"],
)
CLAIMS_HELD = Gauge("b2copy_claims_held", "Operations this process holds a lease on.", multiprocess_mode="livesum")
LEASES_LAPSED = Counter("b2copy_leases_lapsed", "Operations taken over from a process that let its lease lapse.")
RESULTS_LATE = Counter("b2copy_results_late", "Results that came after the lease was lost. Some still decide.")

REQUESTS = Counter(
    "b2copy_http_requests",
    "Requests of operations and reads. `status`: 2xx, 4xx, 5xx, 429, no_answer or not_sent.",
    ["destination", "route", "status"],
)
REQUEST_SECONDS = Histogram(
    "b2copy_http_request_seconds",
    "Duration of a request with its token, to the last byte.",
    ["destination", "route"],
    buckets=_CALL_BUCKETS,
)
READS = Counter(
    "b2copy_reads",
    "Reads that a CRM asked this process for, by outcome. dropped: too many were under way; malformed: the message was"
    " no read.",
    ["read", "outcome"],
)
CIRCUIT_OPEN = Gauge(
    "b2copy_circuit_open",
    "1 while this process sends only probes to a destination; 0 if none has failed for two minutes (crm: three hours)"
    " beyond the Retry-After of the last one. b2copy.reads are the reads of a CRM; crm.task and crm.webhook are the two"
    " ways of a notice, if both are set.",
    ["destination"],
    multiprocess_mode="livemax",
)
HOLDS = Counter("b2copy_holds", "How often a destination asked us to slow down (429).", ["destination"])
PERMITS_REFUSED = Counter(
    "b2copy_permits_refused",
    "How often the rate limit gave no permit: it was reached, or Redis gave no usable answer.",
    ["destination"],
)

WAKE_UPS = Counter("b2copy_wake_ups", "Wake-ups this process received.", ["lane"])
INBOX_MESSAGES = Counter(
    "b2copy_inbox_messages",
    "Messages that ask for an operation: recorded, known, refused, left to dispatch, or returned to the queue.",
    ["result"],
)
TRANSACTION_SECONDS = Histogram(
    "b2copy_ledger_transaction_seconds", "Duration of a committed transaction.", buckets=_TRANSACTION_BUCKETS
)
LEDGER_ERRORS = Counter("b2copy_ledger_errors", "Errors of the ledger's database.")
LOG_RECORDS = Counter("b2copy_log_records", "Warnings and errors that were logged.", ["level"])

SESSION_GENERATION = Gauge(
    "b2copy_session_generation",
    "Generation of the session this process last saw.",
    ["login"],
    multiprocess_mode="livemax",
)
SESSION_EXPIRES = Gauge(
    "b2copy_session_expires_timestamp_seconds",
    "When this process's access token expires, in Unix seconds.",
    ["login"],
    multiprocess_mode="livemax",
)
RENEWALS = Counter("b2copy_session_renewals", "Renewals this process led.", ["login", "trigger", "outcome"])
RENEWAL_SECONDS = Histogram(
    "b2copy_session_renewal_seconds", "Duration of a renewal.", buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60)
)
LEASE_WAIT_SECONDS = Histogram(
    "b2copy_session_lease_wait_seconds", "How long callers waited for a token.", buckets=(0.01, 0.05, 0.1, 0.5, 1, 2, 3)
)
LEASE_LOST = Counter("b2copy_session_lease_lost", "Renewals given up because the renewal lease had lapsed.")
UNAUTHORIZED = Counter("b2copy_session_unauthorized", "401s on calls that carried an access token.")
REFRESH_REJECTED = Counter("b2copy_session_refresh_rejected", "Refresh tokens B2COPY refused.")
STORE_UNAVAILABLE = Counter("b2copy_session_store_unavailable", "Callers without a token because Redis did not answer.")
UNREADABLE = Counter("b2copy_session_unreadable", "Stored sessions no storage key could decrypt.")
CLOCK_OFFSET = Gauge(
    "b2copy_session_clock_offset_seconds", "B2COPY's clock minus ours.", multiprocess_mode="livemostrecent"
)
COOLDOWN = Gauge(
    "b2copy_session_cooldown_active",
    "1 while nobody asks for a token.",
    ["login", "class"],
    multiprocess_mode="livemax",
)
