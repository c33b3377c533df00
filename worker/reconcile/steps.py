"""The steps of a reconciliation: read a page, confirm a candidate. Each sends one request at most.

How pages stay right while accounts are opened, closed and moved:

* Pages are asked for oldest first, so that a new account stands at the end and moves nothing.
* Each page begins with the last account of the page before, the anchor. If another account is in its place, the list
  has moved: reading continues only from an account that was read already, for which it goes back if it must. So what
  is stored has no gap, and what is read twice is stored once.
* A page only makes candidates. Before a login counts as missing there or as different, B2COPY is asked for this login
  alone, and the identity map is read again. So an account that no page has shown is never reported as missing.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile

from worker.b2copy.routes.account import Account
from worker.b2copy.routes.account_list import AccountSearch
from worker.ledger import Ledger
from worker.ledger.identities import OPENING, Identity
from worker.ledger.reconciliation import (
    FIELDS,
    AccountThere,
    Candidate,
    Difference,
    Run,
    candidates,
    decide,
    finish_run,
    identities_now,
    is_listed,
    store_page,
)

PAGE = 100  # accounts asked for at once; a server that gives fewer is asked more often
MOVES_MAX = 20  # pages in a row that did not begin with their anchor, after which there is no use in going on
FIRST_PLATFORM = "1"
"""The platform of an account whose platform B2COPY does not name: the documentation says 1 if there is one server."""


class ListUnusable(Exception):
    """B2COPY's list cannot be read in pages."""


Find = Callable[[AccountSearch], list[Account]]


class Reconciler:
    """Makes the steps of a run. `find` sends one request for accounts, `wait` returns False if none may be sent now."""

    def __init__(self, ledger: Ledger, find: Find, wait: Callable[[], bool]) -> None:
        self._ledger, self._find, self._wait = ledger, find, wait
        self._moves = 0
        self._ahead: list[Candidate] = []  # candidates that were read and are not decided
        self._ahead_of: tuple[int, tuple[str, str, str]] | None = None  # the run, and what it must have decided last

    def step(self, run: Run) -> Run | None:
        """Make the next step and return the run after it; None if no request may be sent now.

        Raises the errors of `worker.errors` if B2COPY does not answer: the same step can be made again.
        """
        if run.phase == "reading":
            return self._read_page(run) if self._wait() else None
        return self._compare(run)

    def _read_page(self, run: Run) -> Run:
        first = max(0, run.position - 1)  # the place of the anchor
        search = AccountSearch(limit=PAGE, offset=first, sort_by="created_at", sort_order="asc")
        page = [_there(account) for account in self._find(search)]
        if not run.position or (run.anchor and page and page[0].key == run.anchor.key):
            self._moves = 0
            return store_page(self._ledger, run, page, first + len(page), is_end=len(page) <= bool(run.position))
        self._moves += 1
        if self._moves > MOVES_MAX:
            self._moves = 0
            raise ListUnusable(
                "the pages of B2COPY's list of accounts do not follow each other: it ignores limit, offset or"
                " sort_order, or its accounts change faster than they are read. Nothing was compared"
            )
        if page and is_listed(self._ledger, page[0]):  # accounts were added in front of it
            return store_page(self._ledger, run, page, first + len(page), is_end=False)
        # Accounts in front were closed. Nothing of this page is stored: what is stored has no gap.
        return store_page(self._ledger, run, [], max(0, run.position - PAGE * 2 ** (self._moves - 1)), is_end=False)

    def _compare(self, run: Run) -> Run | None:
        """Decide the next candidates that need no request, or one that needs one."""
        if self._ahead_of != (run.started_at, run.compared_to):
            self._ahead = []
        ahead = self._ahead or candidates(self._ledger, run)
        if not ahead:
            return finish_run(self._ledger, run)
        decided = list(takewhile(_needs_no_request, ahead))
        if decided:
            now = identities_now(self._ledger, decided)
            differ = [difference for one in decided if (difference := _confirmed(one, now, one.accounts))]
            after = decide(self._ledger, run, decided, differ, 0)
        elif not self._wait():
            return None
        else:
            decided = ahead[:1]
            after = decide(self._ledger, run, decided, self._ask_about(decided[0]), 1)
        # If another process was faster, `after` is its step, and the next one reads the candidates again.
        self._ahead, self._ahead_of = ahead[len(decided) :], (run.started_at, decided[-1].place)
        return after

    def _ask_about(self, one: Candidate) -> list[Difference]:
        """Ask B2COPY about one login, and compare it with what the identity map has after that."""
        platform = int(one.platform) if one.platform.isascii() and one.platform.isdigit() else None
        accounts = tuple(_there(account) for account in self._find(AccountSearch(platform=platform, number=one.login)))
        difference = _confirmed(one, identities_now(self._ledger, [one]), accounts)
        return [difference] if difference else []


def _there(account: Account) -> AccountThere:
    platform = FIRST_PLATFORM if account.platform is None else str(account.platform)
    return AccountThere(platform, account.number, account.account_id or "", account.client_id)


def _needs_no_request(one: Candidate) -> bool:
    """Return whether what the page showed is enough: an account was there, and nothing here contradicts it."""
    difference = _difference(one, one.accounts)
    return difference is None or difference.difference == "missing_here"


def _confirmed(
    one: Candidate, now: Mapping[tuple[str, str], Identity | None], accounts: Sequence[AccountThere]
) -> Difference | None:
    """Return the difference, unless something is changing at this moment. That is left to the next run.

    It is changing if an operation is opening the account (then `now` lacks it), or if the identity is not any more as
    it was when the candidate was found.
    """
    place = (one.platform, one.login)
    return _difference(one, accounts) if place in now and now[place] == one.identity else None


def _difference(one: Candidate, accounts: Sequence[AccountThere]) -> Difference | None:
    """Return how the candidate's identity differs from these accounts of its login; None if it does not."""
    place, known = (one.platform, one.login), one.identity
    here = {name: getattr(known, name, None) for name in FIELDS}
    if not accounts:
        is_expected = known is not None and (known.account_id is not None or known.learned_from.startswith(OPENING))
        fields = {name: [value, None] for name, value in here.items()}
        return Difference(*place, "missing_there", fields) if is_expected else None
    if len(accounts) > 1:
        ids = ", ".join(sorted(account.account_id or "?" for account in accounts))
        return Difference(*place, "different", {"account_id": [here["account_id"], ids]})
    there = {"account_id": accounts[0].account_id or None, "client_id": accounts[0].client_id}
    fields = {name: [here[name], there[name]] for name in FIELDS if there[name] not in {None, here[name]}}
    if any(value is not None for value, _ in fields.values()):
        return Difference(*place, "different", fields)
    return Difference(*place, "missing_here", fields) if fields or known is None else None
