"""Writes whose answer alone is lost, on the paths that need care to tell so."""

from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from app.db.credentials import Credentials
from app.db.engines import auth_engine
from app.db.urls import AUTH
from app.embedded.cluster import SOCKET_FILE
from app.engine.credentials import RefreshSuccessor, Rotated
from tests.chaos.proxy import Loses, Proxy, proxy
from tests.database import EXTERNAL, Database
from tests.db.test_credentials import FIRST, LATER, NOW, ORG

pytestmark = pytest.mark.skipif(EXTERNAL is not None, reason="the proxy stands before a socket file")
NEXT = RefreshSuccessor("rt_2", "hash_2", LATER)


def socket_of(database: Database) -> Path:
    return Path(parse_qs(urlsplit(database.admin_url).query)["host"][0]) / SOCKET_FILE


def through(way: Proxy, database: Database, role: str) -> str:
    url = urlsplit(database.role_url(role))
    return url._replace(netloc=f"{url.netloc.rpartition('@')[0]}@{way.authority}", query="sslmode=disable").geturl()


@pytest.mark.parametrize("loses", ["answer", "question"])
async def test_a_refresh_whose_answer_is_lost_does_not_make_a_thief_of_its_owner(
    database: Database, loses: Loses
) -> None:
    await database.add_tenant(ORG)
    async with proxy(socket_of(database)) as way:
        engine = auth_engine(through(way, database, AUTH))
        store = Credentials(engine)
        await store.add_refresh(FIRST)
        loss = way.lose("COMMIT", loses)
        outcome = await store.take_refresh("rt_1", "hash_1", NEXT, NOW)
        assert outcome == Rotated(replace(FIRST, token_id="rt_2", secret_hash="hash_2"))
        assert loss.hits == 1
        await engine.dispose()
