"""The detail of an execution: its steps but not thousands of items, and traces for those who may see them."""

import pytest

from app import clock
from tests.api.control_calls import PATH, add_execution, add_step
from tests.api.workflow_calls import create, refused

WORKFLOW = {
    "name": "Map",
    "steps": [
        {"id": "map", "type": "set", "for_each": "${{ input }}", "with": {"n": "${{ item }}"}},
        {"id": "map_x", "type": "set", "with": {"n": 1}},
        {"id": "end", "type": "set", "needs": ["map"], "with": {"n": 1}},
    ],
}


@pytest.fixture
async def workflow(client):
    return await create(client, WORKFLOW)


@pytest.fixture
async def execution_id(database, workflow):
    """Twelve items, of which the last failed; its attempt left a trace."""
    execution_id = await add_execution(database, workflow, "WAITING")
    await add_step(database, workflow, execution_id, "map", "RUNNING", items=12)
    await add_step(database, workflow, execution_id, "map_x", "WAITING", reason="signal", awaits='{"kind": "signal"}')
    for index in range(12):
        await add_step(
            database, workflow, execution_id, f"map[{index}]", "FAILED" if index == 11 else "COMPLETED", output="{}"
        )
    for path in ("map[11]", "map_x"):
        await database.execute(
            "INSERT INTO step_attempts (execution_id, path, attempt, org_id, epoch, worker_id, status, completed_at, "
            "trace) VALUES ($1, $2, 1, $3, 1, 'worker_1', 'FAILED', $4, 'Traceback: secret place')",
            execution_id, path, workflow["org_id"], clock.now(),
        )  # fmt: skip
    return execution_id


async def test_items_are_not_listed_among_the_steps(client, execution_id):
    detail = (await client.get(f"{PATH}/{execution_id}")).json()
    assert [step["id"] for step in detail["steps"]] == ["map", "map_x", "end"]
    assert [step["items"] for step in detail["steps"]] == [12, None, None]
    assert detail["steps"][1]["awaits"] == {"kind": "signal"}
    assert detail["metrics"]["total_steps"] == 3
    steps = (await client.get(f"{PATH}/{execution_id}/steps")).json()["data"]
    assert steps == detail["steps"]


async def test_items_are_paged_by_index_and_narrowed_by_status(client, execution_id):
    url = f"{PATH}/{execution_id}/steps/map/items"
    first = (await client.get(url, params={"limit": 10})).json()
    assert [item["id"] for item in first["data"]] == [f"map[{index}]" for index in range(10)]
    rest = (await client.get(url, params={"limit": 10, "cursor": first["next_cursor"]})).json()
    assert [(item["index"], len(item["attempts"])) for item in rest["data"]] == [(10, 0), (11, 1)]
    assert not rest["has_more"]
    failed = (await client.get(url, params={"status": "failed"})).json()["data"]
    assert [item["index"] for item in failed] == [11]
    refused(await client.get(url, params={"status": "nonsense"}), 422, "validation_error")
    assert (await client.get(f"{PATH}/{execution_id}/steps/end/items")).json()["data"] == []
    refused(await client.get(f"{PATH}/{execution_id}/steps/nowhere/items"), 404, "not_found")
    other = f"{PATH}/{execution_id}/steps/map_x/items"
    refused(await client.get(other, params={"cursor": first["next_cursor"]}), 422, "invalid_cursor")


async def test_one_item_is_read_by_its_path(client, execution_id):
    item = (await client.get(f"{PATH}/{execution_id}/steps/map[11]")).json()
    assert (item["id"], item["status"], len(item["attempts"])) == ("map[11]", "FAILED", 1)
    assert (await client.get(f"{PATH}/{execution_id}/steps/end")).json()["status"] == "PENDING"
    refused(await client.get(f"{PATH}/{execution_id}/steps/map[99]"), 404, "not_found")


async def test_traces_are_shown_to_those_who_may_see_them(client, viewer_client, execution_id):
    for url in (
        f"{PATH}/{execution_id}",
        f"{PATH}/{execution_id}/steps/map_x",
        f"{PATH}/{execution_id}/steps/map/items",
    ):
        assert "secret place" in (await client.get(url)).text
        answer = await viewer_client.get(url)
        assert (answer.status_code, "secret place" in answer.text, '"trace"' in answer.text) == (200, False, False)
