"""A list of JSON values in a temporary file, for as many as do not fit into memory."""

import json
import tempfile
import weakref
from collections.abc import Iterator
from itertools import islice
from typing import Any

IN_MEMORY = 1024 * 1024  # bytes; a shorter list stays in memory
BLOCK = 1000  # values; the file position of every such block is stored

_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


class JsonLines:
    """Values are appended, then read in order or by position. Not safe to share between threads.

    The file has no name: it is removed when the list is no longer used, or with the process.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._end = 0
        self._was_read = False
        self._count = 0
        self._block_at: list[int] = []

    def append(self, value: Any) -> None:
        """Append a value. Raises `TypeError` or `ValueError` if it is not JSON."""
        line = _encode(value).encode() + b"\n"
        if self._count % BLOCK == 0:
            self._block_at.append(self._end)
        if self._was_read:
            self._file.seek(self._end)
            self._was_read = False
        self._file.write(line)
        self._end += len(line)
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def read(self, start: int = 0) -> Iterator[Any]:
        """Read the values from a position on."""
        for first in range(start - start % BLOCK, self._count, BLOCK):
            self._was_read = True
            self._file.seek(self._block_at[first // BLOCK])
            lines = [self._file.readline() for _ in range(min(BLOCK, self._count - first))]
            yield from map(json.loads, islice(lines, max(0, start - first), None))
