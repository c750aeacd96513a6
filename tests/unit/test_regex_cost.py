"""What a pattern may cost is told from its text: counts multiply what they stand behind, classes have many ranges."""

import pytest

from app.domain.regex_cost import match_work, states_of


@pytest.mark.parametrize(
    ("pattern", "least", "most"),
    [
        ("", 0, 0),
        ("abc", 3, 3),
        ("a{900}", 900, 900),
        ("a{2,}", 2, 2),
        ("(ab){10}", 20, 40),
        ("(x{1,900})(y{1,900})", 1_800, 1_900),
        ("((a{10}){10}){10}", 1_000, 1_200),
        ("[a-z]{100}", 100, 400),
        ("[]a]{3}", 3, 12),
        (r"[\]a]{3}", 3, 12),
        (r"\{900}", 5, 5),
        ("[[:alpha:]]{9}", 9, 36),
        ("a{x}", 4, 4),
        (r"\d{3}-\d{3}-\d{4}", 12, 12),
        (r"\pL", 1_000, 10_000),
        (r"[\pL\pN]", 2_000, 20_000),
        (r"\p{Greek}{9}", 9_000, 90_000),
        ("(?i)abc", 18, 60),
        ("(?P<x>a){900}", 900, 7_000),
        (")){9}((", 0, 40),
        ("{9}", 0, 0),
        ("(" * 1_000, 1_000, 1_000),
        ("[", 1, 4),
        ("\\", 1, 1),
    ],
)
def test_states(pattern: str, least: int, most: int) -> None:
    assert least <= states_of(pattern) <= most


def test_work_grows_with_the_automaton_and_the_text() -> None:
    assert match_work(1, 1_000_000) < 2 * 1_000_000 + 10_000
    assert match_work(900, 1_000_000) > 1_000_000_000, "every state at every character"
    assert match_work(150_000, 0) > 10_000_000
