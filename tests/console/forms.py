"""Forms of pages, as a person fills and sends them."""

from html.parser import HTMLParser
from typing import Any

from starlette.testclient import TestClient


class _Form(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.fields: dict[str, str] = {}
        self.posts = False

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if tag == "form":
            self.posts = given.get("method") == "post"
        elif tag == "input" and self.posts and given.get("name"):
            self.fields[str(given["name"])] = given.get("value") or ""


def fields_of(page: str) -> dict[str, str]:
    """Return the fields of a page's form that acts, with their values."""
    parser = _Form()
    parser.feed(page)
    return parser.fields


def fill_and_send(client: TestClient, path: str, note: str = "looked at it with the client", **fields: str) -> Any:
    """Open a page with a form, fill in the reason, and send it. Returns the answer."""
    page = client.get(path)
    assert page.status_code == 200, page.text
    return client.post(path, data=fields_of(page.text) | {"note": note} | fields)
