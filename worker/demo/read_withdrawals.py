"""The demo's withdrawals: a CSV file in which each row says what B2COPY does and how the withdrawal must end.

request_id       the CRM's id of the withdrawal
account_login    the MT login whose money is withdrawn
pending_seconds  how long B2COPY takes to collect the fees; 0: no fees are due
b2copy_status    SUCCESS, ERROR, or UNKNOWN for a login that B2COPY does not know
message          B2COPY's message if it is not a success
must_end         succeeded, or the reason why it must have failed: fee_error or rejected
"""

import csv
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from worker.sandbox.switches import FeeRule

SAMPLE = Path(__file__).with_name("withdrawals.csv")


class Withdrawal(BaseModel):
    """One row."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    request_id: str
    account_login: str
    pending_seconds: float = 0.0
    b2copy_status: Literal["SUCCESS", "ERROR", "UNKNOWN"] = "SUCCESS"
    message: str = ""
    must_end: Literal["succeeded", "fee_error", "rejected"]

    @property
    def key(self) -> str:
        """The key of its operation in the ledger."""
        return f"fees.process:{self.request_id}"

    @property
    def fields(self) -> dict[str, str]:
        """The fields that the CRM enqueues."""
        return {"account_login": self.account_login, "request_id": self.request_id}

    @property
    def rule(self) -> FeeRule:
        """How the sandbox answers for this login."""
        if self.b2copy_status == "UNKNOWN":
            return FeeRule(known=False)
        message = {"message": self.message} if self.message else {}
        return FeeRule(pending_seconds=self.pending_seconds, ends=self.b2copy_status, **message)


def read(path: Path, at_most: int | None = None) -> list[Withdrawal]:
    """Return the first `at_most` rows. Raises ValueError naming file, line and column of an unusable value."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = [_row(path, reader.line_num, values) for values in reader]
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a CSV file in UTF-8: {error}") from None
    rows = rows[:at_most]
    if not rows:
        raise ValueError(f"{path} has no rows")
    _check_consistent(path, rows)
    return rows


def rules(rows: list[Withdrawal]) -> dict[str, Any]:
    """Return the sandbox's `logins` switch for these rows."""
    return {row.account_login: row.rule.model_dump(mode="json") for row in rows}


def _row(path: Path, line: int, values: dict[str, str]) -> Withdrawal:
    try:
        return Withdrawal.model_validate({name: value for name, value in values.items() if value != ""})
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]
        raise ValueError(f"{path}, line {line}: {'; '.join(problems)}") from None


def _check_consistent(path: Path, rows: list[Withdrawal]) -> None:
    """Raise ValueError unless each login has one rule at the sandbox and each request id is unique in the ledger."""
    by_login: dict[str, FeeRule] = {}
    ids: set[str] = set()
    for row in rows:
        if row.request_id in ids:
            raise ValueError(f"{path}: request_id {row.request_id} occurs twice")
        if by_login.setdefault(row.account_login, row.rule) != row.rule:
            raise ValueError(f"{path}: the rows of account_login {row.account_login} contradict each other")
        ids.add(row.request_id)
