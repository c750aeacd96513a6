"""Streams as clients see them: every event once, in order, from any cursor, over WebSocket, SSE and JSON."""

import asyncio
import json
import random

import httpx
import pytest
import websockets
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from app.api import stream_session
from app.auth.principal import Caller
from app.domain.events import STREAM_EVENT
from tests.api.test_executions import save

SLOW = {
    "name": "Slow",
    "steps": [
        {"id": "one", "type": "log", "with": {"message": "1"}},
        {"id": "pause", "type": "delay", "needs": ["one"], "with": {"duration": "300ms"}},
        {"id": "two", "type": "log", "needs": ["pause"], "with": {"message": "2"}},
    ],
}


async def start(client, definition=SLOW):
    workflow_id = await save(client, definition)
    answer = await client.post("/api/v1/executions", json={"workflow_id": workflow_id, "input": None})
    return answer.json()["id"]


async def stored(client, execution_id):
    answer = await client.get(f"/api/v1/executions/{execution_id}/events", params={"limit": 1000})
    return answer.json()["data"]


def socket(live, owner, path, **options):
    url = live.url.replace("http", "ws") + path
    return websockets.connect(url, additional_headers={"Authorization": f"Bearer {owner.token}"}, **options)


async def read_all(connection):
    events = [json.loads(text) async for text in connection]
    assert connection.close_code == 1000
    return events


@pytest.mark.parametrize("path", ["/api/v1/executions/{}/stream", "/api/v1/workflows/stream/{}"])
async def test_a_socket_gets_every_event_live_and_closes_behind_the_last(live, owner, client, path):
    execution_id = await start(client)
    async with socket(live, owner, path.format(execution_id)) as connection:
        events = await read_all(connection)
    assert events == await stored(client, execution_id)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["type"] == "execution_completed"
    for event in events:
        STREAM_EVENT.validate_python(event)


async def test_a_late_socket_gets_everything_and_a_cursor_the_rest(live, owner, client):
    execution_id = await start(client)
    await client.get(f"/api/v1/executions/{execution_id}", headers={"Prefer": "wait=20"})
    everything = await stored(client, execution_id)
    for after in (0, 3, len(everything)):
        async with socket(live, owner, f"/api/v1/executions/{execution_id}/stream?after={after}") as connection:
            assert await read_all(connection) == everything[after:]


async def test_a_socket_cut_and_resumed_misses_nothing(live, owner, client):
    execution_id = await start(client)
    events = []
    while not events or not events[-1]["type"].startswith("execution_completed"):
        after = events[-1]["seq"] if events else 0
        async with socket(live, owner, f"/api/v1/executions/{execution_id}/stream?after={after}") as connection:
            events.append(json.loads(await connection.recv()))
    assert events == await stored(client, execution_id)


async def test_server_sent_events_carry_ids_and_resume(client):
    execution_id = await start(client)
    url = f"/api/v1/executions/{execution_id}/events"
    seen = []
    async with client.stream("GET", url, headers={"Accept": "text/event-stream"}) as answer:
        assert answer.status_code == 200
        assert answer.headers["x-accel-buffering"] == "no"
        ids = []
        async for line in answer.aiter_lines():
            if line.startswith("id: "):
                ids.append(int(line[4:]))
            if line.startswith("data: "):
                seen.append(json.loads(line[6:]))
    everything = await stored(client, execution_id)
    assert seen == everything
    assert ids == [event["seq"] for event in everything]
    resumed = await client.get(url, headers={"Accept": "text/event-stream", "Last-Event-ID": "4"})
    assert resumed.text.count("\nid: ") == len(everything) - 4
    finished = await client.get(url, headers={"Accept": "text/event-stream", "Last-Event-ID": str(len(everything))})
    assert finished.status_code == 204, "an EventSource must stop reconnecting"


async def test_a_browser_connects_with_a_ticket_once(live, owner, client):
    execution_id = await start(client)
    answer = await client.post(
        "/api/v1/stream-tickets", json={"execution_id": execution_id}, headers={"Origin": live.url}
    )
    protocols = answer.json()["protocols"]
    url = f"{live.url.replace('http', 'ws')}/api/v1/executions/{execution_id}/stream"
    async with websockets.connect(url, subprotocols=protocols, origin=live.url) as connection:
        assert connection.subprotocol == "stepstream.v1"
        assert (await read_all(connection))[-1]["type"] == "execution_completed"
    with pytest.raises(InvalidStatus) as refused:
        await websockets.connect(url, subprotocols=protocols, origin=live.url)
    assert refused.value.response.status_code == 401


async def test_refusals_are_real_statuses_before_the_handshake(live, owner, client, other_client):
    execution_id = await start(client)
    path = f"/api/v1/executions/{execution_id}/stream"
    url = live.url.replace("http", "ws") + path
    foreign = other_client.headers["Authorization"]
    cases = [
        ({}, url, 401, "missing_credentials"),
        ({"Authorization": "Bearer nonsense"}, url, 401, "invalid_token"),
        ({"Authorization": foreign}, url, 404, "not_found"),
        ({}, f"{url}?token=abc", 400, "token_in_query"),
        ({"Authorization": f"Bearer {owner.token}", "Origin": "https://evil.example"}, url, 403, "origin_not_allowed"),
        ({"Authorization": f"Bearer {owner.token}"}, f"{url}?after=-1", 422, "validation_error"),
    ]
    for headers, target, status, code in cases:
        with pytest.raises(InvalidStatus) as refused:
            await websockets.connect(target, additional_headers=headers)
        assert refused.value.response.status_code == status
        assert json.loads(refused.value.response.body)["code"] == code


