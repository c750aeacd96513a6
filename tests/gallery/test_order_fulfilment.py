"""Order fulfilment: a sub-workflow, the carrier's word by signal, and what was done undone when anything fails."""

from itertools import count

from tests.gallery.desk import statuses
from tests.gallery.world import Answer, broken, ok

ORDER = {"order": "A-1", "card": "tok_1", "address": "Spree 1", "items": [{"sku": "pen", "quantity": 2}], "amount": 9.5}
UNDONE = ["POST /bank/charges/*/refund", "DELETE /stock/reservations/*", "POST /mail/messages"]


def shop(world):
    number = count(1)

    def created(call):
        return Answer(201, {"id": f"id-{next(number)}", "tracking": f"T-{next(number)}"})

    for route in ("POST /stock/reservations", "POST /bank/charges", "POST /carrier/labels"):
        world.on(route, created)
    for route in ("PUT /carrier/pickups/*", "PUT /shop/orders/*", *UNDONE):
        world.on(route, ok({}))


async def published(desk, **changes):
    await desk.publish("shipment")
    return await desk.publish("order_fulfilment", **changes)


async def test_an_order_is_shipped_and_closed_when_the_carrier_says_so(desk, world):
    shop(world)
    execution_id = await desk.start(await published(desk), ORDER)
    explained = await desk.waiting(execution_id, "arrival")
    assert (explained["code"], explained["details"]["signals"]) == ("signal", ["delivered", "lost"])
    assert explained["moves_at"] is not None
    for duplicate in (False, True):
        sent = await desk.ask(
            execution_id, "signal", name="delivered", payload={"signed_by": "Mia"}, dedupe_key="carrier-77"
        )
        assert sent["duplicate"] is duplicate
    detail = await desk.ended(execution_id)
    assert detail["status"] == "COMPLETED", detail["error"]
    assert detail["output"] == {"tracking": step_output(detail, "ship")["tracking"], "delivered": True}
    assert world.made("PUT /shop/orders/A-1")[0].body == {"status": "delivered", "proof": {"signed_by": "Mia"}}
    assert [call for route in UNDONE for call in world.made(route)] == []
    assert {statuses(detail)[name] for name in ("gone", "refund", "release", "apologise")} == {"SKIPPED"}
    kin = (await desk.get(execution_id, "lineage"))["data"]
    assert [one["parent_id"] for one in kin] == [None, execution_id]
    assert ("wait", "child") in await desk.spans(execution_id, "ship")
    assert ("wait", "signal") in await desk.spans(execution_id, "arrival")


async def test_a_card_that_is_refused_frees_the_stock_and_refunds_nothing(desk, world):
    shop(world)
    world.on("POST /bank/charges", broken(402))
    failed = await desk.run(await published(desk), ORDER)
    assert (failed["status"], failed["error_code"]) == ("FAILED", "http_status")
    assert "402 Payment Required" in failed["error"]
    assert [len(world.made(route)) for route in UNDONE] == [0, 1, 1]
    graph, _ = await desk.graph(failed["id"])
    assert (graph["ship"], graph["refund"], graph["release"]) == ("SKIPPED", "SKIPPED", "COMPLETED")
    shop(world)
    again = (await desk.ask(failed["id"], "retry"))["id"]
    await desk.waiting(again, "arrival")
    await desk.ask(again, "signal", name="delivered")
    assert (await desk.ended(again))["status"] == "COMPLETED"
    assert len(world.made("POST /stock/reservations")) == 2, "the first was freed"


async def test_a_shipment_that_fails_is_undone_in_reverse(desk, world):
    shop(world)
    world.on("PUT /carrier/pickups/*", broken(500))
    failed = await desk.run(await published(desk), ORDER)
    assert (failed["status"], failed["error_code"]) == ("FAILED", "child_failed")
    assert "answered 500" in failed["error"]
    undone = [call.route for call in world.calls if any(call in world.made(route) for route in UNDONE)]
    assert [route.partition("/")[2].partition("/")[0] for route in undone] == ["bank", "stock", "mail"]
    assert (await desk.explain(failed["id"]))["message"].startswith("It has failed: Execution exec_")


async def test_what_was_undone_is_done_again_by_a_retry_and_the_rest_is_not_paid_twice(desk, world):
    """Two levels: the order is charged anew, as a new charge, and its shipment keeps the label it had bought."""
    shop(world)
    world.on("PUT /carrier/pickups/*", broken(500))
    failed = await desk.run(await published(desk), ORDER)
    assert len(world.made("POST /bank/charges/*/refund")) == 1
    shop(world)
    again = (await desk.ask(failed["id"], "retry"))["id"]
    await desk.waiting(again, "arrival")
    await desk.ask(again, "signal", name="delivered")
    repaired = await desk.ended(again)
    assert repaired["status"] == "COMPLETED", repaired["error"]
    first, second = world.made("POST /bank/charges")
    assert first.headers["idempotency-key"] != second.headers["idempotency-key"], "the bank would answer the first one"
    assert len(world.made("POST /carrier/labels")) == 1
    assert statuses(repaired)["refund"] == "SKIPPED"
    kin = {one["id"]: one for one in (await desk.get(again, "lineage"))["data"]}
    shipments = [one for one in kin.values() if one["workflow_id"] == "shipment"]
    assert [one["status"] for one in shipments] == ["FAILED", "COMPLETED"]
    assert [one["retry_of"] for one in shipments] == [None, shipments[0]["id"]]


async def test_a_parcel_that_does_not_arrive_in_time_is_refunded(desk, world):
    shop(world)
    failed = await desk.run(await published(desk, arrival="50ms"), ORDER)
    assert (failed["status"], failed["error_code"]) == ("FAILED", "parcel_lost"), failed["error"]
    assert "was not delivered in time" in failed["error"]
    assert [len(world.made(route)) for route in UNDONE] == [1, 1, 1]


async def test_a_parcel_reported_lost_before_the_run_waits_for_it_counts(desk, world):
    shop(world)
    execution_id = await desk.start(await published(desk), ORDER, breakpoints=["charge"])
    await desk.until(execution_id, lambda detail: detail["status"] == "PAUSED")
    await desk.ask(execution_id, "signal", name="lost")
    await desk.ask(execution_id, "resume")
    failed = await desk.ended(execution_id)
    assert (failed["error_code"], "reported lost" in failed["error"]) == ("parcel_lost", True)


async def test_two_runs_of_one_order_follow_each_other(desk, world):
    shop(world)
    workflow_id = await published(desk)
    released = world.hold("POST /bank/charges")
    first = await desk.start(workflow_id, ORDER)
    await world.until("POST /bank/charges")
    second = await desk.start(workflow_id, ORDER)
    other = await desk.start(workflow_id, ORDER | {"order": "A-2"})
    await world.until("POST /bank/charges", 2)
    explained = await desk.explained(second, "concurrency_limit")
    assert explained["blocker"]["id"] == first
    released.set()
    for execution_id in (first, second, other):
        await desk.waiting(execution_id, "arrival")
        await desk.ask(execution_id, "signal", name="delivered")
        assert (await desk.ended(execution_id))["status"] == "COMPLETED"


def step_output(detail, step_id):
    return next(step["output"] for step in detail["steps"] if step["id"] == step_id)
