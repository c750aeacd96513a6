"""Text forms of an execution: readable, at most 100 columns, and nothing a user wrote acts as markup."""

import re
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.text.ascii_gantt import COLUMNS, ascii_gantt
from app.api.text.escaping import code, code_cell, columns, fitted, label, one_line
from app.api.text.markdown import markdown
from app.api.text.mermaid import mermaid
from app.api.text.negotiation import Form, negotiate
from app.api.text.steps import took

T0 = datetime(2026, 1, 1, tzinfo=UTC)
HOSTILE = 'a|b\n`c` <script>alert(1)</script> "q" ]]> #35; \x1b[31m\u202ex @everyone [x](http://evil.example) \\|'


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def row(**changes: Any) -> dict[str, Any]:
    return {
        "id": "exec_1", "workflow_id": "wf_1", "workflow_version": 3, "status": "FAILED", "status_reason": "step_error",
        "status_message": "no", "error": "HTTP 503", "error_code": "http_error", "progress": 50, "tokens_used": 0,
        "cost": 0.0, "created_at": T0, "started_at": at(1), "completed_at": at(11),
        "execution_graph": '{"edges":[{"from":"a","to":"b","port":null},{"from":"b","to":"c","port":"hot"}]}',
    } | changes  # fmt: skip


def step(path: str, number: int, status: str, start: float | None, end: float | None, **changes: Any) -> dict[str, Any]:
    begun, ended = (None if seconds is None else at(seconds) for seconds in (start, end))
    return {
        "path": path, "step_number": number, "name": path, "type": "log", "status": status, "attempt": 1,
        "reason": None, "error": None, "error_code": None, "wake_at": None, "ports": [], "started_at": begun,
        "attempt_started_at": begun, "completed_at": ended, "reused_from": None,
    } | changes  # fmt: skip


def attempt(path: str, number: int, status: str, start: float, end: float) -> dict[str, Any]:
    return {"path": path, "attempt": number, "status": status, "started_at": at(start), "completed_at": at(end)}


STEPS = [
    step("a", 1, "COMPLETED", 1, 3),
    step("b", 2, "FAILED", 3, 11, attempt=2, error="HTTP 503", error_code="http_error"),
    step("c", 3, "SKIPPED", None, 11, reason="execution_failed"),
    step("a[0]", 1, "COMPLETED", 1, 2),
]
ATTEMPTS = [
    attempt("a", 1, "COMPLETED", 1, 3),
    attempt("b", 1, "FAILED", 3, 5),
    attempt("b", 2, "FAILED", 9, 11),
]


def detail(steps: Any = STEPS, attempts: Any = ATTEMPTS, **changes: Any) -> Any:
    return SimpleNamespace(row=row(**changes), steps=steps, attempts=attempts, workflow=None)


def test_the_gantt_chart_shows_status_error_and_a_bar_for_each_step() -> None:
    lines = ascii_gantt(detail(), at(20)).splitlines()
    assert lines[0] == "FAILED     exec_1, 50 %"
    assert lines[2] == "time       10 s, started 2026-01-01 00:00:01Z"
    assert lines[3] == "error      http_error: HTTP 503"
    bars = {line.split()[0]: line for line in lines[6:9]}
    assert re.search(r"COMPLETED \|#{10} {30,}\| +2 s$", bars["a"])
    assert re.search(r"FAILED +\| {10}x{10}\.{21}x{11}\| +8 s$", bars["b"])
    assert "|execution_failed" in bars["c"]
    assert "a[0]" not in "".join(lines), "items are left out"


def test_a_step_whose_items_do_the_work_is_shown_by_how_it_ended() -> None:
    chart = ascii_gantt(detail([step("m", 1, "COMPLETED", 1, 11, attempt=0)], []), at(20))
    assert re.search(r"m +COMPLETED \|#+\| +10 s$", chart, re.MULTILINE)


def test_a_reused_step_says_so_instead_of_the_times_of_another_run() -> None:
    reused = detail([step("a", 1, "COMPLETED", -900, -800, reused_from="exec_0"), *STEPS[1:]])
    assert re.search(r"a +COMPLETED \|reused +\|", ascii_gantt(reused, at(20)))
    assert "| `reused` |" in markdown(reused, at(20))


def test_why_it_is_where_it_is_needs_no_sentence() -> None:
    paused = detail(status="PAUSED", status_reason="paused", status_message=None, error=None, error_code=None)
    assert "\nwhy        paused\n" in ascii_gantt(paused, at(20))
    assert "- Why: `paused`\n" in markdown(paused, at(20))


def test_a_running_step_reaches_to_now() -> None:
    steps = [step("a", 1, "RUNNING", 1, None)]
    chart = ascii_gantt(detail(steps, [], status="RUNNING", completed_at=None, error=None, status_reason=None), at(5))
    assert re.search(r"a +RUNNING +\|=+\| +4 s$", chart, re.MULTILINE)


def test_a_run_that_has_not_started_has_a_chart_too() -> None:
    waiting = detail([], [], status="PENDING", started_at=None, completed_at=None, error=None, status_reason=None)
    assert "queued since 2026-01-01 00:00:00Z" in ascii_gantt(waiting, at(5))
    assert "Created: 2026-01-01" in markdown(waiting, at(5))
    assert mermaid(waiting, at(5)).startswith("flowchart TD\n")


LONG = detail(
    [step("步" * 50, 1, "COMPLETED", 1, 3), step("e" * 200, 2, "FAILED", 3, 4, error="x" * 5_000)],
    [], error="x y " * 2_000, id="exec_" + "1" * 200, workflow_id="w" * 64,
)  # fmt: skip


