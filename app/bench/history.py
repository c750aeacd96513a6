"""Making tables large: finished runs, or waiting ones, multiplied from one real run by SQL, row for row."""

from app.bench.ledger import Ledger
from app.db.engines import DriverConnection

CHUNK = 50_000
MOST_COPIES = 10_000_000
ID_DIGITS = 26

_TABLES = ("executions", "execution_steps", "step_attempts", "execution_events", "audit_logs")
_GENERATED = {"audit_logs": {"position"}}
"""Columns that the database fills in itself."""
_COLUMNS = """
SELECT column_name, data_type FROM information_schema.columns
 WHERE table_schema = 'public' AND table_name = $1 ORDER BY ordinal_position"""
_COUNTERS = """
UPDATE workflows SET execution_count = execution_count + $2, success_count = success_count + $2
 WHERE id = (SELECT workflow_id FROM executions WHERE id = $1 AND status = 'COMPLETED')"""
_SEALED = """
SELECT coalesce((SELECT max(position) FROM audit_logs), 0) <= coalesce((SELECT max(upto) FROM audit_seals), 0)"""


async def multiply(ledger: Ledger, execution_id: str, copies: int, prefix: str = "0") -> None:
    """Copy a run with all its rows; ids of copies sort before those of all real runs, by `prefix` and number.

    The copies are a tenth of a second apart and older than the run. Triggers and foreign keys have no say meanwhile:
    the rows have been through them once.
    """
    connection = ledger.connection
    await connection.execute("SET session_replication_role = replica; SET synchronous_commit = off")
    for table in _TABLES:
        await connection.execute(f"CREATE TEMP TABLE original AS {_original(table)}", execution_id)
        statement = await _copying(connection, table, prefix)
        for begin in range(0, copies, CHUNK):
            await connection.execute(statement, execution_id, begin + 1, min(begin + CHUNK, copies))
        await connection.execute("DROP TABLE original")
    await connection.execute(_COUNTERS, execution_id, copies)
    await connection.execute("RESET session_replication_role; RESET synchronous_commit")
    await settle(ledger)


async def settle(ledger: Ledger) -> None:
    """What a server does in the background sooner or later, now: not in the middle of a measurement."""
    await ledger.connection.execute("VACUUM (ANALYZE)")
    await ledger.connection.execute("CHECKPOINT")


async def sealed(ledger: Ledger) -> bool:
    """Whether the audit log has been sealed to its end."""
    return bool(await ledger.connection.fetchval(_SEALED))


def _original(table: str) -> str:
    match table:
        case "audit_logs":
            found = "$1 IN (resource_id, details::json ->> 'execution_id')"
        case "executions":
            found = "id = $1"
        case _:
            found = "execution_id = $1"
    return f"SELECT * FROM {table} WHERE {found}"  # noqa: S608 - names of our own tables


async def _copying(connection: DriverConnection, table: str, prefix: str) -> str:
    """A statement that inserts the copies number $2 to $3 of the original rows of the execution $1."""
    rows = await connection.fetch(_COLUMNS, table)
    columns = {row["column_name"]: row["data_type"] for row in rows}
    for generated in _GENERATED.get(table, set()):
        columns.pop(generated, None)
    number = f"'{prefix}' || lpad(g::text, {ID_DIGITS - len(prefix)}, '0')"
    values = ", ".join(_copied(table, name, kind, number) for name, kind in columns.items())
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT {values} "  # noqa: S608 - names of our own tables
        "FROM generate_series($2::int, $3::int) g, original r WHERE $1::text IS NOT NULL ORDER BY g"
    )


def _copied(table: str, column: str, kind: str, number: str) -> str:
    if table == "audit_logs" and column == "id":
        # A run has several of these, and they are of one moment.
        return f"'audit_' || {number} || right(r.action, 7)"
    if column in {"id", "execution_id", "root_id"}:
        return f"'exec_' || {number}"
    if table == "audit_logs" and column in {"resource_id", "details"}:
        return f"replace(r.{column}, $1, 'exec_' || {number})"
    if kind == "timestamp with time zone" and column not in {"wake_at", "deadline_at"}:
        return f"r.{column} - ({MOST_COPIES} - g) * interval '0.1 second'"
    return f"r.{column}"
