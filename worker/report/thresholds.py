"""From which age on something is late: for commands, the console and the alerts of deploy/prometheus/rules.yml."""

# Seconds that something may be due, or a row of b2copy_requests may wait, and no worker takes it. If a worker is
# killed, its leases lapse after 10 s. 15 s after the end of a fault everything is final, which `make chaos` demands
# (`DRAINED_S`). This is twice that.
DUE_LATE_S = 30.0

# Seconds that an operation of the lane money may be open, by our clock. B2COPY answers within seconds, and our longest
# back-off is 10 s. So after two minutes it has been tried several times, or it waits for something else.
MONEY_LATE_S = 120.0

# Seconds without a dispatch. Each worker tries to make one every 0.25 s, also without beat. So no worker runs then, and
# only this shows it while nothing is due.
DISPATCH_LATE_S = 15.0

# Seconds for which B2COPY has asked us to send nothing (429). Most holds last seconds, and nothing is late meanwhile.
# After a quarter of an hour a person should know why there are no results.
HELD_LONG_S = 900.0

# Seconds that a notice may be open. Six tries are made within seven minutes, so all of them have failed then, or a 429
# has asked us to wait.
NOTICES_LATE_S = 900.0
