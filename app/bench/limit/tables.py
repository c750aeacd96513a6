"""Tables with the columns that a record needs, and the two statements that write them."""

ORG, USER, WORKER = "org_bench", "user_bench", "worker_bench"

TABLES = """
CREATE TABLE organizations (id text COLLATE "C" PRIMARY KEY);
CREATE TABLE users (id text COLLATE "C" PRIMARY KEY);
CREATE TABLE workflows (
  id text COLLATE "C" PRIMARY KEY, org_id text COLLATE "C" NOT NULL REFERENCES organizations,
  execution_count bigint NOT NULL DEFAULT 0, success_count bigint NOT NULL DEFAULT 0,
  failure_count bigint NOT NULL DEFAULT 0, last_executed_at timestamptz) WITH (fillfactor = 50);
CREATE TABLE executions (
  id text COLLATE "C" PRIMARY KEY, org_id text COLLATE "C" NOT NULL REFERENCES organizations,
  workflow_id text COLLATE "C" NOT NULL REFERENCES workflows, user_id text COLLATE "C" NOT NULL REFERENCES users,
  status text NOT NULL, owner text COLLATE "C", lease_epoch int NOT NULL DEFAULT 0, write_no int NOT NULL DEFAULT 0,
  next_seq int NOT NULL DEFAULT 2, progress int NOT NULL DEFAULT 0, input_data text, output text, error text,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(), started_at timestamptz, completed_at timestamptz)
  WITH (fillfactor = 70);
CREATE INDEX ON executions (org_id, id);
CREATE INDEX ON executions (org_id, workflow_id, id);
CREATE INDEX ON executions (created_at) WHERE status = 'PENDING' AND owner IS NULL;
CREATE TABLE execution_steps (
  execution_id text COLLATE "C" NOT NULL, path text COLLATE "C" NOT NULL, org_id text COLLATE "C" NOT NULL,
  epoch int NOT NULL, status text NOT NULL, output text, started_at timestamptz, completed_at timestamptz,
  PRIMARY KEY (execution_id, path));
CREATE TABLE step_attempts (
  execution_id text COLLATE "C" NOT NULL, path text COLLATE "C" NOT NULL, attempt int NOT NULL,
  org_id text COLLATE "C" NOT NULL, epoch int NOT NULL, worker_id text COLLATE "C" NOT NULL, status text NOT NULL,
  started_at timestamptz, completed_at timestamptz, PRIMARY KEY (execution_id, path, attempt));
CREATE TABLE execution_events (
  execution_id text COLLATE "C" NOT NULL, seq int NOT NULL, org_id text COLLATE "C" NOT NULL, type text NOT NULL,
  step_id text, timestamp timestamptz NOT NULL, data text NOT NULL, PRIMARY KEY (execution_id, seq));
CREATE TABLE audit_logs (
  id text COLLATE "C" PRIMARY KEY, org_id text COLLATE "C" NOT NULL, user_id text, action text NOT NULL,
  resource_type text, resource_id text, details text, success bool NOT NULL,
  timestamp timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TABLE usage_by_day (
  org_id text COLLATE "C", day date, workflow_id text COLLATE "C", steps bigint NOT NULL,
  PRIMARY KEY (org_id, day, workflow_id)) WITH (fillfactor = 50);
INSERT INTO organizations VALUES ('org_bench');
INSERT INTO users VALUES ('user_bench')"""

ADD_WORKFLOW = "INSERT INTO workflows (id, org_id) VALUES ($1, 'org_bench') ON CONFLICT DO NOTHING"

PIN_PLANS = (
    "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_mergejoin = off; SET jit = off"
)
"""Plans are made while the tables are empty, for tables that grow: with sequential scans they would get slower."""

CREATE = """
WITH x AS (
  INSERT INTO executions (id, org_id, workflow_id, user_id, status, owner, lease_epoch, input_data)
  SELECT id, 'org_bench', workflow_id, 'user_bench', 'PENDING', $3, 1, 'null'
    FROM unnest($1::text[], $2::text[]) AS t(id, workflow_id)
  RETURNING id, created_at
), e AS (
  INSERT INTO execution_events (execution_id, seq, org_id, type, timestamp, data)
  SELECT id, 1, 'org_bench', 'execution_queued', created_at, '{}' FROM x
), a AS (
  INSERT INTO audit_logs (id, org_id, user_id, action, resource_type, resource_id, details, success)
  SELECT 'audit_' || substr(id, 6), 'org_bench', 'user_bench', 'execution.created', 'execution', id, '{}', true FROM x
)
SELECT count(*) FROM x"""
"""Who accepts with nobody waiting owns at once: there is nothing to claim."""

