"""`stepstream executions` and `approvals`, as an operator has them: real commands, one server for all tests."""

import asyncio
import json
import os
import signal
import sys

import pytest
import typer

from app.cli.commands import cli
from app.cli.failures import CommandFailed
from app.cli.naming import labels_of, moment_of
from tests.cli.operator import Up
from tests.cli.processes import ROOT, SECONDS, Process, done, stepstream


def test_every_command_is_there_with_an_example() -> None:
    groups = typer.main.get_command(cli).commands  # type: ignore[attr-defined]
    assert [*groups["executions"].commands] == [
        "list", "show", "watch", "explain", "diff", "timeline", "graph", "lineage", "cancel", "terminate", "pause",
        "resume", "step", "signal", "approve", "reject", "retry", "replay", "bulk",
        "budget", "breakpoints", "edit", "run-step",
    ]  # fmt: skip
    for group in ("executions", "approvals"):
        assert "Exit status" in groups[group].epilog
        for name, command in groups[group].commands.items():
            assert f"stepstream {group} {name}" in command.epilog
            assert command.help


async def test_a_list_is_narrowed_and_has_no_colour_in_a_pipe(up: Up) -> None:
    failed = await up.ended("wf_city", "Atlantis", "listed")
    completed = await up.ended("wf_city", "Berlin", "listed")
    code, out, err = await up.executions("list", "--label", "test=listed", "--since", "1h")
    assert (code, err) == (0, "")
    assert out.index(completed) < out.index(failed)
    assert "failed_by_step: it sank" in out
    assert "\x1b" not in out
    _, out, _ = await up.executions("list", "-s", "failed", "-l", "test=listed", "-w", "wf_city", "--json")
    assert [row["id"] for row in json.loads(out)["data"]] == [failed]
    _, out, _ = await up.executions("list", "-l", "test=listed", "-n", "1", "--json")
    assert json.loads(out)["has_more"] is True
    assert "No execution" in (await up.executions("list", "--until", "2020-01-01T00:00:00Z"))[1]


async def test_an_execution_is_shown_in_every_form(up: Up) -> None:
    execution_id = await up.ended("wf_city", "Berlin")
    plain, markdown, mermaid, record = await asyncio.gather(
        up.executions("show", execution_id),
        up.executions("show", execution_id, "--markdown"),
        up.executions("show", execution_id, "--mermaid"),
        up.executions("show", "last", "--json"),
    )
    assert [code for code, _, _ in (plain, markdown, mermaid, record)] == [0, 0, 0, 0]
    assert "find" in plain[1]
    assert "#" in markdown[1]
    assert mermaid[1].startswith(("flowchart", "graph"))
    assert json.loads(record[1])["id"] == execution_id
    assert (await up.executions("show", execution_id, "--json", "--mermaid"))[0] == 2


async def test_explain_says_what_to_do_and_a_signal_does_it(up: Up) -> None:
    execution_id = await up.start("wf_waiting")
    await up.until(execution_id, "execution_waiting")
    code, out, _ = await up.executions("explain", execution_id)
    assert code == 0
    assert out.startswith("WAITING  signal: ")
    assert f"stepstream executions signal {execution_id} paid" in out
    assert json.loads((await up.executions("explain", execution_id, "--json"))[1])["blocker"]["id"] == "paid"
    sending = ("signal", execution_id, "paid", "--payload", '{"amount": 7}', "--dedupe-key", "first")
    code, sent, _ = await up.executions(*sending)
    assert (code, len(sent.split())) == (0, 1)
    assert (await up.record(execution_id, ended=True))["output"]["payload"] == {"amount": 7}
    again = await up.executions(*sending)
    assert (again[0], again[1]) == (0, sent)
    assert "before" in again[2]


async def test_an_approval_is_decided_by_its_execution_and_the_run_watched_to_its_end(up: Up) -> None:
    execution_id, approval_id = await up.to_approve()
    code, out, _ = await up.approvals("list", "--execution", execution_id)
    assert code == 0
    assert approval_id in out
    assert "Send the [red]offer[/red]?" in out
    code, _, err = await up.executions("approve", execution_id, "--data", "3")
    assert code == 2
    assert "/data" in err
    code, out, _ = await up.executions("approve", execution_id, "--data", '{"limit": 3}', "--comment", "go")
    assert (code, "approved" in out) == (0, True)
    code, out, err = await up.executions("watch", execution_id)
    assert (code, json.loads(out)) == (0, {"city": "Berlin", "paid": 7})
    for told in ("signal paid", approval_id, "approve by user_admin: go", "check"):
        assert told in err
    assert "go" in (await up.approvals("show", approval_id))[1]
    assert json.loads((await up.approvals("show", approval_id, "--json"))[1])["status"] == "APPROVED"
    code, _, err = await up.executions("approve", execution_id)
    assert (code, "COMPLETED" in err) == (2, True)


