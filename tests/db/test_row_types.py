"""What is sent as a row is, field by field, what the database takes for one."""

import inspect
import re

import pytest

from app.db import record_sql
from app.engine import rows
from tests.database import Database

ATTRIBUTES = """
SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_type t JOIN pg_attribute a ON a.attrelid = t.typrelid
 WHERE t.typname = $1 AND a.attnum > 0 AND NOT a.attisdropped"""

TYPES = {
    "recorded_execution": rows.ExecutionRow,
    "recorded_step": rows.StepRow,
    "recorded_attempt": rows.AttemptRow,
    "recorded_event": rows.EventRow,
    "recorded_usage": rows.UsageRow,
    "recorded_end": rows.EndRow,
    "recorded_mail": rows.MailMark,
    "recorded_approval": rows.ApprovalRow,
    "recorded_letter": rows.OutgoingMail,
    "recorded_handler": rows.FailureHandler,
}


def test_every_kind_of_row_has_its_type() -> None:
    sent = re.findall(r"unnest\(\$\w+::(\w+)\[\]\)", inspect.getsource(record_sql))
    assert set(sent) == TYPES.keys()


@pytest.mark.parametrize("name", TYPES)
async def test_a_row_has_the_attributes_of_its_type_in_their_order(database: Database, name: str) -> None:
    assert await database.fetchval(ATTRIBUTES, name) == [*TYPES[name]._fields]
