"""Failures that differ only in ids, numbers and values are one failure; others are not."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.fingerprint import fingerprint, normalized


def of(message: str | None, step: str | None = "a", code: str = "step_error", workflow: str = "wf") -> str:
    return fingerprint(workflow, step, code, message)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("user 17 not found", "user 18 not found"),
        ("took 1.5 s", "took 12.75 s"),
        ("rate 1e-7 too low", "rate 5e12 too low"),
        ("No order 'A-1' here", "No order 'B-22' here"),
        ('No order "A\\"1" here', 'No order "x" here'),
        ("bad `a b`", "bad `c`"),
        ("GET https://a.example/x?y=1 gave 503", "GET http://b.example:8080/z gave 503"),
        ("id 6ba7b810-9dad-11d1-80b4-00c04fd430c8", "id 6BA7B811-9DAD-11D1-80B4-00C04FD430C9"),
        ("Execution exec_01m7ysep63e8xszhc98wadng7k ended", "Execution exec_01m7ysep63e8xszhc98wadng7m ended"),
        ("commit 3f2a9bc4d1 is bad", "commit 99e0aa17ff00 is bad"),
        ("at 0xdeadbeef", "at 0x1"),
        ("mail to ann@example.com failed", "mail to bob.b+x@mail.example.org failed"),
        ("connect to 10.0.0.1:5432", "connect to 192.168.7.12:80"),
        ("at 2026-11-21T10:11:57", "at 2025-01-02T23:59:01"),
        ("two  spaces\nand a line", "two spaces and a line"),
        ("Not Found", "not found"),
    ],
)
def test_what_differs_each_time_does_not_count(one: str, other: str) -> None:
    assert of(one) == of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("user 17 not found", "order 17 not found"),
        ("can't read the file's head", "can't write the file's head"),
        ("timeout", "time-out"),
        ("", "x"),
        ("decade", "facade"),
    ],
)
def test_what_was_said_counts(one: str, other: str) -> None:
    assert of(one) != of(other)


def test_workflow_step_and_code_count() -> None:
    assert (
        len({of("x"), of("x", workflow="wf2"), of("x", step="b"), of("x", code="step_timeout"), of("x", step=None)})
        == 5
    )


def test_parts_cannot_be_shifted_into_each_other() -> None:
    assert fingerprint("a", "b", "c", "d") != fingerprint("ab", "", "c", "d")
    assert fingerprint("w", "a", None, "b") != fingerprint("w", "a", "b", None)


def test_the_items_of_a_step_are_one_step() -> None:
    assert of("x", step="map[3]") == of("x", step="map[12]") == of("x", step="map")
    assert of("x", step="map[3].inner[1]") == of("x", step="map.inner")


def test_only_the_beginning_of_a_long_message_counts() -> None:
    assert of("x" * 5_000) == of("x" * 5_000 + "y")


def test_the_form_is_stored_and_so_stays() -> None:
    assert of("user 17 not found") == "c48535cb0a2cc8e5debb2145"
    assert normalized("GET https://x.example/1 gave 'a' for user 7") == "get <url> gave <value> for user <n>"


@given(st.text(max_size=300))
def test_any_text_has_one(message: str) -> None:
    assert re.fullmatch(r"[0-9a-f]{24}", of(message))


@given(st.text(alphabet="0123456789abcdef'\"`.:-@/\\ ", min_size=500, max_size=2_000))
def test_awkward_messages_take_no_time(message: str) -> None:
    normalized(message)
