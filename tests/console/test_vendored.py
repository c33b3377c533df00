"""The one script that is not ours is the published one, with its licence beside it."""

import hashlib

from worker.console.template_values import HERE

# sha256 of dist/htmx.min.js in the npm package htmx.org 4.0.1 (0BSD)
HTMX = "a0abb04f2f45a1f89d1d4844023245537e5e6014c87b144553e0607b4cc32130"


def test_htmx_is_as_published() -> None:
    static = HERE / "static"

    assert hashlib.sha256((static / "htmx-4.0.1.min.js").read_bytes()).hexdigest() == HTMX
    assert (static / "htmx-LICENSE").read_text().startswith("Zero-Clause BSD")
    assert {path.name for path in static.glob("*.js")} == {"htmx-4.0.1.min.js", "console.js"}
