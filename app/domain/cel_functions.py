"""Functions that expressions have beyond those of CEL and its extensions."""

from math import fsum

from cel_expr_python import cel

from app.domain.jsontext import JSON

_INT64 = range(-(1 << 63), 1 << 63)


def total(values: list[JSON]) -> int | float:
    """The numbers of a list together, 0 of none: a whole number if all are whole. Raises TypeError, ValueError."""
    for index, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"`sum` takes a list of numbers, and element {index} is none")
    if any(isinstance(value, float) for value in values):
        return _decimal(values)
    whole = sum(values)  # type: ignore[arg-type]
    if whole not in _INT64:
        raise ValueError("`sum` comes to more than a whole number can be")
    return whole


def _decimal(values: list[JSON]) -> float:
    try:
        return fsum(values)  # type: ignore[arg-type]
    except OverflowError:
        raise ValueError("`sum` comes to more than a number can be") from None


FUNCTIONS = (cel.FunctionDecl("sum", [cel.Overload("sum_list", cel.Type.DYN, [cel.Type.LIST], impl=total)]),)
"""Shared by all environments."""
