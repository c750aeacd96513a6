"""The two statements that write executions: accept, and record a transition. One round trip per batch each.

Arrays go in, `unnest` makes rows of them. In RECORD the fenced update of `executions` comes first and every other write
joins its RETURNING, so whoever lost the lease writes nothing at all while his neighbours in the batch are not touched.
Workflow counters come last and in id order: batches of different writers queue there instead of dead-locking. What a
day used is kept in shards, so that writers do not wait for each other's commits at every step. The owner is compared by
IS NOT DISTINCT FROM because no index serves that: what the planner learns of owners while few rows have one would make
it look through all of a worker's executions instead of taking the one by its id.

Who ends cancels the executions that were to report to it, whether or not its record knows of them: it may have been cut
off between their start and the note of it.
"""

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from app.domain.budgets import NOTHING_SPENT
from app.domain.states import ExecutionStatus
from app.engine.ports import NewExecution
from app.engine.transition import Transition, event_data_text

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

RECORD = """
WITH t AS (
  SELECT * FROM unnest($1::text[], $2::text[], $3::int[], $4::int[], $5::text[], $6::text[], $7::text[], $8::int[],
                       $9::int[], $10::timestamptz[], $11::timestamptz[], $12::timestamptz[], $13::timestamptz[],
                       $14::bigint[], $15::float8[], $16::text[], $17::text[], $18::bool[], $19::bool[], $20::bool[],
                       $21::text[], $22::text[], $23::text[], $24::text[], $25::bool[], $26::text[], $27::text[])
    AS t(id, owner, epoch, write_no, status, status_reason, status_message, progress, next_seq, recorded_at, started_at,
         deadline_at, wake_at, tokens_used, cost, graph, agent_results, settles, releases, ends, output, error,
         error_code, audit_id, ready, control, fingerprint)
), f AS (
  UPDATE executions e SET
    write_no = t.write_no, status = t.status, status_reason = t.status_reason, status_message = t.status_message,
    progress = t.progress, next_seq = t.next_seq, last_recorded_at = t.recorded_at,
    started_at = coalesce(e.started_at, t.started_at), deadline_at = coalesce(t.deadline_at, e.deadline_at),
    wake_at = t.wake_at, tokens_used = coalesce(t.tokens_used, e.tokens_used), cost = coalesce(t.cost, e.cost),
    execution_graph = coalesce(t.graph, e.execution_graph),
    agent_results = coalesce(t.agent_results, e.agent_results),
    recoveries = CASE WHEN t.settles THEN 0 ELSE e.recoveries END,
    owner = CASE WHEN t.releases THEN NULL ELSE e.owner END, ready = t.ready,
    control = coalesce(t.control, e.control), fingerprint = t.fingerprint,
    output = t.output, error = t.error, error_code = t.error_code,
    completed_at = CASE WHEN t.ends THEN t.recorded_at END,
    duration_seconds = CASE WHEN t.ends THEN
      extract(epoch FROM t.recorded_at - coalesce(e.started_at, t.started_at))::float8 END
  FROM t
  WHERE e.id = t.id AND e.owner IS NOT DISTINCT FROM t.owner AND e.lease_epoch = t.epoch AND e.write_no = t.write_no - 1
  RETURNING e.id, e.org_id, e.workflow_id, e.user_id, e.ip_address, e.user_agent, e.request_id, e.lease_epoch,
            e.parent_id, e.parent_path, e.depth, e.tokens_used, e.cost,
            t.owner AS writer, t.ends, t.status, t.error, t.error_code, t.audit_id, t.recorded_at, t.output
), s AS (
  INSERT INTO execution_steps AS old
    (execution_id, path, org_id, epoch, step_number, name, type, status, attempt, failures, input, output, ports, error,
     error_code, reason, wake_at, started_at, attempt_started_at, completed_at, execution_time_ms, tokens_used, cost,
     awaits, reused_from, iteration, items, edited_by)
  SELECT x.id, x.path, f.org_id, f.lease_epoch, x.number, x.name, x.type, x.status, x.attempt, x.failures, x.input,
         x.output, string_to_array(x.ports, ','), x.error, x.error_code, x.reason, x.wake_at, x.started_at,
         x.attempt_started_at, x.completed_at, x.time_ms, x.tokens, x.cost, x.awaits, x.reused_from, x.iteration,
         x.items, x.edited_by
    FROM unnest($28::text[], $29::text[], $30::int[], $31::text[], $32::text[], $33::text[], $34::int[], $35::int[],
                $36::text[], $37::text[], $38::text[], $39::text[], $40::text[], $41::text[], $42::timestamptz[],
                $43::timestamptz[], $44::timestamptz[], $45::timestamptz[], $46::float8[], $47::bigint[], $48::float8[],
                $49::text[], $50::text[], $51::int[], $52::int[], $53::text[])
      AS x(id, path, number, name, type, status, attempt, failures, input, output, ports, error, error_code, reason,
           wake_at, started_at, attempt_started_at, completed_at, time_ms, tokens, cost, awaits, reused_from, iteration,
           items, edited_by)
    JOIN f ON f.id = x.id
  ON CONFLICT (execution_id, path) DO UPDATE SET
    epoch = excluded.epoch, status = excluded.status, attempt = excluded.attempt, failures = excluded.failures,
    input = excluded.input, output = excluded.output, ports = excluded.ports, error = excluded.error,
    error_code = excluded.error_code, reason = excluded.reason, wake_at = excluded.wake_at,
    started_at = excluded.started_at, attempt_started_at = excluded.attempt_started_at,
    completed_at = excluded.completed_at, execution_time_ms = excluded.execution_time_ms,
    tokens_used = excluded.tokens_used, cost = excluded.cost, awaits = excluded.awaits,
    iteration = excluded.iteration, items = excluded.items, edited_by = excluded.edited_by
), a AS (
  INSERT INTO step_attempts (execution_id, path, attempt, org_id, epoch, worker_id, status, error, error_code,
                             started_at, completed_at, trace)
  SELECT x.id, x.path, x.attempt, f.org_id, f.lease_epoch, f.writer, x.status, x.error, x.error_code, x.started_at,
         x.completed_at, x.trace
    FROM unnest($54::text[], $55::text[], $56::int[], $57::text[], $58::text[], $59::text[], $60::timestamptz[],
                $61::timestamptz[], $62::text[])
      AS x(id, path, attempt, status, error, error_code, started_at, completed_at, trace)
    JOIN f ON f.id = x.id
), v AS (
  INSERT INTO execution_events (execution_id, seq, org_id, type, step_id, timestamp, progress, data)
  SELECT x.id, x.seq, f.org_id, x.type, x.step_id, x.at, x.progress, x.data
    FROM unnest($63::text[], $64::int[], $65::text[], $66::text[], $67::timestamptz[], $68::int[], $69::text[])
      AS x(id, seq, type, step_id, at, progress, data)
    JOIN f ON f.id = x.id
), m AS (
  UPDATE execution_inbox i SET
    applied_at = coalesce(i.applied_at, f.recorded_at), consumed_by = coalesce(x.used_by, i.consumed_by)
    FROM (SELECT execution_id, mail_id, max(used_by) AS used_by
            FROM unnest($70::text[], $71::text[], $72::text[]) AS x(execution_id, mail_id, used_by)
           GROUP BY execution_id, mail_id) x
    JOIN f ON f.id = x.execution_id
   WHERE i.id = x.mail_id AND i.execution_id = x.execution_id
), p AS (
  INSERT INTO approvals AS old (id, org_id, execution_id, path, status, title, message, form, deciders, quorum,
                                created_at, deadline_at, decided_at)
  SELECT x.id, f.org_id, f.id, x.path, x.status, x.title, x.message, x.form, x.deciders, x.quorum, f.recorded_at,
         x.deadline_at, CASE WHEN x.status <> 'PENDING' THEN f.recorded_at END
    FROM unnest($73::text[], $74::text[], $75::text[], $76::text[], $77::text[], $78::text[], $79::text[], $80::text[],
                $81::int[], $82::timestamptz[])
      AS x(execution_id, id, path, status, title, message, form, deciders, quorum, deadline_at)
    JOIN f ON f.id = x.execution_id
  ON CONFLICT (id) DO UPDATE SET
    status = excluded.status, decided_at = excluded.decided_at, deadline_at = excluded.deadline_at
), o AS (
  INSERT INTO execution_inbox (id, org_id, execution_id, kind, payload)
  SELECT x.id, f.org_id, x.receiver, x.kind, x.payload
    FROM unnest($83::text[], $84::text[], $85::text[], $86::text[], $87::text[])
      AS x(execution_id, id, receiver, kind, payload)
    JOIN f ON f.id = x.execution_id
  UNION ALL
  SELECT 'mail_' || substr(c.id, 6), c.org_id, c.id, 'cancel', '{"reason":"The execution that started it has ended"}'
    FROM f JOIN executions c ON c.parent_id = f.id
   WHERE f.ends AND c.parent_path IS NOT NULL AND c.status NOT IN ('COMPLETED', 'FAILED', 'CANCELLED')
     AND c.id <> ALL($85::text[])
  RETURNING execution_id
), b AS (
  INSERT INTO execution_inbox (id, org_id, execution_id, kind, topic, payload)
  SELECT 'mail_' || substr(f.audit_id, 7), f.org_id, f.parent_id, 'child', f.id,
         json_build_object('status', f.status, 'output', f.output::json, 'error', f.error, 'error_code', f.error_code,
                           'tokens_used', f.tokens_used, 'cost', f.cost)::text
    FROM f WHERE f.ends AND f.parent_path IS NOT NULL
  RETURNING execution_id
), h AS (
  INSERT INTO executions (id, root_id, org_id, workflow_id, workflow_version, user_id, input_data, parent_id, depth,
                          ready)
  SELECT x.handler_id, x.handler_id, f.org_id, w.id, w.published_version, f.user_id, x.input, f.id, f.depth + 1, true
    FROM unnest($88::text[], $89::text[], $90::text[], $91::text[], $92::text[])
      AS x(execution_id, handler_id, audit_id, workflow_id, input)
    JOIN f ON f.id = x.execution_id AND f.depth < 8
    JOIN workflows w ON w.org_id = f.org_id AND w.id = x.workflow_id
   WHERE w.published_version IS NOT NULL AND w.archived_at IS NULL
  RETURNING id, org_id, workflow_id, workflow_version, user_id, parent_id, created_at
), hv AS (
  INSERT INTO execution_events (execution_id, seq, org_id, type, timestamp, progress, data)
  SELECT h.id, 1, h.org_id, 'execution_queued', h.created_at, 0,
         json_build_object('workflow_id', h.workflow_id, 'workflow_version', h.workflow_version)::text
    FROM h
), u AS (
  INSERT INTO usage_by_day AS old (org_id, day, workflow_id, shard, steps, seconds, tokens, cost)
  SELECT f.org_id, (f.recorded_at AT TIME ZONE 'UTC')::date AS day, f.workflow_id, pg_backend_pid() % 16,
         sum(x.steps), sum(x.seconds), sum(x.tokens), sum(x.cost)
    FROM unnest($93::text[], $94::int[], $95::float8[], $96::bigint[], $97::float8[])
      AS x(id, steps, seconds, tokens, cost)
    JOIN f ON f.id = x.id
   GROUP BY f.org_id, day, f.workflow_id ORDER BY f.org_id, day, f.workflow_id
  ON CONFLICT (org_id, day, workflow_id, shard) DO UPDATE SET
    steps = old.steps + excluded.steps, seconds = old.seconds + excluded.seconds,
    tokens = old.tokens + excluded.tokens, cost = old.cost + excluded.cost
), l AS (
  INSERT INTO audit_logs (id, org_id, user_id, action, resource_type, resource_id, details, ip_address, user_agent,
                          request_id, success, error_code, error_message, timestamp)
  SELECT f.audit_id, f.org_id, f.user_id, 'workflow.executed', 'workflow', f.workflow_id,
         json_build_object('execution_id', f.id, 'status', f.status)::text, f.ip_address, f.user_agent, f.request_id,
         f.status = 'COMPLETED', f.error_code, f.error, f.recorded_at
    FROM f WHERE f.ends
  UNION ALL
  SELECT x.audit_id, h.org_id, h.user_id, 'execution.created', 'execution', h.id,
         json_build_object('workflow_id', h.workflow_id, 'workflow_version', h.workflow_version,
                           'parent_id', h.parent_id)::text, NULL, NULL, NULL, true, NULL, NULL, h.created_at
    FROM h JOIN unnest($89::text[], $90::text[]) AS x(handler_id, audit_id) ON x.handler_id = h.id
), w AS (
  SELECT w.org_id, w.id FROM workflows w
   WHERE (w.org_id, w.id) IN (SELECT f.org_id, f.workflow_id FROM f WHERE f.ends)
   ORDER BY w.org_id, w.id FOR NO KEY UPDATE
), c AS (
  UPDATE workflows SET
    execution_count = execution_count + g.n, success_count = success_count + g.succeeded,
    failure_count = failure_count + g.failed, cancelled_count = cancelled_count + g.cancelled,
    last_executed_at = greatest(last_executed_at, g.at)
  FROM (SELECT f.org_id, f.workflow_id, count(*) AS n, max(f.recorded_at) AS at,
               count(*) FILTER (WHERE f.status = 'COMPLETED') AS succeeded,
               count(*) FILTER (WHERE f.status = 'FAILED') AS failed,
               count(*) FILTER (WHERE f.status = 'CANCELLED') AS cancelled
          FROM f WHERE f.ends GROUP BY f.org_id, f.workflow_id) g
  JOIN w ON w.org_id = g.org_id AND w.id = g.workflow_id
  WHERE workflows.org_id = g.org_id AND workflows.id = g.workflow_id
)
SELECT array_agg(f.id) AS recorded, (SELECT pg_notify('stepstream_events', $98)) AS rung,
       (SELECT count(pg_notify('stepstream_inbox', ':' || called.id))
          FROM (SELECT execution_id AS id FROM o UNION SELECT execution_id FROM b) called) AS called,
       (SELECT count(pg_notify('stepstream_work', '')) FROM (SELECT FROM h LIMIT 1) handlers) AS handlers
  FROM f"""

