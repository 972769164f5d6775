"""Shapes of released models: parameter counts that were published, and two released configs."""

import dataclasses
import math

import pytest

from asesjax.config import base_config, finish
from asesjax.core.errors import UserError
from asesjax.core.files import read_json
from asesjax.models.hf_config import config_from_hf, config_to_hf
from asesjax.models.presets import PRESETS, configured, preset


def n_parameters(config):
    """Counted by formula, not by the model's code."""
    c = config
    attention = 4 * c.d_model * c.n_heads * c.d_kv
    mlp = (2 if c.mlp == "relu" else 3) * c.d_model * c.d_ff
    norms = (2 * c.n_encoder_layers + 3 * c.n_decoder_layers + 2) * c.d_model
    blocks = c.n_encoder_layers * (attention + mlp) + c.n_decoder_layers * (2 * attention + mlp)
    tables = (1 if c.tied else 2) * c.vocab_size * c.d_model
    return tables + blocks + norms + 2 * c.relpos_buckets * c.n_heads


# In millions, as their papers or model cards have them.
PUBLISHED = {
    "t5-small": 60.5, "t5-base": 223, "t5-large": 738, "t5-3b": 2852, "t5-11b": 11307,
    "t5-v1_1-small": 77.0, "t5-v1_1-base": 248, "t5-v1_1-large": 783, "t5-v1_1-xl": 2850,
    "t5-v1_1-xxl": 11135, "flan-t5-small": 77.0, "flan-t5-base": 248, "flan-t5-large": 783,
    "flan-t5-xl": 2850, "flan-t5-xxl": 11135, "mt5-small": 300, "mt5-base": 582,
    "mt5-large": 1230, "mt5-xl": 3743, "mt5-xxl": 12921, "t5-efficient-tiny": 15.58,
    "t5-efficient-mini": 31.23, "t5-efficient-small": 60.52, "t5-efficient-base": 222.93,
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts(name):
    assert n_parameters(preset(name)) == pytest.approx(PUBLISHED[name] * 1e6, rel=2e-3)


def test_every_preset_is_consistent():
    sizes = {"small", "base", "large", "xl", "xxl"}
    for family in ("t5-v1_1", "flan-t5", "mt5"):
        assert {f"{family}-{size}" for size in sizes} <= PRESETS.keys()
        assert all(preset(f"{family}-{size}").mlp == "gated-gelu" for size in sizes)
    assert {"t5-small", "t5-base", "t5-large", "t5-3b", "t5-11b"} <= PRESETS.keys()
    for name in PRESETS:
        config = preset(name)
        assert math.isclose(config.dropout, 0.1) and config.vocab_size % 128 == 0
        assert config.tied == (config.mlp == "relu")
        # What is written for transformers says the same.
        model_type = "mt5" if name.startswith("mt5") else "t5"
        assert config_from_hf(config_to_hf(config, model_type)) == config


@pytest.mark.parametrize("name", ("t5-small", "flan-t5-small"))
def test_released_configs_are_the_presets(data_folder, name):
    assert config_from_hf(read_json(data_folder / f"t5_vocab/{name}_config.json")) == preset(name)


def test_tied_mt5_is_written_as_t5():
    """transformers 5 never scales the logits of an mT5."""
    assert config_to_hf(preset("t5-small"), "mt5")["model_type"] == "t5"
    assert config_to_hf(preset("mt5-small"), "mt5")["model_type"] == "mt5"


def test_unknown_preset_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 't5-v1_1-base'"):
        preset("t5-v1.1-base")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_by_configuration(name):
    fields = {"model.preset": name, "model.dropout": "0.1", "model.dtype": "bfloat16"}
    got = configured(finish(base_config(), fields).model, 512)
    assert got == dataclasses.replace(preset(name), vocab_size=512, dtype="bfloat16")


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"model.preset": "t5-smal"}, "did you mean 't5-small'"),
        ({"model.preset": "t5-small", "model.d_model": "512"}, "model.d_model is set to 512"),
        ({"model.preset": "t5-small", "model.tied": "false"}, "model.tied is set to False"),
    ],
)
def test_wrong_presets_are_explained(fields, words):
    with pytest.raises(UserError) as error:
        configured(finish(base_config(), fields).model, 512)
    assert words in str(error.value)
