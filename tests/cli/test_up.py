"""`up` as a real process, and the commands that talk to it."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.cli.processes import done, installation, postmaster, stepstream, superuser_url
from tests.cli.sink import Sink, sink

GREET = """
name: Greet
input: {type: string}
steps:
  - {id: greet, name: Say hello, type: set, with: {text: "Hello, ${{ input }}!"}}
  - {id: check, type: fail, needs: [greet], if: "${{ input == 'nobody' }}", with: {message: nobody is there}}
output: ${{ steps.greet.output }}
"""


@dataclass
class Up:
    """A serving `up`."""

    url: str
    data_dir: Path
    token: str
    http: httpx.AsyncClient

    @property
    def options(self) -> tuple[str, ...]:
        return ("--server", self.url, "--data-dir", str(self.data_dir))

    async def run(self, *arguments: str | Path, **environment: str) -> tuple[int, str, str]:
        return await done("run", *arguments, *self.options, **environment)


@pytest.fixture(scope="module")
async def up() -> AsyncIterator[Up]:
    async with installation() as data_dir, stepstream("up", "--data-dir", data_dir, "--port", "0") as process:
        url = await process.ready()
        _, token, _ = await done("token", "--data-dir", data_dir)
        async with client(url, token.strip()) as http:
            yield Up(url, data_dir, token.strip(), http)
        assert await process.stops() == 0


def client(url: str, token: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"{url}/api/v1", headers={"Authorization": f"Bearer {token}"}, timeout=60)


@pytest.fixture
def greet(tmp_path: Path) -> Path:
    path = tmp_path / "greet.yaml"
    path.write_text(GREET)
    return path


async def start(http: httpx.AsyncClient, document: dict[str, Any]) -> str:
    """Save a workflow and start it; the execution's id."""
    (await http.post("/workflows", json=document)).raise_for_status()
    started = await http.post(f"/workflows/{document['id']}/execute")
    return str(started.raise_for_status().json()["id"])


def waiting(seconds: float) -> dict[str, Any]:
    return {
        "id": "wf_waiting",
        "name": "Waiting",
        "steps": [{"id": "wait", "type": "delay", "with": {"duration": seconds}}],
    }


async def test_token_prints_a_key_that_works_and_nothing_else(up: Up) -> None:
    code, out, err = await done("token", "--data-dir", up.data_dir, "--ttl", "30m")
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    async with client(up.url, out.strip()) as http:
        me = (await http.get("/auth/me")).json()
        keys = (await http.get("/api-keys")).json()["data"]
    assert me["user"]["id"] == "user_admin"
    assert keys[0]["expires_at"] is not None


async def test_a_completed_run_exits_with_0_and_prints_its_output_alone(up: Up, greet: Path) -> None:
    code, out, err = await up.run(greet, "--input", "World")
    assert (code, json.loads(out)) == (0, {"text": "Hello, World!"})
    assert "Say hello" in err
    assert "completed" in err


async def test_a_failed_run_exits_with_1_and_says_the_cause(up: Up, greet: Path) -> None:
    code, out, err = await up.run(greet, "--input", "nobody")
    assert (code, out) == (1, "")
    assert "nobody is there" in err
    assert "failed_by_step" in err


async def test_a_changed_file_is_a_new_version_and_the_same_file_is_not(up: Up, tmp_path: Path) -> None:
    path = tmp_path / "versions.yaml"
    path.write_text(GREET)
    await up.run(path, "--input", "a")
    await up.run(path, "--input", "b")
    path.write_text(GREET.replace("Hello", "Good day"))
    _, out, _ = await up.run(path, "--input", "c")
    assert json.loads(out) == {"text": "Good day, c!"}
    assert (await up.http.get("/workflows/wf_versions")).json()["version"] == 2
    assert json.loads((await up.run("wf_versions", "-i", "d"))[1]) == {"text": "Good day, d!"}


