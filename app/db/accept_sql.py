"""The statement that accepts executions, and those that tell what became of it. One round trip per batch."""

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from app.engine.ports import NewExecution

ACCEPT = """
WITH t AS (
  SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::text[], $6::text[], $7::text[], $8::int[],
                       $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[],
                       $16::text[], $17::text[], $18::text[], $19::text[], $20::text[], $21::int[], $22::text[],
                       $23::timestamptz[], $24::float8[], $25::text[], $26::int[], $27::text[], $28::text[],
                       $29::int[], $30::float8[])
    AS t(id, org_id, workflow_id, version, user_id, input, labels, priority, ip, agent, request_id, event, audit_id,
         key, fingerprint, root_id, retry_of, forked_from, parent_id, parent_path, depth, control, start_at, queue_ttl,
         concurrency_key, concurrency_limit, on_limit, rate_key, rate_limit, rate_seconds)
), k AS (
  INSERT INTO idempotency_keys (org_id, key, fingerprint, execution_id)
  SELECT org_id, key, fingerprint, id FROM t WHERE key IS NOT NULL ORDER BY org_id, key
  ON CONFLICT DO NOTHING RETURNING execution_id
), x AS (
  INSERT INTO executions (id, root_id, org_id, workflow_id, workflow_version, user_id, input_data, labels, priority,
                          ip_address, user_agent, request_id, retry_of, forked_from, parent_id, parent_path, depth,
                          control, wake_at, ready, expires_at, concurrency_key, concurrency_limit, on_limit, rate_key,
                          rate_limit, rate_seconds)
  SELECT id, coalesce(root_id, id), org_id, workflow_id, version, user_id, input, labels::jsonb, priority, ip, agent,
         request_id, retry_of, forked_from, parent_id, parent_path, depth, control, start_at,
         start_at IS NULL OR start_at <= now(),
         greatest(start_at, now()) + queue_ttl * interval '1 second',
         concurrency_key, concurrency_limit, on_limit, rate_key, rate_limit, rate_seconds
    FROM t WHERE key IS NULL OR id IN (SELECT execution_id FROM k)
  ON CONFLICT (id) DO NOTHING RETURNING id, org_id, created_at
), r AS (
  INSERT INTO execution_steps
    (execution_id, path, org_id, epoch, step_number, name, type, status, attempt, failures, input, output, ports, error,
     error_code, reason, started_at, attempt_started_at, completed_at, execution_time_ms, tokens_used, cost,
     iteration, items, reused_from)
  SELECT x.id, s.path, s.org_id, 0, s.step_number, s.name, s.type, s.status, s.attempt, s.failures, s.input, s.output,
         s.ports, s.error, s.error_code, s.reason, s.started_at, s.attempt_started_at, s.completed_at,
         s.execution_time_ms, 0, 0, s.iteration, s.items, coalesce(s.reused_from, s.execution_id)
    FROM unnest($31::text[], $32::text[], $33::text[]) AS c(id, source_id, path)
    JOIN x ON x.id = c.id
    JOIN execution_steps s ON s.execution_id = c.source_id AND s.path = c.path AND s.org_id = x.org_id
), e AS (
  INSERT INTO execution_events (execution_id, seq, org_id, type, timestamp, progress, data)
  SELECT t.id, 1, t.org_id, 'execution_queued', x.created_at, 0, t.event FROM t JOIN x ON x.id = t.id
), a AS (
  INSERT INTO audit_logs (id, org_id, user_id, action, resource_type, resource_id, details, ip_address, user_agent,
                          request_id, success, timestamp)
  SELECT t.audit_id, t.org_id, t.user_id, 'execution.created', 'execution', t.id,
         json_strip_nulls(json_build_object('workflow_id', t.workflow_id, 'workflow_version', t.version,
                                            'retry_of', t.retry_of, 'forked_from', t.forked_from,
                                            'parent_id', t.parent_id))::text,
         t.ip, t.agent, t.request_id, true, x.created_at
    FROM t JOIN x ON x.id = t.id
)
SELECT id, created_at FROM x"""
"""What is reused costs nothing again: tokens and cost of carried steps stay with the run that paid for them."""

ACCEPTED = "SELECT id, created_at FROM executions WHERE id = ANY($1::text[])"

KEPT_KEYS = """
SELECT k.org_id, k.key, k.execution_id, k.fingerprint
  FROM idempotency_keys k JOIN unnest($1::text[], $2::text[]) AS t(org_id, key) USING (org_id, key)"""

_ACCEPT_COLUMNS = attrgetter(
    "id", "org_id", "workflow_id", "workflow_version", "user_id", "input_text", "labels_text", "priority",
    "ip_address", "user_agent", "request_id", "queued_event_data", "audit_id", "idempotency_key", "fingerprint",
    "origin.root_id", "origin.retry_of", "origin.forked_from", "parent_id", "parent_path", "depth", "control_text",
    "start_at", "queue_ttl",
    "slots.concurrency_key", "slots.concurrency_limit", "slots.on_limit", "slots.rate_key", "slots.rate_limit",
    "slots.rate_seconds",
)  # fmt: skip


def accept_arguments(batch: Sequence[NewExecution]) -> list[list[Any]]:
    """The arrays of ACCEPT."""
    carried = [(new.id, new.origin.source_id, path) for new in batch for path in new.origin.carried]
    return [*_columns([_ACCEPT_COLUMNS(new) for new in batch], 30), *_columns(carried, 3)]


def _columns(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]
