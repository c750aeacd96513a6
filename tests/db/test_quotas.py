"""An organisation's quota is one, however many processes take from it."""

import asyncio
from functools import partial

import pytest

from app.db.engines import connect
from app.db.quotas import StartQuota
from app.db.urls import ENGINE
from app.domain.errors import Throttled
from tests.database import Database

MINUTE = "SELECT date_trunc('minute', clock_timestamp())"


async def granted(quotas: list[StartQuota], org_id: str, wanted: int) -> int:
    """How many of so many starts at once are granted; each of the others is told to wait for the next minute."""
    taken = await asyncio.gather(*(quotas[n % 2].take(org_id) for n in range(wanted)), return_exceptions=True)
    refused = [error for error in taken if error is not None]
    for error in refused:
        assert isinstance(error, Throttled)
        assert error.error_code == "quota_exceeded"
        assert 1 <= error.retry_after <= 60
    return wanted - len(refused)


async def test_two_processes_grant_no_more_than_the_quota_in_a_minute(database: Database) -> None:
    await database.add_tenant("org_a")
    await database.add_tenant("org_b")
    open_engine = partial(connect, database.role_url(ENGINE), "test")
    quotas = [StartQuota(open_engine, 10), StartQuota(open_engine, 10)]
    try:
        minute = await database.fetchval(MINUTE)
        found = [
            await granted(quotas, "org_a", 7),
            await granted(quotas, "org_a", 30),
            await granted(quotas, "org_b", 9),
        ]
        if await database.fetchval(MINUTE) == minute:
            assert found == [7, 3, 9]
        await database.execute("UPDATE organizations SET starts_minute = starts_minute - interval '1 minute'")
        assert await granted(quotas, "org_a", 5) == 5
    finally:
        for quota in quotas:
            await quota.close()


async def test_without_a_quota_the_database_is_not_asked() -> None:
    async def connect_nowhere() -> None:
        pytest.fail("asked")

    quota = StartQuota(connect_nowhere, 0)  # type: ignore[arg-type]
    for _ in range(100):
        await quota.take("org_a")
    await quota.close()
