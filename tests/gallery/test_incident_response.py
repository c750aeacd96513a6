"""Incident response: a page, an answer or an escalation, diagnostics meanwhile, a runbook, a postmortem in any case."""

import pytest

from tests.gallery.desk import Desk, reused, statuses
from tests.gallery.world import World, broken, ok

INCIDENT = {"incident": "INC-1", "service": "shop", "hosts": ["a", "b", "c"]}


@pytest.fixture
async def incident(desk: Desk, world: World) -> str:
    world.on("POST /pager/pages", ok({}))
    world.on("GET /logs/errors", ok(["timeout"]))
    world.on("GET /metrics/latency", broken(500))
    world.on("GET /deploys/latest", ok({"version": "1.7"}))
    world.on("PUT /fleet/hosts/*", ok({}))
    world.on("GET /health/shop", broken(503), ok({}))
    world.on("PUT /wiki/postmortems/*", ok({}))
    await desk.publish("restart_service")
    return await desk.publish("incident_response", healthy="10ms")


async def test_it_is_answered_the_runbook_heals_and_the_postmortem_tells(desk, world, incident):
    execution_id = await desk.start(incident, INCIDENT)
    explained = await desk.waiting(execution_id, "answer")
    assert explained["details"]["signals"] == ["acknowledged", "resolved"]
    assert statuses(await desk.get(execution_id))["findings"] == "COMPLETED", "nobody waits for the answer to look"
    await desk.ask(execution_id, "signal", name="acknowledged", payload={"by": "ann"})
    detail = await desk.ended(execution_id)
    assert (detail["status"], detail["output"]) == ("COMPLETED", {"healed": True}), detail["error"]
    assert [call.path for call in world.made("PUT /fleet/*")] == [f"/fleet/hosts/{host}/restart" for host in "abc"]
    [told] = world.made("PUT /wiki/postmortems/INC-1")
    assert (told.body["escalated"], told.body["healed"], told.body["trouble"]) == (False, True, None)
    assert told.body["findings"]["metrics"]["code"] == "http_status"
    assert len(world.made("POST /pager/pages")) == 1
    _, taken = await desk.graph(execution_id)
    assert {"answer.received>who", "who>runbook"} <= taken
    assert "answer.timed_out>escalate" not in taken


async def test_nobody_answers_so_the_next_one_is_paged(desk, world, incident):
    hurried = await desk.publish_again("incident_response", incident, healthy="10ms", answer="30ms")
    execution_id = await desk.start(hurried, INCIDENT)
    await desk.waiting(execution_id, "second_answer")
    assert [call.body["who"] for call in world.made("POST /pager/pages")] == ["primary", "secondary"]
    await desk.ask(execution_id, "signal", name="resolved")
    detail = await desk.ended(execution_id)
    assert (detail["status"], detail["output"]) == ("COMPLETED", {"healed": False}), detail["error"]
    assert statuses(detail)["runbook"] == "SKIPPED", "it was well already"
    assert world.made("PUT /wiki/postmortems/INC-1")[0].body["escalated"] is True


async def test_nobody_answers_at_all_and_the_postmortem_is_written_all_the_same(desk, world, incident):
    hurried = await desk.publish_again("incident_response", incident, answer="30ms", second_answer="30ms")
    failed = await desk.run(hurried, INCIDENT)
    assert (failed["status"], failed["error_code"]) == ("FAILED", "signal_timeout")
    assert failed["error"] == "The signal acknowledged or resolved did not come in time"
    told = world.made("PUT /wiki/postmortems/INC-1")[0].body
    assert (told["healed"], told["trouble"]["code"]) == (False, "signal_timeout")
    assert told["findings"]["logs"] == ["timeout"]


async def test_a_host_that_does_not_come_back_fails_the_runbook_and_a_retry_pages_nobody(desk, world, incident):
    world.on("PUT /fleet/hosts/b/restart", broken(500))
    execution_id = await desk.start(incident, INCIDENT)
    await desk.ask(execution_id, "signal", name="acknowledged")
    failed = await desk.ended(execution_id)
    assert (failed["status"], failed["error_code"]) == ("FAILED", "child_failed")
    assert "hosts/b/restart answered 500" in failed["error"]
    assert len(world.made("PUT /fleet/hosts/c/restart")) == 0
    assert world.made("PUT /wiki/postmortems/INC-1")[0].body["trouble"]["code"] == "child_failed"
    world.on("PUT /fleet/hosts/b/restart", ok({}))
    repaired = await desk.retried(execution_id)
    assert (repaired["status"], repaired["output"]) == ("COMPLETED", {"healed": True}), repaired["error"]
    assert {"page", "answer", "who"} <= reused(repaired)
    assert len(world.made("POST /pager/pages")) == 1
    lineage = (await desk.get(repaired["id"], "lineage"))["data"]
    assert [one["workflow_id"] for one in lineage] == ["incident_response", "restart_service"] * 2


async def test_a_second_alarm_for_the_same_incident_starts_nothing(desk, world, incident):
    released = world.hold("POST /pager/pages")
    first = await desk.start(incident, INCIDENT)
    await world.until("POST /pager/pages")
    second = await desk.run(incident, INCIDENT)
    assert (second["status"], second["status_reason"]) == ("CANCELLED", "concurrency_skipped")
    released.set()
    await desk.ask(first, "signal", name="resolved")
    assert (await desk.ended(first))["status"] == "COMPLETED"
    assert len(world.made("POST /pager/pages")) == 1
