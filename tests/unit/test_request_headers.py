"""Headers looked through once say what Starlette's say, which look again each time."""

from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from app.api.headers import RequestHeaders

NAMES = st.sampled_from([b"accept", b"authorization", b"x-request-id", b"prefer"])
VALUES = st.binary(max_size=8)
ASKED = ["accept", "Authorization", "X-Request-ID", "prefer", "cookie", ""]


@given(st.lists(st.tuples(NAMES, VALUES), max_size=8))
def test_they_say_the_same(raw):
    mine, theirs = RequestHeaders({"headers": raw}), Headers(scope={"headers": raw})
    for name in ASKED:
        assert mine.getlist(name) == theirs.getlist(name)
        assert mine.get(name) == theirs.get(name)
        assert mine.get(name, "none") == theirs.get(name, "none")
        assert (name in mine) == (name in theirs)
    assert mine.items() == theirs.items()
    assert mine == theirs