async def test_a_rejected_run_ends_its_watch_with_1(up: Up) -> None:
    execution_id, approval_id = await up.to_approve()
    code, out, _ = await up.executions("reject", approval_id, "--comment", "a duplicate")
    assert (code, "rejected" in out) == (0, True)
    code, out, _ = await up.executions("watch", execution_id, "--json")
    events = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert [event["seq"] for event in events] == [*range(1, len(events) + 1)]
    assert events[-1]["type"] == "execution_failed"


async def test_a_run_is_paused_resumed_and_cancelled(up: Up) -> None:
    execution_id = await up.start("wf_waiting")
    await up.until(execution_id, "execution_waiting")
    code, _, err = await up.executions("step", execution_id)
    assert (code, "PAUSED" in err) == (2, True)
    code, out, _ = await up.executions("pause", execution_id, "--reason", "lunch")
    assert (code, f"{execution_id}  asked to pause" in out) == (0, True)
    assert (await up.until(execution_id, "execution_paused"))["detail"] == "lunch"
    assert f"executions resume {execution_id}" in (await up.executions("explain", execution_id))[1]
    assert json.loads((await up.executions("resume", execution_id, "--json"))[1])["id"] == execution_id
    await up.until(execution_id, "execution_resumed")
    assert (await up.executions("cancel", execution_id))[0] == 0
    assert (await up.record(execution_id, ended=True))["status"] == "CANCELLED"
    code, _, err = await up.executions("cancel", execution_id)
    assert (code, "CANCELLED" in err) == (2, True)


async def test_a_run_is_terminated(up: Up) -> None:
    execution_id = await up.start("wf_waiting")
    assert (await up.executions("terminate", execution_id))[0] == 0
    assert (await up.record(execution_id, ended=True))["status"] == "CANCELLED"


async def test_a_retry_prints_the_new_one_and_reuses_what_was_finished(up: Up) -> None:
    old = await up.ended("wf_city", "Atlantis")
    code, out, err = await up.executions("retry", old, "--reason", "again")
    assert (code, err) == (0, "")
    record = await up.record(out.strip(), ended=True)
    assert (record["retry_of"], record["status"]) == (old, "FAILED")
    code, out, err = await up.executions("retry", old, "--follow")
    assert (code, out) == (1, "")
    assert f"retry of {old}" in err
    assert f"reused from {old}" in err
    code, out, _ = await up.executions("lineage", old)
    assert (code, out.count("retry exec_")) == (0, 2)
    assert "← this one" in out
    assert json.loads((await up.executions("lineage", old, "--json"))[1])["root_id"] == old
    assert (await up.executions("retry", old, "--from", "nowhere"))[0] == 2


async def test_a_replay_with_another_input_or_output_is_followed_and_compared(up: Up) -> None:
    old = await up.ended("wf_city", "Atlantis")
    code, out, err = await up.executions("replay", old, "--input", '{"city": "Hamburg"}', "--follow")
    assert (code, json.loads(out)) == (0, "Hamburg")
    assert f"replay of {old}" in err
    code, out, err = await up.executions("replay", old, "--pin", 'find={"city": "Bremen"}', "-f")
    assert (code, json.loads(out)) == (0, "Bremen")
    assert "its output was given" in err
    code, out, _ = await up.executions("diff", old, "last")
    assert code == 0
    assert "They part at find" in out
    assert "~ /city = " in out
    code, out, _ = await up.executions("diff", old, "last", "--json")
    assert json.loads(out)["right"]["status"] == "COMPLETED"
    code, _, err = await up.executions("replay", old, "--pin", "find")
    assert (code, "STEP=JSON" in err) == (2, True)


async def test_the_time_and_the_way_of_a_run_are_told(up: Up) -> None:
    execution_id = await up.ended("wf_city", "Berlin")
    code, out, _ = await up.executions("timeline", execution_id)
    assert (code, "attempt" in out) == (0, True)
    assert json.loads((await up.executions("timeline", execution_id, "--json"))[1])["spans"]
    code, out, _ = await up.executions("graph", execution_id)
    assert (code, "✓ find" in out) == (0, True)
    assert json.loads((await up.executions("graph", execution_id, "--json"))[1])["edges"][0]["to"] == "check"


