"""Answers are read and compared as a person would, on the strings that break parsers."""

import contextlib
import json
import sys
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asesjax.config import base_config, finish
from asesjax.core.errors import UserError
from asesjax.evals.answers import answer_number, is_correct, judge, marker_of, parse_answer
from asesjax.evals.numbers import last_number

quick = settings(deadline=None, max_examples=300)
TEXTS = st.text(st.characters(), max_size=50) | st.text(
    st.sampled_from("12 0.,/-$%()<>=+\nis５，。肝é²½"), max_size=30
)


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("8,000", "8000"),  # opencompass#2647 reads 000
        ("He said 5, then left,", "5"),  # helm#4337 reads the comma
        (",", None),
        ("", None),
        ("no number.", None),
        ("It is 72.", "72"),
        ("It is 72..", "72"),
        ("It is 72.0 !", "72"),
        ("costs $1,234,567.89.", "1234567.89"),
        ("£5", "5"),
        ("€ 5", "5"),
        ("50%", "50"),
        ("a half: 1/2.", "1/2"),
        ("-3/4", "-3/4"),
        ("2 1/2 cups", "5/2"),
        ("3 8/4", "2"),
        ("1,000/3", "1000/3"),
        ("on 12/25/2020", None),
        ("5/0", None),
        ("5/day", "5"),
        ("16 - 3", "3"),
        ("16-3", "3"),
        ("(4)-3", "3"),
        ("x = -3", "-3"),
        ("(-3)", "-3"),
        ("-$3.50", "-3.5"),
        ("$-3.50", "-3.5"),
        ("\u22123", "-3"),
        ("<<5-8=-3>>-3 apples", "-3"),
        ("<<48/2=24>>24 clips", "24"),
        ("covid-19", "19"),
        ("0.5", "1/2"),
        (".5", "1/2"),
        ("$.50", "1/2"),
        ("so...5", "5"),
        ("1,2,3", None),
        ("in 2010,200", None),
        ("2,0050", None),
        ("1/2.5", "2/5"),
        ("1.2.3", None),
        ("72clips", "72"),
        ("is72The", "72"),
        ("共１２个", "12"),
        ("SUVmax：3.6。", "3.6"),
        ("#### 18", "18"),
        ("5 m²", "5"),
        ("007", "7"),
        # Exponents and powers.
        ("4.02e-06", "4.02e-6"), ("1.5E+6", "1500000"), ("1.5 × 10^6", "1500000"),
        (r"1.5 \times 10^{-3}", "0.0015"), ("2x10⁻³", "0.002"),
        ("10^6", "1000000"), ("2**10", "1024"),
        ("5 ^ 2", "25"), ("x^2", None), ("2^x", None), ("1e999999999", None), ("3e", "3"),
        # LaTeX.
        (r"$9{,}500$", "9500"), (r"9\,500", "9500"), (r"\frac{3}{4}", "3/4"),
        (r"-\dfrac12", "-1/2"),
        (r"2\frac{1}{2}", "5/2"), (r"\frac{-1}{2}", "-1/2"), (r"\frac{x}{2}", None),
        (r"2\pi", None),
        (r"\sqrt{2}", None), (r"3\sqrt2", None), (r"\frac{\sqrt{3}}{2}", None), (r"45^\circ", "45"),
        (r"\$5.50", "5.5"), (r"50\%", "50"), (r"5\text{ cm}", "5"), (r"\left(7\right)", "7"),
        (r"(2,\,3)", None), (r"x_{12}", None),
        # Signs, spaces and digits of typography and of other scripts.
        ("\u20135", "-5"), ("\u20115", "-5"), ("2½", "5/2"), ("-½", "-1/2"), ("3\u20444", "3/4"),
        ("9\u202f500", "9500"), ("9'500", "9500"), ("1_000", "1000"), ("1,00,000", "100000"),
        ("٣٤", "34"), ("10²", "100"), ("5 m²", "5"),
        # Neither the first nor the last part of what is no number.
        ("2024-03-05", None), ("2024-12-25.", None), ("2024-12-2", None), ("March 5, 2024", None),
        ("5 March 2024", None), ("May 3rd.", None), ("June 2024", None), ("2024年3月5日", None),
        ("3月5号", None), ("3年", 3), ("9 500", 9500), ("-$1 234 567.5 km", Fraction(-2469135, 2)),
        ("9 500,50", None), ("5 100-dollar bills", 100), ("= $11 000", 11000),
        ("2024-03-05T10:30", None), ("555-0123", None),
        ("1000-12-25=963", 963), ("16-3-5=8", 8), ("10 - 05", 5), ("2024-03-05: 7", 7),
        ("3:30", None), ("1.234,56", None), ("3,5", None), ("(2, 3)", None), ("[1, -2]", None),
        ("km/2", None), ("1.5e6.5", None),
    ],  # fmt: skip
)
def test_last_number(text, last):
    assert last_number(text) == (None if last is None else Fraction(last))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So 5. The answer is 72.", 72),
        ("the ANSWER IS: $72", 72),
        ("The answer is 72.\n\nQ: There are 15 trees. The answer is 6.", 72),
        ("The answer is 72Q: There are 15 trees", 72),
        ("The answer is 72 15 16", 72),
        ("The answer is 72.5. Then 3", Fraction(145, 2)),
        ("The answer is 5 + 3 = 8. There are 4", 8),
        ("The answer is $<<5-8=-3>>-3.", -3),
        ("The answer is 5 -3 = 2", 2),
        ("The answer is 5 dogs * 4 legs / dog = <<5*4=20>>20 legs. It is 3", 20),
        ("The answer is 5 dogs. 3 + 4 = 7", 5),
        ("The answer is 5, 3 + 4 = 7", 5),
        ("The answer is 5 and 6", 5),
        ("The answer is -3", -3),
        ("The answer is **12** dogs and 3 cats", 12),
        ("The answer is **12** 3", 12),
        ("The answer is\n12", 12),
        ("The answer is 12\n- 5 more", 12),
        ("The answer is that 5 have 3 each, so 15. There are 4", 15),
        ("5 and 6. The answer is unknown.", 6),
        ("5 and 6", 6),
        ("The answer is", None),
        # A bracket behind a number explains it, unless it is a factor.
        ("The answer is 5 (3 + 2).", 5),
        ("The answer is 12 (a dozen: 12, or 6)", 12),
        ("The answer is 5 (3 + 2) = 25", 25),
        # No part of what is not worked out or not readable, and no other number in its place.
        ("The answer is 5 + 3", None),
        ("The answer is 5-6 apples", None),
        ("The answer is 2x + 3", None),
        ("It is 5. The answer is 3:45.", None),
        (r"Of 5, the answer is the root \sqrt{3}.", None),
        ("The answer is 10/3 ≈ 3.33", Fraction(10, 3)),
        # Boxes.
        (r"So \boxed{\frac{3}{4}}, of 5.", Fraction(3, 4)),
        (r"\boxed{1} or $\boxed{9{,}500}$ of 5", 9500),
        (r"The answer is $\boxed{12}$ of 5. \boxed{3}", 12),
        (r"So 5: \boxed{}", None),
        (r"So 5: \boxed{6", 6),
    ],
)
def test_answer_number(text, answer):
    assert answer_number(text) == answer


