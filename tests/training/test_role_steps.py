"""How long each role of a method trains, by each unit of the length of training."""

import pytest

from asesjax.config import base_config, finish
from asesjax.data.batching import examples_per_row, token_counts
from asesjax.jobs import training
from asesjax.methods.method import make_method
from asesjax.run import Run

SIZES = {"es": 30, "as": 60}


@pytest.fixture
def steps_of(tiny, tmp_path, monkeypatch):
    """The steps of DSM's roles, which have other numbers of examples, for fields of the section."""
    examples = {role: tiny.examples(n) for role, n in SIZES.items()}
    seen = {}

    def steps(**fields):
        train = {"steps": 0, "tokens": 0, "batch_size": 3} | fields
        config = finish(base_config(), {f"train.{name}": str(x) for name, x in train.items()})
        training.train_method(Run(config, tmp_path), make_method("dsm", config))
        return seen

    monkeypatch.setattr(training, "role_examples", lambda run, method, split: examples)
    for name in ("load_saved", "model_config", "start_params"):
        monkeypatch.setattr(training, name, lambda *_: None)
    monkeypatch.setattr(training, "train_roles", lambda run, method, steps, _: seen.update(steps))
    return steps


def test_roles_share_steps_and_tokens_evenly(steps_of, tiny):
    assert steps_of(steps=40) == {"es": 20, "as": 20}
    tokens = {role: token_counts(tiny.examples(n)).sum() / n for role, n in SIZES.items()}
    assert steps_of(tokens=9000) == {role: round(4500 / own / 3) for role, own in tokens.items()}


def test_every_role_passes_as_often_over_its_own_examples(steps_of, tiny):
    assert steps_of(epochs=2) == {"es": 20, "as": 40}
    assert steps_of(examples=60) == {"es": 20, "as": 20}
    rows = {role: n / examples_per_row(tiny.examples(n), 32) for role, n in SIZES.items()}
    assert steps_of(epochs=2, packed_length=32) == {r: round(2 * n / 3) for r, n in rows.items()}
