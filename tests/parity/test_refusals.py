"""Files that contradict themselves or cannot be converted are refused with a useful message."""

import json
import shutil

import jax
import numpy as np
import pytest

from asesjax.core.errors import UserError
from asesjax.core.files import read_json, write_json
from asesjax.models.hf_config import config_from_hf
from asesjax.models.hf_io import load_params
from asesjax.training.checkpoint import save_params
from asesjax.training.describe import describe_start

UNUSED = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"


def test_report_names_everything_that_does_not_fit(hf, saved, tmp_path, capsys):
    def change(tensors):
        del tensors["encoder.final_layer_norm.weight"]
        del tensors["decoder.block.0.layer.2.DenseReluDense.wo.weight"]
        tensors["encoder.block.7.layer.0.layer_norm.weight"] = np.ones(20, np.float32)
        tensors["shared.weight"] = tensors["shared.weight"][:-1].copy()

    folder = hf.edit(saved("v1_1"), change)
    before = sorted(tmp_path.iterdir())
    told = hf.refuse(capsys, "--from-hf", folder, "--out", tmp_path / "ckpt")
    assert str(folder) in told
    assert "files lack: 2" in told and "no place for: 1" in told and "another shape: 1" in told
    for line in (
        "encoder.final_layer_norm.weight (20,)",
        "decoder.block.0.layer.2.DenseReluDense.wo.weight (20, 28)",
        "encoder.block.7.layer.0.layer_norm.weight (20,)",
        "shared.weight: config (48, 20), file (47, 20)",
    ):
        assert f"  {line}\n" in told
    assert sorted(tmp_path.iterdir()) == before


def test_nothing_is_left_behind_or_overwritten(hf, saved, tmp_path, capsys, monkeypatch):
    folder, out = saved("v1_1"), tmp_path / "ckpt"
    before = sorted(tmp_path.iterdir())

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("asesjax.training.checkpoint.save_params", full)
        assert "No space left" in hf.refuse(capsys, "--from-hf", folder, "--out", out)
    assert sorted(tmp_path.iterdir()) == before
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-8])
    assert "damaged" in hf.refuse(capsys, "--from-hf", folder, "--out", out)
    assert sorted(tmp_path.iterdir()) == before

    assert hf.convert("--from-hf", saved("mt5"), "--out", out) == 0
    params = load_params(saved("mt5"))[1]
    assert "exists" in hf.refuse(capsys, "--from-hf", folder, "--out", out)
    large = jax.tree.map(lambda leaf: leaf * 1e6, params)
    start = describe_start(out)
    shutil.rmtree(out / "step_0")
    save_params(out, large, start)
    before = sorted(tmp_path.iterdir())
    arguments = ("--to-hf", tmp_path / "back", "--checkpoint", out)
    told = hf.refuse(capsys, *arguments, "--dtype", "float16", "--max-shard-gb", 1e-6)
    assert "beyond float16" in told
    assert "did you mean 'bfloat16'" in hf.refuse(capsys, *arguments, "--dtype", "bfloat")
    for size in (0, -1, "nan", "inf"):
        assert "above 0" in hf.refuse(capsys, *arguments, f"--max-shard-gb={size}")
    assert sorted(tmp_path.iterdir()) == before
    (tmp_path / "back").mkdir()
    assert "exists" in hf.refuse(capsys, *arguments)