def test_no_line_of_the_chart_is_wider_than_a_hundred_columns() -> None:
    for chart in (ascii_gantt(LONG, at(20)), ascii_gantt(detail(error=HOSTILE), at(20))):
        assert all(columns(line) <= COLUMNS for line in chart.splitlines())
        assert len(chart.splitlines()) < 20


@given(st.text(max_size=60), st.integers(1, 60))
def test_a_fitted_text_takes_exactly_its_columns(text: str, width: int) -> None:
    assert columns(fitted(text, width)) == width


@given(st.text(max_size=60))
def test_nothing_that_moves_a_cursor_is_left(text: str) -> None:
    assert one_line(text).isprintable()


def test_hostile_text_acts_in_no_form() -> None:
    steps = [step("a", 1, "FAILED", 1, 3, name=HOSTILE, type=HOSTILE, error=HOSTILE, error_code="x", ports=[HOSTILE])]
    run = detail(steps, [], error=HOSTILE)
    chart, summary, graph = (render(run, at(20)) for render in (ascii_gantt, markdown, mermaid))
    for text in (chart, summary, graph):
        assert "\x1b" not in text
        assert "\u202e" not in text
    table = [line for line in summary.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {8}, "no cell is broken open"
    outside = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", summary)
    assert not re.search(r"script|evil|@every", outside), "everything of a user stands in code spans"
    assert all("<script" not in line and line.count('"') in {0, 2} for line in graph.splitlines())


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("plain", "`plain`"),
        ("a`b", "``a`b``"),
        ("`a``", "``` `a`` ```"),
        ("", "` `"),
        ("a|b", "`a|b`"),
        ("two\nlines", "`two lines`"),
    ],
)
def test_code_spans(text: str, span: str) -> None:
    assert code(text) == span


def test_pipes_in_cells_are_escaped_and_keep_their_escape() -> None:
    assert code_cell("a|b") == "`a\\|b`"
    assert code_cell("a\\|b") == "`a\\ \\|b`"


@given(st.text(max_size=60))
def test_a_label_cannot_end_its_quotes(text: str) -> None:
    assert not set(label(text)) & set("\"'`<>[](){}|\\\n\r\t%")


def test_the_graph_has_a_node_for_each_step_its_edges_and_colours() -> None:
    lines = [line.strip() for line in mermaid(detail(), at(20)).splitlines()]
    assert 's1["a<br/>COMPLETED 2 s"]:::completed' in lines
    assert 's3["c<br/>SKIPPED"]:::skipped' in lines
    assert "s1 ==> s2" in lines, "taken"
    assert 's2 -.->|"hot"| s3' in lines, "not taken"
    assert sum(line.startswith("classDef ") for line in lines) == 3
    running = [replace_status(STEPS[0], "RUNNING"), STEPS[2]]
    assert "-->" not in mermaid(detail([STEPS[0]]), at(20)), "edges to what is not there are left out"
    graph = '{"edges":[{"from":"a","to":"c","port":null}]}'
    assert "s1 --> s2" in mermaid(detail(running, [], execution_graph=graph), at(20)), "not decided yet"


def replace_status(row: dict[str, Any], status: str) -> dict[str, Any]:
    return row | {"status": status}


def test_the_summary_is_a_table_with_error_and_links() -> None:
    summary = markdown(detail(), at(20))
    assert summary.startswith("# FAILED: `wf_1`\n")
    assert "**Error** `http_error`: `HTTP 503`" in summary
    assert "| 2 | `b` | `log` | FAILED | 2 | 8 s | `http_error: HTTP 503` |" in summary
    assert "[explain](/api/v1/executions/exec_1/explain)" in summary


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (0, "0 ms"), (0.8124, "812 ms"), (0.9999, "1 s"), (1.234, "1.23 s"), (59.94, "59.9 s"),
     (99.4, "99.4 s"), (130, "2m 10s"), (7_000, "1h 56m"), (400_000, "4d 15h"), (-1, "0 ms")],
)  # fmt: skip
def test_lengths_of_time_are_short(seconds: float | None, text: str) -> None:
    assert took(seconds) == text


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (None, Form.JSON),
        ("", Form.JSON),
        ("*/*", Form.JSON),
        ("application/json", Form.JSON),
        ("text/plain", Form.PLAIN),
        ("TEXT/Markdown; charset=utf-8", Form.MARKDOWN),
        ("text/vnd.mermaid", Form.MERMAID),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Form.JSON),
        ("application/json, text/plain, */*", Form.JSON),
        ("text/plain, */*", Form.PLAIN),
        ("text/plain;q=0.5, application/json", Form.JSON),
        ("text/plain;q=0.5, application/json;q=0.4", Form.PLAIN),
        ("text/plain;q=0, */*", Form.JSON),
        ("text/*", Form.PLAIN),
        ("text/*;q=0.9, text/markdown", Form.MARKDOWN),
        ("text/markdown, text/plain", Form.MARKDOWN),
        ("application/json;q=0, text/vnd.mermaid;q=0.1", Form.MERMAID),
        ("image/png", Form.JSON),
        ("text/plain;q=zero", Form.JSON),
        ("text/plain;q=1e9", Form.JSON),
        ("text/plain;q=٣", Form.JSON),
        (";;,,/", Form.JSON),
        ("application/*", Form.JSON),
    ],
)
def test_the_accept_header_chooses_the_form(accept: str | None, form: Form) -> None:
    assert negotiate(accept) is form


@given(st.text(alphabet="text/plainjson*;,q=0.19 ", max_size=80))
def test_any_header_gets_a_form(accept: str) -> None:
    assert negotiate(accept) in set(Form)
