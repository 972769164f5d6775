"""Rule-written reasoning: by hand, and against every answer of the files."""

import datetime
import json

import pytest

from asesjax.core.types import AS, ES
from asesjax.data.readers import dates
from asesjax.data.readers.symbolic import RULES
from asesjax.data.rows import BadRow


def text_of(chain):
    return " ".join(text for text, _ in chain)


def test_last_letters():
    question = 'Take the last letters of each words in "Whitney Tj" and concatenate them.'
    chain, answer = RULES["last_letter_concatenation"](question)
    assert answer == "yj"
    assert chain == [
        ('The words are "Whitney Tj".', ES),
        ('The last letter of "Whitney" is "y".', AS),
        ('The last letter of "Tj" is "j".', AS),
        ('Together they are "yj".', AS),
    ]


def test_coin_flip():
    question = (
        "A coin is heads up. Miguel Angel flips the coin. Erika does not flip the coin. Is the "
        'coin still heads up? Note that "flip" here means "reverse".'
    )
    chain, answer = RULES["coin_flip"](question)
    assert answer == "no"
    assert text_of(chain) == (
        "The coin is heads up. Miguel Angel flips the coin. So it is tails up. "
        "Erika does not flip the coin. So it is still tails up."
    )
    assert [label for _, label in chain] == [ES, ES, AS, ES, AS]


def test_tracking_shuffled_objects():
    question = (
        "Alice, Bob, and Claire are on the same team. At the start of the match, they are each "
        "assigned to a position: Alice is playing center midfielder, Bob is playing goalkeeper, "
        "and Claire is playing left winger. \n\nAs the game progresses, pairs of players "
        "occasionally swap positions. First, Claire and Alice trade positions. Finally, Claire "
        "and Bob trade positions. At the end of the match, Bob is playing \nWhich choice is true? "
        "Answer choices: (A) center midfielder, (B) goalkeeper, (C) left winger."
    )
    chain, answer = RULES["tracking_shuffled_objects"](question)
    assert answer == "A"
    assert text_of(chain) == (
        "Alice is playing center midfielder, Bob is playing goalkeeper, Claire is playing left "
        "winger. Claire and Alice trade positions. So Claire is playing center midfielder and "
        "Alice is playing left winger. Claire and Bob trade positions. So Claire is playing "
        "goalkeeper and Bob is playing center midfielder. Bob is playing center midfielder, which "
        "is choice A."
    )


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize(
    "question", ["", "How many dogs?", "x: a has a b. \nWhich choice is true?"]
)
def test_other_questions_are_refused(rule, question):
    with pytest.raises(BadRow):
        rule(question)


def test_months_end():
    assert dates.add_months(datetime.date(2016, 2, 29), -12) == datetime.date(2015, 2, 28)
    assert dates.add_months(datetime.date(2009, 10, 16), 4) == datetime.date(2010, 2, 16)
    assert dates.today("It was a nice day.") is None
    assert dates.asked(datetime.date(2000, 1, 1), "some day") is None


# Rows whose answer is not what the question says: names of two words that count as one, and the
# dates of three premises (a 5-year anniversary after 3 years, Thanksgiving of another year, 36
# hours) with one more.
DIFFERENT = {"coin_flip": 0, "date_understanding": 28, "last_letter_concatenation": 15,
             "tracking_shuffled_objects": 0}  # fmt: skip


@pytest.mark.data
@pytest.mark.parametrize("task", RULES)
def test_every_answer_of_the_files(data_folder, task):
    rows = json.loads((data_folder / f"symbolic/{task}.json").read_text("utf-8"))
    different = []
    for row in rows:
        try:
            chain, answer = RULES[task](row["question"])
        except BadRow as error:
            assert str(error) == "what the rule comes to is not among the choices"
            different.append(row)
            continue
        if answer != row["answer"]:
            different.append(row)
        assert all(label in (ES, AS) and text.endswith(".") for text, label in chain)
    assert len(different) == DIFFERENT[task]
    if task == "last_letter_concatenation":
        assert all(len(row["question"].split('"')[1].split()) > 4 for row in different)
