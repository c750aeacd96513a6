"""Lead qualification: three ways, a lookup that may fail, a CRM told once, a risky lead that a person releases."""

from tests.gallery.desk import reused, statuses, step_of
from tests.gallery.world import Answer, broken, ok

ADA = {"email": "Ada@Nordlicht.example", "name": " Ada Brandt ", "message": "We would like a demo"}


def crm(world):
    world.on("GET /crm/leads", Answer(404, {}))
    world.on("POST /crm/leads", Answer(201, {"id": "lead-1"}))


async def test_a_hot_lead_gets_a_mail_though_the_lookup_fails_twice_at_first(desk, world):
    crm(world)
    found = ok({"employees": 450, "industry": "logistics"})
    world.on("GET /firmographics/companies/nordlicht.example", broken(503, retry_after="0"), broken(502), found)
    detail = await desk.run(await desk.publish("lead_qualification"), ADA)
    assert detail["status"] == "COMPLETED", detail["error"]
    assert detail["output"] == {
        "email": "ada@nordlicht.example", "temperature": "hot", "score": 95, "crm_id": "lead-1",
    }  # fmt: skip
    [written] = world.made("POST /crm/leads")
    assert "Ada Brandt" in written.body["mail"]
    assert [attempt["status"] for attempt in step_of(detail, "enrich")["attempts"]].count("FAILED") == 2
    graph, taken = await desk.graph(detail["id"])
    assert (graph["pitch"], graph["newsletter"], graph["park"]) == ("COMPLETED", "SKIPPED", "SKIPPED")
    assert {"route.hot>pitch", "pitch>write"} <= taken
    assert not {"route.warm>newsletter", "newsletter>write"} & taken
    kinds = [kind for kind, _ in await desk.spans(detail["id"], "enrich")]
    assert (kinds.count("attempt"), kinds.count("backoff")) == (3, 2)


async def test_a_lead_of_an_unknown_company_is_cold_and_the_run_goes_on_without_the_lookup(desk, world):
    crm(world)
    detail = await desk.run(await desk.publish("lead_qualification"), {"email": "bo@nowhere.example", "name": "Bo"})
    assert (detail["status"], detail["output"]["temperature"]) == ("COMPLETED", "cold")
    assert statuses(detail)["enrich"] == "FAILED"
    assert len(world.made("GET /firmographics/*")) == 1, "a 404 is not tried again"
    assert (await desk.event(detail["id"], "execution_completed"))["risk_score"] == 0.6


async def test_a_crm_that_is_down_fails_the_run_and_a_retry_asks_nothing_twice(desk, world):
    crm(world)
    world.on("GET /firmographics/*", ok({"employees": 450, "industry": "logistics"}))
    workflow_id = await desk.publish("lead_qualification")
    assert (await desk.run(workflow_id, ADA))["status"] == "COMPLETED"
    world.on("POST /crm/leads", broken(500), Answer(201, {"id": "lead-2"}))
    failed = await desk.run(workflow_id, ADA)
    assert (failed["status"], failed["error_code"]) == ("FAILED", "http_status")
    assert "answered 500" in failed["error"]
    assert len(step_of(failed, "write")["attempts"]) == 1, "what happens once is not repeated by itself"
    diff = await desk.get(failed["id"], "diff")
    assert (diff["same_input"], diff["first_divergence"]["step_id"]) == (True, "write")
    assert "answered 500" in diff["first_divergence"]["detail"]
    looked_up = len(world.made("GET /*"))
    repaired = await desk.retried(failed["id"], reason="the CRM is back")
    assert (repaired["status"], repaired["output"]["crm_id"]) == ("COMPLETED", "lead-2")
    assert reused(repaired) == {"lead", "known", "enrich", "company", "points", "route", "pitch"} | {
        "newsletter", "park",
    }  # fmt: skip
    assert len(world.made("GET /*")) == looked_up
    assert repaired["tokens_used"] == 0, "the mail was paid for by the run before"
    keys = [call.headers["idempotency-key"] for call in world.made("POST /crm/leads")]
    assert keys[1] == keys[2] != keys[0]


async def test_a_risky_lead_waits_for_a_colleague(desk, world, colleague):
    crm(world)
    world.on("GET /firmographics/*", ok({"employees": 450, "industry": "logistics"}))
    workflow_id = await desk.publish("lead_qualification")
    lead = ADA | {"email": "eve@invoice.zip"}
    execution_id = await desk.start(workflow_id, lead)
    explained = await desk.waiting(execution_id)
    assert (explained["code"], explained["blocker"]["type"]) == ("approval", "approval")
    assert explained["moves_at"] is not None, "its deadline"
    approval = await desk.approval(execution_id)
    assert approval["step_id"] is None
    assert (await desk.decide(approval["id"], "approve")).json()["code"] == "self_approval"
    other = await colleague()
    assert (await other.decide(approval["id"], "reject", comment="a known fraud")).status_code == 200
    rejected = await desk.ended(execution_id)
    assert (rejected["status"], rejected["error_code"]) == ("FAILED", "approval_rejected")
    assert "a known fraud" in rejected["error"]
    again = await desk.start(workflow_id, lead)
    await desk.waiting(again)
    assert (await other.decide((await desk.approval(again))["id"], "approve")).status_code == 200
    approved = await desk.ended(again)
    assert approved["status"] == "COMPLETED"
    assert (await desk.event(again, "execution_completed"))["risk_score"] == 0.9
    assert ("wait", "approval") in await desk.spans(again, None)


async def test_an_address_that_is_none_never_starts(desk, world):
    workflow_id = await desk.publish("lead_qualification")
    answer = await desk.http.post("/api/v1/executions", json={"workflow_id": workflow_id, "input": {"email": "x"}})
    assert answer.status_code == 422
    assert {problem["pointer"] for problem in answer.json()["errors"]} == {"/input", "/input/email"}
    assert world.calls == []
