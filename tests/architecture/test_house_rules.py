"""Rules of the house that a linter does not know."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import app

ROOT = Path(app.__file__).parent
SOURCES = sorted(path for path in ROOT.rglob("*.py") if "migrations" not in path.parts)
LONGEST_FILE, LONGEST_FUNCTION = 400, 60


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def calls(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST_FILE
    for function in functions(ast.parse(text)):
        assert (function.end_lineno or 0) - function.lineno < LONGEST_FUNCTION, function.name


def test_event_loops_are_started_by_the_command_line_alone() -> None:
    """A loop inside a loop, or synchronous work in one, is how earlier back ends lost their statistics (bug 9)."""
    for path in SOURCES:
        found = set(calls(ast.parse(path.read_text())))
        if "cli" not in path.parts:
            assert not found & {"asyncio.run", "uvloop.run", "asyncio.new_event_loop", "time.sleep"} - _allowed(path)


def _allowed(path: Path) -> set[str]:
    return {"time.sleep"} if "embedded" in path.parts else set()


def test_sql_is_written_without_values_in_its_text() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"text", "sa.text"}:
                assert not any(isinstance(argument, ast.JoinedStr) for argument in node.args), path


def test_no_word_of_the_house_says_nothing() -> None:
    for path in SOURCES:
        assert not {"manager", "helper", "helpers", "utils", "util", "common", "misc"} & set(path.stem.split("_")), path


def test_no_test_sleeps() -> None:
    tests = Path(__file__).parents[1]
    for path in tests.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"asyncio.sleep", "time.sleep"}:
                (seconds,) = node.args
                assert isinstance(seconds, ast.Constant), f"{path}:{node.lineno}"
                assert seconds.value == 0, f"{path}:{node.lineno} waits for time instead of a signal"
