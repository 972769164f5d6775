"""Methods, scores, data sources, samplers and options, registered outside the package.

All of it runs in processes of its own: what is registered stays in a process.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from shared.environment import xla_flags

from asesjax.config import base_config, finish
from asesjax.core.errors import UserError
from asesjax.core.files import read_json, read_jsonl

ROOT = Path(__file__).resolve().parents[2]
MINE = '''
import jax.numpy as jnp
import numpy as np

from asesjax.config import base_config
from asesjax.core.options import option, section
from asesjax.core.ragged import Ragged, write_annotations
from asesjax.core.stages import Stage
from asesjax.core.trackers import TRACKERS
from asesjax.core.types import Record
from asesjax.data.corpus import read_corpus
from asesjax.data.examples import make_example
from asesjax.data.registry import SOURCES
from asesjax.decode.sampling import SAMPLERS
from asesjax.methods.method import METHODS, Method, ReportPart
from asesjax.segmentation.score import score


@SOURCES.register("successors")
def make_successors(settings, split, n, seed):
    """After 7 comes 8."""
    first = {"train": 0, "validation": 100, "test": 200}[split]
    return [Record(f"{split}-{i}", f"What comes after {i}?",
                   f"I see the number {i}. Then comes {i + 1}.", str(i + 1))
            for i in range(first, first + n)]


@score("digits", threshold=0.5)
def count_digits(chain):
    """Pieces with digits are abstractive."""
    return np.array([sum(map(str.isdigit, text)) for text in chain.texts], np.float32)


@SAMPLERS.register("second")
def make_second(decode):
    return second


def second(logits, keys, steps):
    """The second most probable id."""
    return jnp.argsort(-logits, axis=-1)[:, 1].astype(jnp.int32)


@TRACKERS.register("kinds")
class Kinds:
    """The kinds and steps of what is written."""

    def __init__(self, place):
        (place.folder / "kinds").mkdir(exist_ok=True)
        self.file = open(place.folder / "kinds/list.txt", "a")

    def write(self, kind, step, values):
        words = ",".join(name for name, value in values.items() if isinstance(value, str))
        print(kind, step, words, file=self.file)

    def flush(self):
        self.file.flush()

    def close(self):
        self.file.close()


@section("tail")
class TailOptions:
    """Where the tail of a chain begins."""

    share: float = option(0.5, "of the chain before its tail", above=0, below=1, changes="find")
    weight: float = option(0.25, "of the tokens before the tail", least=0)


@METHODS.register("tail")
class Tail(Method):
    """The tail of a chain weighs more."""

    Options = TailOptions
    needs = ("find-tails",)
    annotations = ("tails/{split}.npz",)

    def stages(self, run):
        return [Stage("find-tails", lambda: find_tails(run, self.options.share),
                      self.reads("find"), ("data",), outputs=("tails",))]

    def examples(self, record, vocab):
        weights = np.ones(len(record.chain.ids) + 1, np.float32)
        weights[: record.annotations["tail"][0]] = self.options.weight
        return {"main": [make_example(vocab, record.record.id, [record.question.ids],
                                      [record.chain.ids], weights=weights)]}

    def report(self, run, rows):
        columns = {self.name: {"tail share": 1 - self.options.share}}
        return ReportPart("tails", columns, {"share": self.options.share}, ["Tails weigh 1."])


def find_tails(run, share):
    for split in ("train", "validation"):
        records = read_corpus(run.workdir, split, run.config.data.answer_template)
        begins = [[round(share * len(one.chain.ids))] for one in records]
        write_annotations(run / f"tails/{split}.npz", [one.record.id for one in records],
                          tail=Ragged.of(begins, np.int32))


def get_config(arg=""):
    c = base_config()
    c.methods = ("tail", "usm", "heavy")
    c.variants.heavy = {"method": "tail", "tail": {"weight": 1.0}}
    c.log.trackers = ("jsonl", "kinds")
    c.data.source, c.segment.strategy, c.decode.sampler = "successors", "digits", "second"
    c.data.n_train, c.data.n_validation, c.data.n_test = 32, 8, 8
    c.vocab.size, c.vocab.extra_ids = 120, 4
    m, t, g = c.model, c.train, c.decode
    m.d_model, m.d_ff, m.n_heads, m.d_kv = 16, 32, 2, 8
    m.n_encoder_layers = m.n_decoder_layers = 1
    t.tokens, t.steps, t.batch_size, t.evaluate_every_share = 0, 4, 8, 1.0
    t.source_buckets, t.target_buckets = (128,), (96,)
    g.batch_size, g.max_rounds, g.max_segment_tokens, g.max_chain_tokens = 8, 2, 8, 16
    g.curve_questions, g.context_lengths = 0, ()
    return c
'''
SCORE = '''
import numpy as np
from asesjax.segmentation.score import score

@score("letters")
def count_letters(chain):
    return np.array([sum(map(str.isalpha, text)) for text in chain.texts], np.float32)
'''


def python(folder, *arguments, path=""):
    environment = os.environ | {
        "XLA_FLAGS": xla_flags(1), "PYTHONWARNINGS": "error",
        "PYTHONPATH": os.pathsep.join([str(ROOT), path]),
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


def asesjax(folder, *arguments, **more):
    return python(folder, "-m", "asesjax.cli.main", *arguments, **more)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of the file above; the config is named from the file's own folder."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "my.py").write_text(MINE)
    done = asesjax(folder, "run", "--config", "my.py", "--workdir", "run")
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_one_file_adds_a_method_a_score_a_source_a_sampler_and_options(finished, annotations):
    report = read_json(finished / "report.json")
    assert [row["method"] for row in report["rows"]] == ["tail", "usm", "heavy"]
    assert [row["columns"].get("tail share") for row in report["rows"]] == [0.5, None, 0.5]
    assert report["tails"] == {"share": 0.5}
    assert "Tails weigh 1." in (finished / "report.md").read_text()
    assert report["segmentation"]["strategy"] == "digits"
    records = [record for _, record in read_jsonl(finished / "data/test.jsonl")]
    assert records[0]["question"] == "What comes after 200?"
    texts = "sample_1,sample_2,sample_3"
    assert (finished / "roles/tail/kinds/list.txt").read_text() == f"test 4 {texts}\n"
    assert (finished / "roles/tail/main/kinds/list.txt").read_text() == "train 4 \nvalidation 4 \n"
    assert not list(finished.rglob("tensorboard"))
    _, *segments = [row for _, row in read_jsonl(finished / "segments/train.jsonl")]
    assert {row["strategy"] for row in segments} == {"digits"}
    tails = annotations(finished, "tails/train.npz")["tail"]
    assert len(tails) == 32 and all(tail > 3 for (tail,) in tails)
    fields = read_json(finished / "stages/find-tails.json")["fields"]
    assert fields == {"tail.share": 0.5}
    weights = [read_json(finished / f"stages/train-{row}.json")["fields"]["tail.weight"]
               for row in ("tail", "heavy")]  # fmt: skip
    assert weights == [0.25, 1.0]
    fields = read_json(finished / "stages/decode-tail.json")["fields"]
    assert fields["decode.sampler"] == "second"


@pytest.mark.long
def test_later_processes_find_what_a_run_registered(finished, tmp_path):
    ask = ["generate", "--workdir", str(finished), "--method", "heavy", "--question", "After 7?"]
    answers = []
    for sampler in ("second", "greedy"):
        done = asesjax(tmp_path, *ask, f"--config.decode.sampler={sampler}")
        assert done.returncode == 0 and "answer:" in done.stdout, done.stderr
        answers.append(done.stdout)
    assert answers[0] != answers[1]
    assert asesjax(tmp_path, *ask).stdout == answers[0]
    done = asesjax(tmp_path, "report", "--workdir", str(finished))
    assert done.returncode == 0 and "| heavy " in done.stdout, done.stderr
    assert "[train-tail] finished before" in done.stdout
    changed = asesjax(tmp_path, "run", "--workdir", str(finished), "--config.tail.share=0.25")
    assert changed.returncode == 2
    assert "stage find-tails: tail.share: 0.5 -> 0.25" in changed.stderr
    assert "stage train-usm" not in changed.stderr
    wrong = asesjax(tmp_path, "run", "--workdir", str(finished), "--config.tail.share=2")
    assert "tail.share must be above 0 and below 1, got 2.0" in wrong.stderr

    file = finished.parent / "my.py"
    file.rename(tmp_path / "moved.py")
    try:
        done = asesjax(tmp_path, "report", "--workdir", str(finished))
        assert done.returncode == 2
        assert f"{file} does not exist; it registers things that this run uses" in done.stderr
    finally:
        (tmp_path / "moved.py").rename(file)


def test_the_file_of_the_page_is_a_method_with_the_settings_of_finetune(tmp_path):
    page = (ROOT / "configs/README.md").read_text()
    (text,) = re.findall(r"```python\n(# my\.py.*?)```", page, re.S)
    (tmp_path / "my.py").write_text(text.replace(', "flan-t5-small"', ', ""'))
    rows = [{"question": f"And after {i}?", "rationale": f"It is {i + 1}.", "answer": i + 1}
            for i in range(40)]  # fmt: skip
    (tmp_path / "my.jsonl").write_text("\n".join(map(json.dumps, rows)))
    # Another file may begin from it; later processes find the method.
    (tmp_path / "other.py").write_text(
        "from asesjax.config import base_config\n"
        "get_config = lambda arg='': base_config('my.py')\n"
    )
    done = asesjax(tmp_path, "data", "--config", "other.py", "--workdir", "run")
    assert done.returncode == 0 and "tail/main" in done.stdout, done.stderr
    fields = read_json(tmp_path / "run/config.json")
    assert str(tmp_path / "my.py") in fields["plugins"] and fields["train.epochs"] == 10


LOAD = """
import json, sys
from asesjax.config import load_config, read_workdir, save_fields
config = load_config(sys.argv[1], json.loads(sys.argv[2]))
save_fields("w", config)
print(read_workdir("w").segment.strategy, *read_workdir("w").plugins)
"""


def load(folder, fields, **more):
    smoke = str(ROOT / "configs/smoke.py")
    fields = {"segment.strategy": "letters"} | fields
    return python(folder, "-c", LOAD, smoke, json.dumps(fields), **more)


def test_plugins_names_a_module_or_a_file(tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/my_scores.py").write_text(SCORE)
    done = load(tmp_path, {"plugins": "my_scores"}, path=str(tmp_path / "lib"))
    assert done.stdout.split() == ["letters", "my_scores"], done.stderr
    done = load(tmp_path, {"plugins": "lib/my_scores.py"})
    assert done.stdout.split() == ["letters", str(tmp_path / "lib/my_scores.py")], done.stderr
    done = load(tmp_path, {})
    assert "unknown segment.strategy 'letters'" in done.stderr


def test_installed_packages_register_by_entry_points(tmp_path):
    (tmp_path / "my_scores.py").write_text(SCORE)
    info = tmp_path / "my_scores-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-scores\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[asesjax]\nscores = my_scores\n")
    done = load(tmp_path, {}, path=str(tmp_path))
    assert done.stdout.split() == ["letters"], done.stderr


def test_a_config_file_that_registers_is_remembered_besides_other_plugins(tmp_path):
    (tmp_path / "my_scores.py").write_text(SCORE)
    smoke = (ROOT / "configs/smoke.py").read_text()
    (tmp_path / "my.py").write_text(smoke + SCORE.replace("letters", "vowels"))
    fields = {"segment.strategy": "vowels", "plugins": "my_scores.py"}
    done = python(tmp_path, "-c", LOAD, "my.py", json.dumps(fields))
    names = [str(tmp_path / name) for name in ("my_scores.py", "my.py")]
    assert done.stdout.split() == ["vowels", *names], done.stderr


@pytest.mark.parametrize(
    "name, words",
    [
        ("no_such_module", "plugins: there is no module no_such_module"),
        ("nothing.py", "nothing.py does not exist; it registers things that this run uses"),
    ],
)
def test_unknown_plugins_are_explained(name, words):
    with pytest.raises(UserError) as error:
        finish(base_config(), {"plugins": name})
    assert words in str(error.value)


def test_a_name_that_is_taken_is_refused(tmp_path):
    (tmp_path / "my_scores.py").write_text(SCORE.replace('"letters"', '"loss"'))
    done = load(tmp_path, {"plugins": "my_scores.py"})
    assert "'loss'" in done.stderr and "give the second another name" in done.stderr
