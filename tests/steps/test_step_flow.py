"""Steps that shape a run, and those that build or say a value."""

from datetime import UTC, datetime, timedelta

import pytest
from step_fakes import settings, steps

from app import clock
from app.domain.errors import StepError
from app.domain.schemas import compile_schema
from app.domain.steps import Done, Sleep
from app.domain.validation import check_definition
from app.settings import SettingsError
from app.steps.base import THREE_ATTEMPTS
from app.steps.registry import default_registry


@pytest.fixture
async def library():
    async with steps() as registry:
        yield registry


@pytest.mark.parametrize("kind", ["start", "end"])
async def test_start_and_end_hand_on_their_output(kind, library, context):
    assert await library[kind].run(context, {"output": {"a": [1, None]}}) == Done({"a": [1, None]})
    assert await library[kind].run(context, {}) == Done(None)


async def test_set_gives_back_the_resolved_object(library, context):
    assert await library["set"].run(context, {"a": 1, "model_config": "x"}) == Done({"a": 1, "model_config": "x"})


async def test_switch_takes_the_first_true_case_in_document_order(library, context):
    config = {"cases": {"zebra": False, "hot": True, "ant": True}, "default": "cold"}
    assert await library["switch"].run(context, config) == Done({"case": "hot"}, ports=frozenset({"hot"}))


async def test_switch_takes_the_default_when_no_case_is_true(library, context):
    config = {"cases": {"hot": False}, "default": "cold"}
    assert await library["switch"].run(context, config) == Done({"case": "cold"}, ports=frozenset({"cold"}))


async def test_switch_without_match_and_default_takes_no_port(library, context):
    assert await library["switch"].run(context, {"cases": {"hot": False}}) == Done({"case": None}, ports=frozenset())


@pytest.mark.parametrize("value", [1, "true", None, [True]])
async def test_switch_refuses_a_case_that_is_not_true_or_false_even_behind_the_match(value, library, context):
    with pytest.raises(StepError, match="'later'") as caught:
        await library["switch"].run(context, {"cases": {"first": True, "later": value}})
    assert (caught.value.error_code, caught.value.retryable) == ("invalid_config", False)


@pytest.mark.parametrize("name", ["Hot", "1st", "a-b", "a.b", "", "x" * 64, "hot\n"])
def test_switch_schema_refuses_port_names_that_needs_cannot_name(name, library):
    schema = compile_schema(dict(library["switch"].spec.config_schema))
    assert schema.is_valid({"cases": {"hot": True, "cold": "${{ input }}"}, "default": None})
    assert not schema.is_valid({"cases": {name: True}})
    assert not schema.is_valid({"cases": {"hot": True}, "default": name})


def test_switch_reports_words_that_are_no_condition_and_leaves_templates_alone(library):
    found = library["switch"].check({"cases": {"a": "yes", "b": "${{ input.x > 1 }}", "c": False}})
    assert [(problem.code, problem.pointer) for problem in found] == [("invalid_config", "/cases/a")]


def test_switch_declares_its_cases_and_default_as_ports(library):
    spec = library["switch"].spec
    assert spec.ports({"cases": {"hot": True}, "default": "cold"}) == {"hot", "cold"}


async def test_delay_sleeps_for_its_duration(library, context):
    assert await library["delay"].run(context, {"duration": "1m30s"}) == Sleep(90.0, {"seconds": 90.0})


async def test_delay_sleeps_until_its_moment_and_not_at_all_if_that_is_past(library, context, monkeypatch):
    monkeypatch.setattr(clock, "now", lambda: datetime(2030, 1, 1, tzinfo=UTC))
    slept = await library["delay"].run(context, {"until": "2030-01-01T02:00:05+02:00"})
    assert slept == Sleep(5.0, {"seconds": 5.0})
    assert (await library["delay"].run(context, {"until": "2029-12-31T00:00:00Z"})).seconds == 0.0


async def test_delay_until_a_moment_beyond_the_longest_fails(library, context):
    moment = (clock.now() + timedelta(days=400)).isoformat()
    with pytest.raises(StepError, match="366 days"):
        await library["delay"].run(context, {"until": moment})


@pytest.mark.parametrize("config", [{}, {"duration": "1s", "until": "${{ input }}"}, {"duration": None}])
def test_delay_has_exactly_one_of_duration_and_until(config, library):
    assert [problem.code for problem in library["delay"].check(config)] == ["invalid_config"]


@pytest.mark.parametrize(
    ("config", "pointer"),
    [
        ({"duration": "soon"}, "/duration"),
        ({"until": "2030-01-01T00:00:00"}, "/until"),
        ({"until": "tomorrow"}, "/until"),
    ],
)
def test_delay_reports_literals_that_are_no_time(config, pointer, library):
    assert [(found.code, found.pointer) for found in library["delay"].check(config)] == [("invalid_config", pointer)]


