"""What an error tracker would send: the local variables of every frame of an error and of its causes."""

from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]


def shown_by(error: BaseException) -> Iterator[tuple[str, str]]:
    """Yield where and what: each variable of each frame outside the tests, containers opened, objects by their repr."""
    for one in _chain(error):
        trace = one.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            if TESTS not in Path(code.co_filename).parents:
                for name, value in trace.tb_frame.f_locals.items():
                    yield from ((f"{code.co_qualname}: {name}", text) for text in _texts(value, 6))
            trace = trace.tb_next


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    left = [error]
    while left:
        one = left.pop()
        if one not in seen:
            seen.append(one)
            yield one
            left += [other for other in (one.__cause__, one.__context__) if other is not None]


def _texts(value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, bytes | bytearray):
        yield bytes(value).decode("latin-1")
    elif isinstance(value, Mapping) and depth:
        for item in value.items():
            yield from _texts(item, depth - 1)
    elif isinstance(value, list | tuple | Set) and depth:
        items: Iterable[Any] = value
        for item in items:
            yield from _texts(item, depth - 1)
    else:
        yield repr(value)
