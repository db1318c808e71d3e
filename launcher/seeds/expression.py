"""Arithmetic as the claims file writes it: `hours * usd_per_hour`, `epochs * ceil(train / batch)`; nothing else."""

from __future__ import annotations

import ast
import itertools
import math
import operator
from collections.abc import Callable, Mapping

Interval = tuple[float, float]

_OPERATORS: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_FUNCTIONS: dict[str, Callable[..., float]] = {
    "ceil": math.ceil,
    "floor": math.floor,
    "max": max,
    "min": min,
    "sqrt": math.sqrt,
}


def evaluate(text: str, names: Mapping[str, float]) -> float:
    """The value of an expression of numbers, names, + - * / ** and ceil, floor, max, min, sqrt.

    Raises:
        ValueError: anything else in it, or a name that is not given.
    """
    return _value(ast.parse(text, mode="eval").body, names)


def evaluate_interval(text: str, names: Mapping[str, Interval]) -> Interval:
    """Lowest and highest value over all corners of the intervals, exact where each name pulls one way throughout."""
    wide = [name for name, (low, high) in names.items() if low != high]
    fixed = {name: low for name, (low, high) in names.items() if low == high}
    values = [
        evaluate(text, fixed | dict(zip(wide, corner, strict=True)))
        for corner in itertools.product(*(names[name] for name in wide))
    ]
    return min(values), max(values)


def _value(node: ast.expr, names: Mapping[str, float]) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.Name(id=name) if name in names:
            return names[name]
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _OPERATORS:
            return _OPERATORS[type(sign)](_value(left, names), _value(right, names))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            return _FUNCTIONS[name](*(_value(argument, names) for argument in arguments))
    raise ValueError(f"{ast.unparse(node)}: not arithmetic over {', '.join(names) or 'nothing'}")
