"""The rules of `invariants.sql`, held against a database."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import asyncpg

from app.db.engines import DriverConnection

EXAMPLES = 5

_RULE = re.compile(r"^-- rule: (?P<rule>.+)\n(?P<query>.+?);$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a rule holds, and if not, the first rows that break it."""

    rule: str
    broken_by: Sequence[Mapping[str, object]]


@cache
def rules() -> Mapping[str, str]:
    """The query of each rule: it finds what breaks it."""
    text = files("app.db").joinpath("invariants.sql").read_text(encoding="utf-8")
    return {found["rule"]: found["query"] for found in _RULE.finditer(text)}


async def examine(connection: DriverConnection) -> list[Verdict]:
    """Hold all rules against one moment of the database, while it is in use; it reads the tables whole."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.execute("SET LOCAL statement_timeout = 0")
        return [Verdict(rule, await _first(connection, query)) for rule, query in rules().items()]


async def _first(connection: DriverConnection, query: str) -> list[Mapping[str, object]]:
    cursor = await connection.cursor(query)
    rows: list[asyncpg.Record] = await cursor.fetch(EXAMPLES)
    return [dict(row) for row in rows]
