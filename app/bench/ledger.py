"""Counting what is in the tables after each turn: a rate of runs that are not all recorded means nothing."""

from dataclasses import dataclass
from urllib.parse import urlsplit

import asyncpg

from app import clock
from app.bench.shapes import ATTEMPTS, AUDIT, EVENTS, EXECUTIONS, STEPS, Shape
from app.db.engines import DriverConnection

_NEW = """
SELECT (SELECT count(*) FROM executions WHERE id >= $1 AND status = 'COMPLETED') AS executions,
       (SELECT count(*) FROM execution_steps WHERE execution_id >= $1 AND status = 'COMPLETED') AS steps,
       (SELECT count(*) FROM step_attempts WHERE execution_id >= $1) AS attempts,
       (SELECT count(*) FROM execution_events WHERE execution_id >= $1) AS events,
       (SELECT count(*) FROM audit_logs WHERE id >= $2 AND action IN ('execution.created', 'workflow.executed'))
         AS audit,
       (SELECT count(*) FROM executions WHERE id >= $1 AND status <> 'COMPLETED') AS unfinished,
       (SELECT count(*) FROM (
          SELECT FROM execution_events WHERE execution_id >= $1 GROUP BY execution_id
          HAVING min(seq) <> 1 OR max(seq) <> count(*)) torn) AS torn,
       (SELECT sum(success_count)::bigint FROM workflows) AS counted,
       (SELECT round(avg(write_no), 2)::float8 FROM executions WHERE id >= $1) AS transitions"""


class WrongRows(Exception):
    """The tables do not hold what the runs should have left there."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What is newer is of this turn."""

    execution_id: str
    audit_id: str
    counted: int


class Ledger:
    """Counts the rows of one database, the product's or the limit's: the tables have the same names."""

    def __init__(self, url: str, connection: DriverConnection) -> None:
        self.url = url
        self.connection = connection

    @property
    def name(self) -> str:
        return urlsplit(self.url).path.lstrip("/")

    async def mark(self) -> Mark:
        now = clock.now()
        execution_id, audit_id = clock.least_id("exec", now), clock.least_id("audit", now)
        counted = (await self._count(execution_id, audit_id))["counted"]
        return Mark(execution_id, audit_id, counted)

    async def check(self, mark: Mark, shape: Shape, runs: int) -> dict[str, float]:
        """The rows of so many completed runs since the mark, and transitions per run; raises WrongRows."""
        found = await self._count(mark.execution_id, mark.audit_id)
        rows = {
            EXECUTIONS: found["executions"],
            STEPS: found["steps"],
            ATTEMPTS: found["attempts"],
            EVENTS: found["events"],
            AUDIT: found["audit"],
        }
        expected = shape.rows(runs) | {"unfinished": 0, "torn": 0, "counted": runs}
        seen = rows | {
            "unfinished": found["unfinished"],
            "torn": found["torn"],
            "counted": found["counted"] - mark.counted,
        }
        wrong = {name: (seen[name], wanted) for name, wanted in expected.items() if seen[name] != wanted}
        if wrong:
            told = ", ".join(f"{name} {is_} instead of {wanted}" for name, (is_, wanted) in wrong.items())
            raise WrongRows(f"{runs} runs of {shape.name} in the database {self.name}: {told}")
        return {**rows, "transitions per run": found["transitions"]}

    async def _count(self, execution_id: str, audit_id: str) -> asyncpg.Record:
        return (await self.connection.fetch(_NEW, execution_id, audit_id))[0]