POSITIONS = "SELECT id, lease_epoch, write_no FROM executions WHERE id = ANY($1::text[])"

NOTIFY_LIMIT = 7_900
"""Bytes of ids that fit into one notification; with more, an empty one says: look at everything."""

_ACCEPT_COLUMNS = attrgetter(
    "id", "org_id", "workflow_id", "workflow_version", "user_id", "input_text", "labels_text", "priority",
    "ip_address", "user_agent", "request_id", "queued_event_data", "audit_id", "idempotency_key", "fingerprint",
    "origin.root_id", "origin.retry_of", "origin.forked_from", "parent_id", "parent_path", "depth", "control_text",
    "start_at", "queue_ttl",
    "slots.concurrency_key", "slots.concurrency_limit", "slots.on_limit", "slots.rate_key", "slots.rate_limit",
    "slots.rate_seconds",
)  # fmt: skip
_STEP_COLUMNS = attrgetter(
    "path", "number", "name", "type", "status", "attempt", "failures", "input_text", "output_text", "ports_text",
    "error", "error_code", "reason", "wake_at", "started_at", "attempt_started_at", "completed_at", "execution_time_ms",
    "tokens_used", "cost", "awaits_text", "reused_from", "iteration", "items", "edited_by",
)  # fmt: skip
_ATTEMPT_COLUMNS = attrgetter("path", "attempt", "status", "error", "error_code", "started_at", "completed_at", "trace")
_SPENT_COLUMNS = attrgetter("steps", "seconds", "tokens", "cost")
_APPROVAL_COLUMNS = attrgetter(
    "id", "path", "status", "title", "message", "form_text", "deciders_text", "quorum", "deadline_at"
)


