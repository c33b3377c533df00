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
        chosen = candidates(self._ledger, run)
        if not chosen:
            return finish_run(self._ledger, run)
        now = identities_now(self._ledger, chosen)
        decided: list[Candidate] = []
        differ: list[Difference] = []
        for one in chosen:
            difference = _difference(one, now, one.accounts)
            if difference is not None and difference.difference != "missing_here":
                break
            decided.append(one)
            differ += [difference] if difference else []
        if decided:
            return decide(self._ledger, run, decided, differ, 0)
        return self._confirm(run, chosen[0])

    def _confirm(self, run: Run, one: Candidate) -> Run | None:
        """Ask B2COPY about one login, and compare it with what the identity map has after that."""
        if not self._wait():
            return None
        platform = int(one.platform) if one.platform.isascii() and one.platform.isdigit() else None
        accounts = tuple(_there(account) for account in self._find(AccountSearch(platform=platform, number=one.login)))
        difference = _difference(one, identities_now(self._ledger, [one]), accounts)
        return decide(self._ledger, run, [one], [difference] if difference else [], 1)


def _there(account: Account) -> AccountThere:
    platform = FIRST_PLATFORM if account.platform is None else str(account.platform)
    return AccountThere(platform, account.number, account.account_id or "", account.client_id)


def _difference(
    one: Candidate, now: Mapping[tuple[str, str], Identity | None], accounts: Sequence[AccountThere]
) -> Difference | None:
    """Return how the identity map differs from these accounts of one login; None if it does not.

    What is changing at this moment is left to the next run: an account that is being opened, and an identity that is
    not any more as it was when the candidate was found.
    """
    place = (one.platform, one.login)
    if place not in now or now[place] != one.identity:
        return None
    known = one.identity
    here = {name: getattr(known, name, None) for name in FIELDS}
    if not accounts:
        is_expected = known is not None and (known.account_id is not None or known.learned_from.startswith(OPENING))
        return Difference(*place, "missing_there", {n: [v, None] for n, v in here.items()}) if is_expected else None
    if len(accounts) > 1:
        ids = ", ".join(sorted(account.account_id or "?" for account in accounts))
        return Difference(*place, "different", {"account_id": [here["account_id"], ids]})
    there = {"account_id": accounts[0].account_id or None, "client_id": accounts[0].client_id}
    fields = {name: [here[name], there[name]] for name in FIELDS if there[name] not in {None, here[name]}}
    if any(value is not None for value, _ in fields.values()):
        return Difference(*place, "different", fields)
    return Difference(*place, "missing_here", fields) if fields or known is None else None
