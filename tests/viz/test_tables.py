import csv
import io
import json

import pytest

from asesjax.cli.main import main
from asesjax.config import WORKDIR_FORMAT
from asesjax.core.types import Segment
from asesjax.evals.paired import compare
from asesjax.viz.compare import comparison_text
from asesjax.viz.segments import segments_html, segments_text
from asesjax.viz.sweeps import accuracy_against, varied_csv, varied_latex, varied_table
from asesjax.viz.tables import results_table


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


VARIED = [
    {"a.x": x, "a.b": ("p", "q_%"), "method": method, "seeds": 1, "mean": mean, "bleu": None,
     "interval": (mean - 0.1, mean + 0.1) if mean < 0.5 else None, "chain_accuracy": None,
     "train_steps": 4.0}
    for x in (0.5, 1.0) for method, mean in (("direct", 0.2), ("usm", x / 2))
]  # fmt: skip


def test_varied_fields_are_columns_as_text_csv_and_latex():
    head, _, *rows = cells(varied_table(["a.x", "a.b"], VARIED).split("\n\n")[0])
    assert head == ["a.x", "a.b", "method", "accuracy %", "95 % interval", "steps"]
    assert rows[1] == ["0.5", "p,q_%", "usm", "25.0", "15.0..35.0", "4"]
    lines = list(csv.DictReader(io.StringIO(varied_csv(["a.x", "a.b"], VARIED))))
    assert [(line["a.x"], line["method"], float(line["mean"])) for line in lines] == [
        ("0.5", "direct", 0.2), ("0.5", "usm", 0.25), ("1.0", "direct", 0.2), ("1.0", "usm", 0.5)
    ]  # fmt: skip
    assert lines[0]["bleu"] == "" and float(lines[0]["low"]) == pytest.approx(0.1)
    latex = varied_latex(["a.x", "a.b"], VARIED).splitlines()
    assert latex[4] == r"0.5 & p,q\_\% & direct & 20.0 & 10.0..30.0 & 4 \\"
    assert latex[0] == r"\begin{tabular}{lllrrr}"


@pytest.mark.parametrize("field", ["a.x", "a.b"])
def test_a_figure_of_each_field(tmp_path, field):
    path = accuracy_against(VARIED, field, ["a.x", "a.b"], tmp_path / "figures/x.png")
    assert path.stat().st_size > 1000


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
    assert usm[:6] == ["usm", "75.0", "0.0", "-", "75.0", "75.0"]
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
        row = {"method": "usm", "seed": seed, "chain_accuracy": None, "bleu": 50.0, "questions": 1}
        (folder / "report.json").write_text(json.dumps(
            {"name": "x", "seed": seed, "budget": "b", "metric": "numeric", "against": None,
             "rows": [row]}
        ))  # fmt: skip
        (folder / "config.json").write_text(json.dumps(
            {"workdir_format": WORKDIR_FORMAT, "seed": seed, "train.steps": 2}
        ))  # fmt: skip
        row = {"id": "1", "question": "q", "chain": "It is 3.", "reference_answer": "3"}
        (folder / "predictions/usm/test.jsonl").write_text(json.dumps(row))
        (folder / "run.jsonl").write_text(json.dumps({"command": "asesjax run"}))
    folders = [str(tmp_path / name) for name in "ab"]
    assert main(["report", "--workdir", *folders]) == 0
    assert "| usm    |      100.0 | 0.0 |             - |" in capsys.readouterr().out
    assert main(["report", "--workdir", *folders, *more]) == 2
    assert "need a single --workdir" in capsys.readouterr().err
    assert main(["report", "--workdir", *folders, f"{folders[0]}/../a"]) == 2
    assert f"--workdir names {folders[0]} 2 times" in capsys.readouterr().err
