"""The kinds of rows that the recorder sends: one array of rows for each, instead of one array for each column."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None
additive = True

TYPES = {
    "accepted_execution": (
        "id text, org_id text, workflow_id text, version integer, user_id text, input_text text, labels_text text, "
        "priority integer, ip_address text, user_agent text, request_id text, event_text text, audit_id text, "
        "key text, fingerprint text, root_id text, retry_of text, forked_from text, parent_id text, "
        "parent_path text, depth integer, control_text text, start_at timestamptz, queue_ttl double precision, "
        "concurrency_key text, concurrency_limit integer, on_limit text, rate_key text, rate_limit integer, "
        "rate_seconds double precision, worker_id text"
    ),
    "accepted_step": "id text, source_id text, path text",
    "recorded_execution": (
        "id text, owner text, epoch integer, write_no integer, status text, status_reason text, status_message text, "
        "progress integer, next_seq integer, recorded_at timestamptz, started_at timestamptz, "
        "deadline_at timestamptz, wake_at timestamptz, tokens_used bigint, cost double precision, graph_text text, "
        "agent_results_text text, control_text text, settles_step boolean, releases boolean, ready boolean, "
        "ends boolean, output_text text, error text, error_code text, fingerprint text"
    ),
    "recorded_step": (
        "execution_id text, path text, number integer, name text, type text, status text, attempt integer, "
        "failures integer, input_text text, output_text text, ports text[], error text, error_code text, "
        "reason text, wake_at timestamptz, started_at timestamptz, attempt_started_at timestamptz, "
        "completed_at timestamptz, execution_time_ms double precision, tokens_used bigint, cost double precision, "
        "awaits_text text, reused_from text, iteration integer, items integer, edited_by text"
    ),
    "recorded_attempt": (
        "execution_id text, path text, attempt integer, status text, error text, error_code text, "
        "started_at timestamptz, completed_at timestamptz, trace text"
    ),
    "recorded_event": (
        "execution_id text, seq integer, type text, step_id text, timestamp timestamptz, progress integer, "
        "data_text text"
    ),
    "recorded_usage": (
        "execution_id text, steps integer, seconds double precision, tokens bigint, cost double precision"
    ),
    "recorded_end": "execution_id text, audit_id text, told text[]",
    "recorded_mail": "execution_id text, mail_id text, used_by text",
    "recorded_approval": (
        "execution_id text, id text, path text, status text, title text, message text, form_text text, "
        "deciders_text text, quorum integer, deadline_at timestamptz"
    ),
    "recorded_letter": "execution_id text, id text, receiver text, kind text, payload_text text",
    "recorded_handler": "execution_id text, id text, audit_id text, workflow_id text, input_text text",
}
"""A process sends rows of the types that it knows: a type is never changed, a later version makes a new one."""


def upgrade() -> None:
    for name, attributes in TYPES.items():
        op.execute(f"CREATE TYPE {name} AS ({attributes})")


def downgrade() -> None:
    for name in TYPES:
        op.execute(f"DROP TYPE {name}")
