"""Who may do what with the tables, and what keeps the record final.

Row-level security shows the api role the rows of one organisation, the one its transaction is bound to, and no rows to
who has no policy, the owner included. Engine and auth have policies instead of BYPASSRLS: they are visible, hold under
FORCE, and a managed Postgres lets us create them.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

BOUND_ORG = "NULLIF(current_setting('app.org_id', true), '')"
OWN_ROWS = f"org_id = {BOUND_ORG}"
FELLOW_MEMBERS = f"EXISTS (SELECT 1 FROM memberships m WHERE m.user_id = users.id AND m.org_id = {BOUND_ORG})"
VISIBLE = {"organizations": f"id = {BOUND_ORG}", "users": FELLOW_MEMBERS} | dict.fromkeys(
    (
        "memberships api_keys refresh_tokens stream_tickets audit_logs workflows workflow_versions executions "
        "execution_steps step_attempts execution_events execution_inbox idempotency_keys"
    ).split(),
    OWN_ROWS,
)
AUTH_TABLES = "organizations users memberships api_keys refresh_tokens stream_tickets audit_logs".split()

GRANTS = {
    "stepstream_api": {
        "SELECT": "organizations, memberships, workflows, workflow_versions, executions, execution_steps, "
        "step_attempts, execution_events, execution_inbox, audit_logs",
        "SELECT (id, email, name, token_version, disabled, created_at)": "users",
        "SELECT (id, org_id, user_id, name, scopes, expires_at, revoked_at, last_used_at, created_at)": "api_keys",
        "INSERT": "workflows, workflow_versions, execution_inbox, api_keys, audit_logs",
        "UPDATE (name, description, project_id, latest_version, published_version, updated_at, archived_at)": (
            "workflows"
        ),
        "UPDATE (revoked_at)": "api_keys",
        "DELETE": "workflows, workflow_versions",
    },
    "stepstream_engine": {
        "SELECT, INSERT, UPDATE": "executions, execution_steps",
        "SELECT, INSERT": "step_attempts, execution_events",
        "SELECT, UPDATE (applied_at), DELETE": "execution_inbox",
        "SELECT, INSERT, DELETE": "idempotency_keys",
        "SELECT, INSERT, UPDATE, DELETE": "workers",
        "SELECT, UPDATE (execution_count, success_count, failure_count, cancelled_count, last_executed_at)": (
            "workflows"
        ),
        "SELECT": "workflow_versions",
        "INSERT": "audit_logs",
        "SELECT, DELETE": "refresh_tokens, stream_tickets",
    },
    "stepstream_auth": {
        "SELECT, INSERT": "organizations, memberships",
        "SELECT, INSERT, UPDATE (password_hash, token_version)": "users",
        "SELECT, UPDATE (last_used_at)": "api_keys",
        "SELECT, INSERT, UPDATE, DELETE": "refresh_tokens",
        "SELECT, INSERT, DELETE": "stream_tickets",
        "INSERT": "audit_logs",
    },
}
LOGINS = ", ".join(GRANTS)

REFUSE_CHANGE_OF_OUTCOME = """
CREATE FUNCTION refuse_change_of_outcome() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'The execution % is %, which is final: it cannot become %.', OLD.id, OLD.status, NEW.status
    USING ERRCODE = 'SS001';
END $$
"""
OUTCOME_IS_FINAL = """
CREATE TRIGGER outcome_is_final BEFORE UPDATE OF status ON executions FOR EACH ROW
  WHEN (OLD.status IN ('COMPLETED', 'FAILED', 'CANCELLED') AND NEW.status IS DISTINCT FROM OLD.status)
  EXECUTE FUNCTION refuse_change_of_outcome()
"""
REFUSE_CHANGE_OF_SETTLED_STEP = """
CREATE FUNCTION refuse_change_of_settled_step() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'The step % of the execution % is %: what settled is not written again.',
    OLD.path, OLD.execution_id, OLD.status USING ERRCODE = 'SS002';
END $$
"""
SETTLED_IS_FINAL = """
CREATE TRIGGER settled_is_final BEFORE UPDATE ON execution_steps FOR EACH ROW
  WHEN (OLD.status IN ('COMPLETED', 'FAILED', 'SKIPPED', 'CANCELLED'))
  EXECUTE FUNCTION refuse_change_of_settled_step()
"""


def upgrade() -> None:
    for statement in (REFUSE_CHANGE_OF_OUTCOME, OUTCOME_IS_FINAL, REFUSE_CHANGE_OF_SETTLED_STEP, SETTLED_IS_FINAL):
        op.execute(statement)
    for table, visible in VISIBLE.items():
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY org ON {table} TO stepstream_api USING ({visible}) WITH CHECK ({visible})")
        op.execute(f"CREATE POLICY engine ON {table} TO stepstream_engine USING (true) WITH CHECK (true)")
    for table in AUTH_TABLES:
        op.execute(f"CREATE POLICY auth ON {table} TO stepstream_auth USING (true) WITH CHECK (true)")
    for role, grants in GRANTS.items():
        for verbs, tables in grants.items():
            op.execute(f"GRANT {verbs} ON {tables} TO {role}")
    op.execute(f"GRANT SELECT ON alembic_version TO {LOGINS}")


def downgrade() -> None:
    op.execute(f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {LOGINS}")
    for table in AUTH_TABLES:
        op.execute(f"DROP POLICY auth ON {table}")
    for table in VISIBLE:
        op.execute(f"DROP POLICY org ON {table}")
        op.execute(f"DROP POLICY engine ON {table}")
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
    op.execute("DROP TRIGGER outcome_is_final ON executions")
    op.execute("DROP TRIGGER settled_is_final ON execution_steps")
    op.execute("DROP FUNCTION refuse_change_of_outcome()")
    op.execute("DROP FUNCTION refuse_change_of_settled_step()")
