"""The demo's withdrawals: a CSV in which each row says how B2COPY will behave and how the withdrawal must end.

request_id       the CRM's id of the withdrawal
account_login    the MT login the money leaves
pending_seconds  how long B2COPY takes to collect the fees; 0: none are due
b2copy_says      SUCCESS, ERROR or UNKNOWN (there is no such login)
words            B2COPY's words when it is not a success
must_end         succeeded, or the reason why it must have failed: fee_error or rejected
"""

import csv
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from worker.sandbox.switches import FeeRule


class Withdrawal(BaseModel):
    """One row."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    request_id: str
    account_login: str
    pending_seconds: float = 0.0
    b2copy_says: Literal["SUCCESS", "ERROR", "UNKNOWN"] = "SUCCESS"
    words: str = ""
    must_end: Literal["succeeded", "fee_error", "rejected"]

    @property
    def key(self) -> str:
        """Its operation's key in the ledger."""
        return f"fees.process:{self.request_id}"

    @property
    def fields(self) -> dict[str, str]:
        """What the CRM hands over."""
        return {"account_login": self.account_login, "request_id": self.request_id}

    @property
    def rule(self) -> FeeRule:
        """How the sandbox treats this login."""
        if self.b2copy_says == "UNKNOWN":
            return FeeRule(known=False)
        told = {"words": self.words} if self.words else {}
        return FeeRule(pending_seconds=self.pending_seconds, ends=self.b2copy_says, **told)


def read(path: Path, at_most: int | None = None) -> list[Withdrawal]:
    """Return the first `at_most` rows. Raises ValueError naming file, line and column of what cannot be used."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = [_row(path, reader.line_num, values) for values in reader]
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no CSV in UTF-8: {error}") from None
    rows = rows[:at_most]
    if not rows:
        raise ValueError(f"{path} holds no withdrawal")
    _contradictions(path, rows)
    return rows


def rules(rows: list[Withdrawal]) -> dict[str, Any]:
    """Return the sandbox's `logins` switch for these rows."""
    return {row.account_login: row.rule.model_dump(mode="json") for row in rows}


def _row(path: Path, line: int, values: dict[str, str]) -> Withdrawal:
    try:
        return Withdrawal.model_validate({name: value for name, value in values.items() if value != ""})
    except ValidationError as error:
        told = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]
        raise ValueError(f"{path}, line {line}: {'; '.join(told)}") from None


def _contradictions(path: Path, rows: list[Withdrawal]) -> None:
    """The sandbox has one rule per login, and the ledger one operation per request id."""
    by_login: dict[str, FeeRule] = {}
    ids: set[str] = set()
    for row in rows:
        if row.request_id in ids:
            raise ValueError(f"{path}: request_id {row.request_id} stands there twice")
        if by_login.setdefault(row.account_login, row.rule) != row.rule:
            raise ValueError(f"{path}: login {row.account_login} is told to behave in two ways")
        ids.add(row.request_id)
