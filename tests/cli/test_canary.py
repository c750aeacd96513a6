"""Nothing secret is found anywhere: whoever has the database, its files, the logs or all answers has no secret value.

The real program runs against a server that gives back what it is sent in every form. Then everything is searched for
all forms: tables, files of the database, process log, answers, streams. What is searched for was really sent.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import websockets

from tests.cli.parrot import Parrot, forms_of, inside_of, parrot
from tests.cli.processes import SECONDS, done, installation, stepstream, superuser_url

HEADER = "cnry+Head/er&=='x%41\"9"
BODY = 'cnry "bödy"\n<sec>/ret&\\\'%2F +8'
MODEL = "sk-cnry-model-key-of-an-organisation"
DEPLOYMENT = "sk-cnry-key-of-the-deployment"
PASSWORD = "cnry-password of Ann/2"


def request(step_id: str, path: str, **config: Any) -> dict[str, Any]:
    """A step that sends two secrets, and goes on whatever comes back."""
    headers = {"Authorization": {"$secret": "head", "format": "Bearer {}"}, "Cookie": {"$secret": "head"}}
    places = {"method": "POST", "headers": headers, "json": {"key": [{"$secret": "body"}]}, **config}
    return {"id": step_id, "type": "http.request", "continue_on_error": True, "with": {"url": path, **places}}


def workflow(url: str) -> dict[str, Any]:
    ways = {
        "json": request("json", f"{url}/json", query={"q": {"$secret": "body"}}, parse="json"),
        "text": request("text", f"{url}/text", json=None, form={"f": {"$secret": "body"}}),
        "bytes": request("bytes", f"{url}/text", json=None, body={"$secret": "body"}, parse="base64"),
        "packed": {**request("packed", f"{url}/packed"), "cache": {"ttl": "1h"}},
        "error": {**request("error", f"{url}/error"), "retry": {"max_attempts": 2, "initial_interval": "1ms"}},
        "kept": request("kept", f"{url}/error", expect_status=["5xx"]),
        "redirect": request("redirect", f"{url}/redirect"),
        "away": request("away", f"{url}/away"),
        "broken": request("broken", f"{url}/broken"),
        "nothing": request("nothing", url, url={"$secret": "head", "format": f"{url}/{{}}"}),
        "own": {"id": "own", "type": "agent", "with": {"model": "openai:parrot", "prompt": "?",
                "api_key": {"$secret": "model"}}},
        "theirs": {"id": "theirs", "type": "agent", "with": {"model": "openai:parrot", "prompt": "?"}},
    }  # fmt: skip
    seen = {name: f"${{{{ steps.{name}.output }}}}" for name in ways}
    behind = {"needs": [*ways], "run_if": "all_done"}
    reading = [
        {"id": "set", "type": "set", "with": seen, **behind},
        {"id": "say", "type": "log", "with": {"message": "${{ steps.json.output }} ${{ steps.away.error }}"}, **behind},
        {"id": "call", "type": "function", "with": {"function": "echo", "args": {"value": seen["text"]}}, **behind},
        {"id": "child", "type": "workflow.run", "with": {"workflow": "reader", "input": seen}, **behind},
        {"id": "mapped", "type": "set", "for_each": "${{ steps.json.output.body.list }}", "with": {"a": "${{ item }}"},
         **behind},
        {"id": "end", "type": "fail", "with": {"message": "${{ steps.text.output.body }}"}, "needs": ["set", "say"]},
    ]  # fmt: skip
    return {"id": "teller", "name": "Teller", "steps": [*ways.values(), *reading], "on_error": "reader", "output": seen}


READER = {
    "id": "reader",
    "name": "Reader",
    "steps": [{"id": "read", "type": "log", "with": {"message": "${{ input }}"}}],
}


async def arrange(http: httpx.AsyncClient, world: Parrot) -> None:
    for name, value in {"head": HEADER, "body": BODY, "model": MODEL}.items():
        body = {"name": name, "value": value, "allowed_hosts": ["127.0.0.1"]}
        (await http.post("/secrets", json=body)).raise_for_status()
        # A refused one is a way for a value to get into an answer, or into a log.
        assert (await http.post("/secrets", json=body | {"allowed_hosts": [f"{value} "]})).status_code == 422
    for document in (READER, workflow(world.url)):
        (await http.post("/workflows", json=document)).raise_for_status()


async def collect(http: httpx.AsyncClient, execution_ids: list[str]) -> dict[str, str]:
    """Whatever the API says of the executions and of everything else, by path."""
    of_each = ["", "/steps", "/events?limit=1000", "/logs?limit=1000", "/explain", "/graph", "/timeline", "/lineage",
               "/items?step=mapped", "/steps/json", "/steps/end", "/steps/mapped/items"]  # fmt: skip
    paths = [f"/executions/{each}{path}" for each in execution_ids for path in of_each]
    paths += ["/executions", "/workflows/teller", "/workflows/teller/versions/1", "/audit-logs?limit=200", "/secrets",
              "/secrets/head", "/failures", "/approvals", "/api-keys", "/budgets", "/auth/me"]  # fmt: skip
    told = {path: (await http.get(path)).text for path in paths}
    for media in ("text/plain", "text/markdown", "text/vnd.mermaid"):
        told[media] = (await http.get(f"/executions/{execution_ids[0]}", headers={"Accept": media})).text
    stream = await http.get(f"/executions/{execution_ids[0]}/events", headers={"Accept": "text/event-stream"})
    return told | {"SSE": stream.text, "retry": (await http.post(f"/executions/{execution_ids[0]}/retry")).text}


async def listened(url: str, token: str, execution_id: str) -> str:
    """The WebSocket stream up to its end."""
    address = f"ws{url.removeprefix('http')}/api/v1/executions/{execution_id}/stream"
    headers = {"Authorization": f"Bearer {token}"}
    async with websockets.connect(address, additional_headers=headers, max_size=None) as socket:
        return "\n".join([str(text) async for text in socket])


async def stored(data_dir: Path) -> dict[str, str]:
    """Every table, as a superuser reads it."""
    connection = await asyncpg.connect(superuser_url(data_dir))
    try:
        tables = await connection.fetch("SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public'")
        rows = {table["name"]: await connection.fetch(f'SELECT t::text FROM "{table["name"]}" t') for table in tables}
        return {name: "\n".join(row[0] for row in found) for name, found in rows.items()}
    finally:
        await connection.close()


def files(data_dir: Path) -> dict[str, bytes]:
    """Every file of the database, its log and its write-ahead log among them."""
    return {str(path): path.read_bytes() for path in (data_dir / "postgres").rglob("*") if path.is_file()}


async def credentials(http: httpx.AsyncClient, data_dir: Path) -> list[str]:
    """One of each that is shown once and never kept: password, tokens, API key, ticket; and the master secret."""
    password = (data_dir / "admin-password").read_text().strip()
    form = {"username": "admin@stepstream.local", "password": password}
    tokens = (await http.post("/auth/token", data=form)).raise_for_status().json()
    wrong = {"username": "admin@stepstream.local", "password": PASSWORD}
    assert (await http.post("/auth/token", data=wrong)).status_code == 401
    key = (await http.post("/api-keys", json={"name": "canary"})).json()["key"]
    execution = (await http.get("/executions")).json()["data"][0]["id"]
    ticket = (await http.post("/stream-tickets", json={"execution_id": execution})).json()["ticket"]
    master = (data_dir / "secret.key").read_text().strip()
    return [password, PASSWORD, tokens["access_token"], tokens["refresh_token"], key, ticket, master]


def leaks(found: dict[str, str], values: list[str]) -> list[tuple[str, str, str]]:
    """Where something is found: the place, the form, the beginning of the value."""
    wanted = [(form, text, value) for value in values for form, text in forms_of(value).items()]
    wanted += [(form, text, value) for value in values for form, (_, text) in inside_of(value).items()]
    escaped = [(f"{form}, once more in JSON", json.dumps(text, ensure_ascii=False)[1:-1], value)
               for form, text, value in wanted]  # fmt: skip
    return [(place, form, value[:9]) for place, told in found.items() for form, text, value in wanted + escaped
            if text in told]  # fmt: skip


@pytest.mark.timeout(300)
async def test_no_secret_is_found_anywhere() -> None:
    async with parrot(HEADER, BODY) as world, installation() as data_dir:
        environment = {
            "STEPSTREAM_LOG_LEVEL": "debug", "OPENAI_API_KEY": DEPLOYMENT,
            "STEPSTREAM_OPENAI_BASE_URL": f"{world.url}/v1", "STEPSTREAM_EGRESS_ALLOW_CIDRS": "127.0.0.0/8",
            "STEPSTREAM_EGRESS_PORTS": str(world.port),
        }  # fmt: skip
        async with stepstream("up", "--data-dir", data_dir, "--port", "0", **environment) as process:
            url = await process.ready()
            token = (await done("token", "--data-dir", data_dir))[1].strip()
            headers = {"Authorization": f"Bearer {token}"}
            async with httpx.AsyncClient(base_url=f"{url}/api/v1", headers=headers, timeout=SECONDS) as http:
                await arrange(http, world)
                started = (await http.post("/workflows/teller/execute", json={})).raise_for_status().json()["id"]
                told = {"WebSocket": await asyncio.wait_for(listened(url, token, started), SECONDS)}
                children = (await http.get("/executions", params={"workflow_id": "reader"})).json()["data"]
                told |= await collect(http, [started, *(child["id"] for child in children)])
                ours = [token, *await credentials(http, data_dir)]
                told["command line"] = "".join((await done(
                    "executions", "show", started, STEPSTREAM_SERVER=url, STEPSTREAM_TOKEN=token))[1:])  # fmt: skip
                tables = await stored(data_dir)
            assert await process.stops() == 0
            log = process.text.replace(ours[1], "", 1)  # the first start shows the password, once
            told |= {f"table {name}": text for name, text in tables.items()} | {"log": log}
        whole = {name: content.decode("latin-1") for name, content in files(data_dir).items()}
    steps = {step["id"]: step for step in json.loads(told[f"/executions/{started}"])["steps"]}
    demand_that_it_was_all_tried(world, steps)
    assert leaks(told, [HEADER, BODY, MODEL, DEPLOYMENT]) == []
    kept = {name: text for name, text in told.items() if name.startswith(("table", "log"))}
    assert leaks(kept, ours) == []
    raw = [value.encode().decode("latin-1") for value in (HEADER, BODY, MODEL, DEPLOYMENT, *ours)]
    assert [(name, value[:9]) for name, text in whole.items() for value in raw if value in text] == []


def demand_that_it_was_all_tried(world: Parrot, steps: dict[str, Any]) -> None:
    """What is not found must have been there to be found."""
    heard = "".join(world.heard)
    assert all(value in heard for value in (f"Bearer {HEADER}", BODY, MODEL, DEPLOYMENT))
    assert not any("stolen=" in request for request in world.heard)
    outcomes = {name: step["error_code"] or step["status"] for name, step in steps.items()}
    assert outcomes == {
        "json": "COMPLETED", "text": "COMPLETED", "bytes": "COMPLETED", "packed": "COMPLETED", "error": "http_status",
        "kept": "COMPLETED", "redirect": "COMPLETED", "away": "secret_host_not_allowed", "broken": "invalid_response",
        "nothing": "invalid_response", "own": "COMPLETED", "theirs": "COMPLETED", "set": "COMPLETED",
        "say": "COMPLETED", "call": "COMPLETED", "child": "COMPLETED", "mapped": "COMPLETED", "end": "failed_by_step",
    }, outcomes  # fmt: skip
    assert json.dumps(steps).count("[secret]") > 100
