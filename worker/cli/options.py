"""Options that several commands share, and how they are read."""

import json
import re
import time
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from worker import exact_json
from worker.cli.exit_codes import Exit, Stop
from worker.current_user import current_user
from worker.errors import BadPayload
from worker.operation import FailureReason, WaitReason
from worker.queues import LANES, REQUEST_LANES

KIND_REASONS = ("fee_error", "client_unknown", "other_client", "other_account")
"""The failure reasons of the kinds. Importing the kinds takes too long for a --help; a test compares the two."""

if TYPE_CHECKING:
    from worker.operation import Operation

    Lane = str
    AnyLane = str
    LaneOrAll = str
    Reason = str
    AnyReason = str
else:
    Lane = Literal[REQUEST_LANES]
    AnyLane = Literal[LANES]
    LaneOrAll = Literal[("all", *LANES)]
    Reason = Literal[(*map(str, FailureReason), *KIND_REASONS)]
    AnyReason = Literal[(*map(str, WaitReason), *map(str, FailureReason), *KIND_REASONS)]


def duration(value: Any) -> float:
    """Read `90`, `90s`, `5m`, `72h` or `400d` as seconds."""
    from pydantic import TypeAdapter, ValidationError

    from worker.settings import Seconds

    try:
        return TypeAdapter(Seconds).validate_python(value)
    except ValidationError:
        raise typer.BadParameter(f"{value!r} is no duration: write 90s, 5m, 72h or 400d") from None


def moment(value: str) -> int:
    """Read `2h` (ago) or `2026-05-01[T12:00]` (this machine's time zone, unless it names one) as ms since the epoch."""
    if re.match(r"\d{4}-", value):
        try:
            return int(datetime.fromisoformat(value).timestamp() * 1000)
        except (ValueError, OverflowError):
            raise typer.BadParameter(f"{value!r} is no date: write 2026-05-01 or 2026-05-01T12:00") from None
    try:
        return int((time.time() - duration(value)) * 1000)
    except typer.BadParameter:
        raise typer.BadParameter(
            f"{value!r} is neither a duration nor a date: write 2h, 3d, 2026-05-01 or 2026-05-01T12:00"
        ) from None


def per_second(value: str) -> float:
    """Read `10/second`, `30/minute` as operations a second."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:/\s*(second|minute|hour))?\s*", value)
    if not found or not float(found[1]):
        raise typer.BadParameter(f'{value!r} is no rate: write "10/second" or "30/minute"')
    return float(found[1]) / {"second": 1, "minute": 60, "hour": 3600}[found[2] or "second"]


def named_texts(pairs: list[str], hint: str) -> dict[str, str]:
    """Read `name=value` pairs. Raises `typer.BadParameter` for what is no pair and for a name that comes twice."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator or not name:
            raise typer.BadParameter(f"{pair!r} must be NAME=VALUE", param_hint=hint)
        if name in found:
            raise typer.BadParameter(f"{name} is given twice", param_hint=hint)
        found[name] = text
    return found


def json_or_text(name: str, text: str) -> Any:
    """Read a field's JSON; what is not JSON is a text. Raises `BadPayload` for JSON that Python would change."""
    try:
        return exact_json.loads(text)
    except ValueError as error:
        problem = str(error)
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text
    raise BadPayload(f"{name}: {problem}")


def check_yes(yes: bool, operation: "Operation", effect: str) -> None:
    """Raise `Stop` if the operation moves money and --yes is not given. `effect` says what the command would do."""
    from tasks.registry import ALL_KINDS
    from worker.report.replayable import moves_money

    if moves_money(operation.kind, operation.lane, ALL_KINDS) and not yes:
        raise Stop(Exit.USAGE, f"{operation.key} moves money: {effect}; then --yes")


def _named(value: str | None) -> str | None:
    if value is not None and not value.strip():
        raise typer.BadParameter("is empty: name an operation, for instance fees.process:W1")
    return value


def _not_empty(value: str) -> str:
    if not value.strip():
        raise typer.BadParameter("must not be empty: it is stored as evidence")
    return value


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
AsIs = Annotated[
    list[str] | None,
    typer.Option(
        "--as-is",
        metavar="COLUMN",
        help="The ids of this column are right, also those that look as if a spreadsheet had changed them.",
    ),
]
Digits = Annotated[
    list[str] | None,
    typer.Option(
        "--digits",
        metavar="COLUMN=N",
        help="The ids of this column have N digits; a row with another number of them is refused.",
    ),
]
Encoding = Annotated[
    str | None,
    typer.Option(help="utf-8, utf-16, cp1252, ...", show_default="what the file's first bytes say, or utf-8"),
]
IgnoreExtra = Annotated[bool, typer.Option("--ignore-extra", help="Leave out columns that are not known.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check every row, say what is new and known, record nothing.")]
Whole = Annotated[bool, typer.Option("--whole", help="The file is whole, although its last line has no line end.")]
By = Annotated[
    str,
    typer.Option(
        "--by",
        help="Who asks. It is stored with what is done.",
        default_factory=current_user,
        show_default="user@host",
        callback=_not_empty,
    ),
]
Why = Annotated[str, typer.Option("--why", callback=_not_empty, help="Your reason. It is stored with what is done.")]
Key = Annotated[
    str,
    typer.Argument(metavar="KEY", help="An operation's key (fees.process:W1), or its id alone (W1).", callback=_named),
]
OptionalKey = Annotated[
    str | None,
    typer.Argument(
        metavar="KEY",
        help="An operation's key (fees.process:W1), or its id alone (W1).",
        callback=_named,
        show_default="the overview of the whole system",
    ),
]
Login = Annotated[str, typer.Argument(metavar="LOGIN", help="The MT login.")]
Platform = Annotated[int, typer.Option(help="B2COPY's number of the trading platform.")]

WHICH = "Which ones"  # the panel of the options that choose failed operations
ByReason = Annotated[
    Reason | None, typer.Option("--reason", help="Only those that failed for this reason.", rich_help_panel=WHICH)
]
ByKind = Annotated[str | None, typer.Option("--kind", help="Only this kind, e.g. fees.process.", rich_help_panel=WHICH)]
ByLane = Annotated[AnyLane | None, typer.Option("--lane", help="Only this lane.", rich_help_panel=WHICH)]
Since = Annotated[
    int | None,
    typer.Option(
        "--since",
        parser=moment,
        metavar="WHEN",
        help="Only those failed since 2h, 3d, 2026-05-01, 2026-05-01T12:00.",
        rich_help_panel=WHICH,
    ),
]