def test_marker_may_be_any_text_or_empty():
    text = "3 #### 18\nThe answer is 4. Or 5"
    assert answer_number(text, "####") == 18
    assert answer_number(text, "") == 5
    assert answer_number("a (x) 1 b 2", "(X)") == 1
    assert answer_number("a+ 1. b 2", ".*") == 2


@quick
@given(TEXTS)
def test_any_text_gives_a_number_or_none(text):
    for value in (last_number(text), answer_number(text)):
        assert value is None or isinstance(value, Fraction)
    if last_number(text) is not None:
        with contextlib.suppress(UserError):  # a sum that is not worked out
            is_correct(text, text, "numeric")
    elif not any(character.isnumeric() for character in text):
        with pytest.raises(UserError, match="holds no number"):
            is_correct("1", text, "numeric")
    assert is_correct(text, text, "exact", marker="")
    is_correct(text, text, "authors")


WRITTEN = st.sampled_from(
    ["{:,}", "{}", "${:,}", "{:,}.00", "{}.", "{:,}%", "{}.000", "**{:,}**", "{}\n", "({:,})"]
)


@quick
@given(st.integers(-(10**13), 10**13), WRITTEN)
def test_an_integer_is_read_back_however_it_is_written(n, form):
    written = form.format(n)
    assert last_number(f"Ann has 3 dogs, so {written}") == n
    assert answer_number(f"Ann has 3 dogs. The answer is {written}") == n
    assert is_correct(f"The answer is {written}", str(n), "numeric")
    assert not is_correct(f"The answer is {written}", str(n + 1), "numeric")


