"""Text from outside, made safe to show: one line, and nothing that steers a terminal or reorders what is read."""


def one_line(text: str) -> str:
    """Return `text` with every character escaped that is not printable.

    That is line ends, control characters, terminal escape sequences, invisible and bidirectional format characters, and
    lone surrogates. The escapes are those of JSON, so that escaping the text of a JSON document leaves it valid.
    """
    return text if text.isprintable() else "".join(char if char.isprintable() else _escaped(char) for char in text)


def many_lines(text: str) -> str:
    """Return `text` with its line ends, and every other character escaped that is not printable."""
    return "\n".join(map(one_line, text.split("\n")))


_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _escaped(char: str) -> str:
    if char in _SHORT:
        return _SHORT[char]
    code = ord(char)
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000  # JSON escapes these as a pair of surrogates
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
