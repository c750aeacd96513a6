"""Accepted is durable: processes are killed in the middle of many executions, and every one of them ends, once.

Effects are counted outside, by an HTTP server of the test. It keeps some answers back, so that at the kill those steps
are certainly unfinished: if they are not run again, the fault was not hit.
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import httpx

from app.db.engines import DriverConnection, connect
from app.db.invariants import Verdict, examine
from app.domain.events import TERMINAL_TYPES
from app.domain.states import ExecutionStatus
from tests.cli.processes import done, installation, postmaster, stepstream, superuser_url
from tests.cli.sink import Sink, sink

EXECUTIONS = 500
IN_FLIGHT = 24
HELD_EVERY = 7
EFFECTS_BEFORE_THE_KILL = 600

TERMINAL = [status.value for status in ExecutionStatus if status.terminal]


def workflows(url: str) -> list[dict[str, Any]]:
    """Five kinds of runs; a call's path names its execution and its step."""

    def call(step_id: str, *needs: str) -> dict[str, Any]:
        target = f"{url}/${{{{ execution.id }}}}/{step_id}"
        return {"id": step_id, "type": "http.request", "needs": list(needs), "with": {"url": target}}

    def step(step_id: str, kind: str, config: dict[str, Any], *needs: str, **more: Any) -> dict[str, Any]:
        return {"id": step_id, "type": kind, "needs": list(needs), "with": config, **more}

    twice = {"max_attempts": 3, "initial_interval": "50ms", "jitter": "none"}
    flaky = {"function": "flaky", "args": {"fail_times": 1}}
    graphs = {
        "chain": [call("a"), call("b", "a"), call("c", "b")],
        "diamond": [call("a"), call("b", "a"), call("c", "a"), call("d", "b", "c")],
        "quick": [step("say", "log", {"message": "hello"}), step("end", "end", {"output": "${{ input }}"}, "say")],
        "patient": [call("a"), step("wait", "delay", {"duration": "300ms"}, "a"), call("b", "wait")],
        "failing": [
            step("try", "function", flaky, retry=twice),
            call("a", "try"),
            step("no", "fail", {"message": "no"}, "a"),
        ],
    }
    return [{"id": f"wf_{name}", "name": name, "steps": steps} for name, steps in graphs.items()]


class Fleet:
    """What a client knows: the ids that were answered with 201, by the number of the request."""

    def __init__(self, token: str) -> None:
        self._headers = {"Authorization": f"Bearer {token}"}
        self.ids: dict[int, str] = {}
        self.workflow_ids: dict[int, str] = {}

    @asynccontextmanager
    async def http(self, url: str) -> AsyncIterator[httpx.AsyncClient]:
        async with httpx.AsyncClient(base_url=f"{url}/api/v1", headers=self._headers, timeout=60) as client:
            yield client

    async def save(self, url: str, documents: list[dict[str, Any]]) -> None:
        async with self.http(url) as http:
            for document in documents:
                (await http.post("/workflows", json=document)).raise_for_status()
        self.workflow_ids = {number: documents[number % len(documents)]["id"] for number in range(EXECUTIONS)}

    async def start_all(self, *urls: str, count: int = EXECUTIONS) -> None:
        """Start those not yet accepted, each under its own key; one that gets no answer is left for the next call."""
        numbers = iter([number for number in range(count) if number not in self.ids])
        await asyncio.gather(*(self._start_some(urls[worker % len(urls)], numbers) for worker in range(IN_FLIGHT)))

    async def _start_some(self, url: str, numbers: Any) -> None:
        async with self.http(url) as http:
            for number in numbers:
                body = {"workflow_id": self.workflow_ids[number], "input": number}
                try:
                    answer = await http.post("/executions", json=body, headers={"Idempotency-Key": f"run-{number}"})
                except httpx.TransportError:
                    return
                assert answer.status_code == 201, answer.text
                self.ids[number] = answer.json()["id"]

    async def all_end(self, url: str) -> None:
        """Wait until every accepted execution is terminal."""
        async with self.http(url) as http:
            for execution_id in self.ids.values():
                answer = await http.get(f"/executions/{execution_id}", headers={"Prefer": "wait=60"})
                assert answer.json()["status"] in TERMINAL, answer.text


async def completed_calls(database: DriverConnection) -> dict[str, asyncpg.Record]:
    """The calls recorded as completed, by the path the sink knows them by."""
    rows = await database.fetch(
        "SELECT execution_id || '/' || path AS path, attempt, completed_at FROM execution_steps "
        "WHERE type = 'http.request' AND status = 'COMPLETED'"
    )
    return {f"/{row['path']}": row for row in rows}


