"""Checks of everything that a worker needs: each says what it found and what to do about it. None stops at a fault."""

from typing import Literal, NamedTuple

Grade = Literal["ok", "warn", "FAIL", "skip"]


class CheckResult(NamedTuple):
    """`message` says what was found, `remedy` what to do about it."""

    check: str
    grade: Grade
    message: str
    remedy: str = ""


def name_authority(setting: str) -> str:
    """Return the remedy for a server whose certificate is not trusted. `setting` names the file of authorities."""
    return (
        f"name the authority that signed its certificate in {setting}, and in the URL the host name that the"
        " certificate names"
    )
