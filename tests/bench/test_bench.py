"""The benchmark itself: what it counts, and when an aim is missed."""

import http.client
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.bench.contestants import Run
from tests.bench.environments import PINNED
from tests.bench.part import Part
from tests.bench.peer import Peer
from tests.bench.races import rotations
from tests.bench.results import Results, percentile, ratio, spread
from tests.bench.scraped import measure
from tests.bench.tables import Aim, missed, readme_table, tables
from tests.bench.usage import family
from worker.ledger import open_ledger, search
from worker.testbed.local_system import Environment
from worker.testbed.ports import free_port
from worker.testbed.processes import ProcessFailed


def test_every_round_runs_each_contestant_and_begins_with_another() -> None:
    assert ["".join(order) for order in rotations(["a", "b", "c"], 4)] == ["abc", "bca", "cab", "abc"]


def test_results_are_lines_that_another_run_continues(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    Results(path).add("race", who="ours", round=0, rate=1234.567)

    resumed = Results(path, resume=True)
    resumed.add("race", who="ours", round=1, rate=1500.0)

    assert [row["rate"] for row in Results(path, resume=True).of("race", who="ours")] == [1235.0, 1500.0]
    assert Results(path).rows == []


def test_a_ratio_compares_within_each_round() -> None:
    ours = [{"round": 0, "rate": 20.0}, {"round": 1, "rate": 10.0}, {"round": 2, "rate": 9.0}]
    theirs = [{"round": 1, "rate": 5.0}, {"round": 0, "rate": 10.0}]

    assert ratio(ours, theirs, "rate") == 2.0
    assert ratio(ours, [], "rate") is None


def test_figures_are_medians_between_the_lowest_and_the_highest() -> None:
    values = [float(value) for value in range(100, 0, -1)]

    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([7.0], 0.99)) == (51.0, 100.0, 7.0)
    assert spread([3.0, 1.0, 2.0], "{:.0f}".format) == "2 (1-3)"
    assert spread([], str) == "-"


def test_an_aim_is_met_or_missed_or_was_not_measured(tmp_path: Path) -> None:
    assert [Aim("", value, 2.0).met for value in (2.0, 2.1, None)] == [True, False, None]
    assert Aim("", 1.9, 2.0, is_least=True).met is False
    results = Results(tmp_path / "results.jsonl")
    for who, rate, cpu_ms in (("ours, bulk", 4000.0, 0.19), ("taskiq", 1600.0, 0.6)):
        results.add("race", who=who, round=0, latency_ms=0, at_once=10, rate=rate, cpu_ms=cpu_ms, redis_bytes=0.0)

    text = tables(results)

    assert "| ours, bulk | 4,000; 0.19 |" in text
    assert "| CPU per operation, bulk, 0 ms, 10 at once | 0.19 ms | <= 0.2 ms |  |" in text
    assert "| rate, bulk : taskiq, 0 ms, 10 at once | 2.5 | >= 3 | missed |" in text
    assert [aim.what for aim in missed(results)] == ["rate, bulk : taskiq, 0 ms, 10 at once"]


