"""Which test catches which failure mode: `python -m tests.session.failure_modes` prints the table from the markers."""

import ast
from pathlib import Path

MODES = {
    "F1": "two processes present the same refresh token",
    "F2": "the lease is shorter than the token call",
    "F3": "a lock without an end: its holder dies, everybody waits",
    "F4": "a release frees somebody else's lock",
    "F5": "a paused holder wakes up and overwrites newer tokens",
    "F6": "a holder dies between sending the refresh token and saving the new pair",
    "F7": "the answer is lost after the server rotated",
    "F8": "the transport repeats the refresh by itself",
    "F9": "a new pair cannot be written to Redis",
    "F10": "something after a successful exchange fails, and the old token is sent again",
    "F11": "a refusal is taken for the end although a peer has rotated already",
    "F12": "the early renewal skips the second look of the late one",
    "F13": "two code paths, two locks",
    "F14": "waiters queue on the lock one by one",
    "F15": "an in-flight mark is never cleared",
    "F16": "a failed refresh with a valid token: every caller retries in full",
    "F17": "every 401 renews, though the token was replaced already",
    "F18": "the repeated request carries the old token",
    "F19": "an endless loop when a 401 is not about expiry",
    "F20": "403 is taken for expiry",
    "F21": "a torn read: token of one generation, data of another",
    "F22": "a token captured early is stale when used",
    "F23": "a token expires between check and use",
    "F24": "the assertion is dated in the future or the past",
    "F25": "one assertion is made at start and reused; time zones",
    "F26": "a repeated assertion is refused as a replay",
    "F27": "expiry counted from the answer, or by the local clock",
    "F28": "a lifetime that is missing, text, zero or negative",
    "F29": "a script runs twice after an ambiguous timeout",
    "F30": "a Redis outage costs seconds per command",
    "F31": "Redis loses everything, and counters begin again",
    "F32": "Redis comes back with an older refresh token",
    "F33": "Redis evicts the session or the lease",
    "F34": "two holders after a failover",
    "F35": "a lapsed lock hides the error of its body",
    "F36": "keys in different slots of a cluster",
    "F37": "sockets shared after a fork",
    "F38": "a kept-alive connection that the server has closed",
    "F39": ".netrc replaces the token",
    "F40": "no timeout",
    "F41": "the retry library's error reaches the caller, and cannot be pickled",
    "F42": "the retry library repeats a soft time limit",
    "F43": "nested retries multiply",
    "F44": "429, 5xx or HTML taken for a refusal",
    "F45": "a final refusal is repeated",
    "F46": "beat is dead",
    "F47": "refresh tasks pile up, or beat is doubled",
    "F48": "the refresher dies after one error",
    "F49": "exceptions carry tokens",
    "F50": "debug logs carry tokens",
    "F51": "a repr carries a token",
    "F52": "task arguments carry tokens",
    "F53": "an exception cannot be unpickled",
    "F54": "a key of the wrong kind",
    "F55": "claims of the wrong type",
    "F56": "the signing key was rotated on disk",
    "F57": "the storage key was rotated",
    "F58": "one login ends the other",
}
CANNOT_OCCUR: dict[str, str] = {}  # a mode that needs no test, and why: at most six

_TESTS = Path(__file__).parents[1]


def covered() -> dict[str, list[str]]:
    """Find the tests that carry each mode's marker."""
    found: dict[str, list[str]] = {}
    for path in sorted(_TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            for decorator in getattr(node, "decorator_list", []):
                if ast.unparse(decorator).startswith("pytest.mark.failure_mode("):
                    for argument in decorator.args:
                        found.setdefault(argument.value, []).append(f"{path.relative_to(_TESTS)}::{node.name}")  # type: ignore[attr-defined]
    return found


def table() -> str:
    """The coverage table, in Markdown."""
    tests = covered()
    lines = ["| mode | what goes wrong | caught by |", "|---|---|---|"]
    for mode, failure in MODES.items():
        caught = "<br>".join(tests.get(mode, [])) or CANNOT_OCCUR.get(mode, "NOTHING")
        lines.append(f"| {mode} | {failure} | {caught} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
