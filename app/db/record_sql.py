"""The statement that records transitions: put together of the parts that a batch has rows for. One round trip each.

Each part sends its rows as one array of rows. The fenced update of `executions` is done first and every part joins its
RETURNING, so whoever lost the lease writes nothing at all while his neighbours in the batch are not touched. Workflow
counters are done last and in id order: batches of different writers queue there instead of dead-locking. What a day
used is kept in shards, so that writers do not wait for each other's commits at every step. The owner is compared by IS
NOT DISTINCT FROM because no index serves that: what the planner learns of owners while few rows have one would make it
look through all of a worker's executions instead of taking the one by its id.

Who ends cancels the executions that were to report to it, whether or not its record knows of them: it may have been cut
off between their start and the note of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from typing import Any

from app.engine.rows import EventRow
from app.engine.transition import Transition, event_data_text

FENCE = """
WITH f AS (
  UPDATE executions e SET
    write_no = t.write_no, status = t.status, status_reason = t.status_reason, status_message = t.status_message,
    progress = t.progress, next_seq = t.next_seq, last_recorded_at = t.recorded_at,
    started_at = coalesce(e.started_at, t.started_at), deadline_at = coalesce(t.deadline_at, e.deadline_at),
    wake_at = t.wake_at, tokens_used = coalesce(t.tokens_used, e.tokens_used), cost = coalesce(t.cost, e.cost),
    execution_graph = coalesce(t.graph_text, e.execution_graph),
    agent_results = coalesce(t.agent_results_text, e.agent_results),
    recoveries = CASE WHEN t.settles_step THEN 0 ELSE e.recoveries END,
    owner = CASE WHEN t.releases THEN NULL ELSE e.owner END, ready = t.ready,
    control = coalesce(t.control_text, e.control), fingerprint = t.fingerprint,
    output = t.output_text, error = t.error, error_code = t.error_code,
    completed_at = CASE WHEN t.ends THEN t.recorded_at END,
    duration_seconds = CASE WHEN t.ends THEN
      extract(epoch FROM t.recorded_at - coalesce(e.started_at, t.started_at))::float8 END
  FROM unnest($1::recorded_execution[]) AS t
  WHERE e.id = t.id AND e.owner IS NOT DISTINCT FROM t.owner AND e.lease_epoch = t.epoch AND e.write_no = t.write_no - 1
  RETURNING e.id, e.org_id, e.workflow_id, e.user_id, e.ip_address, e.user_agent, e.request_id, e.lease_epoch,
            e.parent_id, e.parent_path, e.depth, e.tokens_used, e.cost,
            t.owner AS writer, t.status, t.error, t.error_code, t.recorded_at, t.output_text
)"""

ANSWER = """
SELECT array_agg(f.id) AS recorded,
       (SELECT pg_notify('stepstream_events', $2) FROM workers WHERE id <> $3 LIMIT 1) AS rung"""
"""Where no other process has a lease there is nobody to tell: a notification costs every batch a lock of the server."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What may go with transitions: the rows that one has of it, and how they are written.

    `sql` are CTEs, in which `$rows` is the array of the rows. `rings` is what to select in order to wake others.
    """

    rows: Callable[[Transition], Sequence[tuple[Any, ...]]]
    sql: str
    rings: str = ""


def _events(t: Transition) -> Sequence[EventRow]:
    execution_id = t.row.id
    return [
        EventRow(execution_id, e.seq, e.type, e.step_id, e.timestamp, e.progress, event_data_text(e)) for e in t.events
    ]


STEPS = Part(
    attrgetter("steps"),
    """s AS (
  INSERT INTO execution_steps AS old
    (execution_id, path, org_id, epoch, step_number, name, type, status, attempt, failures, input, output, ports, error,
     error_code, reason, wake_at, started_at, attempt_started_at, completed_at, execution_time_ms, tokens_used, cost,
     awaits, reused_from, iteration, items, edited_by)
  SELECT f.id, x.path, f.org_id, f.lease_epoch, x.number, x.name, x.type, x.status, x.attempt, x.failures,
         x.input_text, x.output_text, coalesce(x.ports, '{}'), x.error, x.error_code, x.reason, x.wake_at, x.started_at,
         x.attempt_started_at, x.completed_at, x.execution_time_ms, x.tokens_used, x.cost, x.awaits_text, x.reused_from,
         x.iteration, x.items, x.edited_by
    FROM unnest($rows::recorded_step[]) AS x JOIN f ON f.id = x.execution_id
  ON CONFLICT (execution_id, path) DO UPDATE SET
    epoch = excluded.epoch, status = excluded.status, attempt = excluded.attempt, failures = excluded.failures,
    input = excluded.input, output = excluded.output, ports = excluded.ports, error = excluded.error,
    error_code = excluded.error_code, reason = excluded.reason, wake_at = excluded.wake_at,
    started_at = excluded.started_at, attempt_started_at = excluded.attempt_started_at,
    completed_at = excluded.completed_at, execution_time_ms = excluded.execution_time_ms,
    tokens_used = excluded.tokens_used, cost = excluded.cost, awaits = excluded.awaits,
    iteration = excluded.iteration, items = excluded.items, edited_by = excluded.edited_by
)""",
)

ATTEMPTS = Part(
    attrgetter("attempts"),
    """a AS (
  INSERT INTO step_attempts (execution_id, path, attempt, org_id, epoch, worker_id, status, error, error_code,
                             started_at, completed_at, trace)
  SELECT f.id, x.path, x.attempt, f.org_id, f.lease_epoch, f.writer, x.status, x.error, x.error_code, x.started_at,
         x.completed_at, x.trace
    FROM unnest($rows::recorded_attempt[]) AS x JOIN f ON f.id = x.execution_id
)""",
)

EVENTS = Part(
    _events,
    """v AS (
  INSERT INTO execution_events (execution_id, seq, org_id, type, step_id, timestamp, progress, data)
  SELECT f.id, x.seq, f.org_id, x.type, x.step_id, x.timestamp, x.progress, x.data_text
    FROM unnest($rows::recorded_event[]) AS x JOIN f ON f.id = x.execution_id
)""",
)

MAIL = Part(
    attrgetter("mail"),
    """m AS (
  UPDATE execution_inbox i SET
    applied_at = coalesce(i.applied_at, f.recorded_at), consumed_by = coalesce(x.used_by, i.consumed_by)
    FROM (SELECT execution_id, mail_id, max(used_by) AS used_by FROM unnest($rows::recorded_mail[])
           GROUP BY execution_id, mail_id) x
    JOIN f ON f.id = x.execution_id
   WHERE i.id = x.mail_id AND i.execution_id = x.execution_id
)""",
)

APPROVALS = Part(
    attrgetter("approvals"),
    """p AS (
  INSERT INTO approvals AS old (id, org_id, execution_id, path, status, title, message, form, deciders, quorum,
                                created_at, deadline_at, decided_at)
  SELECT x.id, f.org_id, f.id, x.path, x.status, x.title, x.message, x.form_text, x.deciders_text, x.quorum,
         f.recorded_at, x.deadline_at, CASE WHEN x.status <> 'PENDING' THEN f.recorded_at END
    FROM unnest($rows::recorded_approval[]) AS x JOIN f ON f.id = x.execution_id
  ON CONFLICT (id) DO UPDATE SET
    status = excluded.status, decided_at = excluded.decided_at, deadline_at = excluded.deadline_at
)""",
)

OUTGOING = Part(
    attrgetter("outgoing"),
    """o AS (
  INSERT INTO execution_inbox (id, org_id, execution_id, kind, payload)
  SELECT x.id, f.org_id, x.receiver, x.kind, x.payload_text
    FROM unnest($rows::recorded_letter[]) AS x JOIN f ON f.id = x.execution_id
  RETURNING execution_id
)""",
    "(SELECT count(pg_notify('stepstream_inbox', ':' || execution_id)) FROM o)",
)

HANDLERS = Part(
    lambda t: () if t.handler is None else (t.handler,),
    """h AS (
  INSERT INTO executions (id, root_id, org_id, workflow_id, workflow_version, user_id, input_data, parent_id, depth,
                          ready)
  SELECT x.id, x.id, f.org_id, w.id, w.published_version, f.user_id, x.input_text, f.id, f.depth + 1, true
    FROM unnest($rows::recorded_handler[]) AS x
    JOIN f ON f.id = x.execution_id AND f.depth < 8
    JOIN workflows w ON w.org_id = f.org_id AND w.id = x.workflow_id
   WHERE w.published_version IS NOT NULL AND w.archived_at IS NULL
  RETURNING id, org_id, workflow_id, workflow_version, user_id, parent_id, created_at
), hv AS (
  INSERT INTO execution_events (execution_id, seq, org_id, type, timestamp, progress, data)
  SELECT h.id, 1, h.org_id, 'execution_queued', h.created_at, 0,
         json_build_object('workflow_id', h.workflow_id, 'workflow_version', h.workflow_version)::text
    FROM h
), hl AS (
  INSERT INTO audit_logs (id, org_id, user_id, action, resource_type, resource_id, details, success, timestamp)
  SELECT x.audit_id, h.org_id, h.user_id, 'execution.created', 'execution', h.id,
         json_build_object('workflow_id', h.workflow_id, 'workflow_version', h.workflow_version,
                           'parent_id', h.parent_id)::text, true, h.created_at
    FROM h JOIN unnest($rows::recorded_handler[]) AS x ON x.id = h.id
)""",
    "(SELECT count(pg_notify('stepstream_work', '')) FROM (SELECT FROM h LIMIT 1) handlers)",
)

USAGE = Part(
    lambda t: () if t.usage is None else (t.usage,),
    """u AS (
  INSERT INTO usage_by_day AS old (org_id, day, workflow_id, shard, steps, seconds, tokens, cost)
  SELECT f.org_id, (f.recorded_at AT TIME ZONE 'UTC')::date AS day, f.workflow_id, pg_backend_pid() % 16,
         sum(x.steps), sum(x.seconds), sum(x.tokens), sum(x.cost)
    FROM unnest($rows::recorded_usage[]) AS x JOIN f ON f.id = x.execution_id
   GROUP BY f.org_id, day, f.workflow_id ORDER BY f.org_id, day, f.workflow_id
  ON CONFLICT (org_id, day, workflow_id, shard) DO UPDATE SET
    steps = old.steps + excluded.steps, seconds = old.seconds + excluded.seconds,
    tokens = old.tokens + excluded.tokens, cost = old.cost + excluded.cost
)""",
)

ENDINGS = Part(
    lambda t: () if t.end is None else (t.end,),
    """ended AS (
  SELECT f.*, x.audit_id, x.told FROM unnest($rows::recorded_end[]) AS x JOIN f ON f.id = x.execution_id
), w AS (
  SELECT w.org_id, w.id FROM workflows w
   WHERE (w.org_id, w.id) IN (SELECT org_id, workflow_id FROM ended)
   ORDER BY w.org_id, w.id FOR NO KEY UPDATE
), counted AS (
  UPDATE workflows SET
    execution_count = execution_count + g.n, success_count = success_count + g.succeeded,
    failure_count = failure_count + g.failed, cancelled_count = cancelled_count + g.cancelled,
    last_executed_at = greatest(last_executed_at, g.at)
  FROM (SELECT org_id, workflow_id, count(*) AS n, max(recorded_at) AS at,
               count(*) FILTER (WHERE status = 'COMPLETED') AS succeeded,
               count(*) FILTER (WHERE status = 'FAILED') AS failed,
               count(*) FILTER (WHERE status = 'CANCELLED') AS cancelled
          FROM ended GROUP BY org_id, workflow_id) g
  JOIN w ON w.org_id = g.org_id AND w.id = g.workflow_id
  WHERE workflows.org_id = g.org_id AND workflows.id = g.workflow_id
), given_up AS (
  INSERT INTO execution_inbox (id, org_id, execution_id, kind, payload)
  SELECT 'mail_' || substr(c.id, 6), c.org_id, c.id, 'cancel', '{"reason":"The execution that started it has ended"}'
    FROM ended JOIN executions c ON c.parent_id = ended.id
   WHERE c.parent_path IS NOT NULL AND c.status NOT IN ('COMPLETED', 'FAILED', 'CANCELLED') AND c.id <> ALL(ended.told)
  RETURNING execution_id
), report AS (
  INSERT INTO execution_inbox (id, org_id, execution_id, kind, topic, payload)
  SELECT 'mail_' || substr(audit_id, 7), org_id, parent_id, 'child', id,
         json_build_object('status', status, 'output', output_text::json, 'error', error, 'error_code', error_code,
                           'tokens_used', tokens_used, 'cost', cost)::text
    FROM ended WHERE parent_path IS NOT NULL
  RETURNING execution_id
), audit AS (
  INSERT INTO audit_logs (id, org_id, user_id, action, resource_type, resource_id, details, ip_address, user_agent,
                          request_id, success, error_code, error_message, timestamp)
  SELECT audit_id, org_id, user_id, 'workflow.executed', 'workflow', workflow_id,
         json_build_object('execution_id', id, 'status', status)::text, ip_address, user_agent, request_id,
         status = 'COMPLETED', error_code, error, recorded_at
    FROM ended
)""",
    "(SELECT count(pg_notify('stepstream_inbox', ':' || execution_id))"
    " FROM (SELECT execution_id FROM given_up UNION ALL SELECT execution_id FROM report) told)",
)

RARE = (HANDLERS, OUTGOING, APPROVALS, MAIL)
"""A batch that has rows of one of these takes all parts, so that there are few different statements."""

PARTS = (ENDINGS, USAGE, *RARE, EVENTS, STEPS, ATTEMPTS)
"""Postgres carries them out from the last to the first, so the rows that writers share are locked last."""

POSITIONS = "SELECT id, lease_epoch, write_no FROM executions WHERE id = ANY($1::text[])"

NOTIFY_LIMIT = 7_900
"""Bytes of ids that fit into one notification; with more, an empty one says: look at everything."""


def recording(batch: Sequence[Transition], sender: str) -> tuple[str, list[Any]]:
    """The statement for a batch and its arguments; it answers with the ids it has `recorded`.

    The rows of executions are in id order, so that writers lock in one order. The notification is `sender:id,id`.
    """
    ordered = sorted(batch, key=attrgetter("row.id"))
    ids = ",".join([t.row.id for t in ordered])
    rung = f"{sender}:{ids if len(ids) <= NOTIFY_LIMIT else ''}"
    rows = {part: [row for t in ordered for row in part.rows(t)] for part in PARTS}
    rare = any(rows[part] for part in RARE)
    parts = [part for part in PARTS if rare or rows[part]]
    return statement(*parts), [[t.row for t in ordered], rung, ordered[0].row.owner, *(rows[part] for part in parts)]


@cache
def statement(*parts: Part) -> str:
    """The statement of these parts; their rows are its arguments from the fourth on."""
    written = [part.sql.replace("$rows", f"${number}") for number, part in enumerate(parts, 4)]
    answers = ", ".join([ANSWER, *(part.rings for part in parts if part.rings)])
    return f"{', '.join([FENCE, *written])}{answers}\n  FROM f"
