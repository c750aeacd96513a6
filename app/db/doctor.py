"""The whole examination of a database: its schema, its access rules, what its record must keep."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from app.db.engines import DriverConnection
from app.db.errors import translated
from app.db.invariants import SHOWN, Rule, Verdict, examine
from app.db.selfcheck import RULES, check_schema, lax_settings, violations

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
        return Report([*access, *record], await lax_settings(connection))


async def _access(connection: DriverConnection, name: str) -> Verdict:
    rule = Rule(name, ACCESS_RULES[name], ("P8", "I28"), eventually=False, query=RULES[name])
    found = await violations(connection, name)
    return Verdict(rule, len(found), [{"id": sentence} for sentence in found[:SHOWN]])
