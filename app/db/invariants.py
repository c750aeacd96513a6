"""The rules of `invariants.sql`, held against a database that may be in use.

All rules see one snapshot, so work under way breaks none of them. Rules of what must come true after a while are asked
again later about the same rows before they count as broken.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import asyncpg

from app.db.engines import DriverConnection

SHOWN = 5
"""So many of the rows that break a rule are shown; of the others only the number."""
COUNTED = 1_000_000
ASKED_AGAIN = 1_000

_RULE = re.compile(
    r"^-- rule: (?P<eventually>eventually )?(?P<name>\w+) \((?P<backs>[^)]+)\)\n-- (?P<says>.+)\n(?P<query>[^;]+);$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Rule:
    """A query that finds what breaks the rule; what it `backs` are promises and invariants by their numbers."""

    name: str
    says: str
    backs: tuple[str, ...]
    eventually: bool
    query: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a rule fared: broken by `count` rows, the first of which are `shown`; or `unknown`, with the reason."""

    rule: Rule
    count: int = 0
    shown: Sequence[Mapping[str, object]] = ()
    unknown: str | None = None


@cache
def rules() -> Sequence[Rule]:
    """All rules, in the order of the file."""
    text = files("app.db").joinpath("invariants.sql").read_text(encoding="utf-8")
    return [
        Rule(rule["name"], rule["says"], tuple(rule["backs"].split()), bool(rule["eventually"]), rule["query"])
        for rule in _RULE.finditer(text)
    ]


async def no_pause() -> None:
    """For a database that nobody uses: looking again at once is looking once."""


async def examine(
    connection: DriverConnection,
    *,
    patience: float = 60.0,
    rule_timeout: float = 300.0,
    between_looks: Callable[[], Awaitable[None]] = no_pause,
) -> list[Verdict]:
    """Hold all rules against one snapshot, changing nothing. Durations are in seconds.

    What must come true has `patience` to do so; what has not is looked at again after `between_looks`. A rule that
    takes longer than `rule_timeout` is left undecided. The role needs what stepstream_engine may read.
    """
    verdicts = {rule.name: Verdict(rule) for rule in rules()}
    settings = _settings(patience, rule_timeout)
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.execute(settings)
        suspects: dict[str, list[object]] = {}
        for rule in rules():
            verdicts[rule.name], suspects[rule.name] = await _hold(connection, rule)
    doubtful = [rule for rule in rules() if rule.eventually and suspects[rule.name]]
    if doubtful:
        await between_looks()
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await connection.execute(settings)
            for rule in doubtful:
                verdicts[rule.name], _ = await _hold(connection, rule, suspects[rule.name])
    return list(verdicts.values())


def _settings(patience: float, rule_timeout: float) -> str:
    return (
        f"SET LOCAL statement_timeout = {int(rule_timeout * 1000)}; SET LOCAL lock_timeout = '5s'; "
        f"SET LOCAL work_mem = '64MB'; SET LOCAL stepstream.patience = '{patience:f} seconds'"
    )


async def _hold(
    connection: DriverConnection, rule: Rule, only: Sequence[object] | None = None
) -> tuple[Verdict, list[object]]:
    """The verdict, and the ids of the first rows that break the rule; `only` among rows with these ids, if given."""
    try:
        async with connection.transaction():  # a savepoint: a rule that fails takes nothing of the others with it
            if only is None:
                cursor = await connection.cursor(rule.query)
            else:
                cursor = await connection.cursor(f"SELECT * FROM ({rule.query}) x WHERE id = ANY($1)", only)  # noqa: S608
            rows: list[asyncpg.Record] = await cursor.fetch(ASKED_AGAIN if rule.eventually else SHOWN)
            count = len(rows) + (await cursor.forward(COUNTED) if rows else 0)
    except (asyncpg.QueryCanceledError, asyncpg.LockNotAvailableError) as error:
        return Verdict(rule, unknown=str(error)), []
    return Verdict(rule, count, [dict(row) for row in rows[:SHOWN]]), [row["id"] for row in rows]
