"""The faults: each replaces one expression or statement of a file. A mutant's name does not depend on line numbers.

Left out is:

* all text: strings, f-strings with the expressions in them, what the log gets, documentation;
* floats (times in seconds), None and bytes;
* how much is read or written at once: the number that a constant such as `PAGE = 50` or the default of a `limit` holds
  (`CHOSEN` says which). Whether the code obeys it is mutated where it is used. Every other number is a contract;
* a `raise`, unless it is all that an `if` without `else` does: then it is raised no more;
* assignments as such, `except` clauses, comparisons of more than two values, operators that no table below names;
* imports, decorators of functions, annotations, and what only a type checker reads.

The report says how many numbers were left out, because they are the only choice in this list that a reader may dispute.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
_CONDITIONS = {"where", "and_", "or_", "having"}  # calls whose arguments are conditions: each is left out once
_LARGE = 100  # one more than so many is a difference that nobody notices: a larger number is doubled
CHOSEN = re.compile(r"(.*_)?(PAGE|BATCH|CHUNK|WINDOW)|COUNT_LIMIT|RATE_LIMIT")  # both limits: of rows that are counted
_LOGS = {"debug", "info", "warning", "error", "exception", "critical"}


@dataclass(frozen=True)
class Mutant:
    """`name` is `<file>::<function>: <before> -> <after>`, with a number if a function has several of these."""

    file: str
    name: str
    line: int
    reached_by: frozenset[int]  # lines: a test that runs none of them does not notice it; all lines of a file if empty
    source: str  # of the whole file, with the fault


def mutants_of(file: str, source: str) -> list[Mutant]:
    """Return every mutant of a file."""
    found: list[Mutant] = []
    seen: Counter[str] = Counter()
    tree = ast.parse(source)
    bodies = [
        range(one.body[0].lineno, (one.end_lineno or one.lineno) + 1)
        for one in ast.walk(tree)
        if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    in_functions = {line for body in bodies for line in body}
    early = _lines_of_early_functions(tree)
    users = _users_of_names(tree, in_functions - early)
    for node, replacement, function in _faults(tree):
        before = ast.get_source_segment(source, node) or ""
        name = f"{file}::{function}: {_short(before)} -> {_short(replacement)}"
        seen[name] += 1
        number = f" #{seen[name]}" if seen[name] > 1 else ""
        knows = node.lineno in in_functions and node.lineno not in early  # coverage knows the tests that run it
        reached_by = frozenset(_lines(node)) if knows else users.get(node.lineno, frozenset())
        found.append(Mutant(file, name + number, node.lineno, reached_by, _replaced(source, node, replacement)))
    return found


def chosen_numbers(source: str) -> list[str]:
    """Return the numbers of a file that are left out because they are a choice, as text."""
    nodes = [*ast.walk(ast.parse(source))]
    constants = [ast.unparse(node) for node in nodes if isinstance(node, ast.Assign) and _is_chosen(node)]
    parameters = [pair for node in nodes if isinstance(node, ast.arguments) for pair in _with_defaults(node)]
    limits = [default for name, default in parameters if name == "limit" and _is_number(default)]
    return constants + [f"limit={ast.unparse(default)}" for default in limits]


def _lines(node: ast.AST) -> range:
    assert isinstance(node, ast.stmt | ast.expr)
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def _lines_of_early_functions(tree: ast.Module) -> set[int]:
    """Return the lines of the functions that run at import, or once: what they return is stored for all tests.

    Only the first test runs these lines, or none does. A statement that runs at import names such a function, or
    another such function does; or a decorator caches its results.
    """
    functions = {one.name: one for one in tree.body if isinstance(one, ast.FunctionDef)}
    found = {name for name, one in functions.items() if "cache" in " ".join(map(ast.unparse, one.decorator_list))}
    left: list[ast.AST] = [functions[name] for name in found]
    left += [one for one in tree.body if not isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
    while left:
        names = {node.id for node in ast.walk(left.pop()) if isinstance(node, ast.Name)}
        left += [functions[name] for name in names & functions.keys() - found]
        found |= names & functions.keys()
    return {line for name in found for line in _lines(functions[name])}


def _users_of_names(tree: ast.Module, in_functions: set[int]) -> dict[int, frozenset[int]]:
    """Return for each line that runs at import which lines of functions use what it defines. Empty: nobody knows.

    They are found by the names that a statement assigns, also through other statements that run at import. A default or
    a class uses a name without a line that tests would run, and another file may use a public name.
    """
    nobody_knows = 0
    used_in: dict[str, set[int]] = {}  # name -> lines of functions
    statements: list[tuple[ast.stmt, set[str], set[str]]] = []  # with what it assigns and what it uses
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for node in ast.walk(statement):
                if isinstance(node, ast.Name):
                    where = node.lineno if node.lineno in in_functions else nobody_knows
                    used_in.setdefault(node.id, set()).add(where)
        else:
            names = [node for node in ast.walk(statement) if isinstance(node, ast.Name)]
            assigned = {node.id for node in names if isinstance(node.ctx, ast.Store)}
            statements.append((statement, assigned, {node.id for node in names} - assigned))
    for _, assigned, uses in reversed(statements):
        for name in assigned:
            if not name.startswith("_"):
                used_in.setdefault(name, set()).add(nobody_knows)
        users = {line for name in assigned for line in used_in.get(name, ())}
        for name in uses:
            used_in.setdefault(name, set()).update(users)
    found: dict[int, frozenset[int]] = {}
    for statement, assigned, _ in statements:
        users = {line for name in assigned for line in used_in.get(name, ())}
        found |= dict.fromkeys(_lines(statement), frozenset() if nobody_knows in users else frozenset(users))
    return found


def _faults(tree: ast.AST, function: str = "") -> Iterator[tuple[ast.expr | ast.stmt, str, str]]:
    """Yield what is replaced, by which text, and in which function."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.stmt | ast.expr):
            if _is_no_code(child):
                continue
            for replacement in _replacements(child):
                yield child, replacement, function
        inner = function
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = f"{function}.{child.name}".lstrip(".")
        yield from _faults_within(child, inner)


