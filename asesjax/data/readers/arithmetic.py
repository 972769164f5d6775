"""Sums of four operations, as data sets write them: their exact value and the steps to it."""

import ast
from fractions import Fraction

_OPERATORS = {
    ast.Add: ("+", Fraction.__add__),
    ast.Sub: ("-", Fraction.__sub__),
    ast.Mult: ("*", Fraction.__mul__),
    ast.Div: ("/", Fraction.__truediv__),
}
_LONGEST = 200  # characters; no data set has longer ones, and nesting stays shallow


def work_out(text: str) -> tuple[Fraction, list[str]] | None:
    """Compute a sum of numbers, brackets and ``+ - * /``: its value, and a line ``a + b = c`` for
    every operation, innermost first. None where the text is no such sum or divides by 0.

    >>> work_out("( 6.0 - ( 3.0 + 2.0 ) )")
    (Fraction(1, 1), ['3 + 2 = 5', '6 - 5 = 1'])
    """
    if len(text) > _LONGEST or not set(text) <= set("0123456789.()+-*/ "):
        return None
    lines: list[str] = []
    try:
        return _value(ast.parse(text.strip(), mode="eval").body, lines), lines
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def number_text(value: Fraction) -> str:
    """Write a number: whole, as a decimal that is exact, or as a fraction."""
    bottom = value.denominator
    places = next((n for n in range(bottom.bit_length()) if 10**n % bottom == 0), None)
    if not places:
        return str(value)
    digits = f"{abs(value.numerator) * 10**places // bottom:0{places + 1}}"
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"


def _value(node: ast.expr, lines: list[str]) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return Fraction(str(node.value))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, lines)
    if not isinstance(node, ast.BinOp) or type(node.op) not in _OPERATORS:
        raise ValueError("no sum")
    sign, compute = _OPERATORS[type(node.op)]
    left, right = _value(node.left, lines), _value(node.right, lines)
    value = compute(left, right)
    lines.append(f"{number_text(left)} {sign} {number_text(right)} = {number_text(value)}")
    return value
