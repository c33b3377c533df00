"""The price of HTTPS: the same runs by HTTP and by HTTPS, on connections that are kept open."""

from contextlib import ExitStack
from pathlib import Path

from tests.bench.contestants import Ours
from tests.bench.peer import Peer
from tests.bench.races import environment
from tests.bench.results import Results
from tests.http.certificate import make_certificate
from worker.testbed.processes import ProcessFailed

AT_ONCE, COUNT = 10, 4000


def https(folder: Path, results: Results, rounds: int) -> None:
    certificate = folder / "certificate.pem"
    make_certificate(certificate)
    with ExitStack() as stack:
        contestants = {}
        for scheme in ("http", "https"):
            files = (certificate, certificate) if scheme == "https" else ()
            try:
                peer = stack.enter_context(Peer(folder, *files))
            except ProcessFailed as error:
                print(f"SKIPPED: {scheme}: {error}", flush=True)
                continue
            made = stack.enter_context(environment(peer.url))
            if files:
                made.settings["B2COPY_CA_FILE"] = str(certificate)
            contestants[scheme] = Ours(made, AT_ONCE)
            stack.callback(contestants[scheme].close)
            contestants[scheme].run(500)
        for number in range(rounds):
            for scheme, ours in sorted(contestants.items(), reverse=bool(number % 2)):
                run = ours.run(COUNT)
                results.add("https", round=number, scheme=scheme, rate=run.rate, cpu_ms=run.cpu_ms)
