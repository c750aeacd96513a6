-- What must hold in the tables at every moment: each query finds what breaks the rule above it, and finds nothing.
-- Held after every test of the engine, by the chaos runs and by `stepstream doctor`, in one snapshot.
--
-- A rule is `-- rule: name (what it backs)`, a line that says it, and a query whose first column is `id`. It backs a
-- promise (P1 to P10) and is an invariant of the list I1 to I35; those that are missing speak of what clients, processes
-- or the world outside saw. `eventually` in front of a rule: it holds after a while, stepstream.patience, so that what
-- breaks it is looked at twice. Without a process that has lived that long it is not judged: nobody was there to act.

-- rule: events_are_gapless (P4 I15)
-- The events of an execution are numbered 1, 2, 3 and next_seq follows the last.
SELECT e.id, e.next_seq, v.first, v.last, v.events FROM executions e LEFT JOIN (
  SELECT execution_id, min(seq) AS first, max(seq) AS last, count(*) AS events FROM execution_events GROUP BY 1
) v ON v.execution_id = e.id
 WHERE v.first IS DISTINCT FROM 1 OR v.events <> v.last OR e.next_seq <> v.last + 1;

-- rule: first_event_is_queued (P1 I14)
-- The first event of an execution says that it was accepted.
SELECT execution_id AS id, type FROM execution_events WHERE seq = 1 AND type <> 'execution_queued';

-- rule: terminal_event_is_one_and_last (P5 I5)
-- An execution that has ended has one terminal event, its last, of the same outcome; one that goes on has none.
SELECT e.id, e.status, v.type, v.seq FROM executions e LEFT JOIN (
  SELECT execution_id, count(*) AS times, max(type) AS type, max(seq) AS seq FROM execution_events
   WHERE type IN ('execution_completed', 'execution_failed', 'execution_cancelled') GROUP BY 1
) v ON v.execution_id = e.id
 WHERE CASE WHEN e.status IN ('COMPLETED', 'FAILED', 'CANCELLED')
            THEN v.times IS DISTINCT FROM 1 OR v.seq <> e.next_seq - 1 OR v.type <> 'execution_' || lower(e.status)
            ELSE v.times IS NOT NULL END;

-- rule: time_and_progress_never_fall (P4 I19)
-- Along the events of an execution neither time nor progress goes back.
SELECT execution_id AS id, seq, timestamp, before, progress, less FROM (
  SELECT execution_id, seq, timestamp, progress, lag(timestamp) OVER w AS before, lag(progress) OVER w AS less
    FROM execution_events WINDOW w AS (PARTITION BY execution_id ORDER BY seq)) v
 WHERE timestamp < before OR progress < less;

-- rule: ended_is_settled (P5 I5)
-- An execution has an end if its status says so, and is then nobody's and waits for nothing.
SELECT id, status, owner, completed_at, wake_at FROM executions
 WHERE (status IN ('COMPLETED', 'FAILED', 'CANCELLED')) <> (completed_at IS NOT NULL)
    OR status IN ('COMPLETED', 'FAILED', 'CANCELLED') AND (owner IS NOT NULL OR wake_at IS NOT NULL OR ready);

-- rule: ended_has_no_open_steps (P5 I14)
-- In an execution that has ended no step goes on, unless the execution itself had to be cut off.
SELECT e.id, s.path, s.status FROM executions e JOIN execution_steps s ON s.execution_id = e.id
 WHERE e.status IN ('COMPLETED', 'FAILED', 'CANCELLED') AND s.status IN ('RUNNING', 'WAITING')
   AND position('[' IN s.path) = 0
   AND coalesce(e.error_code, '') NOT IN ('record_rejected', 'internal_error', 'poison', 'workflow_invalid');

-- rule: unowned_work_is_queued (P5 I3)
-- What is to be run and has no owner stands in the queue, or has a time at which it will.
SELECT id, status, wake_at FROM executions
 WHERE owner IS NULL AND NOT ready
   AND (status IN ('RUNNING', 'CANCELLING') OR status = 'PENDING' AND wake_at IS NULL);

