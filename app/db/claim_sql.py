"""How executions get an owner and a slot: the statements of the queue.

Who waits for a slot waits in a lane: the rows of one user with one concurrency key and one rate key. All rows of a lane
are blocked by the same limits, so a claim hops from lane to lane in the index, leaves a full organisation or user in
one hop, and of each open lane reads no more rows than have room. However many rows are blocked, they are not looked at.

Slots are counted anew from the rows that hold one in each claim. Two claims could both see the last one, so a claim
that any limit applies to runs behind SERIALISED in one transaction; being a statement of its own, it sees all that was
committed before it got the lock.
"""

from app.db.tables.executions import HOLDS_A_SLOT, WANTS_A_SLOT

# ruff: noqa: S608 - the statements are put together from constants

SERIALISED = "BEGIN; SELECT pg_advisory_xact_lock(7302581)"
"""Opens the transaction of an exact claim. The number means nothing but this lock."""

FROZEN_CLAIMER = "SET idle_in_transaction_session_timeout = '3s'"
"""A claimer that stops between two statements would keep everybody from claiming: the server ends its session."""

LANES_AT_ONCE = 1_000
"""A claim looks at so many lanes and the next one goes on behind them, round and round."""
OFFERED = 4_000
"""Among about so many rows of all open lanes a claim chooses."""
COUNTED = 1_000
"""Without a limit, who has this many slots counts as having as many as anybody: fairness needs no more."""

_NOW = "statement_timestamp()"
_LAST = "chr(1114111)"
_LANE = "e.org_id, e.user_id, coalesce(e.concurrency_key, ''), coalesce(e.rate_key, '')"
_SPARE = "$2 + least($2, 10)"
"""More rows are looked at than taken, so that two claims that take no turns do not hide work from each other."""
_IN_LANE = "(e.status = 'PENDING'), e.priority DESC, e.created_at"
_OVER_LIMIT = (
    "e.ready AND e.status = 'PENDING' AND e.concurrency_key IS NOT NULL AND e.on_limit <> 'queue' "
    f"AND (e.expires_at IS NULL OR e.expires_at > {_NOW})"
)

IS_READY = f"""coalesce(e.status IN ('RUNNING', 'CANCELLING')
  OR e.status = 'PENDING' AND (e.wake_at IS NULL OR e.wake_at <= {_NOW})
  OR e.status IN ('WAITING', 'PAUSED') AND e.wake_at <= {_NOW}, false)"""
"""Whether an execution `e` that loses its owner unheard wants another one at once."""


def _take(picked: str, *, has_slot: bool) -> str:
    """Make $1 the owner of `picked` (id, place, verdict), if he has a lease.

    Of who was told to go on, that his time has come is kept, so that the next owner hears of it if this one dies.
    """
    return f"""
UPDATE executions e SET owner = $1, ready = false, has_slot = {has_slot}, lease_epoch = e.lease_epoch + 1,
  wake_at = CASE WHEN e.ready AND e.status IN ('WAITING', 'PAUSED') THEN least(e.wake_at, {_NOW}) ELSE e.wake_at END
  FROM {picked} p WHERE e.id = p.id AND EXISTS (SELECT FROM workers w WHERE w.id = $1)
RETURNING e.id, e.org_id, e.workflow_id, e.workflow_version, e.user_id, e.root_id, e.status, e.input_data,
  e.agent_results, e.progress, e.created_at, e.started_at, e.deadline_at, e.last_recorded_at, e.owner, e.lease_epoch,
  e.write_no, e.next_seq, e.recoveries, e.control, e.wake_at, e.parent_id, e.depth, e.priority, e.has_slot, p.place,
  p.verdict, clock_timestamp() AS claimed_at, e.concurrency_key IS NOT NULL OR e.rate_key IS NOT NULL AS keyed,
  e.write_no > 0 OR e.retry_of IS NOT NULL OR e.forked_from IS NOT NULL AS has_steps,
  EXISTS (SELECT FROM execution_inbox i WHERE i.execution_id = e.id AND i.applied_at IS NULL)
  OR EXISTS (SELECT FROM execution_inbox i WHERE i.execution_id = e.id AND i.applied_at IS NOT NULL
                AND i.topic IS NOT NULL AND i.consumed_by IS NULL) AS has_mail"""


