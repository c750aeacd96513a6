"""What a command says when it cannot do its work, and what it reads from its arguments."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError

from app.cli.client import Client, Refused, _accepted
from app.cli.deployment import load_settings, with_local_origin
from app.cli.drawing import printable
from app.cli.failures import CommandFailed, explain
from app.cli.run import parse_input, read_workflow, workflow_id
from app.cli.serving import bind, port_of, url_of
from app.domain.errors import Problem, Problems, Unavailable
from app.domain.jsontext import JSON
from tests.cli.processes import ROOT, done

COMMANDS = ("up", "serve", "migrate", "doctor", "token", "run", "follow", "demo", "openapi", "audit")


async def test_help_names_every_command_with_examples() -> None:
    code, out, _ = await done("--help")
    assert code == 0
    assert all(f" {command} " in out for command in COMMANDS)
    assert "stepstream up" in out


def test_help_loads_none_of_the_server() -> None:
    heavy = "{'sqlalchemy', 'fastapi', 'uvicorn', 'pydantic', 'httpx', 'asyncpg', 'structlog'}"
    program = f"import sys; import app.cli.commands; sys.exit(', '.join({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == "\n"


async def test_the_version_is_that_of_the_package() -> None:
    assert (await done("--version"))[1].split()[0] == "stepstream"


async def test_a_busy_port_is_said_before_anything_is_created(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        code, out, err = await done("up", "--data-dir", tmp_path / "data", "--port", str(port))
    assert (code, out) == (1, "")
    assert f"127.0.0.1:{port}" in err
    assert "--port" in err
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (("serve",), {}, "DATABASE_URL"),
        (("serve",), {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/x"}, "STEPSTREAM_SECRET_KEY_FILE"),
        (("migrate",), {"DATABASE_URL": "mysql://nobody@127.0.0.1:1/x"}, "postgresql://"),
        (("up",), {"STEPSTREAM_LEASE_TTL": "soon"}, "STEPSTREAM_LEASE_TTL"),
        (("up",), {"ALLOWED_ORIGINS": "*"}, "ALLOWED_ORIGINS"),
        (("token", "--data-dir", "/nowhere"), {}, "stepstream up"),
        (("token", "--ttl", "soon"), {}, "--ttl"),
        (("run", "nowhere.yaml"), {}, "nowhere.yaml"),
        (("run", "wf_x", "--input", '{"a": '), {}, "--input"),
        (("run", "wf_x", "--server", "http://127.0.0.1:1"), {}, "stepstream up"),
        (("run", "wf_x", "--server", "https://example.com"), {}, "STEPSTREAM_TOKEN"),
    ],
)
async def test_a_failure_is_a_sentence_on_stderr(
    arguments: tuple[str, ...], environment: dict[str, str], said: str
) -> None:
    code, out, err = await done(*arguments, **environment)
    assert (code, out) == (1, "")
    assert err.startswith("Error: ")
    assert said in err
    assert "Traceback" not in err


async def test_the_traceback_is_there_for_who_asks() -> None:
    assert "Traceback" in (await done("serve", STEPSTREAM_DEBUG="1"))[2]


async def test_the_openapi_document_needs_no_database() -> None:
    code, out, _ = await done("openapi")
    assert code == 0
    assert "/api/v1/executions" in json.loads(out)["paths"]


@pytest.mark.parametrize(
    ("text", "value"),
    [(None, None), ("42", 42), ('{"a": [1]}', {"a": [1]}), ("find leads", "find leads"), ('"42"', "42"), ("", "")],
)
def test_an_input_is_json_or_else_text(text: str | None, value: JSON) -> None:
    assert parse_input(text) == value


def test_an_input_may_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "input.json"
    path.write_text('{"city": "Berlin"}')
    assert parse_input(f"@{path}") == {"city": "Berlin"}
    with pytest.raises(CommandFailed, match=r"none\.json"):
        parse_input("@none.json")


def test_a_workflow_file_gives_its_id_or_its_name(tmp_path: Path) -> None:
    assert workflow_id(tmp_path / "my flow-2.yaml", {}) == "wf_my_flow_2"
    assert workflow_id(tmp_path / "x.yaml", {"id": "wf_own"}) == "wf_own"


def test_a_workflow_file_is_read_as_the_server_reads_it(tmp_path: Path) -> None:
    yaml, wrong = tmp_path / "flow.yaml", tmp_path / "flow.json"
    yaml.write_text("name: on\nsteps: []\n")
    assert read_workflow(yaml) == {"name": "on", "steps": []}
    wrong.write_text("[1]")
    with pytest.raises(CommandFailed, match="no workflow"):
        read_workflow(wrong)


def test_every_problem_of_a_document_is_told() -> None:
    problems = [Problem("a", "first", "/steps/0"), Problem("b", "second", "/name")]
    assert explain(Problems("It cannot run", problems)) == "It cannot run\n  /steps/0: first\n  /name: second"


def test_why_a_database_does_not_answer_is_told() -> None:
    with pytest.raises(Unavailable) as raised:
        raise Unavailable("No answer") from ConnectionRefusedError("refused")
    assert explain(raised.value) == "No answer (refused)"


def test_what_nobody_expected_says_how_to_find_out_more() -> None:
    assert "STEPSTREAM_DEBUG" in explain(KeyError("x"))


def test_a_refusal_lists_what_the_server_lists() -> None:
    body = {"detail": "The workflow cannot run", "errors": [{"pointer": "/steps/0", "detail": "no such type"}]}
    answer = httpx.Response(422, json=body, request=httpx.Request("PUT", "http://server/"))
    with pytest.raises(Refused, match="cannot run\n  /steps/0: no such type"):
        _accepted(answer)


def test_what_the_first_line_of_a_refusal_says_is_not_said_again() -> None:
    body = {"detail": "/name: too long", "errors": [{"pointer": "/name", "detail": "too long"}]}
    answer = httpx.Response(422, json=body, request=httpx.Request("PUT", "http://server/"))
    with pytest.raises(Refused) as raised:
        _accepted(answer)
    assert str(raised.value) == "/name: too long"


async def test_a_server_that_is_none_is_told_as_such() -> None:
    with pytest.raises(CommandFailed, match="http://127"):
        Client("ftp://somewhere", "token")


def test_port_zero_takes_any_free_one_and_the_address_is_shown() -> None:
    with bind("127.0.0.1", 0) as bound:
        assert port_of(bound) > 0
    assert url_of("0.0.0.0", 80) == "http://127.0.0.1:80"
    assert url_of("::", 80) == "http://[::1]:80"
    assert url_of("::1", 80) == "http://[::1]:80"


def test_the_ui_may_connect_on_loopback_unless_origins_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALLOWED_ORIGINS", raising=False)
    assert with_local_origin(load_settings(host="127.0.0.1")).allowed_origins == ["http://localhost:5173"]
    assert with_local_origin(load_settings(host="0.0.0.0")).allowed_origins == []
    monkeypatch.setenv("ALLOWED_ORIGINS", "https://ui.example.com")
    assert with_local_origin(load_settings(host="127.0.0.1")).allowed_origins == ["https://ui.example.com"]


def test_a_wrong_setting_is_named_without_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPSTREAM_PORT", "s3cret")
    with pytest.raises(ValidationError) as raised:
        load_settings()
    assert explain(raised.value).startswith("STEPSTREAM_PORT: ")
    assert "s3cret" not in explain(raised.value)


def test_texts_of_others_move_no_cursor() -> None:
    assert printable("a\x1b[2Jb\rc") == "a [2Jb c"
