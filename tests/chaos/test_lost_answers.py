"""Writes whose answer alone is lost, on the paths that need care to tell so."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from app.db.credentials import Credentials
from app.db.engines import auth_engine
from app.db.urls import AUTH
from app.embedded.cluster import SOCKET_FILE
from app.engine.credentials import RefreshSuccessor, Rotated
from tests.chaos.conftest import World
from tests.chaos.journal import pause
from tests.chaos.nemesis import API, STATEMENTS
from tests.chaos.proxy import Loses, Loss, Proxy, proxy
from tests.chaos.workload import Wish
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


ACCEPT, COMMIT = STATEMENTS["accept"], ("COMMIT", API)


async def test_a_start_without_a_key_whose_answer_is_lost_is_one_start(world: World) -> None:
    """The server asks again by itself; who started it hears nothing of it."""
    async with world.deployment.tables() as tables:
        before = await tables.fetchval("SELECT count(*) FROM executions")
        loss = lose(world, ACCEPT)
        answer = await world.client.ask("POST", "/executions", json={"workflow_id": "wf_talk", "input": {}})
        assert answer is not None
        assert (answer.status_code, loss.hits) == (201, 1)
        assert await tables.fetchval("SELECT count(*) FROM executions") == before + 1


async def test_who_is_told_that_it_is_unknown_asks_again_and_it_is_done_once(world: World) -> None:
    """Every way to change something that promises it, asked again after an answer that came to nobody."""
    wish = Wish(world.client, world.outside, "once", random.Random(1))
    talking = await wish.start("talk")
    wish.key = "approved"
    deciding = await wish.start("approved")
    while not (approvals := await wish.client.insist("GET", f"/approvals?execution_id={deciding}")).json()["data"]:
        await pause(0.05)
    approval = approvals.json()["data"][0]["id"]
    start = {"workflow_id": "wf_talk", "input": {"key": "started", "h": "h"}}
    signal = {"name": "go", "payload": "word", "dedupe_key": "one"}
    by_id = {"action": "pause", "filter": {"ids": [talking]}, "reason": "all"}
    asked: list[tuple[str, dict[str, Any], str | None, tuple[str, str], int]] = [
        ("/executions", start, "started", ACCEPT, 2),
        ("/executions/bulk", by_id, "bulk", COMMIT, 1),
        (f"/executions/{talking}/signal", signal, None, COMMIT, 1),
        (f"/approvals/{approval}/decide", {"decision": "approve"}, None, COMMIT, 1),
    ]
    for path, body, key, statement, times in asked:
        loss = lose(world, statement, times)
        assert await world.client.ask("POST", path, key=key, json=body) is None, path
        assert loss.hits == times
        again = await world.client.insist("POST", path, key=key, json=body)
        assert again.is_success, (path, again.text)
    async with world.deployment.tables() as tables:
        count = "SELECT count(*) FROM execution_inbox WHERE kind = $1 AND execution_id = $2"
        assert await tables.fetchval("SELECT count(*) FROM idempotency_keys WHERE key = 'started'") == 1
        assert await tables.fetchval("SELECT count(*) FROM executions WHERE input_data LIKE '%started%'") == 1
        assert await tables.fetchval(count, "signal", talking) == 1
        assert await tables.fetchval(count, "pause", talking) == 1
        assert await tables.fetchval(count, "decision", deciding) == 1
        assert await tables.fetchval("SELECT count(*) FROM audit_logs WHERE action = 'approval.approved'") == 1


def lose(world: World, statement: tuple[str, str], times: int = 1) -> Loss:
    text, of = statement
    return world.deployment.apps[0].proxy.lose(text, of=of, times=times)