async def test_bulk_counts_first_and_does_nothing_unanswered(up: Up) -> None:
    for _ in range(2):
        await up.ended("wf_city", "Atlantis", "bulk")
    chosen = ("bulk", "retry", "--label", "test=bulk")
    code, out, err = await up.executions(*chosen, "--dry-run")
    assert (code, out.count("exec_")) == (0, 2)
    assert "2 executions match" in err
    code, out, err = await up.executions(*chosen)
    assert (code, out) == (2, "")
    assert "--yes" in err
    code, out, err = await answering("n\n", up, *chosen)
    assert (code, out) == (2, "")
    code, out, err = await answering("y\n", up, *chosen)
    assert (code, len(out.split())) == (0, 2)
    assert "Retry 2 executions? [y/N]" in err
    assert (await up.record(out.split()[0]))["retry_of"]
    code, _, err = await up.executions("bulk", "cancel", "--yes")
    assert (code, "--workflow" in err) == (2, True)


async def test_bulk_with_yes_asks_nobody(up: Up) -> None:
    execution_id = await up.start("wf_waiting", label="many")
    code, out, _ = await up.executions("bulk", "cancel", "-l", "test=many", "--id", execution_id, "--yes", "--json")
    assert (code, json.loads(out)["applied"]) == (0, 1)
    assert (await up.record(execution_id, ended=True))["status"] == "CANCELLED"
    code, out, err = await up.executions("bulk", "cancel", "--label", "test=many", "--yes")
    assert (code, out) == (0, "")
    assert "0 executions match" in err


async def answering(text: str, up: Up, *arguments: str) -> tuple[int, str, str]:
    """A command with something on its stdin."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app.cli", "executions", *arguments),
        env={**os.environ, "PYTHONPATH": str(ROOT), **up.environment},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(SECONDS):
        out, err = await process.communicate(text.encode())
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_all_that_is_under_way_is_watched_until_interrupted(up: Up) -> None:
    execution_id = await up.start("wf_waiting")
    watching = ("executions", "watch", "--workflow", "wf_waiting")
    async with stepstream(*watching, **up.environment) as process:
        await process.says(f"{execution_id}  wf_waiting  WAITING")
        await up.http.post(f"/executions/{execution_id}/signal", json={"name": "paid"})
        await process.says(f"{execution_id}  wf_waiting  COMPLETED  100 %")
        assert await process.stops(signal.SIGINT) == 130
    assert "Traceback" not in process.text


async def test_an_interrupted_watch_says_how_to_go_on(up: Up) -> None:
    execution_id = await up.start("wf_waiting")
    process: Process
    async with stepstream("executions", "watch", execution_id, **up.environment) as process:
        await process.says("waits for a signal")
        assert await process.stops(signal.SIGINT) == 130
    assert f"stepstream follow {execution_id}" in process.text


@pytest.mark.parametrize("command", [("show",), ("explain",), ("cancel",), ("retry",), ("watch",), ("approve",)])
async def test_an_unknown_execution_is_refused_with_2(up: Up, command: tuple[str, ...]) -> None:
    code, out, err = await up.executions(*command, "exec_00000000000000000000000000")
    assert (code, out) == (2, "")
    assert err.startswith("Error: There is no such execution")


async def test_without_a_server_the_status_is_2() -> None:
    code, out, err = await done("executions", "list", "--server", "http://127.0.0.1:1", "--token", "sk_x")
    assert (code, out) == (2, "")
    assert "stepstream up" in err
    code, _, err = await done("executions", "list", "--server", "https://example.com")
    assert (code, "STEPSTREAM_TOKEN" in err) == (2, True)


def test_times_are_ages_or_have_an_offset() -> None:
    assert moment_of("2030-01-01T06:00:00+02:00", "--since").startswith("2030-01-01T04:00:00")
    assert moment_of("2h", "--since") < moment_of("1h", "--since")
    for wrong in ("yesterday", "2030-01-01T06:00:00"):
        with pytest.raises(CommandFailed, match="--since"):
            moment_of(wrong, "--since")


def test_labels_have_a_key_and_a_value() -> None:
    assert labels_of(["a=b=c", "d="]) == {"a": "b=c", "d": ""}
    for wrong in ("a", "=b"):
        with pytest.raises(CommandFailed, match="KEY=VALUE"):
            labels_of([wrong])
