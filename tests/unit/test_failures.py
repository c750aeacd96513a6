"""Which error is told: the first cause, in words that can be stored."""

from itertools import pairwise

import pytest

from app.domain.errors import MAX_MESSAGE, Failure, StepError, clean_text, failure_of, first_cause


def raised(*errors: BaseException) -> BaseException:
    """The last error, each raised from the one before."""
    for before, error in pairwise(errors):
        error.__cause__ = before
    return errors[-1]


def during(first: BaseException, second: BaseException) -> BaseException:
    """An error raised while another was handled."""
    second.__context__ = first
    return second


def missing() -> StepError:
    return StepError("The connector has no API key", code="invalid_config", retryable=False)


def none_type() -> AttributeError:
    return AttributeError("'NoneType' object has no attribute 'get'")


@pytest.mark.parametrize(
    "error", [raised(missing(), none_type()), during(missing(), none_type()), raised(KeyError("key"), missing())]
)
def test_the_missing_setting_is_told_not_what_it_led_to(error: BaseException) -> None:
    assert failure_of(error) == Failure("invalid_config", "The connector has no API key", retryable=False)


def test_the_first_of_several_coded_errors_is_told() -> None:
    error = raised(StepError("first", code="a", retry_after=3.0), RuntimeError("x"), StepError("second", code="b"))
    assert failure_of(error) == Failure("a", "first", retryable=True, retry_after=3.0)


def test_an_error_that_hides_what_was_before_is_told_itself() -> None:
    outer = StepError("outer", code="outer")
    outer.__context__, outer.__suppress_context__ = StepError("inner", code="inner"), True
    assert failure_of(outer).code == "outer"


def test_without_a_code_the_start_of_the_chain_is_told_with_its_type() -> None:
    error = raised(ConnectionError("refused"), RuntimeError("could not load"))
    assert failure_of(error) == Failure("step_error", "ConnectionError: refused")
    assert first_cause(error).args == ("refused",)
    assert failure_of(during(KeyError("k"), ValueError("k is missing"))).message == "ValueError: k is missing"


def test_groups_are_told_by_their_first_error() -> None:
    group = ExceptionGroup("unhandled errors in a TaskGroup", [ExceptionGroup("inner", [missing()]), ValueError("x")])
    assert failure_of(group).code == "invalid_config"


def test_errors_with_nothing_or_worse_to_say_are_told_by_their_type() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    assert failure_of(ValueError()).message == "ValueError: no message"
    assert failure_of(Mute()).message == "Mute: no message"


def test_a_ring_of_causes_ends() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert failure_of(first).message == "ValueError: second"


@pytest.mark.parametrize(
    ("text", "stored"),
    [("a\x00b", "ab"), ("\ud800x", "?x"), ("é🚀", "é🚀"), ("x" * 3_000, "x" * (MAX_MESSAGE - 1) + "…")],
)
def test_messages_can_be_stored(text: str, stored: str) -> None:
    assert clean_text(text) == stored
    assert failure_of(StepError(text)).message == stored
