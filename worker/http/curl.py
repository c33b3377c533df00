"""One request by libcurl: a handle that is set up safely, and what its result means.

If a reused connection breaks before the first byte of an answer, libcurl sends the request again and does not report
that. Two things prevent a second request here:

* A body is read from a function that cannot be rewound, so libcurl fails with `E_SEND_FAIL_REWIND` instead.
* Two sorts of requests are never sent on a reused connection: those that must not be sent twice, and those without a
  body whose method may have an effect.
"""

import os
import re
import select
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import certifi

# libcurl writes the keys of every TLS connection to the file that this variable names. It reads the variable itself.
os.environ.pop("SSLKEYLOGFILE", None)

import pycurl

from worker.errors import Unavailable, UnknownOutcome
from worker.http.answer import Answer
from worker.http.headers import Headers

USER_AGENT = f"b2copy-sync/{version('b2copy-sync')}"
BODY_LIMIT = 1024 * 1024  # bytes of an answer, decoded
IDLE_S = 1  # seconds; a connection that was idle for longer is not reused, because servers close some after 2 s

_CLOSED = frozenset({pycurl.E_GOT_NOTHING, pycurl.E_SEND_ERROR, pycurl.E_RECV_ERROR, pycurl.E_SEND_FAIL_REWIND})
_EMPTY_LINES = frozenset({b"\r\n", b"\n"})
_HARMLESS = frozenset({"GET", "HEAD"})

# libcurl also reads a tab, a status of four digits, and a status without a space behind it.
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?: .*)?\r?\n", re.DOTALL)

Ends = tuple[str | int, ...]
"""Both ends of a connection: remote address, local address, remote port, local port."""


class StaleConnection(UnknownOutcome):
    """A reused connection was closed before any byte of the answer came: the request was most likely not read."""


class NothingSent(Exception):
    """A reused connection could not be used, and no byte was sent: send the request on a new connection."""


def always_allowed() -> None:
    """The `before_send` of a request that may be sent at any time."""


@dataclass(slots=True, repr=False, eq=False)
class Request:
    """A request to send. `name` stands for it in errors. `resendable`: sending it twice does no harm.

    It is no tuple, because an error tracker stores what a tuple holds, and the headers hold a token.

    Requests with equal headers should hold the same `headers` object, because libcurl gets the headers again only if
    the object is another one. `answer_limit` (bytes, at most `BODY_LIMIT`): the rest of a longer answer is not read.
    `before_send` is called each time just before the request is sent. What it raises ends the request unsent.
    `was_lost`: it was sent once, and the connection ended without an answer.
    """

    method: str
    url: str
    name: str
    headers: Mapping[str, str]
    body: bytes | None = None
    resendable: bool = False
    answer_limit: int | None = None
    before_send: Callable[[], None] = always_allowed
    was_lost: bool = False

    @property
    def may_reuse(self) -> bool:
        """Whether the request may be sent on a connection that other requests have used."""
        return self.resendable and (bool(self.body) or self.method in _HARMLESS)

    def __repr__(self) -> str:
        return f"<Request {self.name}>"


