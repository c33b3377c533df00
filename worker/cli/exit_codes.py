"""How a command ends: the exit codes that scripts may rely on, and the errors that lead to them."""

from enum import IntEnum
from typing import Any

import typer

from worker.errors import B2CopyError, BadPayload, NotAllowed, SettingsError


class Exit(IntEnum):
    """Exit codes, the same for every command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_SUCCEEDED = 3
    WAITING = 4
    NOT_FOUND = 5
    DIFFERENT = 6


MEANINGS = {
    Exit.OK: "done",
    Exit.FAILED: "it failed, or a check did",
    Exit.USAGE: "a setting or an argument is wrong",
    Exit.NOT_SUCCEEDED: "the operation failed or was cancelled",
    Exit.WAITING: "it is not finished yet",
    Exit.NOT_FOUND: "no such operation",
    Exit.DIFFERENT: "B2COPY and the ledger differ",
}

EXITS = "Exit codes: " + " · ".join(f"{code.value} {meaning}" for code, meaning in MEANINGS.items()) + "."

_EXTRAS = {"psycopg": "postgres", "aiohttp": "sandbox"}


class Stop(Exception):
    """End the command with an exit code and a few lines on stderr."""

    def __init__(self, code: Exit, *lines: str) -> None:
        super().__init__(code, *lines)
        self.code = code
        self.lines = lines


# typer exports only this one of its errors about arguments. The base class is what all of them share.
_UsageError: Any = typer.BadParameter.__mro__[1]


def stopped_by(error: Exception) -> Stop | None:
    """Return how to end because of `error`; None for a fault of ours, where the traceback helps more."""
    match error:
        case Stop():
            return error
        case _UsageError():
            return Stop(Exit.USAGE, *_usage(error))
        case typer.Abort():
            return Stop(Exit.FAILED, "aborted")
        case SettingsError():
            return Stop(Exit.USAGE, *str(error).splitlines())
        case BadPayload():
            return Stop(Exit.USAGE, str(error))
        case NotAllowed():
            return Stop(Exit.FAILED, *str(error).splitlines())
        case B2CopyError():
            return Stop(Exit.FAILED, str(error))
        case ModuleNotFoundError() if error.name in _EXTRAS:
            extra = _EXTRAS[error.name]
            return Stop(Exit.USAGE, f"this needs the package {error.name}: install b2copy-sync[{extra}]")
        case OSError():
            return Stop(Exit.FAILED, f"{error.filename}: {error.strerror}" if error.filename else str(error))
    from sqlalchemy.exc import DBAPIError

    if isinstance(error, DBAPIError):
        # Not str(error), which is the statement with its parameters: those may be personal data.
        reason = str(error.orig).strip().partition("\n")[0]
        return Stop(
            Exit.FAILED, f"the ledger (B2COPY_DATABASE_URL) cannot be used: {reason}", "b2copy-sync doctor checks it"
        )
    return None


def _usage(error: Any) -> list[str]:
    """Return a line that says what is wrong with the arguments; without any arguments, the command's whole help."""
    message: str = error.format_message().replace("Value error, ", "")  # pydantic's words before ours
    if error.ctx is None or type(error).__name__ == "NoArgsIsHelpError":
        return message.rstrip().splitlines()
    return [f"{error.ctx.command_path}: {message} (--help tells more)"]
