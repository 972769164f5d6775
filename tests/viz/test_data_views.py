"""Histograms, examples and pages of segments."""

import pytest

from asesjax.core.types import AS, ES, Segment
from asesjax.viz.data import example_text, histogram_text, length_figure
from asesjax.viz.segments import segments_page


@pytest.mark.parametrize("bins", [1, 3, 10, 50])
def test_every_length_is_in_one_bin(bins):
    lengths = [0, 1, 1, 7, 40, 41, 99]
    _, *lines = histogram_text("t", lengths, bins).splitlines()
    assert len(lines) <= bins or bins == 50
    found = {}
    for line in lines:
        name, n, *_ = line.split()
        low, _, high = name.partition("..")
        found[range(int(low), int(high or low) + 1)] = int(n)
    for within, n in found.items():
        assert n == sum(length in within for length in lengths)
    assert sum(found.values()) == len(lengths)


def test_bars_are_in_proportion():
    text = histogram_text("t", [0] * 100 + [1] * 50 + [2], width=10)
    assert [line.count("#") for line in text.splitlines()] == [0, 10, 5, 1]


def test_weights_are_visible_with_and_without_colour():
    runs = [("a", 1.0), ("b", 2.0), ("c", 0.125)]
    plain = example_text("x", "in", runs, colour=False)
    assert plain == "x\n  input   in\n  target  (1) a (2) b (0.125) c"
    colour = example_text("x", "in", runs)
    assert "\x1b[1mb\x1b[0m" in colour and "\x1b[2mc\x1b[0m" in colour and "(1) a (2)" in colour


def test_length_figure_is_a_png(tmp_path):
    pytest.importorskip("matplotlib")
    path = length_figure({"a": ([1, 5, 300], [2, 2, 2]), "b": ([7], [0])}, tmp_path / "x/l.png")
    assert path.read_bytes()[:4] == b"\x89PNG"


def test_a_page_of_segments_escapes_text_and_has_a_legend():
    chains = [("1 < 2?", [Segment("Ja. ", ES), Segment("<b>", AS), Segment("x", None)])]
    page = segments_page("A & B", chains)
    assert page.startswith("<!doctype html>") and '<meta charset="utf-8">' in page
    assert "<title>A &amp; B</title>" in page and "<b>1 &lt; 2?</b>" in page
    assert page.index("ES, extractive") < page.index("&lt;b&gt;") and "<b>" + "x" not in page
