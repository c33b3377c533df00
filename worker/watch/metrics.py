"""What the worker counts. Base units, and no ids in labels."""

from prometheus_client import Counter, Gauge, Histogram

SESSION_GENERATION = Gauge("b2copy_session_generation", "Generation of the session this process last saw.", ["login"])
SESSION_EXPIRES_IN = Gauge(
    "b2copy_session_expires_in_seconds", "How long this process's access token is still good.", ["login"]
)
RENEWALS = Counter("b2copy_session_renewals", "Renewals this process led.", ["login", "trigger", "outcome"])
RENEWAL_SECONDS = Histogram(
    "b2copy_session_renewal_seconds", "Duration of a renewal.", buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60)
)
LEASE_WAIT_SECONDS = Histogram(
    "b2copy_session_lease_wait_seconds", "How long callers waited for a token.", buckets=(0.01, 0.05, 0.1, 0.5, 1, 2, 3)
)
LEASE_LOST = Counter("b2copy_session_lease_lost", "Renewals given up because another process had taken the lease.")
UNAUTHORIZED = Counter("b2copy_session_unauthorized", "401s on calls that carried an access token.")
REFRESH_REJECTED = Counter("b2copy_session_rt_rejected", "Refresh tokens B2COPY refused.")
STORE_UNAVAILABLE = Counter("b2copy_session_store_unavailable", "Callers without a token because Redis did not answer.")
UNREADABLE = Counter("b2copy_session_unreadable", "Stored sessions no storage key could decrypt.")
CLOCK_OFFSET = Gauge("b2copy_session_clock_offset_seconds", "B2COPY's clock minus ours.")
COOLDOWN = Gauge("b2copy_session_cooldown_active", "1 while nobody asks for a token.", ["login", "class"])
