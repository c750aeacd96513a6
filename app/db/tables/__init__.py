"""The tables. Importing this package fills `metadata`."""

from app.db.tables.base import metadata
from app.db.tables.budgets import day_budgets, usage_by_day
from app.db.tables.executions import (
    approvals,
    execution_events,
    execution_inbox,
    execution_labels,
    execution_steps,
    executions,
    idempotency_keys,
    result_cache,
    step_attempts,
    workers,
)
from app.db.tables.identity import (
    api_keys,
    audit_logs,
    audit_seals,
    memberships,
    organizations,
    refresh_tokens,
    stream_tickets,
    users,
)
from app.db.tables.secrets import secrets
from app.db.tables.workflows import workflow_versions, workflows

__all__ = [
    "api_keys",
    "approvals",
    "audit_logs",
    "audit_seals",
    "day_budgets",
    "execution_events",
    "execution_inbox",
    "execution_labels",
    "execution_steps",
    "executions",
    "idempotency_keys",
    "memberships",
    "metadata",
    "organizations",
    "refresh_tokens",
    "result_cache",
    "secrets",
    "step_attempts",
    "stream_tickets",
    "usage_by_day",
    "users",
    "workers",
    "workflow_versions",
    "workflows",
]
