"""What a page gets, a request with its person and fields, and the answers that pages give."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from worker.console.access import Person
from worker.console.process_state import Console, SentForm
from worker.console.roles import Role
from worker.console.url_parameters import BadParameter
from worker.ledger import Ledger
from worker.storable import is_storable
from worker.watch.printable import many_lines, one_line
from worker.watch.redact import redacted

FORM_LIMIT = 64 * 1024  # bytes
FIELDS_LIMIT = 500
_FORMULA = re.compile(r"""(?:^|[;,|\t])[\s"]*(?=[=+\-@\uff1d\uff0b\uff0d\uff20])""")


class NotFound(Exception):
    """There is no such operation, proposal or page."""


NOTE_MIN, NOTE_LIMIT = 8, 1000  # characters


@dataclass(frozen=True)
class PageRequest:
    """A request: the person who sent it, the parameters of its address and, for a POST, the fields of the form."""

    request: Request
    console: Console
    person: Person
    form: Mapping[str, str] = field(default_factory=dict)

    @property
    def note(self) -> str:
        """The reason that the person gives in the form."""
        return self.form.get("note", "").strip()

    @property
    def ledger(self) -> Ledger:
        return self.console.ledger

    @property
    def query(self) -> Mapping[str, str]:
        return self.request.query_params

    def may(self, role: str) -> bool:
        """Return whether the person may do what needs this role, here and now."""
        return self.person.may(Role(role)) and (role == Role.VIEWER or not self.console.read_only)

    def once(self, act: Callable[[], Response]) -> Response:
        """Do what the form asks for, or return the answer that the same form got before."""
        sent = SentForm(self.person.name, self.here, self.form.get("form", ""))
        return self.console.forms.once(sent, act)

    @property
    def here(self) -> str:
        """Path and query of this request."""
        url = self.request.url
        return url.path + (f"?{url.query}" if url.query else "")

    def page(self, template: str, status: int = 200, live: bool = False, **values: Any) -> Response:
        """Return a page. `live`: it refreshes itself."""
        return self.console.render(
            template,
            status,
            page_request=self,
            person=self.person,
            path=self.request.url.path,
            here=self.here,
            live=live,
            **values,
        )


def see(address: str) -> Response:
    """Return the answer to a form: look at this page now."""
    return RedirectResponse(address, 303)


def read_form(body: bytes) -> dict[str, str]:
    """Read a form's fields. Raises `BadParameter`."""
    try:
        pairs = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=FIELDS_LIMIT)
    except ValueError:
        raise BadParameter(f"a form may have {FIELDS_LIMIT} fields") from None
    for name, value in pairs:
        if not is_storable(value):
            raise BadParameter(f"{name} holds a character that no text of the ledger holds")
    return dict(pairs)


def json_file(name: str, value: Any) -> Response:
    """Return a JSON document to be saved. `value` is redacted already: a long document is not redacted twice."""
    text = many_lines(json.dumps(value, indent=2, ensure_ascii=False)) + "\n"
    return _file(name, text, "application/json")


def csv_file(name: str, headings: Sequence[str], rows: Iterable[Sequence[object]]) -> Response:
    """Return a table to be saved. What a spreadsheet would read as a formula begins with a quotation mark.

    Also inside a text, after a character at which a spreadsheet of another country splits the line.
    """
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(headings)
    for row in rows:
        writer.writerow([_cell(value) for value in row])
    return _file(name, out.getvalue(), "text/csv")


def _cell(value: object) -> str:
    text = "" if value is None else one_line(redacted(str(value)))
    return _FORMULA.sub(r"\g<0>'", text)


def _file(name: str, text: str, media_type: str) -> Response:
    return Response(
        text.encode("utf-8", "replace"),
        media_type=media_type,
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


def note_problem(note: str) -> str:
    """Return what is wrong with a reason; empty if nothing is."""
    if len(note) < NOTE_MIN:
        return f"Give your reason in {NOTE_MIN} characters or more: it is stored as evidence."
    if len(note) > NOTE_LIMIT:
        return f"Give your reason in {NOTE_LIMIT} characters or less."
    return ""
