-- What must hold in the tables at every moment: each query finds what breaks the rule above it, and finds nothing.
-- Run after every test of the engine, and by `stepstream doctor`. Rules are told apart by the lines `-- rule:`.

-- rule: events are gapless from 1, and next_seq follows the last
SELECT e.id FROM executions e LEFT JOIN execution_events v ON v.execution_id = e.id GROUP BY e.id
HAVING min(v.seq) IS DISTINCT FROM 1 OR count(*) <> max(v.seq) OR e.next_seq <> max(v.seq) + 1;

-- rule: a terminal execution has one terminal event, the last, and no other execution has one
SELECT e.id FROM executions e JOIN execution_events v ON v.execution_id = e.id GROUP BY e.id
HAVING count(*) FILTER (WHERE v.type IN ('execution_completed', 'execution_failed', 'execution_cancelled'))
       <> (e.status IN ('COMPLETED', 'FAILED', 'CANCELLED'))::int
    OR e.status IN ('COMPLETED', 'FAILED', 'CANCELLED')
       AND (array_agg(v.type ORDER BY v.seq DESC))[1] <> 'execution_' || lower(e.status);

-- rule: time and progress never go backwards along seq
SELECT * FROM (SELECT execution_id, seq, timestamp, progress,
                      lag(timestamp) OVER w AS before, lag(progress) OVER w AS less
                 FROM execution_events WINDOW w AS (PARTITION BY execution_id ORDER BY seq)) x
 WHERE timestamp < before OR progress < less;

-- rule: a terminal execution is nobody's, has ended, and waits for nothing
SELECT id FROM executions WHERE status IN ('COMPLETED', 'FAILED', 'CANCELLED')
   AND (owner IS NOT NULL OR completed_at IS NULL OR wake_at IS NOT NULL);

-- rule: what waits knows when to wake, unless it waits for another execution
SELECT id FROM executions e WHERE status = 'WAITING' AND owner IS NULL AND wake_at IS NULL AND NOT EXISTS (
  SELECT FROM execution_steps s WHERE s.execution_id = e.id AND s.status = 'WAITING' AND s.reason = 'child');

-- rule: who waits for another execution waits for one that goes on, or has mail of its end
SELECT s.execution_id FROM execution_steps s
 WHERE s.status = 'WAITING' AND s.reason = 'child' AND NOT EXISTS (
   SELECT FROM executions c WHERE c.id = s.awaits::jsonb -> 'topics' ->> 0
      AND (c.status NOT IN ('COMPLETED', 'FAILED', 'CANCELLED') OR EXISTS (
        SELECT FROM execution_inbox i WHERE i.execution_id = s.execution_id AND i.topic = c.id)));

-- rule: an approval is open exactly while its execution waits for it
SELECT a.id FROM approvals a JOIN executions e ON e.id = a.execution_id
 WHERE (a.status = 'PENDING') <> (a.decided_at IS NULL)
    OR a.status = 'PENDING' AND e.status IN ('COMPLETED', 'FAILED', 'CANCELLED');

-- rule: a letter is used by a step of its execution that has begun
SELECT i.id FROM execution_inbox i WHERE i.consumed_by <> '' AND NOT EXISTS (
  SELECT FROM execution_steps s WHERE s.execution_id = i.execution_id AND s.path = i.consumed_by);

-- rule: items are as many as their step says, once it has completed
SELECT s.execution_id, s.path FROM execution_steps s
 WHERE s.items IS NOT NULL AND s.status = 'COMPLETED' AND s.reused_from IS NULL AND s.items <> (
   SELECT count(*) FROM execution_steps i
    WHERE i.execution_id = s.execution_id AND starts_with(i.path, s.path || '['));

-- rule: no lease epoch is from the future
SELECT s.execution_id FROM execution_steps s JOIN executions e ON e.id = s.execution_id
 WHERE s.epoch > e.lease_epoch;

-- rule: ended attempts are numbered 1, 2, 3
SELECT execution_id, path FROM step_attempts GROUP BY 1, 2
HAVING min(attempt) <> 1 OR count(*) <> max(attempt);

-- rule: at most one attempt of a step completed
SELECT a.execution_id, a.path FROM step_attempts a JOIN execution_steps s USING (execution_id, path)
 WHERE a.status = 'COMPLETED' GROUP BY 1, 2 HAVING count(*) > 1 + max(s.iteration);

-- rule: steps, attempts and events belong to an execution
SELECT execution_id FROM execution_steps WHERE execution_id NOT IN (SELECT id FROM executions)
UNION ALL SELECT execution_id FROM step_attempts WHERE execution_id NOT IN (SELECT id FROM executions)
UNION ALL SELECT execution_id FROM execution_events WHERE execution_id NOT IN (SELECT id FROM executions);

-- rule: the counters of a workflow count its executions
SELECT w.id FROM workflows w LEFT JOIN executions e ON e.workflow_id = w.id GROUP BY w.org_id, w.id
HAVING w.execution_count <> count(*) FILTER (WHERE e.status IN ('COMPLETED', 'FAILED', 'CANCELLED'))
    OR w.success_count <> count(*) FILTER (WHERE e.status = 'COMPLETED')
    OR w.failure_count <> count(*) FILTER (WHERE e.status = 'FAILED')
    OR w.cancelled_count <> count(*) FILTER (WHERE e.status = 'CANCELLED')
    OR w.last_executed_at IS DISTINCT FROM max(e.completed_at);

-- rule: accepting and ending leave one audit row each
SELECT e.id FROM executions e LEFT JOIN audit_logs a
    ON a.resource_id = e.id AND a.action = 'execution.created'
    OR a.action = 'workflow.executed' AND a.details::jsonb ->> 'execution_id' = e.id
 GROUP BY e.id
HAVING count(*) FILTER (WHERE a.action = 'execution.created') <> 1
    OR count(*) FILTER (WHERE a.action = 'workflow.executed')
       <> (e.status IN ('COMPLETED', 'FAILED', 'CANCELLED'))::int;

-- rule: no step starts once a cancel is acknowledged
SELECT s.execution_id FROM execution_events s JOIN execution_events c USING (execution_id)
 WHERE c.type = 'execution_cancelling' AND s.type = 'step_started' AND s.seq > c.seq;

-- rule: whoever owns an execution has a lease
SELECT e.id FROM executions e LEFT JOIN workers w ON w.id = e.owner
 WHERE e.owner IS NOT NULL AND (w.id IS NULL OR w.lease_until < clock_timestamp() - interval '1 minute');

-- rule: what was under way and has no owner stands in the queue
SELECT id FROM executions WHERE status IN ('RUNNING', 'CANCELLING') AND owner IS NULL AND NOT ready;

-- rule: an idempotency key stands for an execution that is there
SELECT k.key FROM idempotency_keys k WHERE NOT EXISTS (SELECT FROM executions e WHERE e.id = k.execution_id);