LOOK = f"""
WITH due AS (
  SELECT id FROM executions
   WHERE owner IS NULL AND NOT ready AND wake_at IS NOT NULL AND wake_at <= {_NOW}
     AND status IN ('PENDING', 'WAITING', 'PAUSED')
   ORDER BY wake_at LIMIT 1000 FOR NO KEY UPDATE SKIP LOCKED
), woken AS (
  UPDATE executions e SET ready = true, wake_at = CASE WHEN e.status <> 'PENDING' THEN e.wake_at END
    FROM due WHERE e.id = due.id
  RETURNING e.concurrency_key IS NOT NULL OR e.rate_key IS NOT NULL AS keyed,
            e.concurrency_key IS NOT NULL AND e.on_limit <> 'queue' AS on_limit
)
SELECT EXISTS (SELECT FROM woken) OR EXISTS (SELECT FROM executions WHERE {WANTS_A_SLOT})
         OR EXISTS (SELECT FROM executions WHERE ready AND status IN ('RUNNING', 'CANCELLING')) AS ready,
       EXISTS (SELECT FROM woken WHERE keyed) OR EXISTS (
         SELECT FROM executions WHERE {WANTS_A_SLOT} AND (concurrency_key IS NOT NULL OR rate_key IS NOT NULL)
       ) AS keyed,
       EXISTS (SELECT FROM woken WHERE on_limit) OR EXISTS (SELECT FROM executions e WHERE {_OVER_LIMIT}) AS on_limit,
       EXISTS (SELECT FROM executions WHERE status = 'PENDING' AND expires_at IS NOT NULL AND expires_at <= {_NOW}
                  AND owner IS NULL) AS expired"""
"""Makes ready whose time has come, and tells what there is to claim."""

EXPIRED = f"""
WITH picked AS (
  SELECT id, 0 AS place, 'queue_expired' AS verdict FROM executions
   WHERE status = 'PENDING' AND expires_at IS NOT NULL AND expires_at <= {_NOW} AND owner IS NULL
   ORDER BY expires_at LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED
)
{_take("picked", has_slot=False)}"""
"""Who waited too long is claimed to be ended."""

