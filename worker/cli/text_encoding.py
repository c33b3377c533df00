"""Find out which encoding a file has: from its first bytes and by strict decoding, never by likelihood.

A file that begins with a byte order mark says what it is. One without is UTF-8 if all of it is, because hardly any text
of another encoding is UTF-8 by chance. For everything else a person must say it: nobody notices a wrong guess in a
table of names.
"""

import codecs
import hashlib
import io
import itertools
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO

from worker.cli.exit_codes import Exit, Stop

PIPE = "the pipe"
"""The name of a source that is no file. `import <(zcat book.csv.gz)` gives a number, another one each time."""

STANDARD_INPUT = "standard input"
"""The name of what `-` stands for."""

_BLOCK = 1024 * 1024  # bytes
LINE_LIMIT = 1024 * 1024  # characters; a payload has 64 KB
_MARKS = (
    (codecs.BOM_UTF32_LE, ""),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, ""),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WORKBOOKS = {b"PK\x03\x04": "a workbook (.xlsx, .ods)", b"\xd0\xcf\x11\xe0": "a workbook (.xls)"}
_WIDE = {"utf-16", "utf-16-le", "utf-16-be"}


class Source(NamedTuple):
    """A file that can be read more than once. `name` is for people, `digest` the SHA-256 of its bytes in hex.

    `end` is the text that it ends with, at most 80 characters.
    """

    name: str
    stream: BinaryIO
    encoding: str
    digest: str
    end: str

    def text(self) -> TextIO:
        """Return the file's text from its beginning. Line ends stay as they are."""
        self.stream.seek(0)
        return io.TextIOWrapper(io.BufferedReader(_StaysOpen(self.stream)), encoding=self.encoding, newline="")

    def lines(self) -> Iterator[str]:
        """Return the file's lines, with their ends. Raises `Stop` for a line that is too long for any row."""
        with self.text() as stream:
            for number in itertools.count(1):
                line = stream.readline(LINE_LIMIT + 1)
                if len(line) > LINE_LIMIT:
                    raise Stop(
                        Exit.USAGE,
                        f"{self.name}, line {number}: has more than {LINE_LIMIT:,} characters, which no row has: export"
                        " it with a line end after each row",
                    )
                if not line:
                    return
                yield line


