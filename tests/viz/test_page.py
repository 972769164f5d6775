"""``report.html``: one file, in which every text is text."""

import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from asesjax.viz import page
from asesjax.viz.curves import COLOURS, colours
from asesjax.viz.report import write_report

EVIL = "<script>alert(1)</script> & \"quotes\" {{ 7 * 7 }}"


class Page(HTMLParser):
    """The elements of a page with their attributes, and its visible text."""

    def __init__(self, text):
        super().__init__()
        self.found, self.open, self.text, self.scripts = [], [], "", 0
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "script" not in self.open and "style" not in self.open:
            self.text += data

    def all(self, tag, **attributes):
        wanted = {name.replace("_", "-"): value for name, value in attributes.items()}
        return [own for name, own in self.found if name == tag and wanted.items() <= own.items()]


def row(method, **more):
    return {"method": method, "questions": 2, "accuracy": 0.5, "accuracy_interval": (0.1, 0.9),
            "first_wrong": {"AS": 1, "right": 1}, "before": [],
            "curve": [{"tokens": 1000 * i, "seconds": i, "accuracy": 0.1 * i,
                       "interval": (0.0, 0.5)} for i in (1, 2)]} | more  # fmt: skip


def chains(methods, n=2):
    """Questions of which the last is answered wrongly by all."""
    return [
        {"id": str(i), "question": f"{EVIL} {i}", "answer": EVIL, "reference": [[EVIL, "ES"]],
         "rows": [{"method": name, "answer": None if i else EVIL, "finish_reason": "length",
                   "is_right": i < n - 1,
                   "kind": None if name == "short" else ["right", "AS"][i % 2],
                   "segments": [["a ", None], [EVIL, "AS"]]} for name in methods]}
        for i in range(n)
    ]  # fmt: skip


@pytest.fixture
def workdir(tmp_path):
    pytest.importorskip("matplotlib")
    place = tmp_path / "roles/usm/main/metrics.jsonl"
    place.parent.mkdir(parents=True)
    place.write_text('{"kind": "train", "step": 1, "tokens": 9, "loss": 2.5}\n'
                     '{"kind": "train", "step": 2, "tokens": 18, "loss": 0.5}\n'
                     '{"kind": "validation", "step": 2, "tokens": 18, "validation_loss": 2}\n')
    rows = [row("usm"), row("short", first_wrong=None), row("a/b")]
    report = {"name": EVIL, "seed": 0, "budget": "the same", "rows": rows,
              "metrics_files": {"usm/main": "roles/usm/main/metrics.jsonl"}}  # fmt: skip
    methods = [row["method"] for row in rows]
    write_report(tmp_path, report, chains(methods))
    return tmp_path


def test_the_page_holds_everything_and_nothing_runs(workdir):
    found = Page((workdir / "report.html").read_text())
    assert len(found.all("script")) == 1 and found.text.count("<script>alert(1)</script>") > 6
    assert "{{ 7 * 7 }}" in found.text
    figures = [own["src"] for own in found.all("img")]
    assert len(figures) == 4 == len(list((workdir / "figures").iterdir()))
    assert all(source.startswith("data:image/png;base64,iVBOR") for source in figures)
    for name in ("usm", "short", "a/b"):
        assert len(found.all("div", data_method=name)) == 2
    assert {own["data-kind"] for own in found.all("div", data_method="short")} == {""}
    answers = [own["data-answer"] for own in found.all("div", data_method="usm")]
    assert answers == ["wrong", "right"]
    assert {own["value"] for own in found.all("option") if "value" in own} == {
        "", "right", "wrong", "kind:right", "kind:AS"
    }  # fmt: skip
    links = [own["href"] for own in found.all("a")]
    assert links[:3] == ["report.json", "report.md", "predictions/usm/test.jsonl"]
    assert str(workdir) not in (workdir / "report.html").read_text()
    assert "prefers-color-scheme: dark" in (workdir / "report.html").read_text()


def test_a_page_of_many_questions_says_what_it_leaves_out(workdir, monkeypatch):
    monkeypatch.setattr(page, "MOST_QUESTIONS", 3)
    report = {"name": "x", "rows": [row("usm")]}
    found = Page(page.report_page(report, [], [], [], chains(["usm"], 5)))
    assert len(found.all("article")) == 3 and "3 of 5 test questions" in found.text


def test_the_filter_works_in_a_browser(workdir):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no browser here")
    script = ('<script>method.value = "short"; kind.value = "wrong"; filter();'
              'document.title = document.querySelectorAll("article:not([hidden])").length'
              ' + " shown " + document.querySelectorAll("script").length;</script>')  # fmt: skip
    text = (workdir / "report.html").read_text()
    (workdir / "tried.html").write_text(text.replace("</body>", script + "</body>"))
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
               f"--user-data-dir={workdir}/browser", f"file://{workdir}/tried.html"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "<title>1 shown 2</title>" in done.stdout


def test_a_method_has_one_colour_whatever_stands_beside_it():
    usual = ("start", "answer_only", "direct", "dsm", "usm", "kpod", "socratic")
    alone = [colours([name])[name] for name in usual]
    assert len(set(alone)) == len(usual) and list(colours(usual).values()) == alone
    many = colours(map(str, range(20)))
    assert len(many) == 20 and set(many.values()) == set(COLOURS)