async def check_records(database: DriverConnection, fleet: Fleet) -> None:
    """Every accepted execution ended as its workflow does, its events are gapless, the counters are the counts."""
    rows = await database.fetch("SELECT id, workflow_id, status FROM executions")
    assert {row["id"] for row in rows} == set(fleet.ids.values())
    for row in rows:
        assert row["status"] == ("FAILED" if row["workflow_id"] == "wf_failing" else "COMPLETED"), dict(row)
    gaps = await database.fetch(
        "SELECT execution_id FROM execution_events GROUP BY execution_id "
        "HAVING min(seq) <> 1 OR max(seq) <> count(*) OR count(*) FILTER (WHERE type = ANY($1)) <> 1 "
        "OR max(seq) FILTER (WHERE type = ANY($1)) <> max(seq)",
        list(TERMINAL_TYPES),
    )
    assert gaps == []
    assert await database.fetchval("SELECT count(DISTINCT execution_id) FROM execution_events") == len(rows)
    wrong = await database.fetch(
        "SELECT w.id FROM workflows w LEFT JOIN executions e ON e.workflow_id = w.id GROUP BY w.org_id, w.id "
        "HAVING w.execution_count <> count(e.id) OR w.cancelled_count <> 0 "
        "OR w.success_count <> count(e.id) FILTER (WHERE e.status = 'COMPLETED') "
        "OR w.failure_count <> count(e.id) FILTER (WHERE e.status = 'FAILED')"
    )
    assert wrong == []
    for action in ("execution.created", "workflow.executed"):
        noted = await database.fetchval("SELECT count(*) FROM audit_logs WHERE action = $1", action)
        assert noted == len(rows), action


def check_effects(outside: Sink, before: dict[str, asyncpg.Record], after: dict[str, asyncpg.Record]) -> None:
    """What was recorded before the kill happened once and is unchanged; what was unfinished then ran again."""
    for path, row in before.items():
        assert outside.effects[path] == 1, path
        assert after[path] == row
    for path in after:
        assert outside.effects[path] <= 2, path
    assert outside.held
    for path in outside.held:
        assert outside.effects[path] == 2, path


async def broken(database: DriverConnection) -> list[Verdict]:
    """What doctor would find."""
    return [verdict for verdict in await examine(database) if verdict.count or verdict.unknown]


async def test_500_executions_survive_kill_9_of_their_process() -> None:
    async with installation() as data_dir, sink() as outside:
        outside.holds = lambda _path: sum(outside.effects.values()) % HELD_EVERY == 0
        arguments = ("up", "--data-dir", data_dir, "--port", "0")
        async with stepstream(*arguments, **outside.environment) as first:
            url = await first.ready()
            fleet = Fleet((await done("token", "--data-dir", data_dir))[1].strip())
            await fleet.save(url, workflows(outside.url))
            starting = asyncio.create_task(fleet.start_all(url))
            await outside.until(lambda: sum(outside.effects.values()) >= EFFECTS_BEFORE_THE_KILL)
            database = await connect(superuser_url(data_dir), "test")
            assert await broken(database) == [], "work under way is no fault"
            await first.stops(signal.SIGKILL)
            await starting
        try:
            assert await broken(database) == [], "nor is a process that has just died"
            outside.release()
            await outside.quiet()
            assert await database.fetchval("SELECT count(*) FROM executions WHERE status <> ALL($1)", TERMINAL) > 0
            accepted = {row["id"] for row in await database.fetch("SELECT id FROM executions")}
            assert set(fleet.ids.values()) <= accepted
            before = await completed_calls(database)
            assert before
            async with stepstream(*arguments, **outside.environment) as second:
                url = await second.ready()
                await fleet.start_all(url)
                assert len(set(fleet.ids.values())) == EXECUTIONS
                await fleet.all_end(url)
                await check_records(database, fleet)
                check_effects(outside, before, await completed_calls(database))
                assert await second.stops() == 0
        finally:
            await database.close()


async def test_of_two_processes_on_one_database_the_other_takes_over() -> None:
    count = 60
    async with installation() as data_dir, sink() as outside:
        outside.holds = lambda path: path.endswith("/a")
        async with stepstream("up", "--data-dir", data_dir, "--port", "0", **outside.environment) as first:
            first_url = await first.ready()
            own = {"DATABASE_URL": superuser_url(data_dir), "STEPSTREAM_DATA_DIR": str(data_dir)}
            async with stepstream("serve", "--port", "0", **own, **outside.environment) as second:
                second_url = await second.ready()
                fleet = Fleet((await done("token", "--data-dir", data_dir))[1].strip())
                await fleet.save(first_url, workflows(outside.url)[:2])
                database = await connect(superuser_url(data_dir), "test")
                try:
                    await fleet.start_all(first_url, second_url, count=count)
                    await outside.until(lambda: len(outside.held) == count)
                    owners = "SELECT count(*) FROM executions GROUP BY owner"
                    assert len(await database.fetch(owners)) == 2
                    await first.stops(signal.SIGKILL)
                    # What the living one drives is answered; what the dead one drove is asked again, by the living.
                    outside.release()
                    await fleet.all_end(second_url)
                    await check_records(database, fleet)
                    repeated = sum(times - 1 for times in outside.effects.values())
                    assert 0 < repeated < count
                    assert postmaster(data_dir) is not None
                finally:
                    await database.close()
                assert await second.stops() == 0
