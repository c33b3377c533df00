"""The results as tables in Markdown, and beside their aims."""

from collections.abc import Callable
from typing import NamedTuple

from tests.bench.results import Results, ratio, spread, table


class Aim(NamedTuple):
    """One aim and what was measured. `met` is None if it was not measured. `why` explains the figure if it missed."""

    what: str
    value: float | None
    limit: float
    is_least: bool = False
    unit: str = ""
    why: str = ""

    @property
    def met(self) -> bool | None:
        if self.value is None:
            return None
        return self.value >= self.limit if self.is_least else self.value <= self.limit


def _number(digits: int) -> Callable[[float], str]:
    return lambda value: f"{value:,.{digits}f}"


_rate, _cpu = _number(0), _number(2)


_OTHERS = {
    "workers": ("who", "workers"),
    "https": ("scheme",),
    "metrics": ("scraped",),
    "statements": ("who",),
    "layers": ("who",),
    "backfill": ("who",),
    "idle": ("who",),
    "import": ("who",),
    "fixture": ("who",),
    "failed": ("who", "error"),
}
"""The parts that are shown as lines of text, one for each combination of these values."""


def tables(results: Results) -> str:
    """Return all tables for which there are results."""
    parts = [_machine(results), _races(results), _others(results), _aims(results), _growth(results)]
    return "\n\n".join(part for part in parts if part)


def readme_table(results: Results) -> str:
    """Return the table of the README: medians of the bulk runs, beside the other ways to do it."""
    settings = sorted({(row["latency_ms"], row["at_once"]) for row in results.of("race")})
    heads = ["", *(f"{latency} ms, {at_once} at once" for latency, at_once in settings), "done again", "peak MB"]
    rows = []
    for name in dict.fromkeys(row["who"] for row in results.of("race")):
        cells = [name]
        for latency, at_once in settings:
            where = {"who": name, "latency_ms": latency, "at_once": at_once}
            rate, cpu = results.median("race", "rate", **where), results.median("race", "cpu_ms", **where)
            cells.append("-" if rate is None or cpu is None else f"{_rate(rate)}/s; {_cpu(cpu)} ms")
        short = name.split(",")[0]
        repeated = f"{short}, must not be repeated" if short.startswith("ours") else name
        again = [str(row["again"]) for row in results.of("faults", who=repeated)]
        rows.append([*cells, *(again or ["-"]), _rate(max(results.values("memory", "peak_mb", who=short), default=0))])
    return table(heads, rows)


def _machine(results: Results) -> str:
    return "\n\n".join(
        f"`{row['command']}` on {row['cores']} cores ({row['cpu']}), Python {row['python']}; at its start a load of"
        f" {row['load']:.1f}, and {row['fsync_ms']:.2f} ms for an fsync. Medians, lowest and highest round."
        for row in results.of("machine")
    )


def _races(results: Results) -> str:
    settings = sorted({(row["latency_ms"], row["at_once"]) for row in results.of("race")})
    if not settings:
        return ""
    names = list(dict.fromkeys(row["who"] for row in results.of("race")))
    heads = ["operations a second; ms CPU each", *(f"{latency} ms, {at_once} at once" for latency, at_once in settings)]
    rows = []
    for name in names:
        cells = [name]
        for latency, at_once in settings:
            where = {"who": name, "latency_ms": latency, "at_once": at_once}
            rates = results.values("race", "rate", **where)
            cells.append(f"{spread(rates, _rate)}; {spread(results.values('race', 'cpu_ms', **where), _cpu)}")
        rows.append(cells)
    return table(heads, rows)


def _others(results: Results) -> str:
    """One line per contestant: memory, Redis traffic, enqueuing, delays, faults."""
    names = list(dict.fromkeys(row["who"] for part in ("race", "enqueue", "faults") for row in results.of(part)))
    if not names:
        return ""
    heads = [
        "contestant", "peak MB, 10 / 50 at once", "Redis bytes each", "enqueued a second; ms CPU; peak MB",
        "enqueue to applied at half capacity, ms p50 / p99", "faults: again / never",
    ]  # fmt: skip
    rows = []
    for name in names:
        short = name.split(",")[0]
        peaks = [
            max(results.values("memory", "peak_mb", who=short, at_once=at_once), default=0) for at_once in (10, 50)
        ]
        traffic = results.median("race", "redis_bytes", who=name)
        enqueued, delay, fault = (results.of(part, who=name)[-1:] for part in ("enqueue", "delays", "faults"))
        rows.append([
            name,
            " / ".join(f"{peak:.0f}" if peak else "-" for peak in peaks),
            "-" if traffic is None else _rate(traffic),
            "; ".join([_rate(enqueued[0]["rate"]), _cpu(enqueued[0]["cpu_ms"]), _rate(enqueued[0]["peak_mb"])])
            if enqueued else "-",
            f"{delay[0]['p50_ms']:.1f} / {delay[0]['p99_ms']:.1f}" if delay else "-",
            f"{fault[0]['again']} / {fault[0]['never']}" if fault else "-",
        ])  # fmt: skip
    return table(heads, rows)


def missed(results: Results) -> list[Aim]:
    """Return the aims that were measured and not met."""
    return [aim for aim in _aims_of(results) if aim.met is False]


