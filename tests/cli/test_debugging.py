"""`stepstream executions budget`, `breakpoints`, `edit`, `run-step`, and what `run` may be told, by real commands."""

import asyncio
import json

from tests.cli.operator import Up
from tests.cli.processes import done


async def test_a_run_is_stopped_at_a_step_its_output_edited_and_its_limits_changed(up: Up) -> None:
    starting = ("run", "wf_city", "--input", '{"city": "Atlantis"}', "--breakpoint", "find", "--max-steps", "1")
    run = asyncio.create_task(done(*starting, **up.environment))
    while not (listed := (await up.http.get("/executions", params={"status": "PAUSED"})).json()["data"]):
        pass
    execution_id = listed[0]["id"]
    code, out, _ = await up.executions("breakpoints", execution_id, "check")
    assert (code, f"{execution_id}  pauses before check" in out) == (0, True)
    await up.executions("resume", execution_id)
    while (paused := await up.record(execution_id))["control"]["pause"] is None or paused["steps"][0]["output"] is None:
        pass
    assert (paused["control"]["breakpoints"], paused["control"]["budget"]["max_steps"]) == (["check"], 1)
    code, out, _ = await up.executions("edit", execution_id, "find", '{"city": "Bremen"}', "--reason", "a typo")
    assert (code, "find is to have this output" in out) == (0, True)
    code, out, _ = await up.executions("budget", execution_id, "--max-steps", "9", "--max-duration", "1h", "--json")
    assert (code, json.loads(out)["id"]) == (0, execution_id)
    assert (await up.executions("breakpoints", execution_id, "--clear"))[0] == 0
    assert (await up.executions("resume", execution_id))[0] == 0
    code, out, _ = await run
    assert (code, json.loads(out)) == (0, "Bremen")
    limits = (await up.record(execution_id))["control"]["budget"]
    assert (limits["max_steps"], limits["max_duration"]) == (9, "1h")


async def test_what_says_nothing_is_refused_before_anybody_is_asked(up: Up) -> None:
    for wrong in (("budget", "last"), ("breakpoints", "last"), ("breakpoints", "last", "find", "--clear")):
        assert (await up.executions(*wrong))[0] == 2
    code, _, err = await up.executions("breakpoints", await up.ended("wf_city", "Berlin"), "find")
    assert (code, "COMPLETED" in err) == (2, True)
    code, _, err = await up.executions("run-step", "wf_city", "nowhere")
    assert (code, "no such step" in err) == (2, True)


async def test_one_step_is_run_alone_with_what_it_is_given(up: Up) -> None:
    alone = ("run-step", "wf_city", "check", "--input", '{"city": "x"}')
    code, out, err = await up.executions(*alone, "--output", 'find={"city": "Atlantis"}', "--follow")
    assert (code, out) == (1, "")
    assert "check alone" in err
    assert "it sank" in err
    code, out, _ = await up.executions("run-step", "wf_city", "find", "--input", '{"city": "Ulm"}')
    record = await up.record(out.strip(), ended=True)
    assert (code, record["output"], record["steps"][1]["reason"]) == (0, {"city": "Ulm"}, "not_selected")


async def test_a_run_is_started_for_later_with_a_step_pinned(up: Up) -> None:
    pinned = ("run", "wf_city", "--input", '{"city": "Atlantis"}', "--pin", 'find={"city": "Trier"}')
    code, out, _ = await done(*pinned, "--start-at", "100ms", **up.environment)
    assert (code, json.loads(out)) == (0, "Trier")
    code, _, err = await done("run", "wf_city", "--start-at", "soon", **up.environment)
    assert (code, "--start-at: soon is neither a span" in err) == (1, True)
    code, _, err = await done("run", "wf_city", "--pin", "find", **up.environment)
    assert (code, "STEP=JSON" in err) == (1, True)
