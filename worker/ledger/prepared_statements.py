"""Statements that run for every operation: SQLAlchemy compiles each once, and then only the values are passed.

SQLAlchemy's own execution binds every value of every row again. For a batch of settled operations that takes longer
than the database needs to write them.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple, cast

from sqlalchemy import ARRAY, ColumnElement, Connection, CursorResult, Dialect, Executable, bindparam, column, func
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import TypeEngine

from worker.ledger.schema import Listed

Given = Mapping[str, ColumnElement[Any]]
"""The values of one row, by name, as a statement refers to them."""


class _Compiled(NamedTuple):
    sql: str
    names: tuple[str, ...]  # of the parameters in their order, if the driver takes them by position
    constants: dict[str, Any]  # parameters that the statement itself sets
    lists: frozenset[str]  # parameters that are one JSON text on SQLite


class Prepared:
    """One statement with named parameters. Booleans come back from SQLite as 0 and 1."""

    def __init__(self, statement: Executable) -> None:
        self._statement = statement
        self._compiled: dict[tuple[str, str], _Compiled] = {}

    def run(self, connection: Connection, **parameters: Any) -> CursorResult[Any]:
        dialect = connection.dialect
        if connection.get_execution_options().get("schema_translate_map"):  # a CRM's own connection may have one
            return connection.execute(self._statement, parameters)
        # By driver, because a CRM's own connection may have another one than ours.
        compiled = self._compiled.get((dialect.driver, dialect.paramstyle)) or self._compile(dialect)
        if compiled.constants:
            parameters |= compiled.constants
        if dialect.name == "sqlite":
            for name in compiled.lists:
                parameters[name] = json.dumps(parameters[name])
        by_position = tuple([parameters[name] for name in compiled.names])
        return connection.exec_driver_sql(compiled.sql, by_position or parameters)

    def _compile(self, dialect: Dialect) -> _Compiled:
        compiled = self._compiled[dialect.driver, dialect.paramstyle] = _compile(self._statement, dialect)
        return compiled


class PreparedForRows:
    """One statement for many rows, each a tuple in the order of `columns`.

        SQLite      UPDATE t SET a = ? WHERE id = ?                                     executemany
        PostgreSQL  UPDATE t SET a = v.a FROM unnest(%s::text[], ...) AS v (a, id) ...  one array per column

    `build` returns the statement, given the values of a row and the dialect's name.
    """

    def __init__(self, columns: Mapping[str, TypeEngine[Any]], build: Callable[[Given, str], Executable]) -> None:
        self._columns, self._build = columns, build
        self._on_sqlite: tuple[str, Callable[[tuple[Any, ...]], Any], tuple[Any, ...]] | None = None
        self._on_postgresql: _Compiled | None = None

    def run(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        if not rows:
            return
        if connection.dialect.name == "sqlite":
            sql, arrange, constants = self._on_sqlite or self._compile_for_sqlite(connection.dialect)
            connection.exec_driver_sql(sql, [arrange(row + constants) for row in rows])
        else:
            compiled = self._on_postgresql or self._compile_for_postgresql(connection.dialect)
            arrays = [list(values) for values in zip(*rows, strict=True)]
            connection.exec_driver_sql(compiled.sql, compiled.constants | dict(zip(self._columns, arrays, strict=True)))

    def _compile_for_sqlite(self, dialect: Dialect) -> Any:
        given = {name: bindparam(f"given_{name}", type_=type_) for name, type_ in self._columns.items()}
        compiled = _compile(self._build(given, dialect.name), dialect)
        order = [f"given_{name}" for name in self._columns] + list(compiled.constants)
        arrange = itemgetter(*(order.index(name) for name in compiled.names))
        self._on_sqlite = (compiled.sql, arrange, tuple(compiled.constants.values()))
        return self._on_sqlite

    def _compile_for_postgresql(self, dialect: Dialect) -> _Compiled:
        arrays = [bindparam(name, type_=ARRAY(type_)) for name, type_ in self._columns.items()]
        columns = [column(name, type_) for name, type_ in self._columns.items()]
        rows = func.unnest(*arrays).table_valued(*columns, name="given").render_derived()
        self._on_postgresql = _compile(self._build(dict(rows.c), dialect.name), dialect)
        return self._on_postgresql


def _compile(statement: Executable, dialect: Dialect) -> _Compiled:
    compiled = cast(SQLCompiler, cast(Any, statement).compile(dialect=dialect))
    required = {name for name, bind in compiled.binds.items() if bind.required}
    return _Compiled(
        sql=str(compiled),
        names=tuple(compiled.positiontup or ()),
        constants={name: value for name, value in compiled.params.items() if name not in required},
        lists=frozenset(name for name, bind in compiled.binds.items() if isinstance(bind.type, Listed)),
    )
