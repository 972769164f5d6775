"""Generated reports: conclusions checked against the rule, written out again."""

import re

import pytest

from asesjax.config import base_config
from asesjax.core.errors import UserError
from asesjax.core.types import AS, ES
from asesjax.data.generators.reports import SITES, make_reports
from asesjax.segmentation.pieces import split_pieces

LESION = re.compile(
    r"(?:The (?P<a>\w+) shows a \w+ of \d+ mm with \w+ uptake"
    r"|A \w+ of \d+ mm with \w+ uptake is seen in the (?P<b>\w+)"
    r"|In the (?P<c>\w+) there is a \w+ with \w+ uptake measuring \d+ mm"
    r"|There is \w+ uptake in a \w+ of \d+ mm of the (?P<d>\w+))\."
)


def settings_of(**changed):
    data = base_config().data
    data.source = "synthetic_reports"
    for name, value in changed.items():
        data[name] = value
    return data


def check(record, data):
    """Return the numbers of the templates in use."""
    sentences = [sentence.rstrip(".") + "." for sentence in record.question.split(". ")]
    assert record.answer == ""
    assert "".join(segment.text for segment in record.gold) == record.rationale
    assert [s.label for s in record.gold] == [ES, AS] * (len(record.gold) // 2)
    templates, sites = set(), []
    for es, conclusion in zip(record.gold[::2], record.gold[1::2], strict=True):
        text = es.text.rstrip()
        assert text in sentences
        match = LESION.fullmatch(text)
        (letter,) = [letter for letter, site in match.groupdict().items() if site]
        templates.add("abcd".index(letter))
        site = match[letter]
        size = int(re.search(r"(\d+) mm", text)[1])
        (kind,) = re.findall(r"\b(nodule|mass|cyst)\b", text)
        (uptake,) = re.findall(r"\b(high|low)\b", text)
        assert 2 <= size <= data.max_value
        if kind == "cyst":
            said = {"high": "an infected cyst", "low": "a simple cyst"}[uptake]
        else:
            large, small = ("malignancy", "inflammation") if uptake == "high" else (
                "a benign tumour", "an old scar")  # fmt: skip
            said = large if size >= 8 else small
        assert conclusion.text.rstrip() == f"The {kind} in the {site} suggests {said}."
        sites.append(SITES.index(site))
    assert sites == sorted(set(sites))
    lesions = [sentence for sentence in sentences if LESION.fullmatch(sentence)]
    assert len(lesions) == len(sites) == len(sentences) - data.n_distractors
    normal = [sentence for sentence in sentences if sentence not in lesions]
    assert len({site for text in normal for site in SITES if site in text}) == data.n_distractors
    return templates


@pytest.mark.parametrize("wording", ["plain", "varied"])
@pytest.mark.parametrize("order", ["in_order", "shuffled"])
def test_every_sentence_holds(wording, order):
    data = settings_of(wording=wording, fact_order=order, n_distractors=2)
    for split in ("train", "validation", "test"):
        records = make_reports(data, split, 60, 5)
        assert {i for r in records for i in check(r, data)} == (
            {0} if wording == "plain" else {0, 1, 2, 3}
        )
        assert {len(record.gold) for record in records} == {4, 6, 8}
        assert [r.id for r in records[:2]] == [f"report-{split}-0", f"report-{split}-1"]
        moved = [
            r for r in records
            if [s.rstrip(".") for s in r.question.split(". ") if s.rstrip(".") in r.rationale]
            != [s.text.rstrip(". ") for s in r.gold[::2]]
        ]  # fmt: skip
        assert bool(moved) == (order == "shuffled")


def test_splits_share_no_report_and_seeds_differ():
    data = settings_of(fact_order="shuffled")
    keys = {}
    for split, n in (("train", 3000), ("validation", 200), ("test", 300)):
        records = make_reports(data, split, n, 0)
        keys[split] = {tuple(sorted(r.question.rstrip(".").split(". "))) for r in records}
        if split != "train":
            assert len(keys[split]) == n
        assert records == make_reports(data, split, n, 0) != make_reports(data, split, n, 1)
    assert not keys["train"] & keys["test"] and not keys["validation"] & keys["test"]
    assert not keys["train"] & keys["validation"]


def test_held_out_templates():
    data = settings_of(wording="varied", held_out_templates=True, n_distractors=1)
    used = {
        split: {i for r in make_reports(data, split, 60, 0) for i in check(r, data)}
        for split in ("train", "test")
    }
    assert used == {"train": {0, 1, 2}, "test": {3}}


def test_gold_segments_are_the_pieces_of_the_segmenter():
    for record in make_reports(settings_of(wording="varied"), "train", 100, 0):
        pieces = split_pieces(record.rationale)
        assert [record.rationale[a:b] for a, b in pieces] == [s.text for s in record.gold]


def test_settings_out_of_range_are_refused():
    for changed, message in (
        ({"max_value": 7}, "data.max_value must be at least 8 for reports"),
        ({"n_distractors": 5}, "need more than the 8 sites"),
        ({"min_steps": 5}, "data.min_steps must be at most data.max_steps, got 5 and 4"),
    ):
        with pytest.raises(UserError, match=message):
            make_reports(settings_of(**changed), "train", 5, 0)
