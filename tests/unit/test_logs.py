"""The process log: what runs say looks like any other line, and nothing below the level is written."""

import asyncio
import io
import json
import re
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import structlog

from app import logs
from app.domain.log_lines import LogLine
from app.engine import run_log
from tests.unit.runs import Run

LINES = [LogLine("info", "workflow", "Execution order: a \u2192 b"), LogLine("error", "a", 'Step "a" failed')]
STOPPING = "[ERROR] [exec_1] [workflow] Stopping workflow 'Test': broken"
STAMP = r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"

Written = Callable[[], list[str]]


@pytest.fixture
def written(capsys: pytest.CaptureFixture[str]) -> Iterator[Written]:
    """What has been written since, by line. Afterwards nothing is configured."""
    yield lambda: capsys.readouterr().err.splitlines()
    structlog.reset_defaults()
    logs._run_log = None


async def tell(execution_id, lines):
    """Log lines of a run; they are written by the next turn of the loop."""
    logs.log_run(execution_id, lines)
    await asyncio.sleep(0)


@pytest.mark.parametrize("form", ["json", "human"])
async def test_lines_of_runs_look_like_any_others(form, written):
    logs.configure_logs(form, "info")
    await tell("exec_1", LINES)
    runs = written()
    log = structlog.get_logger("other")
    for line in LINES:
        getattr(log, line.level)(line.message, execution_id="exec_1", scope=line.scope)
    assert [re.sub(STAMP, "STAMP", line) for line in runs] == [re.sub(STAMP, "STAMP", line) for line in written()]


async def test_a_line_is_json(written):
    logs.configure_logs("json", "info")
    await tell("exec_1", LINES)
    first, second = map(json.loads, written())
    assert re.fullmatch(STAMP, first.pop("timestamp"))
    assert first == {"execution_id": "exec_1", "scope": "workflow", "event": LINES[0].message, "level": "info"}
    assert (second["level"], second["event"]) == ("error", LINES[1].message)


async def test_only_lines_of_the_level_are_written(written):
    logs.configure_logs("human", "warning")
    run = Run({"id": "a"}).fail("a")
    ended = SimpleNamespace(row=SimpleNamespace(id="exec_1", ends=False), events=run.changes.events, attempts=[])
    run_log.tell(run.workflow, ended, None)
    await asyncio.sleep(0)
    assert written() == ["[ERROR] [exec_1] [a] Step 'a' failed: broken", STOPPING]


def test_without_a_configured_log_lines_go_where_structlog_is_told():
    with structlog.testing.capture_logs() as said:
        logs.log_run("exec_1", LINES)
    assert [(line["log_level"], line["event"]) for line in said] == [(line.level, line.message) for line in LINES]


async def test_lines_of_one_turn_of_the_loop_are_one_write_in_order(monkeypatch, written):
    logs.configure_logs("human", "info")
    writes = []
    monkeypatch.setattr(logs._run_log._stream, "write", writes.append)
    logs.log_run("exec_1", LINES[:1])
    logs.log_run("exec_2", LINES[:1])
    await tell("exec_1", LINES[1:])
    await tell("exec_1", LINES[1:])
    assert [[line.split("] ")[1] for line in text.splitlines()] for text in writes] == [
        ["[exec_1", "[exec_2", "[exec_1"], ["[exec_1"]
    ]  # fmt: skip


async def test_a_closed_log_is_nobodys_failure(monkeypatch, written):
    logs.configure_logs("human", "info")
    monkeypatch.setattr(logs._run_log, "_stream", io.StringIO())
    logs._run_log._stream.close()
    await tell("exec_1", LINES)
    assert logs._run_log._unwritten == []
