"""What the console's process holds one of: ledger, settings, access, templates, and the shared session if it may."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from starlette.responses import HTMLResponse, Response

from worker.console.access import Access
from worker.console.template_values import environment
from worker.errors import B2CopyError, SettingsError
from worker.ledger import Ledger
from worker.ledger.batches import Batch
from worker.ledger.four_eyes import Rule, rule_of, stricter
from worker.report.batch_report import BatchReport, batch_reports
from worker.report.four_eyes import under_rule
from worker.report.sentences import Kinds
from worker.session import SharedSession, State
from worker.settings import ConsoleSettings

SESSION_CACHE_S = 3.0  # seconds
COUNT_LONG_S = 0.2  # seconds; a count of imports that took longer is shown again
PAUSE_FACTOR = 20  # a count is shown for 20 times as long as it took, so that open pages do not keep the database busy
REMEMBERED_FORMS = 1000  # most forms whose answers are stored


class SentForm(NamedTuple):
    """Who sent a form, to which path and query, and the token that the page wrote into it."""

    person: str
    address: str
    token: str


class OneTimeForms:
    """Answers to forms. A form that is sent twice, by a double click, acts once, and both requests get its answer.

    The second waits for the first; other forms wait for neither. A form whose act raised an error may be sent again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: OrderedDict[SentForm, Future[Response]] = OrderedDict()

    def once(self, form: SentForm, act: Callable[[], Response]) -> Response:
        """Return what `act` returns, or what it returned for the same form before."""
        if not form.token:
            return act()
        with self._lock:
            answer = self._answers.get(form)
            is_first = answer is None
            if answer is None:
                answer = self._answers[form] = Future()
                if len(self._answers) > REMEMBERED_FORMS:
                    self._answers.popitem(last=False)
        if is_first:
            try:
                answer.set_result(act())
            except BaseException as error:
                with self._lock:
                    self._answers.pop(form, None)
                answer.set_exception(error)
        return answer.result()


@dataclass
class Console:
    """The parts of the console. `session` is a text that says why this host has none, for instance no keys."""

    ledger: Ledger
    settings: ConsoleSettings
    access: Access
    kinds: Kinds
    read_only: bool
    session: SharedSession | str
    wake: Callable[[str], object]
    forms: OneTimeForms = field(default_factory=OneTimeForms)
    _templates: Any = field(default_factory=environment)
    _counted: tuple[float, list[Batch], list[BatchReport]] = (0.0, [], [])
    _session_seen: tuple[float, State | str] = (0.0, "")

    def render(self, template: str, status: int, **values: Any) -> Response:
        """Return a page made from a template."""
        text = self._templates.get_template(template).render(console=self, **values)
        return HTMLResponse(text.encode("utf-8", "replace"), status)

    @property
    def four_eyes(self) -> Rule:
        """The rule that counts: the stricter one of the ledger's and this host's."""
        return stricter(self.settings.four_eyes, self.ledger.four_eyes)

    def obey_rule_of_ledger(self) -> None:
        """Take over the rule of four eyes that the ledger holds now: `migrate` may have changed it."""
        with self.ledger.reading() as connection:
            held = rule_of(connection)
        if held != self.ledger.four_eyes:
            ledger = replace(self.ledger, four_eyes=held)
            self.ledger = under_rule(ledger, self.settings.four_eyes, lambda: self.kinds)

    def count_batches(self, batches: list[Batch]) -> list[BatchReport]:
        """Return how far these batches are. Counting them takes as long as they are large."""
        until, shown, reports = self._counted
        if shown != batches or time.monotonic() >= until:
            began = time.monotonic()
            reports = batch_reports(self.ledger, batches)
            took = time.monotonic() - began
            self._counted = time.monotonic() + (PAUSE_FACTOR * took if took > COUNT_LONG_S else 0), batches, reports
        return reports

    def session_state(self) -> State | str:
        """Return the shared session's state, or why it cannot be shown. Redis is read at most once in 3 s."""
        read_at, seen = self._session_seen
        if time.monotonic() - read_at > SESSION_CACHE_S or not read_at:
            seen = self._read_session()
            self._session_seen = time.monotonic(), seen
        return seen

    def _read_session(self) -> State | str:
        if isinstance(self.session, str):
            return self.session
        try:
            return self.session.state()
        except (B2CopyError, SettingsError) as error:
            return str(error)
