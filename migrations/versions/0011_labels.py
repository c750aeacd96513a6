"""Executions by label: a row for each, in the order of lists.

A GIN index would not do: containment may not be looked at before it is known whose row it is. A trigger writes the rows,
so that executions that a version before accepts have theirs, too; those without labels pay for one comparison.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None
additive = True

ID = sa.Text(collation="C")
OWN_ROWS = "org_id = NULLIF(current_setting('app.org_id', true), '')"
LIST_LABELS = """
CREATE FUNCTION list_labels() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO execution_labels (org_id, key, value, execution_id)
    SELECT NEW.org_id, key, value, NEW.id FROM jsonb_each_text(NEW.labels);
  RETURN NULL;
END $$
"""
LABELS_ARE_LISTED = """
CREATE TRIGGER labels_are_listed AFTER INSERT ON executions FOR EACH ROW
  WHEN (NEW.labels <> '{}') EXECUTE FUNCTION list_labels()
"""
LIST_THOSE_THERE = """
INSERT INTO execution_labels (org_id, key, value, execution_id)
  SELECT e.org_id, l.key, l.value, e.id FROM executions e, jsonb_each_text(e.labels) l WHERE e.labels <> '{}'
"""


def upgrade() -> None:
    op.create_table(
        "execution_labels",
        sa.Column("org_id", ID, nullable=False),
        sa.Column("key", ID, nullable=False),
        sa.Column("value", ID, nullable=False),
        sa.Column("execution_id", ID, nullable=False),
        sa.PrimaryKeyConstraint("org_id", "key", "value", "execution_id", name=op.f("pk_execution_labels")),
    )
    op.execute(LIST_LABELS)
    op.execute(LABELS_ARE_LISTED)
    op.execute("ALTER TABLE executions NO FORCE ROW LEVEL SECURITY")  # the owner of the tables has no policy
    op.execute(LIST_THOSE_THERE)
    op.execute("ALTER TABLE executions FORCE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE execution_labels ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE execution_labels FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY org ON execution_labels TO stepstream_api USING ({OWN_ROWS}) WITH CHECK ({OWN_ROWS})")
    op.execute("CREATE POLICY engine ON execution_labels TO stepstream_engine USING (true) WITH CHECK (true)")
    op.execute("GRANT SELECT ON execution_labels TO stepstream_api, stepstream_engine")
    op.execute("GRANT INSERT ON execution_labels TO stepstream_engine")


def downgrade() -> None:
    op.execute("DROP TRIGGER labels_are_listed ON executions")
    op.execute("DROP FUNCTION list_labels()")
    op.drop_table("execution_labels")
