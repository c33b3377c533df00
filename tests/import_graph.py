"""Which file of ours imports which. `python -m tests.import_graph` prints a table of the packages, `make packages` too.

A package here is a folder of `worker`, a file of `worker`, or `tasks`.
"""

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
Graph = Mapping[str, set[str]]
"""Node -> what it imports."""


@cache
def graph_of(root: Path) -> Graph:
    """Return what each file imports, at its top or inside a function. Files are named such as `worker/app.py`."""
    files = [path for folder in ("worker", "tasks") for path in sorted((root / folder).rglob("*.py"))]
    return {str(path.relative_to(root)): set(_imports_of(path, root)) for path in files}


def package_of(file: str) -> str:
    """Return the package of a file."""
    parts = file.split("/")
    return parts[0] if parts[0] != "worker" else "/".join(parts[:2])


def in_circles(graph: Graph) -> list[str]:
    """Return the nodes that import themselves around others."""
    return [node for node in graph if node in _reached_from(node, graph)]


def _reached_from(start: str, graph: Graph) -> set[str]:
    reached: set[str] = set()
    open_ends = list(graph[start] - {start})
    while open_ends:
        node = open_ends.pop()
        if node not in reached:
            reached.add(node)
            open_ends += graph[node] - {node}
    return reached


def _imports_of(path: Path, root: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (file for name in names if (file := _file_of(name, root)) is not None)


def _file_of(name: str, root: Path) -> str | None:
    """Return the file that holds `name`: a module, or something in it. None if it is not ours."""
    parts = name.split(".")
    if parts[0] not in {"worker", "tasks", "tests"}:
        return None
    while parts:
        path = root.joinpath(*parts)
        if path.with_suffix(".py").is_file():
            return str(path.with_suffix(".py").relative_to(root))
        if (path / "__init__.py").is_file():
            return str((path / "__init__.py").relative_to(root))
        parts.pop()
    raise AssertionError(f"{name} is no module")


def package_table(root: Path) -> str:
    """Return a line for each package: files, lines, its longest file, and how many of its imports lead up.

    An import leads up if its package imports this one too, directly or around. The last line has the sums, and the
    number of files in circles.
    """
    files = graph_of(root)
    packages: dict[str, set[str]] = defaultdict(set)
    for file, imported in files.items():
        packages[package_of(file)] |= {package_of(name) for name in imported}
    reached = {package: _reached_from(package, packages) for package in packages}
    lines = {file: len((root / file).read_text().splitlines()) for file in files}
    rows: list[tuple[str, ...]] = [("package", "files", "lines", "imports up", "longest file")]
    sums = [0, 0, 0]
    for package in packages:
        own = [file for file in files if package_of(file) == package]
        up = sum(
            package_of(name) != package and package in reached[package_of(name)] for file in own for name in files[file]
        )
        figures = len(own), sum(map(lines.__getitem__, own)), up
        sums = [one + other for one, other in zip(sums, figures, strict=True)]
        rows.append((package, *map(str, figures), _longest(own, lines)))
    rows.append(("all", *map(str, sums), _longest(list(files), lines)))
    table = "\n".join("{:<28}{:>6}{:>8}{:>12}  {}".format(*row) for row in rows)
    return f"{table}\nfiles that import each other, directly or around: {len(in_circles(files))}"


def _longest(files: list[str], lines: Mapping[str, int]) -> str:
    longest = max(files, key=lines.__getitem__)
    return f"{lines[longest]} {longest}"


if __name__ == "__main__":
    print(package_table(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT))
