"""Whether B2COPY answers, and whether our clock is right by its own."""

import time
from collections.abc import Iterator

from worker.doctor import CheckResult, Grade
from worker.errors import B2CopyError
from worker.http import Http
from worker.session import SharedSession
from worker.settings import Settings

SKEW_S = 5.0  # seconds; B2COPY's Date header has whole ones
WRONG_S = 300.0  # seconds beyond which the clock is a fault and no longer a remark


def check(settings: Settings) -> Iterator[CheckResult]:
    began = time.time()
    try:
        answer = Http({"service_admin": SharedSession(settings)}, settings).reach()
    except B2CopyError as error:
        yield CheckResult("b2copy", "FAIL", str(error), "is B2COPY_HOST right, and does the network let us out?")
        return
    took_s = time.time() - began
    status = f"HTTP {answer.status}; any status shows that it is reachable"
    yield CheckResult("b2copy", "ok", f"{settings.host} answers in {took_s * 1000:.0f} ms ({status})")
    if answer.server_time is None:
        yield CheckResult("clock", "warn", "B2COPY's answer has no Date: our clock cannot be compared")
        return
    ahead_s = answer.server_time - (began + took_s / 2)
    if abs(ahead_s) <= SKEW_S:
        yield CheckResult("clock", "ok", "equal to B2COPY's within seconds")
    else:
        message = f"our clock is {abs(ahead_s):.0f} s {'behind' if ahead_s > 0 else 'ahead of'} B2COPY's"
        grade: Grade = "warn" if abs(ahead_s) <= WRONG_S else "FAIL"
        remedy = (
            "until it is right, logins use B2COPY's time, up to a difference of B2COPY_CLOCK_TOLERANCE. Let NTP set"
            " this clock: `sudo timedatectl set-ntp true`"
        )
        yield CheckResult("clock", grade, message, remedy)
