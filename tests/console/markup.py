"""What a page's markup may hold: our elements, our scripts, addresses of our own, and no character that is not seen."""

from html.parser import HTMLParser

ELEMENTS = {
    "a", "b", "blockquote", "body", "button", "code", "dd", "details", "div", "dl", "dt", "figcaption", "figure",
    "footer",
    "form",
    "h1", "h2", "h3", "head", "header", "html", "input", "label", "li", "line", "link", "main", "meta", "nav", "ol",
    "option", "p", "pre", "rect", "script", "section", "select", "small", "span", "summary", "svg", "table", "tbody",
    "td",
    "textarea", "tfoot", "th", "thead", "time", "title", "tr", "ul",
}  # fmt: skip


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))


def check(page: str, where: object) -> None:
    """Fail if a page holds markup, an address or a character that data must not bring in."""
    parser = Elements()
    parser.feed(page)
    assert {tag for tag, _ in parser.found} <= ELEMENTS, where
    for tag, attributes in parser.found:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], (where, tag, attributes)
        for name in ("href", "src", "action", "hx-get"):
            value = attributes.get(name)
            assert value is None or value.startswith(("/", "#")), (where, tag, attributes)
            assert value is None or not value.startswith("//"), (where, tag, attributes)
    scripts = [attributes for tag, attributes in parser.found if tag == "script"]
    assert [one.get("src") for one in scripts] == ["/static/htmx-4.0.1.min.js", "/static/console.js"], where
    bad = [char for char in page if not char.isprintable() and char != "\n"]
    assert bad == [], (where, bad)
    assert "eyJhbGciOiJFUzI1NiJ9" not in page, where
    assert len(page) < 400_000, where