OVERFLOW = f"""
WITH RECURSIVE keys AS (
  SELECT 0 AS n, $4::text COLLATE "C" AS org_id, $5::text COLLATE "C" AS ckey
  UNION ALL
  SELECT k.n + 1, x.org_id, x.concurrency_key FROM keys k CROSS JOIN LATERAL (
    SELECT e.org_id, e.concurrency_key FROM executions e
     WHERE {_OVER_LIMIT} AND (e.org_id, e.concurrency_key) > (k.org_id, k.ckey)
     ORDER BY e.org_id, e.concurrency_key, e.created_at LIMIT 1) x
   WHERE k.n < {LANES_AT_ONCE}
), waiting AS (
  SELECT x.*, row_number() OVER (PARTITION BY x.org_id, x.ckey ORDER BY x.created_at, x.id) AS place
    FROM keys k CROSS JOIN LATERAL (
      SELECT e.id, e.org_id, e.concurrency_key AS ckey, e.created_at, e.on_limit, e.concurrency_limit
        FROM executions e WHERE {_OVER_LIMIT} AND e.org_id = k.org_id AND e.concurrency_key = k.ckey) x
   WHERE k.n > 0
), holding AS (
  SELECT x.*, count(*) OVER (PARTITION BY x.org_id, x.ckey) AS holders FROM keys k CROSS JOIN LATERAL (
    SELECT id, org_id, concurrency_key AS ckey, created_at, status FROM executions
     WHERE org_id = k.org_id AND concurrency_key = k.ckey AND ({HOLDS_A_SLOT})) x
   WHERE k.n > 0
), youngest AS (
  SELECT *, row_number() OVER (PARTITION BY org_id, ckey ORDER BY created_at DESC, id DESC) AS nth FROM (
    SELECT id, org_id, ckey, created_at, 'PENDING' AS status FROM waiting
    UNION ALL
    SELECT id, org_id, ckey, created_at, status FROM holding WHERE status <> 'CANCELLING') x
), rule AS (
  SELECT DISTINCT ON (org_id, ckey) org_id, ckey, on_limit, concurrency_limit FROM waiting
   ORDER BY org_id, ckey, created_at DESC, id DESC
), ousted AS (
  SELECT y.id, y.org_id, row_number() OVER () AS n FROM youngest y JOIN rule r USING (org_id, ckey)
   WHERE r.on_limit = 'cancel_oldest' AND y.status = 'RUNNING' AND y.nth > r.concurrency_limit AND NOT EXISTS (
     SELECT FROM execution_inbox i WHERE i.org_id = y.org_id AND i.execution_id = y.id AND i.kind = 'cancel'
        AND i.dedupe_key = 'concurrency')
   LIMIT cardinality($3::text[])
), mailed AS (
  INSERT INTO execution_inbox (id, org_id, execution_id, kind, payload, dedupe_key)
  SELECT ($3::text[])[n], org_id, id, 'cancel', '{{"reason":"A newer execution took its place"}}', 'concurrency'
    FROM ousted
  ON CONFLICT DO NOTHING RETURNING execution_id
), picked AS (
  SELECT w.id, 0 AS place,
         CASE w.on_limit WHEN 'skip' THEN 'concurrency_skipped' ELSE 'concurrency_cancelled' END AS verdict
    FROM waiting w JOIN youngest y ON y.id = w.id
    LEFT JOIN (SELECT DISTINCT org_id, ckey, holders FROM holding) h ON h.org_id = w.org_id AND h.ckey = w.ckey
   WHERE CASE WHEN w.on_limit = 'cancel_oldest' THEN y.nth ELSE coalesce(h.holders, 0) + w.place END
         > w.concurrency_limit
   ORDER BY w.created_at LIMIT $2
), locked AS (
  SELECT e.id FROM executions e WHERE e.id IN (SELECT id FROM picked) AND e.ready FOR NO KEY UPDATE SKIP LOCKED
), taken AS (
{_take("(SELECT * FROM picked JOIN locked USING (id))", has_slot=False)}
)
SELECT f.*, t.* FROM (
  SELECT (SELECT ARRAY[org_id, ckey] FROM keys WHERE n = {LANES_AT_ONCE}) AS last,
         (SELECT count(pg_notify('stepstream_inbox', ':' || execution_id)) FROM mailed) AS rung) f
  LEFT JOIN taken t ON true"""
"""What is beyond the limit of its key is claimed to be ended, if the key does not let it queue.

`skip` and `cancel_newest` keep those who came first, in the queue too; `cancel_oldest` keeps who came last, and writes
to those who run in their place. The rule of the newest in the queue decides for who runs. $3: ids for such mail.
"""

