import json

import pytest

from asesjax.cli.main import main
from asesjax.config import WORKDIR_FORMAT
from asesjax.core.types import Segment
from asesjax.evals.paired import compare
from asesjax.viz.compare import comparison_text, rows_table
from asesjax.viz.segments import segments_html, segments_text
from asesjax.viz.tables import results_table


def report(seed, accuracies, strategy="entropy"):
    rows = [
        {"method": method, "seed": seed, "accuracy": accuracy, "chain_accuracy": None,
         "bleu": 50.0, "train_tokens": 1000, "train_steps": 10, "train_seconds": 1.0,
         "questions": 4}
        for method, accuracy in accuracies.items()
    ]  # fmt: skip
    own = {"segmentation": {"strategy": strategy}} if strategy else {}
    return own | {"name": "x", "seed": seed, "budget": "b", "metric": "numeric",
                  "against": None, "rows": rows}  # fmt: skip


def group(texts, against="direct"):
    """The comparison of runs over seeds, from + (right) and - (wrong) for each seed."""
    outcomes = {
        name: [{(seed, i): mark == "+" for i, mark in enumerate(text)}
               for seed, text in enumerate(own)]
        for name, own in texts.items()
    }  # fmt: skip
    n = len(next(iter(texts.values())))
    rows = compare(outcomes, against)
    for row in rows:
        row |= {"chain_accuracy": None, "bleu": None, "train_steps": 10.0, "train_tokens": 1234.5,
                "before_tokens": None}
    return {"name": "x", "budget": "every method gets 5", "against": against, "rows": rows,
            "seeds": list(range(n)), "questions": [4] * n}  # fmt: skip


def cells(table):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]


def test_rows_table_has_every_row_of_every_run():
    table = rows_table({"a": report(0, {"direct": 0.5, "usm": 0.6}),
                        "c": report(3, {"usm": 0.1}, strategy=None)})  # fmt: skip
    head, _, *rows = cells(table)
    assert head[:5] == ["run", "seed", "strategy", "method", "accuracy"]
    assert [row[:6] for row in rows] == [
        ["a", "0", "entropy", "direct", "0.500", "-"],
        ["a", "0", "entropy", "usm", "0.600", "-"],
        ["c", "3", "-", "usm", "0.100", "-"],
    ]
    assert rows[0][-1] == "1,000"


def test_means_and_differences():
    text = comparison_text(group({"direct": ["++--", "+---"], "usm": ["+++-", "+++-"]}))
    first, means, _, differences, _ = text.split("\n\n")
    assert first == "x: seeds 0, 1; 4 test questions each\nmatched: every method gets 5"
    head, _, direct, usm = cells(means)
    assert head == ["method", "accuracy %", "sd", "95 % interval", "seed 0", "seed 1",
                    "chain right %", "BLEU", "steps", "train tokens", "tokens before"]  # fmt: skip
    # t(0.975, 1) = 12.706; sd 17.678 of 50 and 25 per cent.
    assert direct == ["direct", "37.5", "17.7", "-121.3..196.3", "50.0", "25.0", "-", "-", "10",
                      "1,234", "-"]  # fmt: skip
    assert usm[:6] == ["usm", "75.0", "0.0", "75.0..75.0", "75.0", "75.0"]
    head, _, row = cells(differences)
    assert head == ["row", "against", "difference", "95 % interval", "p, seeds", "Holm",
                    "p, questions", "Holm", "better", "worse"]  # fmt: skip
    assert row == ["usm", "direct", "+37.5", "-121.3..196.3", "0.205", "0.205", "0.250", "0.250",
                   "3", "0"]  # fmt: skip
    assert "corrected for 1 comparison." in text and "1 degree of freedom" in text


def test_a_single_seed_gets_no_intervals():
    text = comparison_text(group({"direct": ["++--"], "usm": ["+++-"]}))
    assert "A single seed says nothing" in text and "p, seeds" not in text
    assert "interval" not in text and "sd" not in cells(text.split("\n\n")[1])[0]


def test_small_p_values_and_comparison_without_a_baseline():
    many = group({"direct": ["-" * 20], "usm": ["+" * 20]})
    assert "| <0.001 |" in comparison_text(many)
    assert "against" not in comparison_text(group({"usm": ["+-", "++"]}, None))


def test_columns_without_values_are_left_out():
    row = {"method": "usm", "accuracy": 0.5, "accuracy_interval": (0.4, 0.6), "bleu": None}
    table = results_table([row])
    assert "50.0" in table and "40.0..60.0" in table and "BLEU" not in table
    assert "| - " not in table


def test_columns_of_methods_stand_at_the_end():
    rows = [{"method": "usm", "bleu": 1.0, "columns": {"segm. F1": 0.5}}, {"method": "direct"}]
    head, _, *own = cells(results_table(rows))
    assert head == ["method", "BLEU", "segm. F1"]
    assert own == [["usm", "1.0", "0.500"], ["direct", "-", "-"]]


def test_segments_are_escaped_and_labelled():
    segments = [Segment("<b> 1 < 2. ", "ES"), Segment("So & so.", None)]
    page = segments_html(segments, "a < b?")
    assert "&lt;b&gt; 1 &lt; 2. " in page and "a &lt; b?" in page and 'title="unlabelled"' in page
    assert segments_text(segments, colour=False) == "ES | <b> 1 < 2.\n-- | So & so."
    assert "\x1b[" in segments_text(segments)


@pytest.mark.parametrize("more", [["--redo"], ["--config.seed=1"]])
def test_comparing_takes_no_configuration(tmp_path, capsys, more):
    for seed, name in enumerate("ab"):
        folder = tmp_path / name
        (folder / "predictions/usm").mkdir(parents=True)
        (folder / "report.json").write_text(json.dumps(report(seed, {"usm": 1.0})))
        (folder / "config.json").write_text(json.dumps(
            {"workdir_format": WORKDIR_FORMAT, "seed": seed, "train.steps": 2}
        ))  # fmt: skip
        row = {"id": "1", "question": "q", "chain": "It is 3.", "reference_answer": "3"}
        (folder / "predictions/usm/test.jsonl").write_text(json.dumps(row))
        (folder / "run.jsonl").write_text(json.dumps({"command": "asesjax run"}))
    folders = [str(tmp_path / name) for name in "ab"]
    assert main(["report", "--workdir", *folders]) == 0
    assert "| usm    |      100.0 | 0.0 |  100.0..100.0 |" in capsys.readouterr().out
    assert main(["report", "--workdir", *folders, *more]) == 2
    assert "need a single --workdir" in capsys.readouterr().err
