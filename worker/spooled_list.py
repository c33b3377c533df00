"""A list of plain values in a temporary file, for as many as do not fit into memory.

They are written by `marshal`, in a fifth of the time that JSON takes. Its format is that of one Python version, and its
input must be trusted: only the process that wrote the file reads it, and the file has no name.
"""

import marshal
import tempfile
import weakref
from collections.abc import Iterator
from itertools import islice
from typing import Any

IN_MEMORY = 1024 * 1024  # bytes; a shorter list stays in memory
BLOCK = 250  # values that are written together


class SpooledList:
    """Values are appended, then read in order or by position. Not safe to share between threads.

    A value is a text, a number, a boolean, None, or a tuple, list or dict of such; not an instance of a class that is
    derived from one of them. The file is removed when the list is no longer used, or with the process.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._block_at = [0]  # where each block begins in the file, and where the next one will
        self._next_block: list[Any] = []

    def append(self, value: Any) -> None:
        """Append a value. If one is not plain, this or a later call raises `ValueError`."""
        self._next_block.append(value)
        if len(self._next_block) == BLOCK:
            block = marshal.dumps(self._next_block)
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
            return list(self._next_block)
        begin, end = self._block_at[number : number + 2]
        self._file.seek(begin)
        block: list[Any] = marshal.loads(self._file.read(end - begin))  # noqa: S302  # nosec B302
        return block
