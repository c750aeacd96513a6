"""Invoice approval: lines held against the order, two approvals by others, one payment, whatever happens."""

from tests.gallery.desk import reused, statuses, step_of
from tests.gallery.world import Answer, broken, ok

SMALL = {
    "number": "INV-7", "order": "O-1", "supplier": "Havel",
    "lines": [{"sku": "pen", "quantity": 3, "price": 1.1}, {"sku": "ink", "quantity": 1, "price": 20}],
}  # fmt: skip
LARGE = SMALL | {"number": "INV-8", "lines": [*SMALL["lines"], {"sku": "desk", "quantity": 2, "price": 400}]}
COST_CENTRE = {"cost_centre": "4711"}


def office(world):
    world.on("GET /erp/invoices/*", Answer(404, {}))
    world.on("GET /erp/orders/O-1/lines/pen", broken(503), ok({"price": 1.1, "quantity": 10}))
    world.on("GET /erp/orders/O-1/lines/ink", ok({"price": 20, "quantity": 1}))
    world.on("GET /erp/orders/O-1/lines/desk", ok({"price": 399.5, "quantity": 2}))
    world.on("POST /bank/payments", Answer(201, {"id": "pay-1"}))
    world.on("PUT /erp/invoices/*", broken(502), ok({}))
    world.on("POST /mail/messages", ok({}))


async def test_a_small_invoice_that_fits_is_paid_at_once(desk, world):
    office(world)
    detail = await desk.run(await desk.publish("invoice_approval"), SMALL)
    assert (detail["status"], detail["output"]) == ("COMPLETED", {"paid": True, "total": 23.3, "payment": "pay-1"})
    assert world.made("PUT /erp/invoices/INV-7")[-1].body == {"payment": "pay-1", "cost_centre": "1000"}
    items = (await desk.get(detail["id"], "steps", "ordered", "items"))["data"]
    assert [len(item["attempts"]) for item in items] == [2, 1]
    _, taken = await desk.graph(detail["id"])
    assert "route.nobody>pay" in taken
    assert "review.approved>pay" not in taken


async def test_two_others_approve_by_the_form_before_it_is_paid(desk, world, colleague):
    office(world)
    execution_id = await desk.start(await desk.publish("invoice_approval"), LARGE)
    explained = await desk.waiting(execution_id, "review")
    assert (explained["code"], explained["blocker"]["type"]) == ("approval", "approval")
    assert "Pay 823.3 to Havel?" in explained["message"]
    approval = await desk.approval(execution_id)
    assert (approval["quorum"], approval["message"]) == (2, "Does not fit the order: desk")
    assert (await desk.decide(approval["id"], "approve", data=COST_CENTRE)).json()["code"] == "self_approval"
    first, second = await colleague(), await colleague()
    wrong = await first.decide(approval["id"], "approve", data={"cost_centre": "x"})
    assert (wrong.json()["code"], wrong.json()["errors"][0]["pointer"]) == ("form_mismatch", "/data/cost_centre")
    for _ in range(2):  # pressed twice
        assert (await first.decide(approval["id"], "approve", data=COST_CENTRE)).json()["verdict"] is None
    assert world.made("POST /bank/*") == []
    assert "1 of 2 have approved" in (await desk.explained(execution_id, "approval"))["message"]
    assert (await second.decide(approval["id"], "approve", data=COST_CENTRE)).json()["verdict"] == "approved"
    detail = await desk.ended(execution_id)
    assert (detail["status"], detail["output"]["paid"]) == ("COMPLETED", True)
    assert len(step_of(detail, "review")["output"]["decided_by"]) == 2
    assert world.made("PUT /erp/invoices/*")[-1].body["cost_centre"] == "4711"
    assert ("wait", "approval") in await desk.spans(execution_id, "review")


async def test_one_rejection_sends_it_back_unpaid(desk, world, colleague):
    office(world)
    execution_id = await desk.start(await desk.publish("invoice_approval"), LARGE)
    await desk.waiting(execution_id, "review")
    approval = await desk.approval(execution_id)
    await (await colleague()).decide(approval["id"], "approve", data=COST_CENTRE)
    assert (await (await colleague()).decide(approval["id"], "reject", comment="two desks?")).status_code == 200
    detail = await desk.ended(execution_id)
    assert (detail["status"], detail["output"]["paid"]) == ("COMPLETED", False)
    assert world.made("POST /mail/messages")[0].body["text"] == "We cannot pay INV-8: two desks?"
    assert world.made("POST /bank/payments") == []
    late = await (await colleague()).decide(approval["id"], "approve", data=COST_CENTRE)
    assert (late.status_code, late.json()["code"]) == (409, "approval_decided")


async def test_nobody_decides_in_time(desk, world):
    office(world)
    detail = await desk.run(await desk.publish("invoice_approval", review="50ms"), LARGE)
    assert (detail["status"], detail["error_code"]) == ("FAILED", "approval_expired")
    assert "Pay 823.3 to Havel?" in detail["error"]
    assert world.made("POST /*") == []


async def test_a_bank_that_fails_after_the_approval_is_asked_again_without_a_second_approval(desk, world, colleague):
    office(world)
    workflow_id = await desk.publish("invoice_approval")
    assert (await desk.run(workflow_id, SMALL))["status"] == "COMPLETED"
    world.on("POST /bank/payments", broken(503), Answer(201, {"id": "pay-2"}))
    execution_id = await desk.start(workflow_id, LARGE)
    await desk.waiting(execution_id, "review")
    approval = await desk.approval(execution_id)
    for _ in range(2):
        await (await colleague()).decide(approval["id"], "approve", data=COST_CENTRE)
    failed = await desk.ended(execution_id)
    assert (failed["status"], statuses(failed)["pay"]) == ("FAILED", "FAILED")
    diff = await desk.get(execution_id, "diff")
    assert (diff["same_input"], diff["first_divergence"]["step_id"]) == (False, "earlier")
    repaired = await desk.retried(execution_id)
    assert (repaired["status"], repaired["output"]["payment"]) == ("COMPLETED", "pay-2")
    assert {"ordered", "matched", "review"} <= reused(repaired)
    again = await desk.retried(repaired["id"], from_step="book")
    assert again["status"] == "COMPLETED"
    assert len(world.made("POST /bank/payments")) == 3, "the first invoice, the one that failed, the one that did not"


async def test_an_invoice_that_was_booked_before_is_refused(desk, world):
    office(world)
    world.on("GET /erp/invoices/*", ok({"payment": "pay-0"}))
    detail = await desk.run(await desk.publish("invoice_approval"), SMALL)
    assert (detail["status"], detail["error_code"]) == ("FAILED", "duplicate_invoice")
    assert detail["error"] == "Invoice INV-7 was booked before"
    assert world.made("POST /*") == []