CLAIM = f"""
WITH RECURSIVE suspect AS (
  SELECT id FROM executions WHERE ready AND status IN ('RUNNING', 'CANCELLING') AND recoveries >= $10
   ORDER BY recoveries DESC, created_at LIMIT $11 FOR NO KEY UPDATE SKIP LOCKED
), orphans AS (
  SELECT id FROM executions WHERE ready AND status IN ('RUNNING', 'CANCELLING') AND recoveries < $10
   ORDER BY created_at LIMIT $2 - (SELECT count(*) FROM suspect) FOR NO KEY UPDATE SKIP LOCKED
), holders AS (
  SELECT id FROM suspect UNION ALL SELECT id FROM orphans
), lanes AS (
  SELECT 0 AS n, $6::text COLLATE "C" AS org_id, $7::text COLLATE "C" AS user_id, $8::text COLLATE "C" AS ckey,
         $9::text COLLATE "C" AS rkey, 0 AS key_limit, 0 AS rate_limit, 0::float8 AS rate_seconds,
         0::bigint AS org_slots, 0::bigint AS user_slots
  UNION ALL
  SELECT l.n + 1, x.org_id, x.user_id, x.ckey, x.rkey, x.concurrency_limit, x.rate_limit, x.rate_seconds,
         CASE WHEN l.n > 0 AND x.org_id = l.org_id THEN l.org_slots ELSE (
           SELECT count(*) FROM (
             SELECT FROM executions WHERE org_id = x.org_id AND ({HOLDS_A_SLOT})
              LIMIT CASE WHEN $4::int > 0 THEN $4 ELSE {COUNTED} END) held) END,
         CASE WHEN l.n > 0 AND x.org_id = l.org_id AND x.user_id = l.user_id THEN l.user_slots ELSE (
           SELECT count(*) FROM (
             SELECT FROM executions WHERE org_id = x.org_id AND user_id = x.user_id AND ({HOLDS_A_SLOT})
              LIMIT CASE WHEN $3::int > 0 THEN $3 ELSE {COUNTED} END) held) END
    FROM lanes l CROSS JOIN LATERAL (
      SELECT e.org_id, e.user_id, coalesce(e.concurrency_key, '') AS ckey, coalesce(e.rate_key, '') AS rkey,
             e.concurrency_limit, e.rate_limit, e.rate_seconds
        FROM executions e
       WHERE {WANTS_A_SLOT} AND ({_LANE}) > (
               l.org_id,
               CASE WHEN $4 > 0 AND l.org_slots >= $4 THEN {_LAST} ELSE l.user_id END,
               CASE WHEN $4 > 0 AND l.org_slots >= $4 OR $3 > 0 AND l.user_slots >= $3 THEN {_LAST} ELSE l.ckey END,
               l.rkey)
       ORDER BY {_LANE}, {_IN_LANE} LIMIT 1) x
   WHERE l.n < {LANES_AT_ONCE}
), held AS (
  SELECT l.*, CASE WHEN l.ckey = '' THEN 0 ELSE (
           SELECT count(*) FROM (
             SELECT FROM executions WHERE org_id = l.org_id AND concurrency_key = l.ckey AND ({HOLDS_A_SLOT})
              LIMIT l.key_limit) held) END AS key_slots,
         CASE WHEN l.rkey = '' THEN 0 ELSE (
           SELECT count(*) FROM (
             SELECT FROM executions WHERE org_id = l.org_id AND rate_key = l.rkey
                AND started_at > {_NOW} - l.rate_seconds * interval '1 second'
              LIMIT l.rate_limit) begun) + (
           SELECT count(*) FROM (
             SELECT FROM executions WHERE org_id = l.org_id AND rate_key = l.rkey
                AND started_at IS NULL AND owner IS NOT NULL AND has_slot
              LIMIT l.rate_limit) beginning) END AS begun
    FROM lanes l
   WHERE l.n > 0 AND ($3 = 0 OR l.user_slots < $3) AND ($4 = 0 OR l.org_slots < $4)
     AND ($5 OR (l.ckey = '' AND l.rkey = ''))
), open AS (
  SELECT *, least({_SPARE}, CASE WHEN $3 > 0 THEN $3 - user_slots END, CASE WHEN $4 > 0 THEN $4 - org_slots END,
                  CASE WHEN ckey <> '' THEN key_limit - key_slots END,
                  greatest(3, {OFFERED} / (SELECT count(*) FROM held))) AS room
    FROM held WHERE ckey = '' OR key_limit IS NULL OR key_slots < key_limit
), offered AS (
  SELECT x.*, l.n AS lane, l.ckey, l.rkey, l.org_slots, l.user_slots, l.key_slots, l.begun
    FROM open l CROSS JOIN LATERAL (
      SELECT e.id, e.org_id, e.user_id, e.status = 'PENDING' AS new, e.priority, e.created_at, e.concurrency_limit,
             e.rate_limit
        FROM executions e
       WHERE {WANTS_A_SLOT} AND e.org_id = l.org_id AND e.user_id = l.user_id
         AND coalesce(e.concurrency_key, '') = l.ckey AND coalesce(e.rate_key, '') = l.rkey
         AND (e.status <> 'PENDING' OR e.expires_at IS NULL OR e.expires_at > {_NOW})
       ORDER BY {_LANE}, {_IN_LANE} LIMIT l.room) x
), within_rate AS (
  SELECT * FROM (
    SELECT *, row_number() OVER (PARTITION BY lane, new ORDER BY priority DESC, created_at, id) AS nth FROM offered) x
   WHERE rkey = '' OR NOT new OR rate_limit IS NULL OR begun + nth <= rate_limit
), users AS (
  SELECT *, user_slots + row_number() OVER (
           PARTITION BY org_id, user_id ORDER BY new, priority DESC, created_at, id) AS user_turn FROM within_rate
), orgs AS (
  SELECT *, org_slots + row_number() OVER (
           PARTITION BY org_id ORDER BY new, priority DESC, user_turn, created_at, id) AS org_turn FROM users
), line AS (
  SELECT *, row_number() OVER (ORDER BY new, org_turn, priority DESC, created_at, id) AS place FROM orgs
), by_user AS (
  SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY org_id, user_id ORDER BY place) AS u FROM line) x
   WHERE $3 = 0 OR user_slots + u <= $3
), by_org AS (
  SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY org_id ORDER BY place) AS o FROM by_user) x
   WHERE $4 = 0 OR org_slots + o <= $4
), by_key AS (
  SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY org_id, ckey ORDER BY place) AS k FROM by_org) x
   WHERE ckey = '' OR concurrency_limit IS NULL OR key_slots + k <= concurrency_limit
), by_rate AS (
  SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY org_id, rkey, new ORDER BY place) AS r FROM by_key) x
   WHERE rkey = '' OR NOT new OR rate_limit IS NULL OR begun + r <= rate_limit
), chosen AS (
  SELECT id, place FROM by_rate ORDER BY place LIMIT {_SPARE}
), locked AS (
  SELECT e.id, c.place FROM chosen c JOIN executions e ON e.id = c.id WHERE e.ready
   ORDER BY c.place LIMIT $2 - (SELECT count(*) FROM holders) FOR NO KEY UPDATE OF e SKIP LOCKED
), picked AS (
  SELECT id, 0 AS place, NULL AS verdict FROM holders UNION ALL SELECT id, place, NULL FROM locked
), taken AS (
{_take("picked", has_slot=True)}
)
SELECT f.*, t.* FROM (
  SELECT (SELECT ARRAY[org_id, user_id, ckey, rkey] FROM lanes WHERE n = {LANES_AT_ONCE}) AS last,
         (SELECT count(*) FROM within_rate) > (SELECT count(*) FROM locked) AS more) f
  LEFT JOIN taken t ON true"""