-- rule: sleepers_know_when_to_wake (P5 I3)
-- What waits without an owner has a time to wake, unless it waits for another execution.
SELECT id, status_reason FROM executions e WHERE status = 'WAITING' AND owner IS NULL AND wake_at IS NULL
   AND NOT EXISTS (
     SELECT FROM execution_steps s WHERE s.execution_id = e.id AND s.status = 'WAITING' AND s.reason = 'child');

-- rule: children_are_there (P5 I3)
-- Who waits for another execution waits for one that goes on, or has mail of its end.
SELECT s.execution_id AS id, s.path FROM execution_steps s
 WHERE s.status = 'WAITING' AND s.reason = 'child' AND NOT EXISTS (
   SELECT FROM executions c WHERE c.id = s.awaits::jsonb -> 'topics' ->> 0
      AND (c.status NOT IN ('COMPLETED', 'FAILED', 'CANCELLED') OR EXISTS (
        SELECT FROM execution_inbox i WHERE i.execution_id = s.execution_id AND i.topic = c.id)));

-- rule: eventually owners_are_alive (P5 I3)
-- An execution whose owner has no lease any more is handed on while another process lives.
SELECT e.id, e.owner, w.lease_until FROM executions e LEFT JOIN workers w ON w.id = e.owner
 WHERE e.owner IS NOT NULL
   AND coalesce(w.lease_until < now() - current_setting('stepstream.patience')::interval, true)
   AND EXISTS (SELECT FROM workers o WHERE o.lease_until > now()
                  AND o.started_at < now() - current_setting('stepstream.patience')::interval);

-- rule: eventually sleepers_are_woken (P5 I3)
-- What was to wake is in the queue while a process lives that has nothing else to do.
SELECT e.id, e.status, e.wake_at FROM executions e
 WHERE e.owner IS NULL AND NOT e.ready AND e.status IN ('PENDING', 'WAITING', 'PAUSED')
   AND e.wake_at < now() - current_setting('stepstream.patience')::interval
   AND EXISTS (SELECT FROM workers o WHERE o.lease_until > now()
                  AND o.started_at < now() - current_setting('stepstream.patience')::interval
                  AND NOT EXISTS (SELECT FROM executions x WHERE x.owner = o.id));

-- rule: open_approvals_are_waited_for (P5 I14)
-- An approval is open exactly while it is undecided and its execution goes on.
SELECT a.execution_id AS id, a.id AS approval, a.status FROM approvals a JOIN executions e ON e.id = a.execution_id
 WHERE (a.status = 'PENDING') <> (a.decided_at IS NULL)
    OR a.status = 'PENDING' AND e.status IN ('COMPLETED', 'FAILED', 'CANCELLED');

-- rule: letters_are_used_by_steps (P2 I14)
-- A letter is used by a step of its execution that has begun.
SELECT i.execution_id AS id, i.id AS letter, i.consumed_by FROM execution_inbox i
 WHERE i.consumed_by <> '' AND NOT EXISTS (
   SELECT FROM execution_steps s WHERE s.execution_id = i.execution_id AND s.path = i.consumed_by);

-- rule: items_are_complete (P2 I14)
-- A map that has completed has as many items as it says.
SELECT s.execution_id AS id, s.path, s.items FROM execution_steps s
 WHERE s.items IS NOT NULL AND s.status = 'COMPLETED' AND s.reused_from IS NULL AND s.items <> (
   SELECT count(*) FROM execution_steps i
    WHERE i.execution_id = s.execution_id AND starts_with(i.path, s.path || '['));

-- rule: attempts_are_gapless (P2 I6)
-- The ended attempts of a step are numbered 1, 2, 3.
SELECT execution_id AS id, path FROM step_attempts GROUP BY 1, 2
HAVING min(attempt) <> 1 OR count(*) <> max(attempt);

-- rule: one_attempt_completes (P2 I6)
-- At most one attempt of a step completed, in each of its rounds.
SELECT a.execution_id AS id, a.path FROM step_attempts a JOIN execution_steps s USING (execution_id, path)
 WHERE a.status = 'COMPLETED' GROUP BY 1, 2 HAVING count(*) > 1 + max(s.iteration);