def accept_arguments(batch: Sequence[NewExecution]) -> list[list[Any]]:
    """The arrays of ACCEPT."""
    carried = [(new.id, new.origin.source_id, path) for new in batch for path in new.origin.carried]
    return [*_columns([_ACCEPT_COLUMNS(new) for new in batch], 30), *_columns(carried, 3)]


def record_arguments(batch: Sequence[Transition], sender: str) -> list[Any]:
    """The arrays of RECORD and its notification `sender:id,id`; rows in id order, so that writers lock in one order."""
    ordered = sorted(batch, key=attrgetter("execution_id"))
    steps = [(t.execution_id, *_STEP_COLUMNS(step)) for t in ordered for step in t.steps]
    attempts = [(t.execution_id, *_ATTEMPT_COLUMNS(attempt)) for t in ordered for attempt in t.attempts]
    events = [
        (t.execution_id, e.seq, e.type, e.step_id, e.timestamp, e.progress, event_data_text(e))
        for t in ordered
        for e in t.events
    ]
    mail = [(t.execution_id, mark.mail_id, mark.used_by) for t in ordered for mark in t.mail]
    approvals = [(t.execution_id, *_APPROVAL_COLUMNS(approval)) for t in ordered for approval in t.approvals]
    outgoing = [(t.execution_id, o.id, o.execution_id, o.kind, o.payload_text) for t in ordered for o in t.outgoing]
    handlers = [
        (t.execution_id, t.handler.id, t.handler.audit_id, t.handler.workflow_id, t.handler.input_text)
        for t in ordered
        if t.handler is not None
    ]
    spent = [(t.execution_id, *_SPENT_COLUMNS(t.spent)) for t in ordered if t.spent != NOTHING_SPENT]
    ids = ",".join(t.execution_id for t in ordered)
    return [
        *_columns([_execution_row(t) for t in ordered], 27),
        *_columns(steps, 26),
        *_columns(attempts, 9),
        *_columns(events, 7),
        *_columns(mail, 3),
        *_columns(approvals, 10),
        *_columns(outgoing, 5),
        *_columns(handlers, 5),
        *_columns(spent, 5),
        f"{sender}:{ids if len(ids) <= NOTIFY_LIMIT else ''}",
    ]


def _execution_row(t: Transition) -> tuple[Any, ...]:
    ending = t.ending
    failure = None if ending is None else ending.failure
    return (
        t.execution_id, t.owner, t.epoch, t.write_no, t.status.value, t.status_reason, t.status_message, t.progress,
        t.next_seq, t.recorded_at, t.started_at, t.deadline_at, t.wake_at, t.tokens_used, t.cost, t.graph_text,
        t.agent_results_text, t.settles_step, t.releases, ending is not None,
        ending.output_text if ending is not None and ending.status is ExecutionStatus.COMPLETED else None,
        failure.message if failure else None, failure.code if failure else None, t.audit_id, t.ready,
        t.control_text, t.fingerprint,
    )  # fmt: skip


def _columns(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]
