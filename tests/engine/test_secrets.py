"""Secrets in runs: looked up at the moment of use, for their organisation alone, cut out of all that is recorded."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from app.auth.sealing import MasterKeys
from app.domain.errors import StepError, Unavailable
from app.domain.secrets import OpenedSecret
from app.domain.steps import Done
from app.engine import secrets as engine_secrets
from app.services.secrets import bound_to
from tests.database import Database
from tests.engine.harness import KEYS, ORG, engine, save_workflow
from tests.engine.kit import Step

VALUE = "canary-of-the-engine-Ä"
REFERENCE = {"$secret": "key"}


async def put(
    database: Database,
    value: str = VALUE,
    *,
    org: str = ORG,
    version: int = 1,
    keys: MasterKeys = KEYS,
    name: str = "key",
) -> None:
    await database.execute("INSERT INTO organizations (id, name) VALUES ($1, $1) ON CONFLICT DO NOTHING", org)
    sealed = keys.seal(value, bound_to(org, name, version))
    await database.execute(
        "INSERT INTO secrets (org_id, name, version, allowed_hosts, ciphertext, wrapped_key, key_id, updated_by) "
        "VALUES ($1, $2, $3, '{a.org}', $4, $5, $6, 'user')",
        org, name, version, sealed.ciphertext, sealed.wrapped_key, sealed.key_id,
    )  # fmt: skip


class Keyed(Step):
    """A step type that may be given secrets under `key`."""

    def __init__(self, run: Any) -> None:
        super().__init__(run)
        self.spec = replace(self.spec, secrets_in=frozenset({"key"}))


def keyed(step_id: str = "use", *needs: str, **more: Any) -> dict[str, Any]:
    return {"id": step_id, "type": "keyed", "needs": [*needs], "with": {"key": [REFERENCE]}, **more}


def plain(step_id: str, *needs: str) -> dict[str, Any]:
    return {"id": step_id, "type": "plain", "needs": [*needs], "with": {}}


async def echo(context: Any, config: Any) -> Done:
    opened = config["key"][0]
    assert isinstance(opened, OpenedSecret)
    context.log(f"using {opened.value}")
    return Done({"sent": opened.value, "hosts": list(opened.allowed_hosts)})


async def everything(database: Database) -> str:
    """All that is stored, but for what is sealed."""
    tables = await database.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    rows = [await database.fetch(f"SELECT t::text FROM {row['tablename']} t") for row in tables]
    return "\n".join(str(row[0]) for found in rows for row in found)


async def test_a_value_is_given_to_its_step_and_recorded_nowhere(database: Database) -> None:
    await put(database)
    async with engine(database, types={"keyed": Keyed(echo)}) as running:
        row = await running.run(keyed(), {"id": "after", "type": "set", "needs": ["use"],
                                          "with": {"again": "${{ steps.use.output.sent }}"}})  # fmt: skip
        assert row["status"] == "COMPLETED"
        steps = await running.steps(row["id"])
    assert steps["use"]["input"] == '{"key":[{"$secret":"key"}]}'
    assert steps["use"]["output"] == '{"sent":"[secret]","hosts":["a.org"]}'
    assert steps["after"]["output"] == '{"again":"[secret]"}'
    assert "canary" not in await everything(database)
    assert await database.fetchval("SELECT last_used_at FROM secrets") is not None


@pytest.mark.parametrize("there", [None, "another organisation's", "another key's"])
async def test_without_the_secret_the_step_fails_at_once_and_clearly(there: str | None, database: Database) -> None:
    if there == "another organisation's":
        await put(database, org="org_b")
    elif there is not None:
        await put(database, keys=MasterKeys([b"another master secret, quite long"]))
    retried = {"max_attempts": 5, "initial_interval": "1ms"}
    async with engine(database, types={"keyed": Keyed(echo)}) as running:
        row = await running.run(keyed(retry=retried))
        assert await running.attempts(row["id"], "use") == ["FAILED"]
    expected = "secret_unreadable" if there == "another key's" else "secret_not_found"
    assert (row["status"], row["error_code"]) == ("FAILED", expected)
    assert "'key'" in row["error"]


async def test_a_sealed_value_moved_to_another_organisation_or_name_does_not_open(database: Database) -> None:
    await put(database, org="org_b", name="other")
    await database.execute("UPDATE secrets SET org_id = $1, name = 'key'", ORG)
    async with engine(database, types={"keyed": Keyed(echo)}) as running:
        assert (await running.run(keyed()))["error_code"] == "secret_unreadable"


async def test_what_a_step_raises_says_or_streams_in_pieces_is_cut_out_too(database: Database) -> None:
    await put(database)

    async def leak(context: Any, config: Any) -> Done:
        value = config["key"][0].text
        context.progress(0.5, f"at {value}")
        context.tool_call("call", {"with": value, value: [value]})
        for letter in f"it is {value}, {value}":
            context.token(letter)
            context._flush()  # as if 100 ms had passed
        cause = KeyError(value)
        raise RuntimeError("x" * 1_990 + value) from cause

    async with engine(database, types={"keyed": Keyed(leak)}) as running:
        row = await running.run(keyed())
        said = await running.events(row["id"], "token_delta")
    assert "".join(event["data"]["text"] for event in said) == "it is [secret], [secret]"
    stored = await everything(database)
    assert "canary" not in stored
    assert "x" * 1_900 in stored
    assert "xcan" not in stored, "nor a piece of it where a message is cut"


async def test_a_replaced_or_deleted_secret_is_so_as_soon_as_it_is_looked_up_again(
    database: Database, monkeypatch: Any
) -> None:
    monkeypatch.setattr(engine_secrets, "CACHE_SECONDS", 0.0)
    await put(database, "first-value")
    seen: list[str] = []

    async def look(context: Any, config: Any) -> Done:
        seen.append(config["key"][0].value)
        return Done()

    async with engine(database, types={"keyed": Keyed(look)}) as running:
        await running.run(keyed())
        await put(database, "second-value", version=2)
        await running.run(keyed())
        await database.execute("DELETE FROM secrets")
        row = await running.run(keyed())
    assert seen == ["first-value", "second-value"]
    assert row["error_code"] == "secret_not_found"


async def test_a_busy_step_does_not_ask_the_database_each_time(database: Database, monkeypatch: Any) -> None:
    await put(database)
    assert engine_secrets.CACHE_SECONDS <= 3, "revoked within seconds"
    monkeypatch.setattr(engine_secrets, "CACHE_SECONDS", 600.0)
    asked = 0
    async with engine(database, types={"keyed": Keyed(echo)}) as running:
        vault = running.orchestrator._ports.secrets._vault
        ask = vault.open

        async def counted(org_id: str, names: Any) -> Any:
            nonlocal asked
            asked += 1
            return await ask(org_id, names)

        monkeypatch.setattr(vault, "open", counted)
        row = await running.run(keyed(for_each="${{ [1,2,3,4,5,6,7,8,9,10] }}", max_parallel=10))
    assert row["status"] == "COMPLETED"
    assert asked == 1


async def test_after_a_restart_a_later_step_still_tells_nothing_even_of_the_value_before(database: Database) -> None:
    """The other side got the value from a process that is gone, and gives it back to a step that sends none."""
    await put(database)
    sent = asyncio.Event()
    started = asyncio.Event()

    async def send(context: Any, config: Any) -> Done:
        sent.set()
        return Done()

    async def wait_for_ever(context: Any, config: Any) -> Done:
        started.set()
        await asyncio.Event().wait()
        return Done()

    async def give_back(context: Any, config: Any) -> Done:
        return Done({"echo": VALUE})

    steps = (keyed("send"), plain("fetch", "send"))
    workflow_id = await save_workflow(database, *steps)
    async with engine(database, types={"keyed": Keyed(send), "plain": Step(wait_for_ever)}) as first:
        execution_id = await first.start(workflow_id)
        await asyncio.wait_for(started.wait(), 20)
        await first.crash()
    await put(database, "the-new-value", version=2)
    async with engine(database, types={"keyed": Keyed(send), "plain": Step(give_back)}) as second:
        row = await second.finish(execution_id)
        steps_now = await second.steps(execution_id)
    assert sent.is_set()
    assert row["status"] == "COMPLETED"
    assert steps_now["fetch"]["output"] == '{"echo":"[secret]"}'
    assert "canary" not in await everything(database)


async def test_an_idempotency_key_follows_from_the_reference_not_from_the_value(database: Database) -> None:
    await put(database, "first-value")
    keys: list[str] = []

    async def look(context: Any, config: Any) -> Done:
        keys.append(context.idempotency_key)
        if len(keys) == 1:
            await put(database, "second-value", version=2)
            raise StepError("once more")
        return Done()

    async with engine(database, types={"keyed": Keyed(look)}) as running:
        await running.run(keyed(retry={"max_attempts": 2, "initial_interval": "1ms"}))
    assert len(keys) == 2
    assert keys[0] == keys[1]


async def test_data_that_looks_like_a_reference_stays_data(database: Database) -> None:
    await put(database)

    async def look(context: Any, config: Any) -> Done:
        return Done({"given": config["key"]})

    async with engine(database, types={"keyed": Keyed(look)}) as running:
        step = {"id": "use", "type": "keyed", "with": {"key": "${{ input }}"}}
        row = await running.run(step, value=REFERENCE)
    assert row["output"] == '{"given":{"$secret":"key"}}'


async def test_an_attempt_waits_for_a_database_that_is_away(database: Database, monkeypatch: Any) -> None:
    await put(database)
    monkeypatch.setattr(engine_secrets, "AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(engine_secrets, "CACHE_SECONDS", 0.0)
    async with engine(database, types={"keyed": Keyed(echo)}) as running:
        vault = running.orchestrator._ports.secrets._vault
        ask, calls = vault.open, 0

        async def sometimes(org_id: str, names: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls in {2, 3}:
                raise Unavailable("The database does not answer")
            return await ask(org_id, names)

        monkeypatch.setattr(vault, "open", sometimes)
        row = await running.run(keyed())
        assert await running.attempts(row["id"], "use") == ["COMPLETED"]
    assert calls == 4