WRITE = """
WITH t AS (
  SELECT * FROM unnest($2::text[], $3::int[], $4::int[], $5::text[], $6::text[], $7::int[], $8::int[])
    AS t(id, epoch, write_no, status, output, next_seq, progress)
), f AS (
  UPDATE executions e SET
    write_no = t.write_no, status = coalesce(t.status, 'RUNNING'), output = t.output, next_seq = t.next_seq,
    progress = t.progress, owner = CASE WHEN t.status IS NULL THEN e.owner END,
    started_at = coalesce(e.started_at, clock_timestamp()),
    completed_at = CASE WHEN t.status IS NOT NULL THEN clock_timestamp() END
  FROM t
  WHERE e.id = t.id AND e.owner IS NOT DISTINCT FROM $1 AND e.lease_epoch = t.epoch AND e.write_no = t.write_no - 1
  RETURNING e.id, e.org_id, e.workflow_id, e.user_id, e.lease_epoch, t.status
), x AS MATERIALIZED (
  SELECT x.id, x.path, f.org_id, f.workflow_id, f.lease_epoch, x.output,
         to_timestamp(x.begun) AS begun_at, to_timestamp(x.ended) AS ended_at
    FROM unnest($9::text[], $10::text[], $11::text[], $12::float8[], $13::float8[]) AS x(id, path, output, begun, ended)
    JOIN f ON f.id = x.id
), s AS (
  INSERT INTO execution_steps (execution_id, path, org_id, epoch, status, output, started_at, completed_at)
  SELECT id, path, org_id, lease_epoch, 'COMPLETED', output, begun_at, ended_at FROM x
), a AS (
  INSERT INTO step_attempts (execution_id, path, attempt, org_id, epoch, worker_id, status, started_at, completed_at)
  SELECT id, path, 1, org_id, lease_epoch, $1, 'COMPLETED', begun_at, ended_at FROM x WHERE begun_at IS NOT NULL
), e AS (
  INSERT INTO execution_events (execution_id, seq, org_id, type, step_id, timestamp, data)
  SELECT x.id, x.seq, f.org_id, x.type, x.step_id, to_timestamp(x.at), x.data
    FROM unnest($14::text[], $15::int[], $16::text[], $17::text[], $18::float8[], $19::text[])
      AS x(id, seq, type, step_id, at, data)
    JOIN f ON f.id = x.id
), l AS (
  INSERT INTO audit_logs (id, org_id, user_id, action, resource_type, resource_id, details, success)
  SELECT 'audit_' || substr(f.id, 6) || 'e', f.org_id, f.user_id, 'workflow.executed', 'workflow', f.workflow_id,
         '{"execution_id":"' || f.id || '"}', f.status = 'COMPLETED'
    FROM f WHERE f.status IS NOT NULL
), u AS (
  INSERT INTO usage_by_day AS old (org_id, day, workflow_id, steps)
  SELECT org_id, current_date, workflow_id, count(*) FROM x GROUP BY org_id, workflow_id ORDER BY org_id, workflow_id
  ON CONFLICT (org_id, day, workflow_id) DO UPDATE SET steps = old.steps + excluded.steps
), c AS (
  UPDATE workflows w SET
    execution_count = execution_count + g.n, success_count = success_count + g.succeeded,
    failure_count = failure_count + g.n - g.succeeded, last_executed_at = clock_timestamp()
  FROM (SELECT workflow_id, count(*) AS n, count(*) FILTER (WHERE status = 'COMPLETED') AS succeeded
          FROM f WHERE status IS NOT NULL GROUP BY workflow_id ORDER BY workflow_id) g
  WHERE w.id = g.workflow_id
)
SELECT id FROM f"""
"""The fenced update comes first and all else joins its RETURNING: who lost the lease writes nothing at all."""