@quick
@given(st.integers(0, 10**6), st.integers(1, 10**4), st.sampled_from(["", "-"]))
def test_fractions_are_exact(top, bottom, sign):
    value = Fraction(top, bottom) * (-1 if sign else 1)
    assert last_number(f"{sign}{top}/{bottom}") == value
    assert is_correct(f"The answer is {sign}{top}/{bottom}", f"{sign}{2 * top}/{2 * bottom}",
                      "numeric")


@quick
@given(st.decimals(0, 10**6, places=3))
def test_decimals_are_exact(value):
    assert last_number(f"It costs {value}.") == Fraction(value)


def test_numbers_too_long_for_python_are_no_numbers():
    assert last_number("9" * 5000) is None
    assert last_number("1/" + "9" * 5000) is None
    assert not is_correct("9" * 5000, "9", "numeric")
    assert last_number("1,000" * 50_000) is None  # and the scan is linear
    assert last_number("9^" * 50_000 + "9") is None and last_number("9^99999") is None
    assert answer_number("The answer is " + "(1, " * 20_000) == 1


def test_nearly_equal_numbers_are_wrong():
    assert not is_correct("The answer is 0.33", "1/3", "numeric")
    assert not is_correct("The answer is 5", "-5", "numeric")
    assert not is_correct("no number", "5", "numeric")


def test_the_authors_rule():
    assert is_correct("Then 72", "72", "authors")
    assert is_correct("The answer is 72.", "72", "authors")
    assert is_correct("The answer is 8,000", "8", "authors")  # cut at the comma
    assert is_correct("The answer is 1/2", "so 1/2.", "authors")
    assert not is_correct("The answer is 72.0", "72", "authors")  # strings
    assert is_correct("The answer is -5", "5", "authors")  # the sign is not seen
    assert not is_correct("The answer is 72. Q: 15", "72", "authors")  # the last one of all
    assert not is_correct("none", "72", "authors")
    assert not is_correct("none", "none", "authors")


@pytest.mark.parametrize(
    ("prediction", "reference", "right"),
    [
        ("So the answer is Yes.", "yes", True),
        ("So the answer is no", "yes", False),
        ("The answer is  NK!", "nk", True),
        ("The answer is yes. Q: Is it?", "yes", True),
        ("The answer is St. Louis", "St. Louis", True),
        ("The answer is 05/01/2021.", "05/01/2021", True),
        ("The answer is -5.", "5", False),
        ("The answer is 3.5.", "3.5", True),
        ("The answer is “ｙｅｓ”", "yes", True),
        ("yes", "yes", True),
        ("I say yes", "yes", False),
        ("The answer is", "yes", False),
        ("The answer is left  foot", "left foot", True),
        # Another answer before the closing sentence, as PaLM's chains have it.
        ("Of these, the best answer is dance. The answer is kiss.", "kiss", True),
        ("Together they are \"yajo\". The answer is yajo.", "yajo", True),
        ("The answer is F.", "f", True),
        ("The answer is (F).", "F", True),
    ],
)
def test_exact(prediction, reference, right):
    assert is_correct(prediction, reference, "exact") is right


