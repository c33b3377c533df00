"""Checks of everything that a worker needs: each says what it found and what to do about it. None stops at a fault."""

from typing import Literal, NamedTuple

Grade = Literal["ok", "warn", "FAIL", "skip"]


class CheckResult(NamedTuple):
    """`message` says what was found, `remedy` what to do about it."""

    check: str
    grade: Grade
    message: str
    remedy: str = ""
