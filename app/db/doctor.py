"""The whole examination of a database: its schema, its access rules, what its record must keep."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import asyncpg

from app.db import audit_chain
from app.db.engines import DriverConnection
from app.db.errors import translated
from app.db.invariants import SHOWN, Rule, Verdict, examine
from app.db.selfcheck import RULES, check_schema, server_warnings, violations
from app.domain.audit_chain import BEGINNING, MEANING

ACCESS_RULES: Mapping[str, str] = {
    "M1": "Every table with tenants' rows has row-level security, enabled and forced.",
    "M2": "No view shows more than its reader may see.",
    "M3": "There are no copies of tenants' rows, and no functions that act as their owner.",
    "M4": "No foreign key leads from one organisation to another.",
    "M5": "No unique key tells of other organisations' values.",
    "M6": "The services' roles have no powers.",
    "M7": "The services' roles are members of no role and own nothing.",
    "M8": "Every policy binds the api role to one organisation.",
}


CHAIN = Rule(
    "audit_chain",
    "What was sealed of the audit log is unchanged, and the chain of its seals is whole.",
    ("P2", "I26"),
    eventually=False,
    query="SELECT id FROM organizations ORDER BY id",
)


@dataclass(frozen=True, slots=True)
class Report:
    """What was found; `warnings` are sentences about what is not wrong, but can go wrong."""

    verdicts: Sequence[Verdict]
    warnings: Sequence[str]

    @property
    def broken(self) -> Sequence[Verdict]:
        return [verdict for verdict in self.verdicts if verdict.count]

    @property
    def undecided(self) -> Sequence[Verdict]:
        return [verdict for verdict in self.verdicts if verdict.unknown is not None]


async def diagnose(
    connection: DriverConnection,
    *,
    patience: float,
    rule_timeout: float,
    between_looks: Callable[[], Awaitable[None]],
) -> Report:
    """Examine the database behind a connection of the engine's role; see `examine` for the arguments.

    Raises SchemaOutdated when it is another version's, and Unavailable when it does not answer.
    """
    with translated():
        await check_schema(connection)
        access = [await _access(connection, name) for name in RULES]
        record = await examine(connection, patience=patience, rule_timeout=rule_timeout, between_looks=between_looks)
        chain, warnings = await _chains(connection, patience, rule_timeout)
        return Report([*access, *record, chain], [*await server_warnings(connection), *warnings])


async def _access(connection: DriverConnection, name: str) -> Verdict:
    rule = Rule(name, ACCESS_RULES[name], ("P8", "I28"), eventually=False, query=RULES[name])
    found = await violations(connection, name)
    return Verdict(rule, len(found), [{"id": sentence} for sentence in found[:SHOWN]])


async def _chains(connection: DriverConnection, patience: float, budget: float) -> tuple[Verdict, list[str]]:
    """The chain of every organisation from its beginning, and a warning about each that is not sealed in time."""
    broken: list[Mapping[str, object]] = []
    warnings: list[str] = []
    try:
        async with asyncio.timeout(budget), connection.transaction(isolation="repeatable_read", readonly=True):
            await connection.execute(f"SET LOCAL statement_timeout = {int(budget * 1000)}")
            now = await connection.fetchval("SELECT now()")
            for row in await connection.fetch(CHAIN.query):
                found = await _chain(connection, row["id"])
                if found.broken is not None:
                    problem = found.broken
                    meaning = MEANING[problem.problem]
                    broken.append({"id": row["id"], "seal": problem.seal, "row": problem.audit_id, "problem": meaning})
                if found.unsealed_since is not None and now - found.unsealed_since > timedelta(seconds=patience):
                    warnings.append(
                        f"{found.unsealed} rows of the audit log of {row['id']} are not sealed, the oldest of "
                        f"{found.unsealed_since:%Y-%m-%d %H:%M:%S} UTC: no process runs, or a transaction is kept open"
                    )
    except (TimeoutError, asyncpg.QueryCanceledError):
        return Verdict(CHAIN, unknown=f"it took longer than {budget:g} s"), []
    return Verdict(CHAIN, len(broken), broken[:SHOWN]), warnings


async def _chain(connection: DriverConnection, org_id: str) -> audit_chain.Verification:
    found = await audit_chain.verify(connection.fetch, org_id, BEGINNING)
    while found.broken is None and not found.complete:
        found = await audit_chain.verify(connection.fetch, org_id, found.head)
    return found
