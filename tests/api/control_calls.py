"""Executions and approvals in any state, put into the tables as the recorder would, for tests of what people may do."""

from typing import Any

from app import clock
from app.domain.jsontext import JSON, encode
from app.domain.states import ExecutionStatus
from tests.database import Database

PATH = "/api/v1/executions"
ELSEWHERE = "worker_elsewhere"


async def add_execution(database: Database, workflow: dict[str, Any], status: str = "PAUSED", **columns: Any) -> str:
    """An execution that the engine leaves alone: one under way belongs to a worker of another machine."""
    execution_id = clock.new_id("exec")
    await database.execute(
        "INSERT INTO workers (id, host, pid, incarnation, lease_until) "
        "VALUES ($1, 'elsewhere', 1, '', now() + interval '1 day') ON CONFLICT DO NOTHING",
        ELSEWHERE,
    )
    row = {
        "id": execution_id,
        "root_id": execution_id,
        "org_id": workflow["org_id"],
        "workflow_id": workflow["id"],
        "workflow_version": workflow["version"],
        "status": status,
        "owner": None if ExecutionStatus(status).terminal else ELSEWHERE,
        **columns,
    }
    names = ", ".join(row)
    places = ", ".join(f"${number}" for number in range(1, len(row) + 1))
    await database.execute(
        f"INSERT INTO executions (user_id, {names}) "
        f"SELECT (SELECT min(user_id) FROM memberships WHERE org_id = $3), {places}",
        *row.values(),
    )
    return execution_id


async def add_step(
    database: Database, workflow: dict[str, Any], execution_id: str, path: str, status: str, **columns: Any
) -> None:
    """A step as recorded; one that is not PENDING or SKIPPED has started."""
    row = {
        "execution_id": execution_id,
        "path": path,
        "org_id": workflow["org_id"],
        "epoch": 1,
        "step_number": 1,
        "name": path,
        "type": "set",
        "status": status,
        "attempt": 1,
        "failures": 0,
        "ports": [],
        "tokens_used": 0,
        "cost": 0.0,
        "started_at": None if status in {"PENDING", "SKIPPED"} else clock.now(),
        **columns,
    }
    places = ", ".join(f"${number}" for number in range(1, len(row) + 1))
    await database.execute(f"INSERT INTO execution_steps ({', '.join(row)}) VALUES ({places})", *row.values())


async def add_approval(
    database: Database, execution: dict[str, Any], *, form: JSON = None, quorum: int = 1, **deciders: JSON
) -> str:
    """A pending approval; unless `deciders` say otherwise, of everybody but nobody in particular."""
    approval_id = clock.new_id("appr")
    stored: JSON = {"users": [], "roles": [], "self_approval": False, "requested_by": None} | deciders
    await database.execute(
        "INSERT INTO approvals (id, org_id, execution_id, path, status, title, form, deciders, quorum) "
        "VALUES ($1, $2, $3, 'confirm', 'PENDING', 'Confirm', $4, $5, $6)",
        approval_id,
        execution["org_id"],
        execution["id"],
        None if form is None else encode(form),
        encode(stored),
        quorum,
    )
    return approval_id


async def mail_of(database: Database, execution_id: str) -> list[dict[str, Any]]:
    rows = await database.fetch(
        "SELECT kind, payload, topic, dedupe_key, user_id FROM execution_inbox WHERE execution_id = $1 ORDER BY id",
        execution_id,
    )
    return [dict(row) for row in rows]


async def audited(database: Database, resource_id: str) -> list[str]:
    rows = await database.fetch("SELECT action FROM audit_logs WHERE resource_id = $1 ORDER BY id", resource_id)
    return [row["action"] for row in rows]
