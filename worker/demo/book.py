"""The book of the story: ten clients, how each must end, and how each stands now."""

from dataclasses import asdict, dataclass
from typing import Any

from worker.ledger import Ledger, attempts_of, identities_of
from worker.operation import FINAL, Operation, State

CLIENTS, MASTERS = 10, 2
REFUSED, NONE_DUE = 7, 5
"""Which client's fees B2COPY cannot charge, and for which none are due."""
YES, NO, NO_WITHDRAWAL = "yes", "no", "-"
"""Whether the CRM may pay a withdrawal."""
_NO_MONEY = "the master account cannot be credited"


@dataclass(frozen=True)
class Client:
    """One client of the book, as the CRM knows it: `number` is 1 to 10. The first ones are masters."""

    number: int

    @property
    def crm_id(self) -> str:
        return f"C-{self.number:02}"

    @property
    def login(self) -> str:
        return str(700_100 + self.number)

    @property
    def is_master(self) -> bool:
        return self.number <= MASTERS

    @property
    def registration(self) -> str:
        return f"clients.register:1/{self.login}"

    @property
    def opening(self) -> str:
        return f"accounts.create:1/{self.login}"

    @property
    def withdrawal(self) -> str | None:
        """The CRM's id of the client's withdrawal: investors withdraw, masters do not."""
        return None if self.is_master else f"W-{self.number:02}"

    @property
    def fees(self) -> str | None:
        return self.withdrawal and f"fees.process:{self.withdrawal}"

    @property
    def rule(self) -> dict[str, Any]:
        """How the sandbox answers about the fees of this login."""
        if self.number == REFUSED:
            return {"pending_seconds": 1, "ends": "ERROR", "message": _NO_MONEY}
        return {} if self.number == NONE_DUE else {"pending_seconds": self.number / 4}


@dataclass(frozen=True)
class Line:
    """A client's line of the table. `fees` says how the fees stand, `payout` whether the CRM may pay.

    `message` is B2COPY's own text about fees that failed.
    """

    client: str
    login: str
    client_id: str
    account: str
    sort: str
    withdrawal: str
    fees: str
    payout: str
    is_as_expected: bool
    message: str = ""


@dataclass(frozen=True)
class BookReport:
    """The lines at the end, and what happened at B2COPY."""

    lines: list[Line]
    registered: int
    opened: int
    twice: int
    logins: int
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether each client ended as the story says, with nothing done twice and one login."""
        done = (self.registered, self.opened, self.twice, self.logins)
        return all(line.is_as_expected for line in self.lines) and done == (CLIENTS, CLIENTS, 0, 1)

    def document(self) -> dict[str, Any]:
        """Return the report as one JSON document, for `--json`."""
        return {"passed": self.passed, **asdict(self)}


def line_of(ledger: Ledger, one: Client, found: dict[str, Operation]) -> Line:
    """Return how a client stands. `found`: the operations that there are of it, by key."""
    opening, fees = found.get(one.opening), found.get(one.fees or "")
    known = next(iter(identities_of(ledger, login=one.login)), None)
    client_id, account_id = (known.client_id, known.account_id) if known else (None, None)
    sort = "master" if one.is_master else "investor"
    is_final = opening is not None and opening.state in FINAL
    fees_text = payout = message = ""
    if one.withdrawal is None:
        fees_text, payout = ("", NO_WITHDRAWAL) if is_final else ("", "")
    elif fees is not None and fees.state == State.SUCCEEDED:
        fees_text, payout = str(fees.state), YES  # charged, or none due: B2COPY does not say which
    elif fees is not None and fees.state in FINAL:
        fees_text, payout = str(fees.failure_reason), NO
        message = next((each.message or "" for each in reversed(attempts_of(ledger, fees.id))), "")
    elif fees is not None:
        fees_text = "pending" if fees.polls else "requested"
    expected = NO_WITHDRAWAL if one.is_master else NO if one.number == REFUSED else YES
    return Line(
        one.crm_id, one.login, client_id or "", account_id or "", sort, one.withdrawal or "",
        fees_text, payout, payout == expected and account_id is not None, message,
    )  # fmt: skip
