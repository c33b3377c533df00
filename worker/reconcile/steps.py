"""The steps of a reconciliation: read a page, confirm a candidate. Each sends one request at most.

How pages stay right while accounts are opened, closed and moved:

* Pages are asked for oldest first, so that a new account stands at the end and moves nothing.
* Each page begins with the last account of the page before, the anchor. If another account is in its place, the list
  has moved: reading continues only from an account that was read already, for which it goes back if it must. So what
  is stored has no gap, and what is read twice is stored once.
* A page only makes candidates. Before a login counts as missing there or as different, B2COPY is asked for this login
  alone, and the identity map is read again. So an account that no page has shown is never reported as missing.

If there are several platforms, the same login may be a different person on each. So an account whose platform B2COPY
does not name is then known by B2COPY's id alone, and is unclear without it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import takewhile

from worker.b2copy.routes.account_fields import Account
from worker.b2copy.routes.account_list import AccountSearch
from worker.errors import NotFound, Permanent, UnknownOutcome
from worker.ledger import Ledger
from worker.ledger.identities import Identity
from worker.ledger.reconciliation import (
    FIELDS,
    AccountThere,
    Candidate,
    Difference,
    Run,
    candidates,
    current_run,
    decide,
    expected_accounts,
    finish_run,
    identities_now,
    is_listed,
    knows_other_platforms,
    platforms_by_id,
    store_page,
)

PAGE = 100  # accounts asked for in one request; a server that gives fewer is asked more often
MOVES_MAX = 20  # pages in a row that did not begin with their anchor, after which the list counts as unusable
FIRST_PLATFORM = "1"
"""The platform of an account whose platform B2COPY does not name, as long as we know no other platform than this one:
the documentation says 1 if there is one server."""

_PLATFORM = re.compile(r"[1-9][0-9]{0,17}")


class ListUnusable(Exception):
    """B2COPY's list cannot be read in pages, or shows nothing at all."""


@dataclass(frozen=True, slots=True)
class Unclear:
    """What B2COPY has of one login is not known, although it answers: `why` says how."""

    why: str


_NO_PLATFORM = Unclear(
    "B2COPY names no platform for an account of this login, and the identity map or an operation knows another platform"
    f" than {FIRST_PLATFORM}"
)

Find = Callable[[AccountSearch], list[Account]]
OneRequest = Callable[[], AbstractContextManager[bool]]
"""What a request is sent in. It holds False if none may be sent now."""


