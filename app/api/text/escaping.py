"""Text of users made safe for each form: nothing in it acts as markup, moves a cursor or breaks a line."""

import re
import unicodedata

_PLAIN_IN_LABELS = frozenset(" _-.,")
_BACKTICKS = re.compile("`+")


def one_line(text: str) -> str:
    """The text in one line of characters that show: no escape sequences, no changes of direction."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(shown.split())


def columns(text: str) -> int:
    """How many columns of a terminal a line takes."""
    return sum(_width(letter) for letter in text)


def _width(letter: str) -> int:
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in {"W", "F"} else 1


def fitted(text: str, width: int) -> str:
    """One line, cut and padded to exactly so many columns."""
    line = one_line(text)
    if columns(line) > width:
        kept, used = [], 0
        for letter in line:
            used += _width(letter)
            if used > width - 1:
                break
            kept.append(letter)
        line = "".join(kept) + "~"
    return line + " " * (width - columns(line))


def code(text: str) -> str:
    """A Markdown code span, in which nothing is markup, a mention or a link."""
    return _span(one_line(text))


def code_cell(text: str) -> str:
    """A code span for a cell of a Markdown table, where pipes are escaped even in code."""
    # A backslash in front of a pipe would take the pipe's own escape away from it.
    return _span(re.sub(r"\\(?=\|)", r"\\ ", one_line(text)).replace("|", r"\|"))


def _span(line: str) -> str:
    fence = "`" * (max(map(len, _BACKTICKS.findall(line)), default=0) + 1)
    padding = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{padding}{line or ' '}{padding}{fence}"


def label(text: str, longest: int = 80) -> str:
    """The inside of a quoted Mermaid label: everything but letters and digits as an entity."""
    line = one_line(text)
    cut = line if len(line) <= longest else line[: longest - 1] + "…"
    return "".join(letter if letter.isalnum() or letter in _PLAIN_IN_LABELS else f"#{ord(letter)};" for letter in cut)
