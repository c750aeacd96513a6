"""How many streams may be open at once, for one user and for one organisation, in this process."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from app.domain.errors import Throttled

RETRY_SECONDS = 5


class StreamPlaces:
    """Counts open streams. A limit of 0 is none."""

    def __init__(self, per_user: int, per_org: int) -> None:
        self._per_user = per_user
        self._per_org = per_org
        self._open: Counter[str] = Counter()

    @contextmanager
    def taken(self, org_id: str, user_id: str) -> Iterator[None]:
        """Inside, one more is open; raises Throttled (`too_many_streams`)."""
        of_user = f"{org_id}/{user_id}"
        for key, limit, whose in ((of_user, self._per_user, "You"), (org_id, self._per_org, "Your organisation")):
            if limit and self._open[key] >= limit:
                detail = f"{whose} may have {limit} streams open at once"
                raise Throttled(detail, retry_after=RETRY_SECONDS, code="too_many_streams")
        self._open.update((of_user, org_id))
        try:
            yield
        finally:
            self._open -= Counter((of_user, org_id))
