"""A list of JSON values in a temporary file, for as many as do not fit into memory."""

import json
import tempfile
import weakref
from collections.abc import Iterator
from itertools import islice
from typing import Any

IN_MEMORY = 1024 * 1024  # bytes; a shorter list stays in memory
BLOCK = 250  # values that are encoded and written together, which costs a fifth of writing each; so many wait in memory

_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


class SpooledList:
    """Values are appended, then read in order or by position: tuples come back as lists. Not safe between threads.

    The file has no name: it is removed when the list is no longer used, or with the process.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._block_at = [0]  # where each block begins in the file, and where the next one will
        self._next_block: list[Any] = []

    def append(self, value: Any) -> None:
        """Append a value. If one is not JSON, this or a later call raises `TypeError` or `ValueError`."""
        self._next_block.append(value)
        if len(self._next_block) == BLOCK:
            block = _encode(self._next_block).encode()
            self._file.seek(self._block_at[-1])
            self._file.write(block)
            self._block_at.append(self._block_at[-1] + len(block))
            self._next_block = []

    def __len__(self) -> int:
        return (len(self._block_at) - 1) * BLOCK + len(self._next_block)

    def read(self, start: int = 0) -> Iterator[Any]:
        """Read the values from a position on."""
        for first in range(start - start % BLOCK, len(self), BLOCK):
            yield from islice(self._block(first // BLOCK), max(0, start - first), None)

    def _block(self, number: int) -> list[Any]:
        if number == len(self._block_at) - 1:
            text: str | bytes = _encode(self._next_block)
        else:
            begin, end = self._block_at[number : number + 2]
            self._file.seek(begin)
            text = self._file.read(end - begin)
        block: list[Any] = json.loads(text)
        return block