"""Gives slots: to who holds one already, then to who has run before, then to new ones.

Among organisations those with the fewest slots come first, and in one organisation those of the highest priority, then
users with the fewest slots. A limit that cuts somebody off may have cut him in front of another one who would fit:
`more` says that asking again may find some. $3 and $4: slots of a user and of an organisation, 0 for any number; $5:
whether lanes with a key are served; $6 to $9: the lane behind which to begin; $10: from how many recoveries on an
execution is suspected of killing its workers; $11: how many of those may be taken.
"""

CALLED = f"""
WITH unread AS (
  SELECT DISTINCT i.execution_id FROM execution_inbox i WHERE i.applied_at IS NULL
), moot AS (
  UPDATE execution_inbox i SET applied_at = clock_timestamp()
    FROM unread u JOIN executions e ON e.id = u.execution_id
   WHERE i.execution_id = u.execution_id AND i.applied_at IS NULL AND e.status IN ('COMPLETED', 'FAILED', 'CANCELLED')
), picked AS (
  SELECT e.id, 0 AS place, NULL AS verdict FROM executions e
   WHERE e.id IN (SELECT execution_id FROM unread) AND e.owner IS NULL
     AND e.status IN ('PENDING', 'WAITING', 'PAUSED')
   LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED
)
{_take("picked", has_slot=False)}"""
"""Who has mail and no owner to read it gets one, without a slot. What came too late for its run counts as read."""

STRAYS = """
SELECT e.id, e.lease_epoch FROM executions e
 WHERE e.owner = $1 AND NOT EXISTS (SELECT FROM unnest($2::text[]) AS kept(id) WHERE kept.id = e.id)"""
"""What $1 owns besides $2."""

RELEASE = f"""
UPDATE executions e SET owner = NULL, ready = {IS_READY}
  FROM unnest($2::text[], $3::int[]) AS stray(id, epoch)
 WHERE e.id = stray.id AND e.owner = $1 AND e.lease_epoch = stray.epoch
RETURNING e.id"""
"""By epoch: one that a broken connection delivers late must not take away what was claimed since."""
