"""Charts as numbers that a template draws as SVG: no library, no script, no style attribute."""

from dataclasses import dataclass

from worker.report.chart_series import Point
from worker.report.format_values import clock
from worker.report.thresholds import DUE_LATE_S

WIDTH, HEIGHT = 600, 80  # units of the SVG's own coordinates


@dataclass(frozen=True)
class Bar:
    """One bar, in the chart's coordinates. `label` is for the mouse and for screen readers."""

    x: float
    y: float
    width: float
    height: float
    style: str
    label: str


@dataclass(frozen=True)
class Chart:
    """A chart with its bars and its highest value."""

    title: str
    bars: list[Bar]
    top: str
    start: str
    end: str
    rows: list[tuple[str, str]]


def ended_chart(points: list[Point]) -> Chart:
    """Return bars of how many operations succeeded, with the failed ones on top."""
    top = max((point.ended for point in points), default=0)
    bars = []
    for number, point in enumerate(points):
        label = f"{clock(point.minute)[11:16]} UTC: {point.succeeded} succeeded, {point.failed} failed"
        done = _height(point.succeeded, top)
        failed = _height(point.failed, top)
        bars += [_bar(number, len(points), 0, done, "done", label)] if done else []
        bars += [_bar(number, len(points), done, failed, "failed", label)] if failed else []
    rows = [
        (f"{clock(point.minute)[11:16]} UTC", f"{point.succeeded} succeeded, {point.failed} failed")
        for point in points
        if point.ended
    ]
    return _chart("Ended per minute", bars, f"{top}", points, rows)


def late_chart(points: list[Point]) -> Chart:
    """Return bars of how long something had been due and no worker had worked on its lane."""
    top = max((point.late_s for point in points), default=0.0)
    bars, rows = [], []
    for number, point in enumerate(points):
        if point.late_s:
            label = f"{clock(point.minute)[11:16]} UTC: nobody worked for {point.late_s:.1f} s"
            style = "failed" if point.late_s > DUE_LATE_S else "waits"
            bars.append(_bar(number, len(points), 0, _height(point.late_s, top), style, label))
            rows.append((f"{clock(point.minute)[11:16]} UTC", f"{point.late_s:.1f} s"))
    return _chart("Due without a worker, seconds", bars, f"{top:.0f} s", points, rows)


def _chart(title: str, bars: list[Bar], top: str, points: list[Point], rows: list[tuple[str, str]]) -> Chart:
    start = clock(points[0].minute)[11:16] if points else ""
    end = clock(points[-1].minute)[11:16] if points else ""
    return Chart(title, bars, top, start, end, rows)


def _height(value: float, top: float) -> float:
    return max(1.5, value / top * HEIGHT) if value and top else 0.0


def _bar(number: int, count: int, base: float, height: float, style: str, label: str) -> Bar:
    width = WIDTH / count
    top = max(0.0, HEIGHT - base - height)
    return Bar(round(number * width + 1, 1), round(top, 1), round(width - 2, 1), round(height, 1), style, label)
