"""Signals are stored whenever they come, and once for each name and dedupe key."""

import asyncio
import json

import pytest

from app.services import control
from tests.api.control_calls import PATH, add_execution, audited, mail_of
from tests.api.workflow_calls import create, refused


@pytest.fixture
async def execution_id(client, database):
    return await add_execution(database, await create(client), "WAITING")


async def send(client, execution_id, **body):
    return await client.post(f"{PATH}/{execution_id}/signal", json=body)


async def test_a_signal_is_stored_with_its_payload(client, owner, database, execution_id):
    answer = await send(client, execution_id, name="order.paid", payload={"amount": 1.5, "text": "\u0000"})
    assert answer.status_code == 202, answer.text
    assert answer.json() | {"signal_id": ""} == {
        "signal_id": "", "execution_id": execution_id, "name": "order.paid", "duplicate": False,
    }  # fmt: skip
    [mail] = await mail_of(database, execution_id)
    assert (mail["kind"], mail["topic"], mail["user_id"]) == ("signal", "order.paid", owner.user_id)
    assert json.loads(mail["payload"]) == {"amount": 1.5, "text": "\u0000"}
    assert await audited(database, execution_id) == ["execution.signal_sent"]


async def test_without_a_dedupe_key_every_signal_counts(client, database, execution_id):
    ids = {(await send(client, execution_id, name="go")).json()["signal_id"] for _ in range(2)}
    assert len(ids) == 2
    assert [json.loads(mail["payload"]) for mail in await mail_of(database, execution_id)] == [None, None]


async def test_a_dedupe_key_makes_repeating_safe(client, database, execution_id):
    first = (await send(client, execution_id, name="paid", payload=1, dedupe_key="p-1")).json()
    again = (await send(client, execution_id, name="paid", payload=2, dedupe_key="p-1")).json()
    assert again == first | {"duplicate": True}
    assert [json.loads(mail["payload"]) for mail in await mail_of(database, execution_id)] == [1]
    assert await audited(database, execution_id) == ["execution.signal_sent"]


async def test_a_dedupe_key_belongs_to_a_name(client, database, execution_id):
    """An order's number may well stand for its payment and for its shipment."""
    for name in ("paid", "shipped"):
        assert not (await send(client, execution_id, name=name, dedupe_key="order-7")).json()["duplicate"]
    assert [mail["topic"] for mail in await mail_of(database, execution_id)] == ["paid", "shipped"]


async def test_simultaneous_signals_with_one_key_are_one(client, database, execution_id):
    answers = await asyncio.gather(
        *(send(client, execution_id, name="paid", payload=n, dedupe_key="k") for n in range(20))
    )
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["signal_id"] for answer in answers}) == 1
    assert sum(not answer.json()["duplicate"] for answer in answers) == 1
    assert len(await mail_of(database, execution_id)) == 1


async def test_repeating_a_signal_after_the_end_still_answers_the_first(client, database, execution_id):
    first = (await send(client, execution_id, name="paid", dedupe_key="k")).json()
    await database.execute("UPDATE executions SET status = 'COMPLETED' WHERE id = $1", execution_id)
    assert (await send(client, execution_id, name="paid", dedupe_key="k")).json() == first | {"duplicate": True}
    refused(await send(client, execution_id, name="paid", dedupe_key="other"), 409, "invalid_state")


@pytest.mark.parametrize(
    "body",
    [
        {"name": ""},
        {"name": "1st"},
        {"name": "a b"},
        {"name": "a\n"},
        {"name": "a" * 129},
        {"payload": 1},
        {"name": "go", "dedupe_key": ""},
        {"name": "go", "dedupe_key": "k" * 256},
        {"name": "go", "dedupe_key": "\u0000"},
        {"name": "go", "colour": "red"},
    ],
)
async def test_a_signal_that_makes_no_sense_is_refused(client, database, execution_id, body):
    refused(await send(client, execution_id, **body), 422, "validation_error")
    assert await mail_of(database, execution_id) == []


async def test_a_signal_to_nobody_is_a_404(client):
    refused(await send(client, "exec_nothing", name="go"), 404, "not_found")


async def test_an_execution_keeps_so_many_signals_and_takes_more_when_some_are_used(
    client, database, execution_id, monkeypatch
):
    """Whoever takes it up has all of them in memory."""
    monkeypatch.setattr(control, "MAX_SIGNALS", 2)
    for key in ("k1", "k2"):
        assert (await send(client, execution_id, name="go", dedupe_key=key)).status_code == 202
    await database.execute("UPDATE execution_inbox SET applied_at = now() WHERE dedupe_key = 'go:k1'")
    refused(await send(client, execution_id, name="go"), 409, "too_many_signals")
    assert (await send(client, execution_id, name="go", dedupe_key="k1")).json()["duplicate"]
    assert len(await mail_of(database, execution_id)) == 2
    await database.execute("UPDATE execution_inbox SET consumed_by = 'a' WHERE dedupe_key = 'go:k1'")
    assert (await send(client, execution_id, name="go")).status_code == 202


async def test_an_execution_keeps_so_many_bytes_of_signals(client, database, execution_id, monkeypatch):
    monkeypatch.setattr(control, "MAX_SIGNAL_BYTES", 2_000)
    assert (await send(client, execution_id, name="go", payload="x" * 1_500)).status_code == 202
    refused(await send(client, execution_id, name="go", payload="x" * 600), 409, "too_many_signals")
    assert (await send(client, execution_id, name="go", payload="x" * 300)).status_code == 202
