"""What is stored of a bad message: text that every database takes, bounded, with the length and digest of the whole.

A message may hold NUL, lone surrogates, 3 MB of argument names or bytes that are no text.
"""

import hashlib

EVIDENCE_LIMIT = 4_000  # characters stored of a message
PROBLEM_LIMIT = 500  # characters of the sentence that says what is wrong
NAME_LIMIT = 150  # characters of a task name, a message id or a sender
_NOTE_LIMIT = 100  # characters of the length and the digest that are added to a text that was cut


def bounded_ascii(data: bytes | str, limit: int = EVIDENCE_LIMIT) -> str:
    """Return `data` as printable ASCII. What is longer than `limit` is cut, and its length and SHA-256 are added."""
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    text = raw[:limit].decode("utf-8", "backslashreplace").encode("unicode_escape").decode("ascii")
    # A backslash that was there already stands for itself.
    text = text.replace("\\\\", "\\")
    if len(raw) <= limit and len(text) <= limit:
        return text
    return f"{text[:limit]} ... ({len(raw)} bytes, sha256 {hashlib.sha256(raw).hexdigest()})"


def is_bounded_ascii(data: bytes) -> bool:
    """Return whether `data` has the form that `bounded_ascii` gives to a message, so that it is stored as it is."""
    return len(data) <= EVIDENCE_LIMIT + _NOTE_LIMIT and data.isascii() and data.decode("ascii").isprintable()


def short(value: object, limit: int = NAME_LIMIT) -> str:
    """Return any value as one short line of printable ASCII."""
    try:
        text = value if isinstance(value, str) else str(value)
    except Exception:  # an integer of 5,000 digits, a nest of 100,000 lists
        text = f"a {type(value).__name__} that cannot be written"
    return bounded_ascii(text, limit)