async def test_what_the_server_refuses_is_told_in_full(up: Up, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("name: Broken\nsteps:\n  - {id: a, type: nonsense}\n  - {id: b, type: set, needs: [c]}\n")
    code, out, err = await up.run(path)
    assert (code, out) == (1, "")
    assert "/steps/0" in err
    assert "/steps/1" in err


async def test_an_input_that_does_not_fit_starts_nothing(up: Up, greet: Path) -> None:
    code, _, err = await up.run(greet, "--input", "17")
    assert code == 1
    assert "/input" in err


async def test_a_token_of_ones_own_is_used_and_a_wrong_one_told(up: Up, greet: Path) -> None:
    assert (await done("run", greet, "-i", "x", "--server", up.url, STEPSTREAM_TOKEN=up.token))[0] == 0
    code, _, err = await done("run", greet, "-i", "x", "--server", up.url, "--token", "sk_wrong")
    assert code == 1
    assert "STEPSTREAM_TOKEN" in err


async def test_ctrl_c_leaves_the_run_alone_and_says_how_to_follow_it(up: Up, tmp_path: Path) -> None:
    path = tmp_path / "long.json"
    steps = [
        {"id": "begin", "type": "log", "with": {"message": "begun"}},
        {"id": "wait", "type": "delay", "needs": ["begin"], "with": {"duration": 2}},
    ]
    path.write_text(json.dumps({"name": "Long", "steps": steps}))
    async with stepstream("run", path, *up.options) as process:
        await process.says("begun")
        assert await process.stops(signal.SIGINT) == 130
    (execution_id,) = {word for word in process.text.split() if word.startswith("exec_")}
    assert f"stepstream follow {execution_id}" in process.text
    code, out, err = await done("follow", execution_id, *up.options)
    assert (code, json.loads(out)) == (0, {"seconds": 2.0})
    assert "begun" in err


async def test_a_run_is_watched_to_its_end_over_the_death_of_the_server(tmp_path: Path) -> None:
    path = tmp_path / "watched.json"
    async with installation() as data_dir, sink() as outside:
        outside.holds = lambda _path: True
        steps = [
            {"id": "begin", "type": "log", "with": {"message": "begun"}},
            {"id": "call", "type": "http.request", "needs": ["begin"], "with": {"url": f"{outside.url}/call"}},
            {"id": "end", "type": "log", "needs": ["call"], "with": {"message": "ended"}},
        ]
        path.write_text(json.dumps({"name": "Watched", "steps": steps}))
        async with stepstream("up", "--data-dir", data_dir, "--port", "0", **outside.environment) as first:
            url = await first.ready()
            async with stepstream("run", path, "--server", url, "--data-dir", data_dir) as watching:
                await outside.until(lambda: bool(outside.held))
                await watching.says("begun")
                await first.stops(signal.SIGKILL)
                await watching.says("stream cut")
                outside.release()
                again = ("up", "--data-dir", data_dir, "--port", url.rpartition(":")[2])
                async with stepstream(*again, **outside.environment) as second:
                    assert await watching.ends() == 0
                    assert await second.stops() == 0
        assert [watching.text.count(word) for word in ("begun", "ended", "stream cut")] == [1, 2, 1]
        assert outside.effects == {"/call": 2}


async def test_an_execution_that_is_not_there_is_told(up: Up) -> None:
    code, out, err = await done("follow", "exec_nothing", *up.options)
    assert (code, out) == (1, "")
    assert "no such execution" in err


async def test_the_docs_and_the_ui_server_are_let_in(up: Up) -> None:
    async with httpx.AsyncClient(base_url=up.url) as http:
        assert (await http.get("/docs")).status_code == 200
        headers = {"Origin": "http://localhost:5173", "Access-Control-Request-Method": "GET"}
        allowed = await http.options("/api/v1/workflows", headers=headers)
    assert allowed.headers["access-control-allow-origin"] == "http://localhost:5173"


async def test_a_second_server_on_the_same_directory_leaves_the_database_to_the_first(up: Up, greet: Path) -> None:
    before = postmaster(up.data_dir)
    async with stepstream("up", "--data-dir", up.data_dir, "--port", "0") as second:
        url = await second.ready()
        assert url != up.url
        assert (await done("run", greet, "-i", "x", "--server", url, "--data-dir", up.data_dir))[0] == 0
        assert await second.stops() == 0
    assert postmaster(up.data_dir) == before is not None
    assert (await up.http.get("/workflows")).status_code == 200


async def test_the_first_password_is_told_once_and_kept_private() -> None:
    async with installation() as data_dir:
        async with stepstream("up", "--data-dir", data_dir, "--port", "0") as process:
            url = await process.ready()
            file = data_dir / "admin-password"
            password = file.read_text().strip()
            assert file.stat().st_mode & 0o077 == 0
            assert process.text.count(password) == 1
            form = {"username": "admin@stepstream.local", "password": password}
            async with httpx.AsyncClient() as http:
                signed_in = await http.post(f"{url}/api/v1/auth/token", data=form)
            assert signed_in.status_code == 200
            assert await process.stops() == 0
        async with stepstream("up", "--data-dir", data_dir, "--port", "0") as process:
            await process.ready()
            assert password not in process.text
            assert await process.stops(signal.SIGINT) == 0


async def test_sigterm_ends_streams_with_their_cursor_and_stops_the_database() -> None:
    async with installation() as data_dir:
        async with stepstream("up", "--data-dir", data_dir, "--port", "0") as process:
            url = await process.ready()
            token = (await done("token", "--data-dir", data_dir))[1].strip()
            async with client(url, token) as http:
                execution_id = await start(http, waiting(3600))
            path = f"ws{url[4:]}/api/v1/executions/{execution_id}/stream"
            async with connect(path, additional_headers={"Authorization": f"Bearer {token}"}, proxy=None) as socket:
                event: dict[str, Any] = {}
                while event.get("type") != "execution_waiting":
                    event = json.loads(await socket.recv())
                process.send(signal.SIGTERM)
                with pytest.raises(ConnectionClosed):
                    await socket.recv()
                assert socket.close_code == 1012
                assert str(socket.close_reason).endswith(str(event["seq"]))
            assert await process.ends() == 0
        assert postmaster(data_dir) is None
        async with stepstream("up", "--data-dir", data_dir, "--port", "0") as process:
            async with client(await process.ready(), token) as http:
                assert (await http.get(f"/executions/{execution_id}")).json()["status"] == "WAITING"
            assert await process.stops() == 0


def calling(outside: Sink) -> dict[str, Any]:
    steps = [
        {"id": "call", "type": "http.request", "with": {"url": f"{outside.url}/call"}},
        {"id": "again", "type": "http.request", "needs": ["call"], "with": {"url": f"{outside.url}/again"}},
    ]
    return {"id": "wf_calling", "name": "Calling", "steps": steps}


async def test_sigterm_lets_what_runs_finish_once() -> None:
    async with installation() as data_dir, sink() as outside:
        outside.holds = lambda path: path == "/call"
        async with stepstream("up", "--data-dir", data_dir, "--port", "0", **outside.environment) as process:
            url = await process.ready()
            token = (await done("token", "--data-dir", data_dir))[1].strip()
            async with client(url, token) as http:
                execution_id = await start(http, calling(outside))
            await outside.until(lambda: bool(outside.held))
            process.send(signal.SIGTERM)
            await process.says('"event":"stopping"')
            outside.release()
            assert await process.ends() == 0
        async with stepstream("up", "--data-dir", data_dir, "--port", "0", **outside.environment) as process:
            async with client(await process.ready(), token) as http:
                record = (await http.get(f"/executions/{execution_id}", headers={"Prefer": "wait=30"})).json()
            assert await process.stops() == 0
        assert record["status"] == "COMPLETED"
        assert outside.effects == {"/call": 1, "/again": 1}


async def test_a_second_signal_ends_the_process_at_once() -> None:
    async with installation() as data_dir, sink() as outside:
        outside.holds = lambda _path: True
        async with stepstream("up", "--data-dir", data_dir, "--port", "0", **outside.environment) as process:
            url = await process.ready()
            token = (await done("token", "--data-dir", data_dir))[1].strip()
            async with client(url, token) as http:
                await start(http, calling(outside))
            await outside.until(lambda: bool(outside.held))
            process.send(signal.SIGTERM)
            await process.says('"event":"stopping"')
            assert await process.stops(signal.SIGTERM) == 128 + signal.SIGTERM


async def test_after_kill_9_the_next_start_finds_the_same_database() -> None:
    async with installation() as data_dir:
        async with stepstream("up", "--data-dir", data_dir, "--port", "0") as process:
            url = await process.ready()
            token = (await done("token", "--data-dir", data_dir))[1].strip()
            async with client(url, token) as http:
                execution_id = await start(http, waiting(1))
            before = postmaster(data_dir)
            assert await process.stops(signal.SIGKILL) == -signal.SIGKILL
        assert postmaster(data_dir) == before is not None
        async with stepstream("up", "--data-dir", data_dir, "--port", "0") as process:
            async with client(await process.ready(), token) as http:
                record = await http.get(f"/executions/{execution_id}", headers={"Prefer": "wait=30"})
            assert record.json()["status"] == "COMPLETED"
            assert postmaster(data_dir) == before
            assert await process.stops() == 0
        assert postmaster(data_dir) is None


ENDLESS = "SELECT count(*) FROM (SELECT generate_series(1, 4e12::bigint)) s"
UNDER_WAY = "SELECT state = 'active' FROM pg_stat_activity WHERE pid = $1"


async def test_a_postgres_killed_with_a_busy_backend_is_back_in_seconds_and_no_run_notices() -> None:
    """The orphan keeps the shared memory of the dead server: none can start before it is gone."""
    async with installation() as data_dir, sink() as outside:
        outside.holds = lambda path: path == "/call"
        async with stepstream("up", "--data-dir", data_dir, "--port", "0", **outside.environment) as process:
            url = await process.ready()
            token = (await done("token", "--data-dir", data_dir))[1].strip()
            async with client(url, token) as http:
                execution_id = await start(http, calling(outside))
                await outside.until(lambda: bool(outside.held))
                busy = await asyncpg.connect(superuser_url(data_dir))
                endless = asyncio.create_task(busy.fetch(ENDLESS))
                watching = await asyncpg.connect(superuser_url(data_dir))
                while not await watching.fetchval(UNDER_WAY, busy.get_server_pid()):
                    pass
                killed = postmaster(data_dir)
                assert killed is not None
                os.kill(killed, signal.SIGKILL)
                await process.says("postgres is up again")
                outside.release()
                record = (await http.get(f"/executions/{execution_id}", headers={"Prefer": "wait=30"})).json()
                await asyncio.wait([endless])
                assert isinstance(endless.exception(), asyncpg.PostgresError | OSError)
            assert "ending processes of a server that was killed" in process.text
            assert postmaster(data_dir) not in {None, killed}
            assert await process.stops() == 0
        assert record["status"] == "COMPLETED"
        assert outside.effects == {"/call": 1, "/again": 1}


async def test_token_starts_a_database_that_is_down_and_stops_it_again() -> None:
    async with installation() as data_dir:
        assert (await done("migrate", "--data-dir", data_dir))[0] == 0
        assert postmaster(data_dir) is None
        code, out, _ = await done("token", "--data-dir", data_dir)
        assert (code, out[:3]) == (0, "sk_")
        assert postmaster(data_dir) is None


async def test_migrate_tells_what_it_applied_and_who_can_sign_in() -> None:
    async with installation() as data_dir:
        _, first, _ = await done("migrate", "--data-dir", data_dir)
        _, second, _ = await done("migrate", "--data-dir", data_dir)
    assert "applied 0001" in first
    assert str(data_dir / "admin-password") in first
    assert "applied" not in second


async def test_serve_refuses_a_database_that_is_not_migrated_and_serves_one_that_is() -> None:
    async with installation() as data_dir:
        async with stepstream("up", "--data-dir", data_dir, "--port", "0") as process:
            await process.ready()
            environment = {"DATABASE_URL": superuser_url(data_dir), "STEPSTREAM_DATA_DIR": str(data_dir)}
            empty = {**environment, "DATABASE_URL": environment["DATABASE_URL"].replace("/postgres?", "/template1?")}
            code, _, err = await done("serve", "--port", "0", **empty)
            assert code == 1
            assert "stepstream migrate" in err
            assert "Traceback" not in err
            async with stepstream("serve", "--port", "0", **environment) as served:
                url = await served.ready()
                _, token, _ = await done("token", **environment)
                async with client(url, token.strip()) as http:
                    assert (await http.get("/workflows")).status_code == 200
                assert await served.stops() == 0
            assert await process.stops() == 0


async def test_stopping_while_it_starts_leaves_nothing_behind() -> None:
    async with installation() as data_dir:
        async with stepstream("up", "--data-dir", data_dir, "--port", "0") as process:
            await process.says("postgres cluster created")
            assert await process.stops() in {0, 128 + signal.SIGTERM}
        assert await asyncio.to_thread(postmaster, data_dir) is None