def _faults_within(node: ast.AST, function: str) -> Iterator[tuple[ast.expr | ast.stmt, str, str]]:
    if isinstance(node, ast.arg):  # its annotation
        return
    if isinstance(node, ast.AnnAssign):
        if node.value is not None:
            yield from _faults(ast.Expression(node.value), function)
        return
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):  # without decorators and annotations
        yield from _faults(ast.Module([*node.body], []), function)
        yield from _faults(ast.Tuple(_defaults(node.args), ast.Load()), function)
        return
    yield from _faults(node, function)


def _defaults(arguments: ast.arguments) -> list[ast.expr]:
    """Return the defaults of parameters, but not how long a list is by default."""
    return [default for name, default in _with_defaults(arguments) if name != "limit"]


def _with_defaults(arguments: ast.arguments) -> list[tuple[str, ast.expr]]:
    """Return the parameters that have a default, with it."""
    named = [*arguments.posonlyargs, *arguments.args]
    pairs = [*zip(named[len(named) - len(arguments.defaults) :], arguments.defaults, strict=True),
             *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]  # fmt: skip
    return [(parameter.arg, default) for parameter, default in pairs if default is not None]


def _is_no_code(node: ast.stmt | ast.expr) -> bool:
    """Return whether a node is an import, a text for people, what only a type checker reads, or a chosen number."""
    match node:
        case ast.Import() | ast.ImportFrom() | ast.Raise() | ast.JoinedStr():
            return True  # the text of an error is not mutated; that the error is raised is
        case ast.Expr(value=ast.Constant()):
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id="log"), attr=name))):
            return name in _LOGS
        case ast.Assign():
            return _is_chosen(node)
    return False


def _is_chosen(node: ast.Assign) -> bool:
    """Return whether a statement gives a number to a constant that says how much is read or written at once."""
    match node.targets:
        case [ast.Name(id=name)]:
            return CHOSEN.fullmatch(name) is not None and _is_number(node.value)
    return False


def _is_number(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=value):
            return type(value) in {int, float}
        case ast.BinOp(left=left, right=right):
            return _is_number(left) and _is_number(right)
    return False


def _replacements(node: ast.stmt | ast.expr) -> Iterator[str]:
    match node:
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARISONS:
            yield ast.unparse(ast.Compare(left, [_COMPARISONS[type(op)]()], [right]))
        case ast.BoolOp(op=op, values=values):
            yield "(" + ast.unparse(ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)) + ")"
        case ast.BinOp(op=ast.BitOr(), right=ast.Constant(value=None)):  # a type
            return
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            yield "(" + ast.unparse(ast.BinOp(left, _OPERATORS[type(op)](), right)) + ")"
        case ast.UnaryOp(op=ast.Not() | ast.Invert(), operand=operand):
            yield "(" + ast.unparse(operand) + ")"
        case ast.Constant(value=bool(value)):
            yield str(not value)
        case ast.Constant(value=int(value)):
            yield str(value + 1 if value < _LARGE else value * 2)
        case ast.If(test=test, body=[ast.Raise()], orelse=[]):
            yield f"if False and ({ast.unparse(test)}): pass"
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test) if not isinstance(test, ast.Compare):
            yield _with_test(node, ast.UnaryOp(ast.Not(), test))
        case ast.Return(value=value) if value is not None and not isinstance(value, ast.Constant):
            yield "return None"
        case ast.Continue() | ast.Break():
            yield "pass"
        case ast.Expr(value=ast.Call() | ast.Await()):
            yield "pass"
    yield from _left_out(node)


def _with_test(node: ast.stmt | ast.expr, test: ast.expr) -> str:
    if isinstance(node, ast.IfExp):
        return "(" + ast.unparse(ast.IfExp(test, node.body, node.orelse)) + ")"
    assert isinstance(node, ast.If | ast.While)
    changed = ast.If if isinstance(node, ast.If) else ast.While
    indent = "\n" + " " * node.col_offset
    return indent.join(ast.unparse(changed(test, node.body, node.orelse)).splitlines())


def _left_out(node: ast.stmt | ast.expr) -> Iterator[str]:
    """Yield a call without one of its conditions or columns, and a dict without one of its items."""
    match node:
        case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name)) if name in _CONDITIONS and len(node.args) > 1:
            for one in node.args:
                yield ast.unparse(
                    ast.Call(node.func, [other for other in node.args if other is not one], node.keywords)
                )
        case ast.Call(func=ast.Attribute(attr="values")) if len(node.keywords) > 1:
            for key in node.keywords:
                yield ast.unparse(
                    ast.Call(node.func, node.args, [other for other in node.keywords if other is not key])
                )
        case ast.Dict(keys=keys, values=values) if len(keys) > 1:
            for number in range(len(keys)):
                yield ast.unparse(ast.Dict(keys[:number] + keys[number + 1 :], values[:number] + values[number + 1 :]))


def _replaced(source: str, node: ast.expr | ast.stmt, replacement: str) -> str:
    lines = source.encode().splitlines(keepends=True)
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    before = b"".join(lines[: node.lineno - 1]) + lines[node.lineno - 1][: node.col_offset]
    after = lines[node.end_lineno - 1][node.end_col_offset :] + b"".join(lines[node.end_lineno :])
    return (before + replacement.encode() + after).decode()


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 90 else f"{text[:60]} ... {text[-25:]}"
