"""Generated last letters: right by hand, distinct, and never the same in two splits."""

import re

import pytest

from asesjax.config import base_config
from asesjax.core.errors import UserError
from asesjax.data.generators import letters
from asesjax.data.generators.letters import LETTERS, LONGEST, SHORTEST, make_letters
from asesjax.data.sources import load_records
from asesjax.segmentation.pieces import split_pieces


def settings_of(**changed):
    data = base_config().data
    data.source = "synthetic_letters"
    data.update(changed)
    return data


def words_of(record):
    return re.search(r'"(.+)"', record.question)[1].split()


def test_every_chain_is_right():
    data = settings_of(min_steps=1, max_steps=5, n_train=50)
    records, skipped = load_records(data, "train", 3)
    assert len(records) == 50 and skipped == []
    for i, record in enumerate(records):
        words = words_of(record)
        assert len(words) == 1 + i % 5
        last = [word[-1] for word in words]
        assert record.answer == "".join(last)
        assert re.findall(r'of "(\w+)" is "(\w)"', record.rationale) == list(
            zip(words, last, strict=True)
        )
        assert record.rationale.endswith(f' Together they are "{record.answer}".')
        pieces = split_pieces(record.rationale)
        assert [record.rationale[a:b] for a, b in pieces] == [s.text for s in record.gold]
        assert set(words) <= set(letters.words(300))


def test_the_words_are_always_the_same():
    words = letters.words(300)
    assert words[:3] == ("abehila", "abisu", "acasypip") and len(set(words)) == len(words) == 300
    for word in words:
        assert SHORTEST <= len(word) <= LONGEST
        kinds = [letter in LETTERS[0] for letter in word]
        assert all(a != b for a, b in zip(kinds, kinds[1:], strict=False))


def test_problems_of_one_word_take_many_words():
    data = settings_of(min_steps=1, max_steps=1, n_words=5000)
    made = {record.question for record in make_letters(data, "train", 1000, 0)}
    assert len(made) == 1000 and set(letters.words(300)) < set(letters.words(5000))
    with pytest.raises(UserError, match="n_words must be 300 where data.source is synthetic_math"):
        load_records(settings_of(source="synthetic_math", n_words=5000), "train", 0)


def test_splits_share_no_problem_and_seeds_differ():
    data, questions = settings_of(), {}
    for split, n in (("train", 2000), ("validation", 200), ("test", 200)):
        records = make_letters(data, split, n, 0)
        questions[split] = {record.question for record in records}
        assert len(questions[split]) == n
        assert records == make_letters(data, split, n, 0) != make_letters(data, split, n, 1)
    # Many splits of one seed are disjoint, and so are those of different seeds.
    other = {record.question for record in make_letters(data, "train", 2000, 1)}
    assert not (questions["train"] | other) & (questions["validation"] | questions["test"])
    assert not questions["validation"] & questions["test"]


def test_settings_out_of_range_are_refused():
    for changed, message in (
        ({"n_fillers": 1}, "data.n_fillers must be 0 where data.source is synthetic_letters"),
        ({"wording": "varied"}, "data.wording must be plain"),
        ({"max_steps": 1}, "data.min_steps must be at most data.max_steps, got 2 and 1"),
    ):
        with pytest.raises(UserError, match=message):
            make_letters(settings_of(**changed), "train", 5, 0)
