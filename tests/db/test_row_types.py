"""What is sent as a row is, field by field, what the database takes for one."""

import inspect
import re
from collections.abc import Sequence

import pytest

from app.db import accept_sql, record_sql
from app.engine import rows
from tests.database import Database

ATTRIBUTES = """
SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_type t JOIN pg_attribute a ON a.attrelid = t.typrelid
 WHERE t.typname = $1 AND a.attnum > 0 AND NOT a.attisdropped"""

TYPES: dict[str, Sequence[str]] = {
    "accepted_execution": (*accept_sql.ATTRIBUTES, "worker_id"),
    "accepted_step": ("id", "source_id", "path"),
    "recorded_execution": rows.ExecutionRow._fields,
    "recorded_step": rows.StepRow._fields,
    "recorded_attempt": rows.AttemptRow._fields,
    "recorded_event": rows.EventRow._fields,
    "recorded_usage": rows.UsageRow._fields,
    "recorded_end": rows.EndRow._fields,
    "recorded_mail": rows.MailMark._fields,
    "recorded_approval": rows.ApprovalRow._fields,
    "recorded_letter": rows.OutgoingMail._fields,
    "recorded_handler": rows.FailureHandler._fields,
}


def test_every_kind_of_row_has_its_type() -> None:
    sources = inspect.getsource(record_sql) + inspect.getsource(accept_sql)
    assert {*re.findall(r"unnest\(\$\w+::(\w+)\[\]\)", sources)} == TYPES.keys()


@pytest.mark.parametrize("name", TYPES)
async def test_a_row_has_the_attributes_of_its_type_in_their_order(database: Database, name: str) -> None:
    assert await database.fetchval(ATTRIBUTES, name) == [*TYPES[name]]
