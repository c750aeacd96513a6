"""The benchmark measures what it says, counts the rows behind it, and says so in its record."""

import io
import json

import pytest
from rich.console import Console

from app.bench.benchmark import benchmark
from app.bench.report import show
from app.bench.shapes import AUDIT, EVENTS, EXECUTIONS, THREE_STEPS
from app.bench.sizes import TINY
from tests.cli.processes import done

CONTESTANTS = {"rest", "limit over HTTP", "engine", "limit"}
AT_ONCE = CONTESTANTS | {"rest by batches"}


@pytest.fixture(scope="module")
async def record():
    told = await benchmark(TINY, ["throughput", "latency", "fan-out"], lambda _: None)
    return json.loads(json.dumps(told, allow_nan=False))


async def test_every_turn_was_measured_and_its_rows_counted(record):
    for scenario, contestants in (("throughput", AT_ONCE), ("latency", CONTESTANTS)):
        measurements = record["scenarios"][scenario]["measurements"]
        assert measurements.keys() >= contestants
        for contestant in contestants:
            for turn in measurements[contestant]:
                rows = turn["rows"]
                assert rows[EXECUTIONS] == turn["completed"] > 0
                assert rows.items() >= THREE_STEPS.rows(turn["completed"]).items()
                assert {"app", "postgres", "client"} == turn["cpu_ms_per_run"].keys()


async def test_the_limit_writes_the_rows_that_the_product_writes(record):
    measurements = record["scenarios"]["throughput"]["measurements"]
    per_run = {
        contestant: {name: turn["rows"][name] / turn["completed"] for name in (EXECUTIONS, EVENTS, AUDIT)}
        for contestant in AT_ONCE
        for turn in measurements[contestant]
    }
    assert all(rows == per_run["limit"] for rows in per_run.values())


async def test_the_server_keeps_its_durability_and_the_lifted_limits_are_told(record):
    postgres = record["postgres"]
    assert (postgres["fsync"], postgres["synchronous_commit"], postgres["full_page_writes"]) == ("on", "on", "on")
    assert record["server_settings"]["STEPSTREAM_MAX_RUNNING_PER_USER"] == "0"


async def test_the_table_has_a_line_for_each_result_beside_goal_and_floor(record):
    console = Console(width=160, record=True, file=io.StringIO())
    show(console, record)
    text = console.export_text()
    results = [result for scenario in record["scenarios"].values() for result in scenario["results"]]
    assert all(result["name"] in text for result in results)
    (rest,) = [line for line in text.splitlines() if line.startswith("  three steps over REST, batches of ")]
    assert "≥ 0.75" in rest
    assert "≥ 0.45" in rest
    for result in results:
        if result["limit"]:
            assert result["value"] >= 0
            assert result["ratio"] >= 0


async def test_an_unknown_scenario_is_named_with_those_there_are():
    code, _, err = await done("bench", "--only", "throughput,speed")
    assert code == 1
    assert "speed" in err
    assert "latency" in err
