"""Every request of the catalogue gets its exact answer, changes nothing and calls nobody."""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import websockets
import yaml
from websockets.exceptions import ConnectionClosed

from app.api.problems import REGISTRY
from app.db.tables import metadata
from tests.bad_input.wire import Answer, send
from tests.bad_input.world import World
from tests.database import Database

Case = dict[str, Any]

CATALOGUE: dict[str, list[Case]] = yaml.safe_load(Path(__file__).with_name("catalogue.yaml").read_text())
CHANGES_BY_ITSELF = {"audit_logs", "audit_seals", "workers"}
_NAME = re.compile(r"<(\w+)>")


def cases(*sections: str) -> Iterator[Any]:
    """One parameter for each case, target and value."""
    for section in sections:
        for case in CATALOGUE[section]:
            targets = case.get("send", "POST /api/v1/workflows")
            for target in targets if isinstance(targets, list) else [targets]:
                for number, value in enumerate(case.get("each", [None])):
                    name = f"{case['id']} {number}" if "each" in case else case["id"]
                    parameter = case | {"send": target, "it": value, "socket": section == "sockets"}
                    yield pytest.param(parameter, id=f"{name} {target[:60]}")


REFUSED = list(cases(*(section for section in CATALOGUE if section not in {"runs", "messages"})))
RUNS = list(cases("runs"))
MESSAGES = list(cases("messages"))
HANDSHAKE = [
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
]


def filled(value: Any, names: dict[str, Any]) -> Any:
    """A value of the catalogue with its <names> replaced; one that is nothing but a name becomes what it stands for."""
    match value:
        case str():
            whole = _NAME.fullmatch(value)
            if whole and whole[1] in names:
                found = names[whole[1]]
                return filled(found, {**names, "it": None}) if whole[1] == "it" else found
            return _NAME.sub(lambda found: str(filled(found[0], names)) if found[1] in names else found[0], value)
        case list():
            return [filled(item, names) for item in value]
        case dict():
            merged = filled(value["<merge>"], names) if "<merge>" in value else {}
            rest = {str(filled(key, names)): filled(item, names) for key, item in value.items() if key != "<merge>"}
            return rest | merged
        case _:
            return value


def body_of(case: Case, names: dict[str, Any]) -> bytes | None:
    if "hex" in case:
        return bytes.fromhex(filled(case["hex"], names))
    if "definition" in case or "json" in case:
        return json.dumps(filled(case.get("definition", case.get("json")), names)).encode()
    if "body" not in case:
        return None
    return joined(case["body"] if isinstance(case["body"], list) else [case["body"]], names)


def joined(parts: list[Any], names: dict[str, Any]) -> bytes:
    """Texts, and pairs of a text and how often it is repeated."""
    return b"".join(
        part[0].encode() * part[1] if isinstance(part, list) else str(filled(part, names)).encode() for part in parts
    )


async def ask(world: World, case: Case) -> Answer:
    names = {**world.names, "it": case["it"]}
    body = body_of(case, names)
    headers = [str(line) for line in filled(case.get("headers", []), names)]
    headers += HANDSHAKE if case.get("socket") else ["Connection: close"]
    credential = world.credentials[str(filled(case.get("as", "owner"), names))]
    if credential is not None:
        headers.append(f"Authorization: Bearer {credential}")
    kind = filled(case.get("type", "application/json"), names)
    if body is not None and kind is not None:
        headers.append(f"Content-Type: {kind}")
    if body is not None and not any(
        re.match("content-length|transfer-encoding", line, re.IGNORECASE) for line in headers
    ):
        headers.append(f"Content-Length: {len(body)}")
    return await send(world.live.url, str(filled(case["send"], names)), headers, body or b"")


async def state_of(database: Database, but: set[str]) -> dict[str, tuple[int, str]]:
    """Count and checksum of every table."""
    parts = [
        f"SELECT '{name}' AS name, count(*), md5(coalesce(string_agg(t::text, '' ORDER BY t::text), '')) FROM {name} t"
        for name in metadata.tables
        if name not in but
    ]
    rows = await database.fetch(" UNION ALL ".join(parts))
    return {name: (count, checksum) for name, count, checksum in rows}


