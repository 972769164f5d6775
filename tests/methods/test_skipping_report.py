"""What is left out, counted by gold label on examples worked by hand."""

import pytest

from asesjax.core.types import FILLER, Record, Segment
from asesjax.methods.skip_thinking.report import left_out, sentence_labels, skipping_report, written
from asesjax.methods.skip_thinking.view import skipping_lines

GOLD = (
    Segment("Ben has 3 more. ", "ES"), Segment("Now then. ", FILLER),
    Segment("So 5 + 3 = 8. ", "AS"), Segment("Now then.", FILLER),
)  # fmt: skip
TEXT = "".join(segment.text for segment in GOLD)
RECORD = Record("r", "q", TEXT, "8", GOLD)


def row(chunks, kept, before=True, after=True):
    return {"chunks": chunks, "kept": kept, "right_before": before, "right_after": after}


def test_sentences_have_the_label_of_most_of_their_characters():
    labels = [label for _, label in sentence_labels(TEXT, GOLD)]
    assert labels == ["ES", FILLER, "AS", FILLER]
    # Sentences that two segments share, and a gold text that continues behind.
    both = (Segment("It is 4", "AS"), Segment(" now. And", FILLER), Segment(" so on.", "ES"))
    labelled = [("It is 4 now.", "AS"), ("And so", FILLER)]
    assert sentence_labels("It is 4 now. And so", both) == labelled
    assert sentence_labels("", GOLD) == []


def test_left_out_chunks_are_counted_by_place_and_label():
    sentences = [segment.text for segment in GOLD]
    rows = [
        row(sentences, [0, 2]),  # both fillers
        row([sentences[0] + sentences[1], sentences[2] + sentences[3]], [1], after=False),
        row(["".join(sentences)], [0], before=False),
    ]
    found = left_out(rows, [RECORD] * 3)
    assert found["records"] == 3 and found["chunks"] == 7
    assert found["kept_share"] == pytest.approx(4 / 7)
    # The only chunk of a rationale is its first.
    assert found["left_out_by_place"] == {"first": 1 / 3, "middle": 1 / 2, "last": 1 / 2}
    assert found["right_before"] == found["right_after"] == pytest.approx(2 / 3)
    assert found["sentences"] == {"ES": 3, FILLER: 6, "AS": 3}
    assert found["left_out"] == {"ES": 1, FILLER: 3, "AS": 0}
    assert found["precision"] == 3 / 4 and found["recall"] == 3 / 6


def test_without_gold_labels_or_filler():
    plain = Record("r", "q", "A b. C d.", "8")
    assert "precision" not in left_out([row(["A b. ", "C d."], [0, 1])], [plain])
    needed = Record("r", "q", "A b.", "8", (Segment("A b.", "AS"),))
    found = left_out([row(["A b."], [0])], [needed])
    assert found["precision"] is None and found["recall"] is None


def prediction(chain, answer="The answer is 8."):
    gold = [[segment.text, segment.label] for segment in GOLD]
    gold[-1][0] += " "
    return {"chain": f"{chain} {answer}", "gold": [*gold, ["The answer is 8.", "ES"]]}


def test_what_was_written():
    rows = [
        prediction("Ben has 3 more. So 5 + 3 = 8."),  # all that is needed
        prediction("Ben has 3 more. Now  then. So 5 + 3 = 9."),  # a filler, a wrong step
        prediction("Ben has 3 more. Now then. Now then. Now then. So 5 + 3 = 8."),
    ]
    found = written(rows)
    assert found["sentences_per_chain"] == 10 / 3 and found["filler_per_chain"] == 4 / 3
    assert found["reference_filler"] == 2
    assert found["needed_present"] == {"ES": 1.0, "AS": pytest.approx(2 / 3)}
    assert found["recall"] == 3 / 6 and found["precision"] == 3 / 4


def test_a_report_without_gold_labels_and_without_skip_data(tmp_path):
    folder = tmp_path / "predictions/cwt"
    folder.mkdir(parents=True)
    (folder / "test.jsonl").write_text('{"chain": "So 8.", "gold": null}\n')
    rows = [{"method": "cwt", "questions_per_second": 4.0, "accuracy": 0.5,
             "accuracy_interval": (0.2, 0.8), "tokens_per_question": 7.0}]  # fmt: skip
    part = skipping_report(tmp_path, rows)
    report = part.facts
    assert [path.is_file() for path in part.figures] == [True]
    assert report == {"data": None, "methods": {"cwt": {"seconds_per_question": 0.25}}}
    assert part.lines == skipping_lines(rows, report)
    table = part.lines[2].splitlines()
    assert [cell.strip() for cell in table[0].split("|")[1:-1]] == [
        "method", "accuracy %", "tokens", "ms/question"
    ]  # fmt: skip
    assert [cell.strip() for cell in table[2].split("|")[1:-1]] == ["cwt", "50.0", "7.0", "250.0"]