@pytest.mark.parametrize("config", [{"duration": "${{ input }}"}, {"until": "${{ input.at }}"}])
def test_delay_leaves_templates_for_the_run(config, library):
    assert library["delay"].check(config) == []


async def test_fail_fails_for_good_with_its_code(library, context):
    with pytest.raises(StepError, match="no stock") as caught:
        await library["fail"].run(context, {"message": "no stock", "code": "out_of_stock"})
    assert (caught.value.error_code, caught.value.retryable) == ("out_of_stock", False)


async def test_fail_has_a_code_of_its_own_by_default(library, context):
    with pytest.raises(StepError, match=r'\{"left":0\}') as caught:
        await library["fail"].run(context, {"message": {"left": 0}})
    assert caught.value.error_code == "failed_by_step"


async def test_log_says_any_json_as_text(library, context):
    assert await library["log"].run(context, {"message": "hi"}) == Done({"message": "hi", "level": "info"})
    await library["log"].run(context, {"message": {"a": None}, "level": "warning"})
    assert context.said == [("log", "info", "hi"), ("log", "warning", '{"a":null}')]


IMMEDIATE = {"log": {"message": "hi"}}


async def test_an_attempt_of_an_immediate_type_waits_for_nothing(context, library):
    """It is made in place, between two records of its run: whatever it awaited would hold up the run's driver."""
    assert {spec.type for spec in library.specs() if spec.immediate} == IMMEDIATE.keys()
    for name, config in IMMEDIATE.items():
        with pytest.raises(StopIteration):
            library[name].run(context, config).send(None)


async def test_settings_that_do_not_fit_fail_with_pointers_and_without_values(library, context):
    with pytest.raises(StepError) as caught:
        await library["log"].run(context, {"message": "x", "level": "s3cret-level", "more": "s3cret"})
    assert (caught.value.error_code, caught.value.retryable) == ("invalid_config", False)
    assert "/level" in caught.value.detail
    assert "/more" in caught.value.detail
    assert "s3cret" not in caught.value.detail


def test_every_type_declares_what_validation_and_documentation_need(library):
    assert list(library) == [
        "start", "end", "set", "switch", "delay", "log", "fail", "wait_for_signal", "approval", "workflow.run",
        "function", "http.request", "agent",
    ]  # fmt: skip
    for spec in library.specs():
        assert library[spec.type].spec is spec
        assert spec.title
        assert spec.description
        assert spec.icon
        assert spec.timeout > 0
        compile_schema(dict(spec.config_schema))
        compile_schema(dict(spec.output_schema))


def test_effects_are_those_that_recovery_relies_on(library):
    effects = {spec.type: spec.effect_of({}).value for spec in library.specs()}
    assert effects == {
        **dict.fromkeys(("start", "end", "set", "switch", "delay", "fail", "wait_for_signal", "approval"), "pure"),
        **dict.fromkeys(("log", "workflow.run", "function", "agent"), "idempotent"),
        "http.request": "idempotent",
    }
    http = library["http.request"].spec
    assert http.effect_of({"method": "POST"}).value == "once"
    assert http.effect_of({"method": "${{ input.method }}"}).value == "once"
    assert library["agent"].spec.retry == THREE_ATTEMPTS


def test_an_unknown_type_is_not_in_the_library(library):
    assert library.get("no.such") is None
    assert library.spec("no.such") is None
    assert library.check("no.such", {}) == []
    assert "no.such" not in library


def test_a_network_that_is_none_is_refused_by_name():
    with pytest.raises(SettingsError, match=r"STEPSTREAM_EGRESS_ALLOW_CIDRS.*'ten\.0'"):
        default_registry(settings(cidrs=["ten.0"]))


def test_the_library_checks_steps_the_way_validation_asks():
    library = default_registry(settings(cidrs=[]))
    document = {
        "name": "n",
        "steps": [
            {"id": "a", "type": "switch", "with": {"cases": {"hot": "${{ input.x > 1 }}", "b": "no"}}},
            {"id": "b", "type": "http.request", "needs": ["a.hot"], "with": {"url": "http://127.0.0.1/"}},
            {"id": "c", "type": "agent", "needs": ["a.cold"], "with": {"model": "nobody:x", "prompt": "${{ input }}"}},
            {"id": "d", "type": "function", "with": {"function": "no_such"}},
            {"id": "e", "type": "delay", "with": {"duration": "${{ input.wait }}"}},
            {"id": "f", "type": "log", "with": {"message": 1, "level": "loud"}},
        ],
    }
    found = {problem.pointer: problem.code for problem in check_definition(document, library).problems}
    assert found == {
        "/steps/0/with/cases/b": "invalid_config",
        "/steps/1/with/url": "url_not_allowed",
        "/steps/2/needs/0": "unknown_port",
        "/steps/2/with/model": "unknown_model",
        "/steps/3/with/function": "unknown_function",
        "/steps/5/with/level": "invalid_config",
    }
