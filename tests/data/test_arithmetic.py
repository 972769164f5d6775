"""Sums are worked out exactly, step by step, and other texts are no sums."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asesjax.data.readers.arithmetic import number_text, work_out

quick = settings(deadline=None, max_examples=200)
LEAVES = st.integers(0, 999).map(lambda n: (str(n), Fraction(n))) | st.decimals(
    0, 99, places=1
).map(lambda d: (str(d), Fraction(d)))


def joined(pair):
    (a, x), sign, (b, y) = pair
    value = {"+": x + y, "-": x - y, "*": x * y, "/": x / y if y else None}[sign]
    return f"( {a} {sign} {b} )", value


SUMS = st.recursive(
    LEAVES,
    lambda inner: (
        st.tuples(inner, st.sampled_from("+-*/"), inner)
        .filter(lambda t: t[1] != "/" or t[2][1])
        .map(joined)
    ),
    max_leaves=6,
)


@quick
@given(SUMS)
def test_value_and_steps(pair):
    text, value = pair
    found = work_out(text)
    if len(text) > 200:
        assert found is None
        return
    assert found[0] == value
    assert len(found[1]) == sum(text.count(f" {sign} ") for sign in "+-*/")
    if found[1]:
        assert found[1][-1].endswith(f" = {number_text(value)}")


@pytest.mark.parametrize(
    "text",
    ["", "5 dogs", "2 ** 3", "7 // 2", "5 / 0", "(3", "3 + ", "f(2)", "5 (3)", "...", "1" * 201],
)
def test_other_texts_have_no_value(text):
    assert work_out(text) is None


@quick
@given(st.integers(-(10**9), 10**9), st.integers(1, 4000))
def test_numbers_are_written_exactly(top, bottom):
    value = Fraction(top, bottom)
    text = number_text(value)
    assert Fraction(text) == value
    assert ("/" in text) == (set(_primes(value.denominator)) - {2, 5} != set())


def _primes(n):
    factor = 2
    while n > 1:
        if n % factor:
            factor += 1
        else:
            n //= factor
            yield factor
