"""Nightly ETL: 200 partitions, some of which fail, a cached lookup, a job polled, a sweep whatever happens."""

import pytest

from tests.gallery.desk import API, Desk, reused, statuses, step_of
from tests.gallery.world import Answer, World, broken, ok

DAY = {"date": "2026-11-20"}
NAMES = [f"p{number:03}" for number in range(200)]


def loaded(call):
    return ok({"partition": call.path.rpartition("/")[2], "rows": 10})


def lake(world: World) -> None:
    world.on("GET /lake/partitions", broken(503), ok({"partitions": NAMES}))
    world.on("GET /catalogue/*", ok(["id", "amount"]))
    world.on("PUT /warehouse/staging/*", loaded)
    world.on("PUT /warehouse/staging/p007", broken(503), loaded)
    world.on("POST /warehouse/exports", Answer(202, {"id": "x1"}))
    world.on("GET /warehouse/exports/x1", ok({"state": "running"}), ok({"state": "running"}), ok({"state": "done"}))
    world.on("DELETE /warehouse/staging", Answer(204))
    world.on("POST /pager/alerts", Answer(202, {}))


@pytest.fixture
async def etl(desk: Desk, world: World) -> str:
    lake(world)
    await desk.publish("etl_alarm")
    return await desk.publish("nightly_etl", job="10ms")


async def test_all_partitions_are_loaded_and_the_export_is_waited_for(desk, world, etl):
    detail = await desk.run(etl, DAY)
    assert detail["status"] == "COMPLETED", detail["error"]
    assert detail["output"] == {"rows": 2000, "missing": []}
    assert len(world.made("PUT /warehouse/staging/*")) == 201
    assert [call.body["position"] for call in world.made("PUT /warehouse/staging/p199")] == [199]
    assert len(world.made("GET /warehouse/exports/x1")) == 3
    assert world.made("POST /pager/alerts") == []
    assert [kind for kind, _ in await desk.spans(detail["id"], "job")].count("wait") == 2
    page = await desk.get(detail["id"], "steps", "load", "items", params={"limit": 200})
    assert [item["id"] for item in page["data"]] == [f"load[{index}]" for index in range(200)]


async def test_the_next_night_has_the_columns_from_the_cache(desk, world, etl):
    assert (await desk.run(etl, DAY))["status"] == "COMPLETED"
    detail = await desk.run(etl, {"date": "2026-11-21"})
    assert (detail["status"], step_of(detail, "columns")["reason"]) == ("COMPLETED", "cached")
    assert len(world.made("GET /catalogue/*")) == 1


async def test_a_few_missing_partitions_are_told_and_loaded_later_one_by_one(desk, world, etl):
    world.on("PUT /warehouse/staging/p007", broken(500))
    detail = await desk.run(etl, DAY)
    assert (detail["status"], detail["output"]) == ("COMPLETED", {"rows": 1990, "missing": ["p007"]})
    items = await desk.get(detail["id"], "steps", "load", "items", params={"status": "failed"})
    assert [(item["id"], len(item["attempts"])) for item in items["data"]] == [("load[7]", 3)]
    world.on("PUT /warehouse/staging/p007", loaded)
    before = len(world.made("PUT /warehouse/staging/*"))
    repaired = await desk.retried(detail["id"], from_step="load[7]")
    assert (repaired["status"], repaired["output"]) == ("COMPLETED", {"rows": 2000, "missing": []})
    assert len(world.made("PUT /warehouse/staging/*")) == before + 1
    assert "export" in reused(repaired), "it happened once; a new export is asked for by redo_once"


async def test_too_many_missing_partitions_fail_the_run_which_sweeps_and_wakes_somebody(desk, world, etl):
    assert (await desk.run(etl, DAY))["status"] == "COMPLETED"
    world.on("PUT /warehouse/staging/p01?", broken(400))
    world.on("PUT /warehouse/staging/p02?", broken(400))
    failed = await desk.run(etl, {"date": "2026-11-21"})
    assert (failed["status"], failed["error_code"]) == ("FAILED", "too_much_missing")
    assert failed["error"] == "20 partitions are missing, more than one in twenty"
    assert (statuses(failed)["export"], statuses(failed)["sweep"]) == ("SKIPPED", "COMPLETED")
    await world.until("POST /pager/alerts")
    [alert] = world.made("POST /pager/alerts")
    assert alert.body == {"title": "Nightly ETL failed at enough", "detail": failed["error"], "run": failed["id"]}
    assert len(world.made("POST /warehouse/exports")) == 1


async def test_an_export_that_fails_is_asked_for_again_with_what_was_loaded(desk, world, etl):
    assert (await desk.run(etl, DAY))["status"] == "COMPLETED"
    world.on("GET /warehouse/exports/x1", ok({"state": "failed", "reason": "disk full"}))
    failed = await desk.run(etl, DAY)
    assert (failed["error_code"], failed["error"]) == ("export_failed", "The export failed: disk full")
    diff = await desk.get(failed["id"], "diff")
    assert (diff["same_input"], diff["first_divergence"]["step_id"]) == (True, "job")
    loads = len(world.made("PUT /warehouse/staging/*"))
    world.on("GET /warehouse/exports/x1", ok({"state": "done"}))
    repaired = await desk.retried(failed["id"], from_step="export", redo_once=True)
    assert repaired["status"] == "COMPLETED"
    assert len(world.made("PUT /warehouse/staging/*")) == loads
    assert len(world.made("POST /warehouse/exports")) == 3
    assert len(world.made("DELETE /warehouse/staging")) == 3


async def test_a_run_beyond_its_budget_pauses_until_somebody_raises_it(desk, world, etl):
    execution_id = await desk.start(etl, DAY, budget={"max_steps": 60})
    explained = await desk.explained(execution_id, "budget_exceeded")
    assert "max_steps" in explained["message"]
    assert len(world.made("PUT /warehouse/staging/*")) <= 60
    raised = await desk.http.patch(f"{API}/executions/{execution_id}/budget", json={"max_steps": 500, "reason": "big"})
    assert raised.status_code == 202
    await desk.ask(execution_id, "resume")
    detail = await desk.ended(execution_id)
    assert (detail["status"], detail["output"]["rows"]) == ("COMPLETED", 2000)
    assert ("paused", "budget_exceeded") in await desk.spans(execution_id, None)


async def test_an_export_that_never_ends_is_given_up(desk, world, etl):
    world.on("GET /warehouse/exports/x1", ok({"state": "running"}))
    execution_id = await desk.start(etl, DAY)
    await world.until("GET /warehouse/exports/x1", 3)
    assert step_of(await desk.get(execution_id), "job")["status"] in {"RUNNING", "WAITING"}
    await desk.ask(execution_id, "cancel", reason="the warehouse is down")
    detail = await desk.ended(execution_id)
    assert (detail["status"], statuses(detail)["sweep"]) == ("CANCELLED", "SKIPPED")
