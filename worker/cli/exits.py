"""How a command ends: the exit codes scripts may rely on, and the errors that lead to them."""

from enum import IntEnum
from typing import Any

import typer

from worker.errors import B2CopyError, BadPayload, NotAllowed, SettingsError


class Exit(IntEnum):
    """Exit codes, the same for every command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_DONE = 3
    WAITING = 4
    NOT_FOUND = 5


EXITS = """Exit codes: 0 done · 1 it failed, or a check did · 2 a setting or an argument is wrong · \
3 the operation failed or was cancelled · 4 the operation is not finished yet · 5 no such operation."""


class Stop(Exception):
    """End the command with a code and a few plain lines for stderr."""

    def __init__(self, code: Exit, told: str) -> None:
        super().__init__(code, told)
        self.code = code
        self.told = told


# typer shows only this one of its errors about arguments; its base is what they share.
_UsageError: Any = typer.BadParameter.__mro__[1]


def stopped_by(error: Exception) -> Stop | None:
    """Return how to end because of `error`; None if it is a fault of ours, whose traceback is worth more than words."""
    match error:
        case Stop():
            return error
        case _UsageError():
            return Stop(Exit.USAGE, _usage(error))
        case typer.Abort():
            return Stop(Exit.FAILED, "aborted")
        case SettingsError() | BadPayload():
            return Stop(Exit.USAGE, str(error))
        case NotAllowed() | B2CopyError():
            return Stop(Exit.FAILED, str(error))
        case ModuleNotFoundError() if error.name in _EXTRAS:
            extra = _EXTRAS[error.name]
            return Stop(Exit.USAGE, f"this needs the package {error.name}: install b2copy-sync[{extra}]")
        case OSError():
            return Stop(Exit.FAILED, f"{error.filename}: {error.strerror}" if error.filename else str(error))
    from sqlalchemy.exc import DBAPIError

    if isinstance(error, DBAPIError):
        # Not str(error): that is the statement with its parameters, which may be personal data.
        return Stop(Exit.FAILED, f"the ledger (B2COPY_DATABASE_URL) cannot be used: {first_line(error.orig)}")
    return None


def _usage(error: Any) -> str:
    """Say in a line what is wrong with the arguments; without any, all of the command's help."""
    told: str = error.format_message()
    if error.ctx is None or type(error).__name__ == "NoArgsIsHelpError":
        return told.rstrip()
    return f"{error.ctx.command_path}: {told} (--help tells more)"


def first_line(error: object) -> str:
    """Return the first line of what an error says."""
    return str(error).strip().partition("\n")[0]


_EXTRAS = {"psycopg": "postgres", "aiohttp": "sandbox"}