class Reconciler:
    """Makes the steps of a run. `find` sends one request for accounts, in a block of `one_request`."""

    def __init__(self, ledger: Ledger, find: Find, one_request: OneRequest) -> None:
        self._ledger, self._find, self._one_request = ledger, find, one_request
        self._moves = 0
        self._ahead: list[Candidate] = []  # candidates that were read and are not decided
        self._ahead_of: tuple[int, tuple[str, str, str]] | None = None  # the run, and what it must have decided last

    def step(self, run: Run) -> Run | None:
        """Make the next step and return the run after it; None if no request may be sent now.

        Raises the errors of `worker.errors` if B2COPY does not answer: the same step can be made again.
        """
        return self._read_page(run) if run.phase == "reading" else self._compare(run)

    def _read_page(self, run: Run) -> Run | None:
        first = max(0, run.position - 1)  # the place of the anchor
        search = AccountSearch(limit=PAGE, offset=first, sort_by="created_at", sort_order="asc")
        with self._one_request() as may_send:
            if not may_send:
                return None
            if (now := current_run(self._ledger)) != run:  # another process was faster, while this one waited
                return now
            page = self._accounts_of_page(self._find(search))
        if not run.position and not page and (expected := expected_accounts(self._ledger)):
            raise ListUnusable(
                f"B2COPY lists no account at all, and the identity map has {expected}. Its login may have lost the"
                " right to see them, or B2COPY_HOST names another B2COPY. Nothing was compared"
            )
        if not run.position or (run.anchor and page and page[0].key == run.anchor.key):
            if run.anchor is None or run.position:  # not if reading has gone back to the first page
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
            known = identities_now(self._ledger, decided)
            differ = [difference for one in decided if (difference := _confirmed(one, known, one.accounts))]
            after = decide(self._ledger, run, decided, differ, 0)
        else:
            decided = ahead[:1]
            with self._one_request() as may_send:
                if not may_send:
                    return None
                if (now := current_run(self._ledger)) != run:
                    return now
                accounts = self._ask_about(decided[0])
            difference = _confirmed(decided[0], identities_now(self._ledger, decided), accounts)
            after = decide(self._ledger, run, decided, [difference] if difference else [], 1)
        # If another process was faster, `after` is its step, and the next one reads the candidates again.
        self._ahead, self._ahead_of = ahead[len(decided) :], (run.started_at, decided[-1].place)
        return after

    def _ask_about(self, one: Candidate) -> tuple[AccountThere, ...] | Unclear:
        """Return which accounts of one login B2COPY has on its platform.

        An answer that says nothing about this login stops no other one. Trouble that passes is raised.
        """
        if not _PLATFORM.fullmatch(one.platform):
            return Unclear(f"not asked: platform {one.platform!r} is no number as B2COPY has them")
        search = AccountSearch(platform=int(one.platform), number=one.login)
        try:
            listed = self._find(search)
        except NotFound:
            return ()
        except Permanent as error:
            return Unclear(str(error))
        except UnknownOutcome as error:
            if error.status is None or not 200 <= error.status < 300:
                raise  # no whole answer
            return Unclear(str(error))
        known_id = one.identity.account_id if one.identity else None
        others = [account for account in listed if account.account_id is None or account.account_id != known_id]
        if self._may_be_of_any_platform(others):  # B2COPY may have overlooked the platform that was asked for
            return _NO_PLATFORM
        answered = [_account_at_b2copy(account, one.platform) for account in listed]
        return tuple(account for account in answered if (account.platform, account.login) == (one.platform, one.login))

    def _accounts_of_page(self, listed: Sequence[Account]) -> list[AccountThere]:
        # After the answer: an account that an operation has opened is in no list before its operation is in the ledger.
        if not self._may_be_of_any_platform(listed):
            return [_account_at_b2copy(account, FIRST_PLATFORM) for account in listed]
        platforms = platforms_by_id(self._ledger, [account.number for account in listed])
        return [
            _account_at_b2copy(account, platforms.get((account.number, account.account_id or ""), ""))
            for account in listed
        ]

    def _may_be_of_any_platform(self, listed: Sequence[Account]) -> bool:
        """Return whether B2COPY names no platform for one of these accounts, and it may be another than the first."""
        return any(account.platform is None for account in listed) and knows_other_platforms(
            self._ledger, FIRST_PLATFORM
        )


def _account_at_b2copy(account: Account, platform: str) -> AccountThere:
    """Return the account as the ledger stores it. `platform` is its platform if B2COPY names none."""
    named = platform if account.platform is None else str(account.platform)
    return AccountThere(named, account.number, account.account_id or "", account.client_id)


def _needs_no_request(one: Candidate) -> bool:
    """Return whether what the page showed is enough: an account was there, and nothing here contradicts it.

    If its platform is not known, there is nothing to ask.
    """
    difference = _difference(one, one.accounts)
    return difference is None or difference.difference == "missing_here" or not one.platform


def _confirmed(
    one: Candidate, now: Mapping[tuple[str, str], Identity | None], accounts: Sequence[AccountThere] | Unclear
) -> Difference | None:
    """Return the difference, unless something is changing at this moment. That is left to the next run.

    It is changing if an operation is opening the account (then `now` lacks it), or if the identity is not any more as
    it was when the candidate was found.
    """
    place = (one.platform, one.login)
    return _difference(one, accounts) if place in now and now[place] == one.identity else None


def _difference(one: Candidate, accounts: Sequence[AccountThere] | Unclear) -> Difference | None:
    """Return how the candidate's identity differs from these accounts of its login; None if it does not."""
    place, known = (one.platform, one.login), one.identity
    here = {name: getattr(known, name, None) for name in FIELDS}
    if not one.platform:
        accounts = _NO_PLATFORM
    if isinstance(accounts, Unclear):
        return Difference(*place, "unclear", {"answer": [None, accounts.why]})
    is_closed = known is not None and known.closed_at is not None
    if not accounts:
        is_expected = known is not None and known.has_account
        fields = {name: [value, None] for name, value in here.items()}
        return Difference(*place, "missing_there", fields) if is_expected and not is_closed else None
    if is_closed or len(accounts) > 1:
        ids = ", ".join(sorted(account.account_id or "?" for account in accounts))
        return Difference(
            *place, "closed_here" if is_closed else "different", {"account_id": [here["account_id"], ids]}
        )
    there = {"account_id": accounts[0].account_id or None, "client_id": accounts[0].client_id}
    fields = {name: [here[name], there[name]] for name in FIELDS if there[name] not in {None, here[name]}}
    if any(value is not None for value, _ in fields.values()):
        return Difference(*place, "different", fields)
    return Difference(*place, "missing_here", fields) if fields or known is None else None