def test_pickles_only_when_allowed(hf, saved, tmp_path, capsys):
    folder = saved("v1_0")
    want = load_params(folder)[1]
    hf.torch.save(hf.make("v1_0").state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    told = hf.refuse(capsys, "--from-hf", folder, "--out", tmp_path / "ckpt")
    assert "--allow-pickle" in told and "weights_only" in told
    assert hf.convert("--from-hf", folder, "--out", tmp_path / "ckpt", "--allow-pickle") == 0
    assert hf.equal(load_params(folder, allow_pickle=True)[1], want)

    class Evil:
        def __reduce__(self):
            return print, ("executed",)

    hf.torch.save({"shared.weight": Evil()}, folder / "pytorch_model.bin")
    told = hf.refuse(capsys, "--from-hf", folder, "--out", tmp_path / "other", "--allow-pickle")
    assert "weights_only=True" in told and "executed" not in capsys.readouterr().out
    (folder / "pytorch_model.bin").unlink()
    assert "no weights" in hf.refuse(capsys, "--from-hf", folder, "--out", tmp_path / "other")


def test_copies_of_the_table_and_unused_tensors(hf, saved, capsys, tmp_path):
    """Files of older versions hold the table several times, or once under another name."""
    want = load_params(saved("v1_0"))[1]

    def copies(tensors):
        for name in ("encoder.embed_tokens", "decoder.embed_tokens", "lm_head"):
            tensors[f"{name}.weight"] = tensors["shared.weight"].copy()
        tensors[UNUSED] = np.ones((32, 3), np.float32)

    assert hf.equal(load_params(hf.edit(saved("v1_0"), copies))[1], want)
    for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"):

        def rename(tensors, name=name):
            tensors[name] = tensors.pop("shared.weight")

        assert hf.equal(load_params(hf.edit(saved("v1_0"), rename))[1], want)

    def differ(tensors):
        copies(tensors)
        tensors["decoder.embed_tokens.weight"][47, 19] += 1

    folder = hf.edit(saved("v1_0"), differ)
    told = hf.refuse(capsys, "--from-hf", folder, "--out", tmp_path / "ckpt")
    assert "decoder.embed_tokens.weight differs from shared.weight" in told

    # An untied model without its table must not be filled from the output, as transformers does.
    folder = hf.edit(saved("v1_1"), lambda tensors: tensors.pop("shared.weight"))
    told = hf.refuse(capsys, "--from-hf", folder, "--out", tmp_path / "ckpt")
    assert "lack: 1" in told and "shared.weight (48, 20)" in told


def test_tensors_and_config_must_agree_about_tying(hf, saved, capsys, tmp_path):
    out = tmp_path / "ckpt"
    # Config says tied and scaled, the files hold an output of their own.
    folder = hf.edit(saved("v1_1"), tie_word_embeddings=True, scale_decoder_outputs=None)
    told = hf.refuse(capsys, "--from-hf", folder, "--out", out)
    assert "lm_head.weight differs from shared.weight" in told and "config.json says" in told
    # Config says untied, the files hold no output.
    folder = hf.edit(saved("v1_0"), tie_word_embeddings=False, scale_decoder_outputs=None)
    told = hf.refuse(capsys, "--from-hf", folder, "--out", out)
    assert "tie_word_embeddings is false" in told and "no lm_head.weight" in told
    # Config in contradiction with itself.
    folder = hf.edit(saved("v1_0"), tie_word_embeddings=False, scale_decoder_outputs=True)
    assert "only a tied output is scaled" in hf.refuse(capsys, "--from-hf", folder, "--out", out)
    # Both versions' ways of saying untied.
    version_4 = {"tie_word_embeddings": False, "scale_decoder_outputs": None}
    assert not load_params(hf.edit(saved("v1_1"), **version_4))[0].tied
    assert not load_params(saved("v1_1"))[0].tied
    # The same numbers in both, and untied: each is kept.
    def same(tensors):
        tensors["lm_head.weight"] = tensors["shared.weight"].copy()

    config, params = load_params(hf.edit(saved("v1_1"), same, **version_4))
    table = params["token_embedder"]["embedding"]
    assert not config.tied
    assert np.array_equal(params["decoder"]["logits_dense"]["kernel"], table.T)
    # A tied mT5 of version 4 was scaled then, and is not now.
    folder = hf.edit(saved("mt5_tied"), transformers_version="4.57.1")
    assert "transformers 4.57.1" in hf.refuse(capsys, "--from-hf", folder, "--out", out)


def test_an_encoder_alone_is_told_about_its_decoder(hf, saved, capsys, tmp_path):
    def encoder(tensors):
        for name in [name for name in tensors if name.startswith(("decoder.", "lm_head."))]:
            del tensors[name]

    for kind in ("v1_0", "v1_1"):
        folder = hf.edit(saved(kind), encoder)
        told = hf.refuse(capsys, "--from-hf", folder, "--out", tmp_path / "c")
        assert "without the decoder" in told and "tie" not in told


def test_no_change_of_a_config_ends_in_a_traceback(hf, saved):
    """Every field with every kind of value: refused with a message, or read."""
    values = (None, True, -1, 0, 3, 10**12, 2**31 - 1, 10**400, 0.5, 1e308, float("nan"), "",
              "relu", "\u0000", [], ["relu"], {}, {"a": []})  # fmt: skip
    folder = saved("v1_1")
    fields = read_json(folder / "config.json")
    read, refused = 0, 0
    for name in [*fields, "quantization_config", "tie_encoder_decoder"]:
        for value in values:
            (folder / "config.json").write_text(json.dumps(fields | {name: value}))
            try:
                load_params(folder)
                read += 1
            except UserError as error:
                assert str(folder) in str(error), (name, value)
                refused += 1
    assert read > 100 and refused > 200


def test_other_dtypes_and_damaged_indexes(hf, saved, capsys, tmp_path):
    def quantise(tensors):
        tensors["shared.weight"] = tensors["shared.weight"].astype(np.int8)

    folder = hf.edit(saved("v1_0"), quantise)
    assert "shared.weight is I8" in hf.refuse(capsys, "--from-hf", folder, "--out", tmp_path / "c")

    folder = hf.save(hf.make("v1_0"), tmp_path / "shards", max_shard_size="10KB")
    part = sorted(folder.glob("*.safetensors"))[1]
    content = part.read_bytes()
    part.unlink()
    told = hf.refuse(capsys, "--from-hf", folder, "--out", tmp_path / "c")
    assert part.name in told and "lacks" in told
    part.write_bytes(content)
    shutil.copy(part, folder / "again.safetensors")
    index = read_json(folder / "model.safetensors.index.json")
    index["weight_map"]["x"] = "again.safetensors"
    write_json(folder / "model.safetensors.index.json", index)
    assert "is in two files" in hf.refuse(capsys, "--from-hf", folder, "--out", tmp_path / "c")
    index["weight_map"]["x"] = "../v1_0-shallow/model.safetensors"
    write_json(folder / "model.safetensors.index.json", index)
    message = hf.refuse(capsys, "--from-hf", folder, "--out", tmp_path / "c")
    assert "names the file '../v1_0" in message
    write_json(folder / "model.safetensors.index.json", {"weight_map": []})
    assert "weight_map" in hf.refuse(capsys, "--from-hf", folder, "--out", tmp_path / "c")


def test_options_that_do_not_go_together(hf, capsys):
    for told, *arguments in (
        ("--from-hf needs --out", "--from-hf", "x"),
        ("--to-hf needs --checkpoint", "--to-hf", "x"),
        ("--checkpoint does not go with --from-hf", "--from-hf", "x", "--checkpoint", "z"),
        ("--dtype does not go with --from-hf", "--from-hf", "x", "--out", "y", "--dtype", "z"),
        ("--out does not go with --to-hf", "--to-hf", "x", "--checkpoint", "z", "--out", "y"),
        ("--allow-pickle does not", "--to-hf", "x", "--checkpoint", "z", "--allow-pickle"),
    ):
        assert told in hf.refuse(capsys, *arguments)


def test_configs_of_models_that_are_not_supported_are_refused(hf, saved):
    fields = read_json(saved("v1_1") / "config.json")
    assert config_from_hf(fields).layer_norm_epsilon == 1e-6
    for change, told in (
        ({"model_type": "longt5"}, "models of t5, mt5 are"),
        ({"model_type": None}, "models of t5, mt5 are"),
        ({"feed_forward_proj": "gated-relu"}, "'gated-relu' is not supported; models of relu"),
        ({"feed_forward_proj": ["relu"]}, "['relu'] is not supported"),
        ({"is_encoder_decoder": False}, "an encoder alone"),
        ({"tie_word_embeddings": "false"}, "must be true or false, got 'false'"),
        ({"num_layers": 10**12}, "from 1 to 2**31 - 1"),
        ({"dense_act_fn": "gelu"}, "dense_act_fn 'gelu_new', but the file says 'gelu'"),
        ({"is_gated_act": False}, "is_gated_act True"),
        ({"d_model": "wide"}, "d_model must be a number, got 'wide'"),
        ({"d_model": 0}, "config: model.d_model"),
        ({"tie_encoder_decoder": True}, "tie_encoder_decoder"),
        ({"quantization_config": {"bits": 8}}, "quantization_config"),
        ({"decoder_start_token_id": 2}, "decoder_start_token_id is 2"),
        ({"relative_attention_num_buckets": 6}, "relpos_buckets"),
    ):
        with pytest.raises(UserError, match="config") as error:
            config_from_hf(fields | change)
        assert told in str(error.value)
    for name in ("vocab_size", "d_model", "d_kv", "d_ff", "num_heads", "num_layers"):
        with pytest.raises(UserError, match=f"'{name}' is missing"):
            config_from_hf({k: v for k, v in fields.items() if k != name})