-- rule: epochs_never_fall (P3 I8)
-- Later attempts of a step were recorded under no earlier lease, and none under one that was never given.
SELECT id, path, attempt, epoch FROM (
  SELECT execution_id AS id, path, attempt, epoch, lag(epoch) OVER w AS before
    FROM step_attempts WINDOW w AS (PARTITION BY execution_id, path ORDER BY attempt)) a
 WHERE epoch < before
UNION ALL
SELECT e.id, r.path, r.attempt, r.epoch FROM executions e JOIN (
  SELECT execution_id, path, attempt, epoch FROM step_attempts
  UNION ALL SELECT execution_id, path, NULL, epoch FROM execution_steps
) r ON r.execution_id = e.id WHERE r.epoch > e.lease_epoch;

-- rule: one_worker_records_an_epoch (P3 I9 I10)
-- What was recorded under one lease of an execution was recorded by one worker, its owner if the lease is the newest.
SELECT a.execution_id AS id, a.epoch, min(a.worker_id) AS worker, max(a.worker_id) AS other
  FROM step_attempts a JOIN executions e ON e.id = a.execution_id GROUP BY 1, 2, e.owner, e.lease_epoch
HAVING min(a.worker_id) <> max(a.worker_id) OR a.epoch = e.lease_epoch AND min(a.worker_id) <> e.owner;

-- rule: steps_start_after_their_needs (P2 I12)
-- A step starts behind the end of everything it needs.
SELECT e.id, edge ->> 'from' AS need, edge ->> 'to' AS step FROM executions e
 CROSS JOIN LATERAL jsonb_array_elements(e.execution_graph::jsonb -> 'edges') AS edge
  JOIN execution_events b ON b.execution_id = e.id AND b.type = 'step_started' AND b.step_id = edge ->> 'to'
 WHERE NOT EXISTS (
   SELECT FROM execution_events n WHERE n.execution_id = e.id AND n.step_id = edge ->> 'from' AND n.seq < b.seq
      AND n.type IN ('step_completed', 'step_failed', 'step_cancelled', 'step_skipped', 'step_pinned', 'step_reused'));

-- rule: skipped_steps_never_start (P2 I13)
-- A step that was skipped has not started.
SELECT s.execution_id AS id, s.step_id AS step FROM execution_events s
  JOIN execution_events b ON b.execution_id = s.execution_id AND b.step_id = s.step_id AND b.type = 'step_started'
 WHERE s.type = 'step_skipped';

-- rule: no_step_starts_after_a_cancel (P2 I25)
-- Once a cancel is acknowledged no step starts.
SELECT s.execution_id AS id, s.step_id AS step, s.seq FROM execution_events c
  JOIN execution_events s ON s.execution_id = c.execution_id AND s.seq > c.seq
 WHERE c.type = 'execution_cancelling' AND s.type = 'step_started';

-- rule: rows_belong_to_their_execution (P8 I27)
-- Steps, attempts and events are of an execution that is there, and of its organisation.
SELECT r.execution_id AS id, r.kind, r.org_id FROM (
  SELECT execution_id, org_id, 'step' AS kind FROM execution_steps
  UNION ALL SELECT execution_id, org_id, 'attempt' FROM step_attempts
  UNION ALL SELECT execution_id, org_id, 'event' FROM execution_events
) r LEFT JOIN executions e ON e.id = r.execution_id WHERE e.org_id IS DISTINCT FROM r.org_id;

-- rule: labels_are_listed (P8 I27)
-- Of each label of an execution, and of nothing else, there is a row by which lists find it.
SELECT coalesce(l.execution_id, e.id) AS id, coalesce(l.key, e.key) AS label FROM execution_labels l FULL JOIN (
  SELECT e.id, e.org_id, x.key, x.value FROM executions e, jsonb_each_text(e.labels) x WHERE e.labels <> '{}'
) e ON (e.org_id, e.key, e.value, e.id) = (l.org_id, l.key, l.value, l.execution_id)
 WHERE l.execution_id IS NULL OR e.id IS NULL;

