"""What the console's process holds one of: ledger, settings, access, templates, and the shared session if it may."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import HTMLResponse, Response

from worker.console.access import Access
from worker.console.rendering import environment
from worker.errors import B2CopyError, SettingsError
from worker.ledger import Ledger
from worker.report.sentences import Kinds
from worker.session import SharedSession, State
from worker.settings import ConsoleSettings

SESSION_CACHE_S = 3.0  # seconds
REMEMBERED_FORMS = 1000  # most forms whose answers are stored


class OneTimeForms:
    """Answers to forms. A form that is sent twice, by a double click, acts once, and both requests get its answer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: OrderedDict[str, Response] = OrderedDict()

    def once(self, form: str, act: Callable[[], Response]) -> Response:
        """Return what `act` returns, or what it returned for the same form before."""
        if not form:
            return act()
        with self._lock:  # one action at a time, because actions are short
            if form not in self._answers:
                self._answers[form] = act()
                if len(self._answers) > REMEMBERED_FORMS:
                    self._answers.popitem(last=False)
            return self._answers[form]


@dataclass
class Console:
    """The parts of the console. `session` is None if this host has no keys."""

    ledger: Ledger
    settings: ConsoleSettings
    access: Access
    kinds: Kinds
    read_only: bool
    session: SharedSession | None
    wake: Callable[[str], object]
    forms: OneTimeForms = field(default_factory=OneTimeForms)
    _templates: Any = field(default_factory=environment)
    _session_seen: tuple[float, State | str] = (0.0, "")

    def render(self, template: str, status: int, **values: Any) -> Response:
        """Return a page made from a template."""
        text = self._templates.get_template(template).render(console=self, **values)
        return HTMLResponse(text.encode("utf-8", "replace"), status)

    def session_state(self) -> State | str:
        """Return the shared session's state, or why it cannot be shown. Redis is read at most once in 3 s."""
        read_at, seen = self._session_seen
        if time.monotonic() - read_at > SESSION_CACHE_S or not read_at:
            seen = self._read_session()
            self._session_seen = time.monotonic(), seen
        return seen

    def _read_session(self) -> State | str:
        if self.session is None:
            return "this host has no settings of a worker, so it cannot see the session"
        try:
            return self.session.state()
        except (B2CopyError, SettingsError) as error:
            return str(error)