def test_other_metrics_and_references_without_a_number_are_refused():
    with pytest.raises(UserError, match="unknown evaluate.metric 'nummeric'; did you mean 'numer"):
        is_correct("5", "5", "nummeric")
    with pytest.raises(UserError, match="'yes' holds no number.*evaluate.metric=exact"):
        is_correct("5", "yes", "numeric")
    for metric, reference, message in (
        ("numeric", "3:30", "no number that can be read"), ("choice", "A dog", "no letter"),
        ("yes_no", "maybe", "neither yes nor no"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=f"'{reference}' holds {message}"):
            is_correct("5", reference, metric)


@pytest.mark.parametrize(
    ("metric", "template", "reference", "right", "wrong"),
    [
        ("numeric", "#### {answer}", "5", "So 5.\n#### 5\n\nQ: 9?\n#### 12", "#### 12\n#### 5"),
        ("numeric", "答案是{answer}。", "5", "2加3等于5。答案是5。还剩3个人。",
         "答案是6。还剩5个人。"),
        ("numeric", "答案是：{answer}。", "-5", "答案是:\u20135.", "答案是:5."),
        ("exact", "#### {answer}", "yes", "Fish swim.\n#### yes", "yes.\n#### no"),
        ("exact", "答案是{answer}。", "是", "鲸鱼是哺乳动物。答案是是。", "答案是否。"),
        ("exact", "So {answer} it is.", "left foot", "So left foot it is. Or so it is.",
         "So it is."),
        ("exact", r"The answer is $\boxed{{answer}}$.", "yes", r"The answer is $\boxed{yes}$. No.",
         r"The answer is $\boxed{no}$."),
        ("exact", "", "yes", r"So \boxed{\text{Yes}}.", r"\boxed{no}"),
        ("choice", "", "B", "The answer is B) 230", "The answer is (C) B."),
        ("choice", "", "(B) 230", "The answer is b.", "The answer is a B."),
        ("choice", "", "B. 230", "It is the bridge, so (b).", "A dog. It is (a)."),
        ("choice", "", "b", "Hence option B", "Hence 230"),
        ("choice", "", "B", "Not (a), so (b).", "Not (b), so (a)."),
        ("choice", "答案是{answer}。", "B", "答案是选项B。", "答案是A。"),
        ("yes_no", "", "yes", "The answer is True, not no.", "The answer is not true."),
        ("yes_no", "", "no", "No, since yes means more.", "Yes, they know."),
        ("yes_no", "", "false", "It is not so. So, no.", "It is not so."),
        ("yes_no", "", "yes", "It is not true? Then yes.", "Is it true? Then no."),
        ("yes_no", "答案是{answer}。", "否", "是的。答案是不是。", "不是。答案是对。"),
        ("math", "", "0.75", r"The answer is \frac{3}{4}.", "The answer is 3."),
        ("math", "", "(x+1)^2", r"So \boxed{x^2+2x+1}.", r"So \boxed{x^2+1}."),
        ("math", "", "2.0107e-06", "The answer is 0.0000020107.", "The answer is 6."),
        ("math", "#### {answer}", r"$9{,}500$", "#### 9500 apples", "#### 9"),
        ("math", "", r"\{1, 2\}", r"The answer is $\{2,1\}$.", r"The answer is $\{2\}$."),
    ],
)  # fmt: skip
def test_answers_behind_a_templates_words(metric, template, reference, right, wrong):
    if metric == "math":
        pytest.importorskip("math_verify")
    marker = marker_of(template)
    assert is_correct(right, reference, metric, marker)
    assert not is_correct(wrong, reference, metric, marker)
    # An answer that stands in a chain alone is the same one.
    assert is_correct(right, "", metric, marker, reference_chain=right)
    assert parse_answer(right, metric, marker)


def test_a_chain_without_the_templates_words_is_judged_by_the_usual_ones():
    is_right = judge(finish(base_config(), {"data.answer_template": "#### {answer}"}))
    assert is_right("The answer is 4. It was 7.", "4")
    assert is_right("The answer is 7.\n#### 4", "4")
    assert not is_right("The answer is 4.\n#### 7", "4")


def test_math_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(UserError, match="needs the package math-verify: pip install"):
        is_correct("5", "5", "math")


@pytest.mark.data
@pytest.mark.parametrize("metric", ["numeric", "authors", "exact"])
@pytest.mark.parametrize(("split", "n"), [("train", 7473), ("test", 1319)])
def test_gsm8k_references_score_100_percent(data_folder, metric, split, n):
    lines = (data_folder / f"gsm8k/{split}.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == n
    wrong = others = 0
    for line, next_line in zip(lines, lines[1:] + lines[:1], strict=True):
        chain, reference = json.loads(line)["answer"].split("\n#### ")
        other = json.loads(next_line)["answer"].split("\n#### ")[1]
        wrong += not is_correct(reference, reference, metric)
        if metric != "exact":  # some chains say "the answer is <<8=8>>8" before their end
            wrong += not is_correct(f"{chain} The answer is {reference}.", reference, metric)
            wrong += not is_correct(chain + "\n#### " + reference, reference, metric, "####")
        others += is_correct(f"{chain} The answer is {other}.", reference, metric)
    assert wrong == 0
    assert others < 0.05 * n  # neighbours share an answer now and then


@pytest.mark.data
def test_svamp_answers_are_numbers(data_folder):
    rows = json.loads((data_folder / "svamp/SVAMP.json").read_text("utf-8"))
    for row in rows:
        assert last_number(str(row["Answer"])) == Fraction(row["Answer"])
        written = f"The answer is {int(row['Answer'])}."
        whole = row["Answer"] == int(row["Answer"])
        assert is_correct(written, str(row["Answer"]), "numeric") is whole
