"""The statement that accepts executions, and those that tell what became of it. One round trip per batch.

What comes with a worker's id belongs to him from the beginning, slot and all, if he still has a lease: nobody claims
it, and if he dies it is handed back like all that he owns. The rest is ready to be claimed.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from operator import attrgetter
from typing import Any

from app.engine.ports import NewExecution

ACCEPT = """
WITH t AS (
  SELECT t.*, (SELECT w.id FROM workers w WHERE w.id = t.worker_id) AS owner
    FROM unnest($1::accepted_execution[]) AS t
)"""

KEYS = """k AS (
  INSERT INTO idempotency_keys (org_id, key, fingerprint, execution_id)
  SELECT org_id, key, fingerprint, id FROM t WHERE key IS NOT NULL ORDER BY org_id, key
  ON CONFLICT DO NOTHING RETURNING execution_id
)"""

KEYLESS = """k AS (SELECT NULL AS execution_id)"""

EXECUTIONS = """x AS (
  INSERT INTO executions (id, root_id, org_id, workflow_id, workflow_version, user_id, input_data, labels, priority,
                          ip_address, user_agent, request_id, retry_of, forked_from, parent_id, parent_path, depth,
                          control, wake_at, ready, owner, lease_epoch, has_slot, expires_at, concurrency_key,
                          concurrency_limit, on_limit, rate_key, rate_limit, rate_seconds)
  SELECT id, coalesce(root_id, id), org_id, workflow_id, version, user_id, input_text, labels_text::jsonb, priority,
         ip_address, user_agent, request_id, retry_of, forked_from, parent_id, parent_path, depth, control_text,
         start_at, owner IS NULL AND (start_at IS NULL OR start_at <= now()),
         owner, CASE WHEN owner IS NULL THEN 0 ELSE 1 END, owner IS NOT NULL,
         greatest(start_at, now()) + queue_ttl * interval '1 second',
         concurrency_key, concurrency_limit, on_limit, rate_key, rate_limit, rate_seconds
    FROM t WHERE key IS NULL OR id IN (SELECT execution_id FROM k)
  ON CONFLICT (id) DO NOTHING RETURNING id, org_id, created_at, owner IS NOT NULL AS owned
), e AS (
  INSERT INTO execution_events (execution_id, seq, org_id, type, timestamp, progress, data)
  SELECT t.id, 1, t.org_id, 'execution_queued', x.created_at, 0, t.event_text FROM t JOIN x ON x.id = t.id
), a AS (
  INSERT INTO audit_logs (id, org_id, user_id, action, resource_type, resource_id, details, ip_address, user_agent,
                          request_id, success, timestamp)
  SELECT t.audit_id, t.org_id, t.user_id, 'execution.created', 'execution', t.id,
         json_strip_nulls(json_build_object('workflow_id', t.workflow_id, 'workflow_version', t.version,
                                            'retry_of', t.retry_of, 'forked_from', t.forked_from,
                                            'parent_id', t.parent_id))::text,
         t.ip_address, t.user_agent, t.request_id, true, x.created_at
    FROM t JOIN x ON x.id = t.id
)"""

CARRIED = """r AS (
  INSERT INTO execution_steps
    (execution_id, path, org_id, epoch, step_number, name, type, status, attempt, failures, input, output, ports, error,
     error_code, reason, started_at, attempt_started_at, completed_at, execution_time_ms, tokens_used, cost,
     iteration, items, reused_from)
  SELECT x.id, s.path, s.org_id, 0, s.step_number, s.name, s.type, s.status, s.attempt, s.failures, s.input, s.output,
         s.ports, s.error, s.error_code, s.reason, s.started_at, s.attempt_started_at, s.completed_at,
         s.execution_time_ms, 0, 0, s.iteration, s.items, coalesce(s.reused_from, s.execution_id)
    FROM unnest($2::accepted_step[]) AS c
    JOIN x ON x.id = c.id
    JOIN execution_steps s ON s.execution_id = c.source_id AND s.path = c.path AND s.org_id = x.org_id
)"""
"""What is reused costs nothing again: tokens and cost of carried steps stay with the run that paid for them."""

ACCEPTED = "SELECT id, created_at FROM executions WHERE id = ANY($1::text[])"

KEPT_KEYS = """
SELECT k.org_id, k.key, k.execution_id, k.fingerprint
  FROM idempotency_keys k JOIN unnest($1::text[], $2::text[]) AS t(org_id, key) USING (org_id, key)"""

ATTRIBUTES = {
    "id": "id",
    "org_id": "org_id",
    "workflow_id": "workflow_id",
    "version": "workflow_version",
    "user_id": "user_id",
    "input_text": "input_text",
    "labels_text": "labels_text",
    "priority": "priority",
    "ip_address": "ip_address",
    "user_agent": "user_agent",
    "request_id": "request_id",
    "event_text": "queued_event_data",
    "audit_id": "audit_id",
    "key": "idempotency_key",
    "fingerprint": "fingerprint",
    "root_id": "origin.root_id",
    "retry_of": "origin.retry_of",
    "forked_from": "origin.forked_from",
    "parent_id": "parent_id",
    "parent_path": "parent_path",
    "depth": "depth",
    "control_text": "control_text",
    "start_at": "start_at",
    "queue_ttl": "queue_ttl",
    "concurrency_key": "slots.concurrency_key",
    "concurrency_limit": "slots.concurrency_limit",
    "on_limit": "slots.on_limit",
    "rate_key": "slots.rate_key",
    "rate_limit": "slots.rate_limit",
    "rate_seconds": "slots.rate_seconds",
}
"""Where the attributes of an `accepted_execution` come from, in their order; behind them comes the `worker_id`."""

_row = attrgetter(*ATTRIBUTES.values())


def accepting(batch: Iterable[tuple[NewExecution, str | None]]) -> tuple[str, list[Any]]:
    """The statement that accepts executions, each for a worker or for whoever claims it, and its arguments.

    It answers with the `id`, `created_at` of those it has accepted, and whether they are `owned` by their worker.
    """
    rows = [(*_row(new), worker_id) for new, worker_id in batch]
    carried = [(new.id, new.origin.source_id, path) for new, _ in batch for path in new.origin.carried]
    keyed = any(new.idempotency_key is not None for new, _ in batch)
    return statement(keyed=keyed, carried=bool(carried)), [rows, carried] if carried else [rows]


@cache
def statement(*, keyed: bool, carried: bool) -> str:
    """The statement for a batch in which there are idempotency keys or not, and carried steps or not."""
    parts: Sequence[str] = [ACCEPT, KEYS if keyed else KEYLESS, EXECUTIONS, *([CARRIED] if carried else [])]
    return ", ".join(parts) + "\nSELECT id, created_at, owned FROM x"
