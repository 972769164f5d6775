"""The first sentence that leaves the gold chain, and Wilson's interval."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asesjax.core.types import AS, ES, Segment
from asesjax.evals.chains import first_wrong, wilson_interval

GOLD = (
    Segment("Ben has 3 more than Ann. ", ES),
    Segment("Ben has 2 + 3 = 5. ", AS),
    Segment("Eva has 1.5 times Ben's. Eva is last.", ES),
    Segment(" The answer is 7.5.", AS),
)
TEXT = "".join(s.text for s in GOLD)


@pytest.mark.parametrize(
    ("generated", "expected"),
    [
        (TEXT, (True, None, None)),
        ("\n " + TEXT.replace(". ", ".  \n") + " \n", (True, None, None)),
        (TEXT.replace("3 more", "4 more"), (False, ES, 0)),
        (TEXT.replace("= 5", "= 6"), (False, AS, 1)),
        (TEXT.replace("1.5", "1.6"), (False, ES, 2)),
        (TEXT.replace("last", "first"), (False, ES, 3)),
        (TEXT.replace("is 7.5", "is 7.25"), (False, AS, 4)),
        (TEXT.replace("2 + 3 = 5", "2 + 3=5"), (False, AS, 1)),
        ("Ben has 2 + 3 = 5. " + TEXT, (False, ES, 0)),
        (GOLD[0].text + GOLD[1].text, (False, "missing", 2)),
        (GOLD[0].text + "Ben has 2 +", (False, AS, 1)),
        ("", (False, "missing", 0)),
        (" \n", (False, "missing", 0)),
        (TEXT + " And more", (False, "extra", 5)),
        (TEXT.replace("= 5", "= 6") + " And more", (False, AS, 1)),
    ],
)
def test_first_wrong(generated, expected):
    assert first_wrong(generated, GOLD) == expected


def test_a_gold_sentence_without_label_has_kind_none():
    assert first_wrong("x", [Segment("a.")]) == (False, None, 0)
    assert first_wrong("", []) == (True, None, None)
    assert first_wrong("x", []) == (False, "extra", 0)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["A has 5.", "B!", "C is 3.5, no.", "D?"]), max_size=6), st.data())
def test_a_chain_with_one_changed_sentence_is_wrong_there(sentences, data):
    labels = [data.draw(st.sampled_from([ES, AS])) for _ in sentences]
    gold = [Segment(s + " ", label) for s, label in zip(sentences, labels, strict=True)]
    assert first_wrong(" ".join(sentences), gold).is_right
    if sentences:
        at = data.draw(st.integers(0, len(sentences) - 1))
        changed = [*sentences[:at], "X.", *sentences[at + 1 :]]
        assert first_wrong(" ".join(changed), gold) == (False, labels[at], at)
        assert first_wrong(" ".join(sentences[:at]), gold) == (False, "missing", at)
        more = " ".join([*sentences, "X."])
        assert first_wrong(more, gold) == (False, "extra", len(sentences))


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 5000), st.data())
def test_wilson_interval_is_scipys(n, data):
    stats = pytest.importorskip("scipy.stats")
    k = data.draw(st.integers(0, n))
    theirs = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
    low, high = wilson_interval(k, n)
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert 0 <= low <= k / n <= high <= 1


def test_wilson_interval_edges():
    assert wilson_interval(0, 0) == (0, 1)
    assert wilson_interval(0, 10)[0] == 0 and wilson_interval(10, 10)[1] == 1
    for k, n in ((-1, 5), (6, 5)):
        with pytest.raises(ValueError, match="k must be in 0..n"):
            wilson_interval(k, n)