-- rule: keys_stand_for_executions (P6 I21)
-- An idempotency key stands for an execution of its organisation that is there, and no other key does.
SELECT k.execution_id AS id, k.org_id, k.key FROM idempotency_keys k
  LEFT JOIN executions e ON e.id = k.execution_id WHERE e.org_id IS DISTINCT FROM k.org_id
UNION ALL
SELECT execution_id, min(org_id), min(key) FROM idempotency_keys GROUP BY 1 HAVING count(*) > 1;

-- rule: counters_are_counts (P2 I20)
-- The counters of a workflow count its executions that have ended.
SELECT w.id, w.org_id, w.execution_count, coalesce(e.n, 0) AS counted
  FROM workflows w LEFT JOIN (
    SELECT org_id, workflow_id, count(*) AS n, max(completed_at) AS last,
           count(*) FILTER (WHERE status = 'COMPLETED') AS completed,
           count(*) FILTER (WHERE status = 'FAILED') AS failed,
           count(*) FILTER (WHERE status = 'CANCELLED') AS cancelled
      FROM executions WHERE status IN ('COMPLETED', 'FAILED', 'CANCELLED') GROUP BY 1, 2
  ) e ON e.org_id = w.org_id AND e.workflow_id = w.id
 WHERE (w.execution_count, w.success_count, w.failure_count, w.cancelled_count)
       <> (coalesce(e.n, 0), coalesce(e.completed, 0), coalesce(e.failed, 0), coalesce(e.cancelled, 0))
    OR w.last_executed_at IS DISTINCT FROM e.last;

-- rule: audit_tells_starts_and_ends (P1 I26)
-- Accepting an execution and ending it leave one audit row each.
SELECT e.id, e.status, coalesce(a.starts, 0) AS starts, coalesce(a.ends, 0) AS ends FROM executions e LEFT JOIN (
  SELECT CASE action WHEN 'execution.created' THEN resource_id ELSE details::jsonb ->> 'execution_id' END AS id,
         count(*) FILTER (WHERE action = 'execution.created') AS starts,
         count(*) FILTER (WHERE action = 'workflow.executed') AS ends
    FROM audit_logs WHERE action IN ('execution.created', 'workflow.executed') GROUP BY 1
) a ON a.id = e.id
 WHERE a.starts IS DISTINCT FROM 1
    OR a.ends IS DISTINCT FROM (e.status IN ('COMPLETED', 'FAILED', 'CANCELLED'))::int;

-- rule: outcomes_are_guarded (P2 I4 I7)
-- The triggers that keep outcomes and settled steps final are on.
SELECT wanted.id FROM unnest('{outcome_is_final,settled_is_final}'::text[]) AS wanted(id)
 WHERE NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgname = wanted.id AND t.tgenabled IN ('O', 'A'));

-- rule: history_is_insert_only (P2 I26)
-- No role of a service may change or remove what was written to the audit log and its seals, of events or attempts.
SELECT r.role || ' ' || v.verb || ' ' || t.name AS id
  FROM unnest('{stepstream_api,stepstream_engine,stepstream_auth}'::text[]) AS r(role)
 CROSS JOIN unnest('{audit_logs,audit_seals,execution_events,step_attempts}'::text[]) AS t(name)
 CROSS JOIN unnest('{UPDATE,DELETE,TRUNCATE}'::text[]) AS v(verb)
 WHERE has_table_privilege(r.role, t.name, v.verb)
    OR v.verb = 'UPDATE' AND has_any_column_privilege(r.role, t.name, 'UPDATE');

-- rule: the_recorder_sees_every_row (P1 I3)
-- No policy hides rows from the role that recovers executions, and that looks for all of the above.
SELECT c.relname AS id FROM pg_class c
 WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND c.relrowsecurity
   AND has_any_column_privilege('stepstream_engine', c.oid, 'SELECT')
   AND NOT EXISTS (
     SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polpermissive AND p.polcmd IN ('*', 'r')
        AND pg_get_expr(p.polqual, c.oid) = 'true'
        AND p.polroles && (SELECT array_agg(oid) FROM pg_roles WHERE rolname = 'stepstream_engine'));