async def test_a_socket_answers_pings_and_closes_on_nonsense(live, owner, client):
    execution_id = await start(
        client, {"name": "Wait", "steps": [{"id": "a", "type": "delay", "with": {"duration": "30s"}}]}
    )
    async with socket(live, owner, f"/api/v1/executions/{execution_id}/stream") as connection:
        await connection.send('{"op":"ping"}')
        async for text in connection:
            if text == '{"op":"pong"}':
                break
        await connection.send("nonsense")
        with pytest.raises(ConnectionClosedError):
            await read_all(connection)
        assert connection.close_code == 4400
    async with socket(live, owner, f"/api/v1/executions/{execution_id}/stream?after=1") as connection:
        await connection.send('{"op":"cancel","reason":"enough"}')
        events = await read_all(connection)
    assert events[-1]["type"] == "execution_cancelled"
    assert events[-1]["data"] == {"reason": "enough", "requested_by": owner.user_id, "progress": 0}


async def test_many_subscribers_see_the_same(live, owner, client):
    execution_id = await start(client)

    async def follow():
        async with socket(live, owner, f"/api/v1/executions/{execution_id}/stream") as connection:
            return await read_all(connection)

    streams = await asyncio.gather(*(follow() for _ in range(10)))
    assert all(events == streams[0] for events in streams)


class StalledReader:
    """A WebSocket whose other side has stopped reading after the first message."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.closed: tuple[int, str] | None = None

    async def send_text(self, text: str) -> None:
        if self.sent:
            await asyncio.Event().wait()
        self.sent.append(text)

    async def receive(self) -> None:
        await asyncio.Event().wait()

    async def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)


async def test_a_reader_that_stalls_is_closed_with_its_cursor(live, owner, client, monkeypatch):
    """Its events are not buffered without bound; whoever comes back with the cursor misses nothing."""
    monkeypatch.setattr(stream_session, "SEND_SECONDS", 0.05)
    execution_id = await start(client)
    await client.get(f"/api/v1/executions/{execution_id}", headers={"Prefer": "wait=20"})
    principal = await live.services.authenticator.authenticate(f"Bearer {owner.token}")
    caller = Caller(principal, None, None, "req_1")
    status = await live.services.streams.check(caller.org_id, execution_id)
    reader = StalledReader()
    session = stream_session.StreamSession(reader, live.services, caller, execution_id, 2)
    await session.run(live.services.streams.follow(caller, execution_id, 2, status))
    assert json.loads(reader.sent[0])["seq"] == 3
    assert reader.closed == (4408, "reader too slow; resume after 3")


@pytest.mark.parametrize("seed", range(12))
async def test_random_cuts_and_cursors_add_up_to_the_table(live, owner, client, seed):
    """Whatever the cuts and the cursors: each connection is gapless from its cursor, all together are the table."""
    chance = random.Random(seed)
    execution_id = await start(client)
    seen = {}
    while not any(event["type"].startswith("execution_completed") for event in seen.values()):
        after = chance.randint(0, len(seen))
        wanted = chance.randint(1, 6)
        received = []
        async with socket(live, owner, f"/api/v1/executions/{execution_id}/stream?after={after}") as connection:
            async for text in connection:
                received.append(json.loads(text))
                if len(received) == wanted:
                    break
        assert [event["seq"] for event in received] == list(range(after + 1, after + 1 + len(received)))
        for event in received:
            assert seen.setdefault(event["seq"], event) == event, "the same event each time"
    assert [seen[seq] for seq in sorted(seen)] == await stored(client, execution_id)


async def test_events_of_a_newer_version_are_shown_as_they_are(live, owner, client, database):
    """While versions change, a process reads what one after it has recorded, which its description knows nothing of."""
    steps = [{"id": "a", "type": "log", "with": {"message": "1"}}]
    execution_id = await start(client, {"name": "Quick", "steps": steps})
    path = f"/api/v1/executions/{execution_id}"
    await client.get(path, headers={"Prefer": "wait=20"})
    await database.execute(
        "UPDATE execution_events SET type = 'step_teleported', data = '{\"to\": \"moon\"}' "
        "WHERE execution_id = $1 AND type = 'step_log'",
        execution_id,
    )
    headers = {"Authorization": f"Bearer {owner.token}"}
    async with httpx.AsyncClient(base_url=live.url, headers=headers) as unchecked:
        page = await stored(unchecked, execution_id)
    (shown,) = [event for event in page if event["type"] == "step_teleported"]
    assert (shown["step_id"], shown["data"]) == ("a", {"to": "moon"})
    async with socket(live, owner, f"{path}/stream") as connection:
        assert await read_all(connection) == page
    for view in ("", "/steps", "/logs", "/explain", "/timeline", "/graph", "/lineage"):
        assert (await client.get(path + view)).status_code == 200