class _StaysOpen(io.RawIOBase):
    """The bytes of another stream, which stays open when this one is closed."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self._stream.read(len(buffer))
        buffer[: len(block)] = block
        return len(block)


def open_file(path: Path, encoding: str | None, stack: ExitStack) -> Source:
    """Read a file, a pipe, or standard input if `path` is `-`. The source can be read until `stack` ends.

    The source is a copy in a temporary file, because another program may still write to the file. What is read later is
    then what `open_source` has read. Raises `Stop` as `open_source` does.
    """
    copy: BinaryIO = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
    if str(path) == "-":
        return open_source(STANDARD_INPUT, spooled(sys.stdin.buffer, copy), encoding)
    if not path.exists():
        raise Stop(Exit.USAGE, f"{path}: there is no such file")
    if path.is_dir():
        raise Stop(Exit.USAGE, f"{path} is a folder: name a file")
    if path.is_block_device():
        raise Stop(Exit.USAGE, f"{path} is a device: name a file")
    with path.open("rb") as stream:
        if not path.is_file():
            return open_source(PIPE, spooled(stream, copy), encoding)
        before = _last_change(stream)
        spooled(stream, copy)
        if _last_change(stream) != before:
            raise Stop(Exit.USAGE, f"{path} was changed while it was read: wait until it is complete, and try again")
    return open_source(str(path), copy, encoding)


def _last_change(stream: BinaryIO) -> tuple[int, int]:
    status = os.fstat(stream.fileno())
    return status.st_size, status.st_mtime_ns


def open_source(name: str, stream: BinaryIO, encoding: str | None) -> Source:
    """Read a seekable file once, and return it with its encoding. `encoding` is what a person says it is.

    Raises `Stop` with the remedy if the bytes are not in this encoding, or if nothing shows which encoding they have.
    """
    first = stream.read(4)
    for magic, what in _WORKBOOKS.items():
        if first.startswith(magic):
            raise Stop(Exit.USAGE, f"{name} is {what}: save the sheet as CSV in UTF-8, and import that file")
    chosen = _encoding_of(name, first, encoding)
    stream.seek(0)
    digest, decoder, before = hashlib.sha256(), codecs.getincrementaldecoder(chosen)(), 0
    end = ""
    while True:
        block = stream.read(_BLOCK)
        digest.update(block)
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            line = before + _line_ends(error.object[: error.start], chosen) + 1
            raise Stop(Exit.USAGE, f"{name}, line {line}: {_why_not(chosen, error)}") from None
        except UnicodeError as error:  # UTF-16 without a byte order mark, for instance
            raise Stop(Exit.USAGE, f"{name} is not {chosen.upper()} ({error}): correct --encoding") from None
        if "\0" in text:
            line = before + text[: text.index("\0")].count("\n") + 1
            raise Stop(
                Exit.USAGE,
                f"{name}, line {line}: holds zero bytes: if it is UTF-16 without a byte order mark, say"
                " --encoding utf-16-le or utf-16-be",
            )
        before += text.count("\n")
        end = (end + text[-80:])[-80:]
        if not block:
            return Source(name, stream, chosen, digest.hexdigest(), end)


def _encoding_of(name: str, first: bytes, wanted: str | None) -> str:
    marked = next((encoding for mark, encoding in _MARKS if first.startswith(mark)), None)
    if marked == "":
        raise Stop(Exit.USAGE, f"{name} is in UTF-32: save it in UTF-8")
    if wanted is None:
        return marked or "utf-8"
    try:
        known = codecs.lookup(wanted)
        text_encoding = getattr(known, "_is_text_encoding", True)
    except LookupError:
        text_encoding = False
    if not text_encoding:
        raise Stop(Exit.USAGE, f"--encoding {wanted}: there is no such encoding: utf-8, utf-16, cp1252, ...")
    if marked is not None and not _agrees(known.name, marked, first):
        raise Stop(Exit.USAGE, f"{name} begins with the mark of {marked.upper()}: --encoding {wanted} cannot be right")
    return marked or known.name


def _agrees(encoding: str, marked: str, first: bytes) -> bool:
    if marked == "utf-8-sig":
        return encoding in ("utf-8", "utf-8-sig")
    ends = "utf-16-le" if first.startswith(codecs.BOM_UTF16_LE) else "utf-16-be"
    return encoding in ("utf-16", ends)


def _why_not(encoding: str, error: UnicodeDecodeError) -> str:
    at = error.object[error.start : error.start + 1].hex().upper()
    if encoding.startswith("utf-8"):
        line = error.object[: error.start].rpartition(b"\n")[2] + error.object[error.start :].partition(b"\n")[0]
        western = line.decode("cp1252", "replace")[-80:].strip()
        return (
            f"byte {at} is not UTF-8. Say which encoding it is: --encoding cp1252 for a file that a spreadsheet saved"
            f" in Western Europe or America, and the line reads {western!r} then; or save the file in UTF-8"
        )
    return f"byte {at} is not {encoding.upper()} ({error.reason}): say which encoding it is with --encoding"


def _line_ends(data: bytes, encoding: str) -> int:
    if encoding in _WIDE:
        return max(data.count(b"\n\0"), data.count(b"\0\n"))
    return data.count(b"\n")


def spooled(stream: BinaryIO, into: BinaryIO) -> BinaryIO:
    """Copy a stream that can be read only once, such as standard input, to a file."""
    while block := stream.read(_BLOCK):
        into.write(block)
    into.seek(0)
    return into
