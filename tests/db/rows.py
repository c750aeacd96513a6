"""One row of every table, for a tenant."""

from collections.abc import Mapping
from datetime import timedelta

from app import clock
from app.db.tables import metadata
from tests.database import Database

TENANT_TABLES = tuple(table.name for table in metadata.sorted_tables if table.name != "workers")


def rows_of(org: str) -> Mapping[str, Mapping[str, object]]:
    """A row for each of the tenant tables, by table; the names of people and things end in the organisation's id."""
    now = clock.now()
    user, workflow, execution = f"user_{org}", f"wf_{org}", f"exec_{org}"
    later = now + timedelta(hours=1)
    of_user = {"org_id": org, "user_id": user}
    step = {"execution_id": execution, "path": "a", "org_id": org, "epoch": 1, "attempt": 1}
    return {
        "organizations": {"id": org, "name": org},
        "users": {"id": user, "email": f"{org}@example.com", "name": "Ann", "password_hash": "hash"},
        "memberships": {**of_user, "role": "owner"},
        "api_keys": {**of_user, "id": f"key_{org}", "name": "Key", "secret_hash": "hash"},
        "refresh_tokens": {
            **of_user,
            "id": f"refresh_{org}",
            "family_id": f"refresh_{org}",
            "secret_hash": "hash",
            "token_version": 1,
            "expires_at": later,
        },
        "stream_tickets": {
            **of_user,
            "secret_hash": f"hash_{org}",
            "kind": "api_key",
            "credential_id": f"key_{org}",
            "permissions": ["executions.read"],
            "expires_at": later,
        },
        "audit_logs": {**of_user, "id": f"audit_{org}", "action": "user.login", "success": True},
        "audit_seals": {
            "org_id": org,
            "seq": 1,
            "upto": 1,
            "size": 1,
            "audit_ids": [f"audit_{org}"],
            "digests": b"digest",
            "sealed_at": now,
            "hash": b"hash",
        },
        "workflows": {"org_id": org, "id": workflow, "name": "Workflow", "latest_version": 1},
        "workflow_versions": {"org_id": org, "workflow_id": workflow, "version": 1, "definition": "{}"},
        "executions": {
            **of_user,
            "id": execution,
            "workflow_id": workflow,
            "workflow_version": 1,
            "root_id": execution,
        },
        "execution_steps": {
            **step,
            "step_number": 1,
            "name": "A",
            "type": "log",
            "status": "RUNNING",
            "failures": 0,
            "ports": ["done"],
            "tokens_used": 0,
            "cost": 0.0,
        },
        "step_attempts": {**step, "worker_id": "worker", "status": "COMPLETED", "completed_at": later},
        "execution_events": {
            "execution_id": execution,
            "seq": 1,
            "org_id": org,
            "type": "execution_queued",
            "timestamp": now,
            "progress": 0,
            "data": "{}",
        },
        "execution_labels": {"org_id": org, "key": "team", "value": "sales", "execution_id": execution},
        "execution_inbox": {"org_id": org, "id": f"inbox_{org}", "execution_id": execution, "kind": "cancel"},
        "approvals": {
            "org_id": org,
            "id": f"appr_{org}",
            "execution_id": execution,
            "status": "PENDING",
            "title": "A",
            "deciders": "{}",
            "quorum": 1,
        },
        "result_cache": {"org_id": org, "key": "key", "output": "1", "ports": "", "expires_at": now},
        "usage_by_day": {
            "org_id": org,
            "day": now.date(),
            "workflow_id": f"wf_{org}",
            "shard": 1,
            "steps": 1,
            "seconds": 1.0,
            "tokens": 1,
            "cost": 1.0,
        },
        "day_budgets": {"org_id": org, "workflow_id": "", "max_cost": 1.0, "updated_by": f"user_{org}"},
        "secrets": {
            "org_id": org,
            "name": "stripe",
            "version": 1,
            "allowed_hosts": ["api.stripe.com"],
            "ciphertext": b"sealed",
            "wrapped_key": b"wrapped",
            "key_id": "key",
            "updated_by": user,
        },
        "idempotency_keys": {"org_id": org, "key": "key", "fingerprint": "f", "execution_id": execution},
    }


def insert(table: str, row: Mapping[str, object]) -> tuple[str, list[object]]:
    """The statement that inserts the row, and its arguments."""
    names = ", ".join(row)
    places = ", ".join(f"${number}" for number in range(1, len(row) + 1))
    return f"INSERT INTO {table} ({names}) VALUES ({places})", list(row.values())


async def fill(database: Database, org: str) -> None:
    """Insert the tenant's row into every table."""
    rows = rows_of(org)
    for table in TENANT_TABLES:
        statement, values = insert(table, rows[table])
        await database.execute(statement, *values)
