"""Cursors of pages: opaque, signed, and each of one spelling."""

import pytest

from app.api.pagination import Cursors
from app.domain.errors import Problems

CURSORS = Cursors(b"key")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@pytest.mark.parametrize("position", ["exec_1", "exec_12", "exec_123", "ä"])
def test_a_cursor_is_read_where_it_was_made_and_however_altered_nowhere(position):
    cursor = CURSORS.make(position, "org_a:executions")
    assert CURSORS.read(cursor, "org_a:executions") == position
    # Letters at the end that differ only in bits that are not decoded are among these.
    altered = [cursor[:-1] + letter for letter in LETTERS if letter != cursor[-1]]
    for wrong in [*altered, cursor + "=", cursor + "A", cursor[:-1], "", "ä"]:
        with pytest.raises(Problems):
            CURSORS.read(wrong, "org_a:executions")
    with pytest.raises(Problems):
        CURSORS.read(cursor, "org_b:executions")