def test_one_slow_set_up_of_the_fixture_misses_its_aim(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.jsonl")
    results.add("fixture", who="b2copy", tests=100, s=9.0, first_setup_s=0.9, setup_p50_s=0.03, setup_max_s=0.6)

    assert "| set-up of any other, slowest | 0.6 s | <= 0.5 s | missed |" in tables(results)
    assert [aim.what for aim in missed(results)] == ["set-up of any other, slowest"]


def test_a_missed_memory_aim_says_how_much_of_it_are_the_libraries(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.jsonl")
    results.add("import", who="tasks.enqueue", s=0.3, mb=60.5, modules=700)
    results.add("import", who="its libraries alone", s=0.25, mb=55.3, modules=600)

    why = "its libraries alone take 55.3 MB, ours adds 5.2 MB"
    assert f"| import tasks.enqueue, MB | 60.5 | <= 45 | missed: {why} |" in tables(results)
    assert [aim.what for aim in missed(results)] == ["import tasks.enqueue, MB"]


def test_the_peer_counts_what_it_carries_out_refuses_and_loses(tmp_path: Path) -> None:
    def ask(name: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", peer.port, timeout=5)
        try:
            connection.request("POST", "/x", f'{{"account_login": "1", "request_id": "{name}"}}')
            return connection.getresponse().status
        except http.client.RemoteDisconnected:
            return 0
        finally:
            connection.close()

    with Peer(tmp_path) as peer:
        assert [ask("a"), ask("a"), ask("b")] == [200, 200, 200]
        peer.set(refuse=100)
        assert ask("c") == 503
        peer.set(lose=100)
        assert ask("d") == 0
        assert {name: effect.times for name, effect in peer.effects().items()} == {"a": 2, "b": 1, "d": 1}
        assert (peer.ids(), peer.requests()) == (3, 5)
        peer.reset()
        assert peer.effects() == {}


@pytest.fixture
def metrics() -> Iterator[tuple[str, threading.Event]]:
    """The URL of an endpoint, and an event that is set as soon as somebody has fetched it."""
    fetched = threading.Event()

    class Endpoint(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(200)
            self.end_headers()
            self.wfile.write(b"b2copy_up 1\n")
            fetched.set()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/metrics", fetched
        server.shutdown()
        thread.join()


def test_metrics_have_a_price_only_if_they_were_scraped_every_second(
    metrics: tuple[str, threading.Event], tmp_path: Path
) -> None:
    results, (url, fetched) = Results(tmp_path / "results.jsonl"), metrics

    def run(seconds: float) -> Run:
        assert fetched.wait(10)
        return Run(1_000, seconds, cpu=0.1)

    measure(results, 0, lambda: run(0.9), url)
    assert [row["scrapes"] for row in results.of("metrics", scraped=True)] == [1]
    measure(results, 1, lambda: run(60.0), url)
    measure(results, 2, lambda: Run(1_000, 0.9, cpu=0.1), f"http://127.0.0.1:{free_port()}/metrics")
    measure(results, 2, lambda: Run(1_000, 0.9, cpu=0.1), None)

    assert [(row["round"], row["scraped"]) for row in results.of("metrics")] == [(0, True), (2, False)]
    too_few, no_listener = (row["error"] for row in results.of("failed", who="scrapes"))
    assert too_few.endswith("in a run of 60.0 s")
    assert no_listener.startswith("0 in a run of 0.9 s: ")
    assert "refused" in no_listener
    assert "failed, scrapes, " in tables(results)


def test_rivals_are_pinned_to_exact_versions() -> None:
    assert {"requests", "aiohttp", "celery", "dramatiq", "huey", "arq", "taskiq"} <= PINNED.keys()
    assert all("==" in requirement for pinned in PINNED.values() for requirement in pinned)


def test_the_crm_enqueues_in_a_process_of_its_own(environment: Environment) -> None:
    ledger = open_ledger(environment.database_url, create=True)
    crm = Part("crm", environment.variables, environment.folder / "crm.log")
    try:
        assert crm.pid in family(crm.pid)
        answer = crm.run("many", batch="bulk", count=3)
        calls = crm.run("feed", batch="single", count=2, per_second=1000)["calls"]
    finally:
        crm.close()

    assert answer["ended"] > answer["began"]
    assert answer["cpu"] > 0
    assert [name for name, _, _ in calls] == ["single-0", "single-1"]
    lanes = sorted(operation.lane for operation in search(ledger))
    ledger.close()
    assert lanes == ["bulk"] * 3 + ["money"] * 2


def test_a_part_that_ends_early_raises_its_log(environment: Environment) -> None:
    loop = Part(
        "rivals.requests_loop", environment.variables, environment.folder / "loop.log"
    )  # without the variable that says where to post
    try:
        with pytest.raises(ProcessFailed, match="BENCH_URL"):
            loop.result()
    finally:
        loop.close()


def test_the_table_of_the_readme_is_made_of_the_results_beside_it() -> None:
    measured = Results(Path(__file__).with_name("measured.jsonl"), resume=True)

    assert tables(measured)
    assert readme_table(measured) in (Path(__file__).parents[2] / "README.md").read_text()