def _aims_of(results: Results) -> list[Aim]:
    def cpu(who: str, latency: int = 0, at_once: int = 10) -> float | None:
        return results.median("race", "cpu_ms", who=who, latency_ms=latency, at_once=at_once)

    def times(ours: str, theirs: str) -> float | None:
        where = {"latency_ms": 0, "at_once": 10}
        return ratio(results.of("race", who=ours, **where), results.of("race", who=theirs, **where), "rate")

    def workers(name: str) -> float | None:
        two, one = (results.of("workers", who="ours", workers=count) for count in (2, 1))
        return ratio([row for row in two if row[name] is not None], one, name)

    def last(part: str, name: str, **where: object) -> float | None:
        rows = results.of(part, **where)
        return rows[-1].get(name) if rows else None  # an older version has stored less

    memory, libraries = (last("import", "mb", who=who) for who in ("tasks.enqueue", "its libraries alone"))
    beyond = "" if memory is None or libraries is None else (
        f"its libraries alone take {libraries:,.3g} MB, ours adds {memory - libraries:,.2g} MB"
    )  # fmt: skip
    alone = last("backfill", "p99_ms", who="alone")
    fault = results.of("faults", who="ours, may be asked again") + results.of(
        "faults", who="ours, must not be repeated"
    )
    doubled = results.of("faults", who="ours, must not be repeated")
    return [
        Aim("CPU per operation, bulk, 0 ms, 10 at once", cpu("ours, bulk"), 0.20, unit=" ms"),
        Aim("CPU per operation, singly, 0 ms, 10 at once", cpu("ours, singly"), 0.5, unit=" ms"),
        Aim("rate, bulk : taskiq, 0 ms, 10 at once", times("ours, bulk", "taskiq"), 3, True),
        Aim("rate, bulk : aiohttp loop, 0 ms, 10 at once", times("ours, bulk", "aiohttp loop"), 0.8, True),
        Aim("rate, two workers : one, both active, 10 ms", workers("rate"), 1.8, True),
        Aim("CPU per operation, two workers : one, 10 ms", workers("cpu_ms"), 1.1),
        Aim(
            "rate, metrics scraped once a second : not served",
            ratio(results.of("metrics", scraped=True), results.of("metrics", scraped=False), "rate"), 0.99, True,
        ),
        Aim("enqueue to applied at half capacity, p99", last("delays", "p99_ms", who="ours, singly"), 100, unit=" ms"),
        Aim(
            "money lane beside a backfill, p99",
            next((row["p99_ms"] for row in results.of("backfill") if row["who"].startswith("beside")), None),
            max(250.0, 2 * (alone or 0)), unit=" ms",
        ),
        Aim("faults: never done", float(sum(row["never"] for row in fault[:1])) if fault else None, 0),
        Aim("faults: done again though it must not be", float(doubled[-1]["again"]) if doubled else None, 0),
        Aim("peak memory of a worker, MB", max(results.values("memory", "peak_mb", who="ours"), default=None), 120),
        Aim("enqueued in one call on SQLite, a second", last("enqueue", "rate", who="ours, in one call"), 40_000, True),
        *(
            aim
            for who in ("ours", "ours PostgreSQL")
            for aim in (
                Aim(f"enqueue, idle, p50: {who}", last("idle", "enqueue_p50_ms", who=who), 2, unit=" ms"),
                Aim(f"enqueue, idle, p99: {who}", last("idle", "enqueue_p99_ms", who=who), 10, unit=" ms"),
                Aim(
                    f"enqueue, half capacity, p99: {who}", last("delays", "enqueue_p99_ms", who=f"{who}, singly"), 50,
                    unit=" ms",
                ),
            )
        ),
        Aim("import tasks.enqueue", last("import", "s", who="tasks.enqueue"), 0.35, unit=" s"),
        Aim("import tasks.enqueue, MB", memory, 45, why=beyond),
        Aim("100 tests with the fixture b2copy", last("fixture", "s"), 20, unit=" s"),
        Aim("set-up of the first, which imports everything", last("fixture", "first_setup_s"), 1, unit=" s"),
        Aim("set-up of any other, slowest", last("fixture", "setup_max_s"), 0.5, unit=" s"),
    ]  # fmt: skip


def _aims(results: Results) -> str:
    """Return the aims beside what was measured, and the figures of the other parts."""
    aims = _aims_of(results)
    measured = [aim for aim in aims if aim.met is not None]
    lines = [table(["aim", "measured", "limit", ""], [_row(aim) for aim in measured])] if measured else []
    for part, names in _OTHERS.items():
        for values in dict.fromkeys(tuple(row[name] for name in names) for row in results.of(part)):
            rows = results.of(part, **dict(zip(names, values, strict=True)))
            found = {
                key: [row[key] for row in rows if isinstance(row[key], int | float)]
                for key in rows[0]
                if key not in ("part", "round", *names)
            }
            shown = (f"{key} {spread(numbers, '{:,.4g}'.format)}" for key, numbers in found.items() if numbers)
            lines.append(f"{part}, {', '.join(map(str, values))}: {'; '.join(shown)}")
    return "\n\n".join(lines)


def _row(aim: Aim) -> list[str]:
    sign = ">=" if aim.is_least else "<="
    result = "" if aim.met else f"missed: {aim.why}" if aim.why else "missed"
    return [aim.what, f"{aim.value:,.3g}{aim.unit}", f"{sign} {aim.limit:,.3g}{aim.unit}", result]


def _growth(results: Results) -> str:
    rows = results.of("growth")
    if not rows:
        return ""
    keys = list(dict.fromkeys(key for row in rows for key in row if key != "part"))
    return table(keys, [[_cell(row.get(key)) for key in keys] for row in rows])


def _cell(value: object) -> str:
    return "-" if value is None else f"{value:,.4g}" if isinstance(value, float) else str(value)
