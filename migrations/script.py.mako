"""${message}

Revision ${up_revision}, after ${down_revision | comma,n}. Expand first, contract a release later: the last release runs
on this schema too. Row-level security shows the owner no rows: to change data, create a policy for stepstream_owner on
the table, and drop it at the end.
"""

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
