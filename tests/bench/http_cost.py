"""What one HTTP call costs its process in CPU: `python -m tests.bench.http_cost [rounds]`.

Each contestant runs in a process of its own, in rounds of all contestants, against one server that answers at once.
CPU is user and system time of the calling process alone, without the time before the first 200 calls.

    loop      our transport, all calls are coroutines of one event loop
    threads   our transport, each call made from a thread that waits for it, as `requests`-style code does
    requests  the same calls by `requests.Session`, one for each thread
"""

import asyncio
import json
import os
import resource
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.http.certificate import make_certificate
from worker.http import Http, event_loop
from worker.operation import OnUnknown
from worker.testbed import die_with_parent

PATH = "/api/admin/fees/v2/fee/feeservice/processext"
BODY = {"account_login": "7000001", "request_id": "run-1"}
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Thu, 26 Nov 2026 00:00:00 GMT\r\nServer: x\r\n"
    b"Content-Length: 32\r\n\r\n" + b'{"status": 2, "request_id": "r"}'
)
TOKEN = "t" * 400
WARM_UP = 200  # calls
CALLS = 4000
CONTESTANTS = ("loop", "threads", "requests")


class Server(asyncio.Protocol):
    """Answers every request at once, whatever it says."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (found := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:found].lower()
            length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
            if len(self._received) < found + 4 + length:
                return
            self._received = self._received[found + 4 + length :]
            self._transport.write(ANSWER)


async def serve(context: ssl.SSLContext | None) -> None:
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


class OneToken:
    """A session that always has a token."""

    access, generation = TOKEN, 1

    def cached(self) -> "OneToken":
        return self

    current = cached

    def rejected(self, token: Any, *, is_doubtful: bool = False) -> "OneToken":
        return self

    def clock(self) -> int:
        return 0


def our_http(url: str, at_once: int, ca_file: str | None) -> Http:
    settings: Any = SimpleNamespace(host=url, call_deadline=12.0, ca_file=ca_file, concurrency=at_once)
    return Http({"service_admin": OneToken()}, settings)


def by_loop(url: str, at_once: int, ca_file: str | None) -> Callable[[int], None]:
    http = our_http(url, at_once, ca_file)

    async def caller(calls: int) -> None:
        for _ in range(calls):
            answer = await http.request("POST", PATH, json=BODY, on_unknown=OnUnknown.START_OR_GET)
            assert answer.json()["status"] == 2

    async def callers(calls: int) -> None:
        await asyncio.gather(*[caller(calls // at_once) for _ in range(at_once)])

    return lambda calls: event_loop().run(callers(calls))


def in_threads(at_once: int, make_call: Callable[[], Callable[[], Any]]) -> Callable[[int], None]:
    calls_of = [make_call() for _ in range(at_once)]

    def run(calls: int) -> None:
        def repeat(call: Callable[[], Any]) -> None:
            for _ in range(calls // at_once):
                assert call()["status"] == 2

        threads = [threading.Thread(target=repeat, args=(call,)) for call in calls_of]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return run


def by_threads(url: str, at_once: int, ca_file: str | None) -> Callable[[int], None]:
    http = our_http(url, at_once, ca_file)

    def call() -> Any:
        return event_loop().run(http.request("POST", PATH, json=BODY, on_unknown=OnUnknown.START_OR_GET)).json()

    return in_threads(at_once, lambda: call)


def by_requests(url: str, at_once: int, ca_file: str | None) -> Callable[[int], None]:
    import requests

    def make_call() -> Callable[[], Any]:
        session = requests.Session()
        session.trust_env, session.verify = False, ca_file or True
        session.headers["Authorization"] = f"Bearer {TOKEN}"
        return lambda: session.post(url + PATH, json=BODY, timeout=12.0, allow_redirects=False).json()

    return in_threads(at_once, make_call)


def measure(contestant: str, url: str, at_once: int, ca_file: str | None) -> dict[str, float]:
    run = {"loop": by_loop, "threads": by_threads, "requests": by_requests}[contestant](url, at_once, ca_file)
    run(WARM_UP)
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    run(CALLS)
    after, seconds = resource.getrusage(resource.RUSAGE_SELF), time.monotonic() - began
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu_us": cpu / CALLS * 1e6, "rate": CALLS / seconds, "rss_mb": after.ru_maxrss / 1024}


def start(*arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.bench.http_cost", *arguments]
    wrapper = [sys.executable, str(die_with_parent.__file__), str(os.getpid())]
    return subprocess.Popen([*wrapper, *command], stdout=subprocess.PIPE, text=True)


def race(rounds: int, folder: Path) -> None:
    certificate = str(folder / "certificate.pem")
    make_certificate(Path(certificate))
    for scheme in ("http", "https"):
        server = start("serve", *([certificate] if scheme == "https" else []))
        assert server.stdout is not None
        url = f"{scheme}://127.0.0.1:{server.stdout.readline().strip()}"
        try:
            for at_once in (1, 10, 50):
                results: dict[str, list[dict[str, float]]] = {name: [] for name in CONTESTANTS}
                for _ in range(rounds):
                    for name in CONTESTANTS:
                        child = start("measure", name, url, str(at_once), *([certificate] if scheme == "https" else []))
                        results[name].append(json.loads(child.communicate(timeout=120)[0]))
                print(f"\n{scheme}, {at_once} at once: medians of {rounds} (lowest-highest)")
                base = statistics.median(one["cpu_us"] for one in results["requests"])
                for name, found in results.items():
                    cpu = sorted(one["cpu_us"] for one in found)
                    middle = {key: statistics.median(one[key] for one in found) for key in ("rate", "rss_mb")}
                    print(
                        f"  {name:9} {statistics.median(cpu):6.0f} us CPU a call ({cpu[0]:.0f}-{cpu[-1]:.0f}),"
                        f" {statistics.median(cpu) / base:.2f} of requests; {middle['rate']:6.0f}/s,"
                        f" {middle['rss_mb']:.0f} MB"
                    )
        finally:
            server.kill()
            server.wait()


def main(arguments: list[str]) -> None:
    match arguments:
        case ["serve", *certificate]:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if certificate else None
            if context:
                context.load_cert_chain(certificate[0])
            asyncio.run(serve(context))
        case ["measure", name, url, at_once, *certificate]:
            print(json.dumps(measure(name, url, int(at_once), certificate[0] if certificate else None)))
        case _:
            with tempfile.TemporaryDirectory() as folder:
                race(int(arguments[0]) if arguments else 3, Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