class Handle:
    """A libcurl handle for requests of one method, one after the other.

    `sockets` holds the socket of every open connection. It is shared by all handles that share connections.
    `refuses` gets each address before a connection to it is made. If it returns True, there is no connection. A name
    may resolve to another address each time, so only the address that is connected to can be checked.
    """

    def __init__(
        self,
        method: str,
        has_body: bool,
        ca_file: str | None,
        sockets: dict[Ends, int],
        refuses: Callable[[str], bool] | None = None,
    ) -> None:
        self.curl = curl = pycurl.Curl()
        self._sockets = sockets
        self._name = self._url = ""
        self._headers: Mapping[str, str] | None = None
        self._unsent = b""
        self._answer_limit: int | None = None
        self._lines: list[bytes] = []  # of all responses: interim ones, their headers, trailers
        self._reset()
        for option, value in (
            (curl.NOSIGNAL, 1),
            (curl.PROXY, ""),  # no proxy, even if the environment names one
            (curl.NETRC, curl.NETRC_IGNORED),
            (curl.FOLLOWLOCATION, 0),
            (curl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS),
            (curl.PATH_AS_IS, 1),
            (curl.HTTP_VERSION, curl.CURL_HTTP_VERSION_1_1),
            (curl.SSLVERSION, curl.SSLVERSION_TLSv1_2),  # or later
            (curl.SSL_VERIFYPEER, 1),
            (curl.SSL_VERIFYHOST, 2),
            (curl.CAINFO, ca_file or certifi.where()),
            (curl.ACCEPT_ENCODING, ""),  # decode what comes encoded; the request header is removed again below
            (curl.MAXAGE_CONN, IDLE_S),
            (curl.SOCKOPTFUNCTION, self._on_new_socket),
            (curl.PREREQFUNCTION, self._before_request),
            (curl.HEADERFUNCTION, self._lines.append),
            (curl.WRITEFUNCTION, self._on_body),
        ):
            curl.setopt(option, value)
        self._refuses = refuses
        self._copied: socket.socket | None = None
        if refuses is not None:
            curl.setopt(curl.OPENSOCKETFUNCTION, self._open_socket)
        curl.unsetopt(curl.CAPATH)  # no certificates but those in CAINFO
        if has_body or method == "POST":
            curl.setopt(curl.POST, 1)
            curl.setopt(curl.READFUNCTION, self._read_body)  # and no SEEKFUNCTION: see above
        elif method == "HEAD":
            curl.setopt(curl.NOBODY, 1)
        curl.setopt(curl.CUSTOMREQUEST, method)

    def start(self, request: Request, time_left_s: float, *, reuse: bool) -> None:
        """Make the handle ready to send `request`. `reuse`: on a connection that other requests have used, if any."""
        curl = self.curl
        self._reset()
        self._name = request.name
        self._answer_limit = request.answer_limit
        if request.url != self._url:
            curl.setopt(curl.URL, request.url)
            self._url = request.url
        if request.headers is not self._headers:
            headers = [f"{name}: {value}" for name, value in request.headers.items() if name != "Content-Length"]
            curl.setopt(curl.HTTPHEADER, [*headers, "Expect:", "Accept-Encoding:"])
            self._headers = request.headers
        if request.body is not None:
            self._unsent = request.body
            curl.setopt(curl.POSTFIELDSIZE, len(request.body))
        elif request.method == "POST":
            curl.setopt(curl.POSTFIELDSIZE, 0)
        curl.setopt(curl.TIMEOUT_MS, max(1, int(time_left_s * 1000)))  # for all: name, connection, TLS, answer
        curl.setopt(curl.FRESH_CONNECT, not reuse)
        curl.setopt(curl.FORBID_REUSE, not request.may_reuse)

    def answer(self, error: pycurl.error | None) -> Answer:
        """Return the answer. Raises `NothingSent`, `Unavailable`, `StaleConnection` or `UnknownOutcome`.

        A connection that is cut inside the headers is a success for libcurl, so only the empty line after the headers
        makes an answer.
        """
        curl, name = self.curl, self._name
        is_cut_by_us = self._answer_limit is not None and self._size > self._answer_limit
        if (error is None or is_cut_by_us) and (head := _final_head(self._lines)):
            return Answer(curl.getinfo(curl.RESPONSE_CODE), Headers(head), b"".join(self._parts))
        code, text = (0, "no whole head") if error is None else (error.args[0], str(error.args[1])[:150])
        is_closed = code in _CLOSED and not self._opened and not self._lines
        if curl.getinfo(curl.REQUEST_SIZE) == 0:
            if self._is_unusable or is_closed:
                raise NothingSent
            if self._refused_address:
                raise Unavailable(f"{name}: {self._refused_address} is no address to which anything may be sent")
            raise Unavailable(f"{name}: no connection ({text})")
        if is_closed:
            raise StaleConnection(f"{name}: the connection was closed before an answer came")
        if self._size > BODY_LIMIT:
            raise UnknownOutcome(f"{name}: the answer is longer than {BODY_LIMIT} bytes")
        raise UnknownOutcome(f"{name}: no whole answer ({text})")

    def _reset(self) -> None:
        self._lines.clear()
        self._parts: list[bytes] = []
        self._size = 0
        self._opened: list[int] = []  # sockets; none if the connection is a reused one
        self._is_unusable = False
        self._refused_address = ""

    def _open_socket(self, purpose: int, address: Any) -> socket.socket | int:
        """Make the socket for a connection, as libcurl does. libcurl takes a copy, and then calls `_on_new_socket`."""
        if self._refuses is not None and self._refuses(str(address.addr[0])):
            self._refused_address = str(address.addr[0])
            return int(pycurl.SOCKET_BAD)
        self._copied = socket.socket(address.family, address.socktype, address.protocol)
        return self._copied

    def _on_new_socket(self, number: int, purpose: int) -> int:
        if self._copied is not None:
            self._copied.close()
        self._opened.append(number)
        return int(pycurl.SOCKOPT_OK)

    def _before_request(self, *ends: str | int) -> int:
        """Refuse an idle connection on which something has arrived: its end, or an answer to another request."""
        if self._opened:
            self._sockets.update((ends, number) for number in self._opened if _local_port(number) == ends[3])
        elif _is_readable(self._sockets.get(ends)):
            self._is_unusable = True
            return int(pycurl.PREREQFUNC_ABORT)
        return int(pycurl.PREREQFUNC_OK)

    def _read_body(self, size: int) -> bytes:
        part, self._unsent = self._unsent[:size], self._unsent[size:]
        return part

    def _on_body(self, part: bytes) -> int | None:
        self._size += len(part)
        if self._size > (self._answer_limit or BODY_LIMIT):
            return 0  # ends the transfer
        self._parts.append(part)
        return None


def _final_head(lines: Sequence[bytes]) -> Sequence[bytes]:
    """Return the lines of the first response that is not an interim one (1xx, RFC 9110 section 15.2).

    Nothing if its end has not come, or if a status line is not as in RFC 9112 section 4: where that answer begins and
    what its status is would be a guess.
    """
    begin = 0
    for number, line in enumerate(lines):
        if line in _EMPTY_LINES:
            status = _STATUS_LINE.fullmatch(lines[begin])
            if status is None:
                return ()
            if not status[1].startswith(b"1"):
                return lines[begin:number]
            begin = number + 1
    return ()


def _local_port(number: int) -> int | None:
    """Return the local port of a socket, None if the socket has been closed again."""
    try:
        with socket.socket(fileno=os.dup(number)) as copy:
            port: int = copy.getsockname()[1]
            return port
    except OSError:
        return None


def _is_readable(number: int | None) -> bool:
    """Return whether bytes or the end of the connection can be read. True for a socket that is not known."""
    if number is None:
        return True
    poll = select.poll()
    poll.register(number, select.POLLIN)
    return bool(poll.poll(0))