@pytest.mark.parametrize("case", REFUSED)
async def test_it_is_refused_in_these_words_and_nothing_changes(world: World, case: Case) -> None:
    but = CHANGES_BY_ITSELF | set(case.get("changes", ()))
    before = await state_of(world.live.database, but)
    answer = await ask(world, case)
    status, code = case["answer"].split()
    problem = answer.json()
    assert (answer.status, problem.get("code")) == (int(status), problem.get("code") if code == "any" else code), (
        problem
    )
    assert REGISTRY[problem["code"]].status == problem["status"] == answer.status
    assert answer.header("content-type") == "application/problem+json"
    assert answer.header("cache-control") == "no-store"
    assert problem["request_id"] == answer.header("x-request-id") != ""
    if "error" in case:
        assert case["error"] in {error["code"] for error in problem["errors"]}, answer.body
    if "says" in case:
        assert any(f"{name}: {value}".startswith(case["says"]) for name, value in answer.headers), answer.headers
    assert len(answer.body) < 40_000
    assert await state_of(world.live.database, but) == before


@pytest.mark.parametrize("case", RUNS)
async def test_it_fails_its_step_in_these_words(world: World, case: Case) -> None:
    names = {**world.names, "it": case["it"]}
    save = {"send": "POST /api/v1/workflows", "definition": case["definition"], "it": case["it"]}
    saved = await ask(world, save)
    assert saved.status == 201, saved.body
    body = {"workflow_id": saved.json()["id"], "input": filled(case["input"], names)}
    start = {"send": "POST /api/v1/executions", "json": body, "headers": ["Prefer: wait=20"], "it": None}
    ended = (await ask(world, start)).json()
    assert ended["status"] == "FAILED", ended
    assert ended["error_code"] == case["fails"] or case["fails"] == "any", ended


@pytest.mark.parametrize("case", MESSAGES)
async def test_it_closes_the_socket_with_this_code(world: World, case: Case) -> None:
    names = {**world.names, "it": case["it"]}
    url = f"{world.live.url.replace('http', 'ws')}/api/v1/executions/{names['waiting']}/stream"
    headers = {"Authorization": f"Bearer {world.credentials[case.get('as', 'owner')]}"}
    before = await state_of(world.live.database, CHANGES_BY_ITSELF)
    async with websockets.connect(url, additional_headers=headers) as socket:
        assert socket.response is not None
        assert "sec-websocket-extensions" not in socket.response.headers, "no compression, so no bombs of it"
        with suppress(ConnectionClosed):
            if "raw" in case:
                socket.transport.write(bytes.fromhex(case["raw"]))
            elif "binary" in case:
                await socket.send(case["binary"].encode())
            elif "pieces" in case:
                await socket.send(piece[0] * piece[1] for piece in case["pieces"])
            else:
                for _ in range(case.get("times", 1)):
                    await socket.send(joined(case["text"], names).decode())
        with suppress(ConnectionClosed):
            async for _ in socket:
                pass
    assert socket.close_code == case["closes"]
    assert await state_of(world.live.database, CHANGES_BY_ITSELF) == before


async def test_text_that_only_looks_bad_comes_back_as_it_was(world: World) -> None:
    """What is inside a payload is the user's: NUL characters, brackets in text, odd keys, the largest numbers."""
    payload = {
        "\u0000": "a\u0000b",
        "__proto__": {"": [None]},
        "text": '[{"' * 50,
        "most": 2**63 - 1,
        "least": -(2**63),
    }
    body = {"workflow_id": world.names["workflow"], "input": payload}
    start = {"send": "POST /api/v1/executions", "json": body, "headers": ["Prefer: wait=20"], "it": None}
    ended = await ask(world, start)
    assert (ended.status, ended.json()["status"], ended.json()["input_data"]) == (200, "COMPLETED", payload)


async def test_what_people_are_asked_is_stored_whatever_characters_are_in_it(world: World) -> None:
    question = {"id": "ask", "type": "approval", "with": {"title": "a\u0000b", "message": "${{ input }}"}}
    async with world.live.http(world.credentials["owner"]) as client:
        saved = await client.post("/api/v1/workflows", json={"name": "Ask", "steps": [question]})
        body = {"workflow_id": saved.json()["id"], "input": "c\u0000d"}
        execution_id = (await client.post("/api/v1/executions", json=body)).json()["id"]
        path, live = f"/api/v1/executions/{execution_id}/events", {"Accept": "text/event-stream"}
        async with client.stream("GET", path, headers=live) as events:
            async for line in events.aiter_lines():
                if "approval_requested" in line or "execution_failed" in line:
                    break
        (approval,) = (await client.get("/api/v1/approvals", params={"execution_id": execution_id})).json()["data"]
    assert (approval["title"], approval["message"]) == ("ab", "cd")
