"""The headers of an answer."""

from collections.abc import Iterator, Mapping, Sequence


class Headers(Mapping[str, str]):
    """Looked up by name in any case. Lines with the same name are joined by a comma (RFC 9110 section 5.3).

    Most answers are used without their headers, so the lines are parsed when the first header is looked up.
    """

    __slots__ = ("_lines", "_parsed")

    def __init__(self, lines: Sequence[bytes]) -> None:
        self._lines = lines
        self._parsed: dict[str, str] | None = None

    def __getitem__(self, name: str) -> str:
        return self._values()[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values())

    def __len__(self) -> int:
        return len(self._values())

    def _values(self) -> dict[str, str]:
        if self._parsed is None:
            values: dict[str, str] = {}
            for line in self._lines:
                name, colon, value = line.decode("latin-1").partition(":")
                if colon:
                    name, value = name.strip().lower(), value.strip()
                    values[name] = f"{values[name]}, {value}" if name in values else value
            self._parsed = values
        return self._parsed
