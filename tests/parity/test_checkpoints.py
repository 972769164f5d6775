"""Files: torch -> asesjax -> torch bit for bit, in every layout and dtype."""

import shutil

import jax
import numpy as np
import pytest

from asesjax.core.files import read_json
from asesjax.data.vocab import load_vocabulary
from asesjax.data.vocab_training import train_vocabulary
from asesjax.models import t5
from asesjax.models.hf_io import load_params, save_hf
from asesjax.models.t5_config import T5Config
from asesjax.sharding.mesh import make_mesh
from asesjax.sharding.place import param_shardings, rules
from asesjax.training.checkpoint import restore_params, save_params
from asesjax.training.describe import Description, describe_hf, describe_start

KINDS = ("v1_0", "v1_1", "mt5", "v1_1_tied", "mt5_tied", "ul2")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", ("shallow", "deep"))
def test_round_trip_is_equal_to_the_bit(hf, saved, tmp_path, kind, shape):
    source = saved(kind, shape)
    assert hf.convert("--from-hf", source, "--out", tmp_path / "ckpt") == 0
    assert hf.convert("--to-hf", tmp_path / "back", "--checkpoint", tmp_path / "ckpt") == 0
    back = hf.load(tmp_path / "back")
    hf.assert_same_tensors(hf.make(kind, shape), back)
    assert type(back) is type(hf.make(kind, shape))
    # The same tensors would not be enough: scaling is in the config.
    source, target = hf.prompts(1, 3, 9), hf.prompts(2, 3, 7)
    ours, theirs = (hf.run(m, source, target)[1] for m in (back, hf.make(kind, shape)))
    assert hf.torch.equal(ours, theirs)
    ids = back.generation_config
    assert (ids.decoder_start_token_id, ids.eos_token_id, ids.pad_token_id) == (0, 1, 0)


@pytest.mark.parametrize("dtype", ("bfloat16", "float16"))
def test_half_precision_files(hf, tmp_path, dtype):
    config, params = load_params(hf.save(hf.make("v1_1"), tmp_path / "full"))
    (tmp_path / "cast").mkdir()
    save_hf(tmp_path / "cast", config, params, dtype=dtype)
    # Rounding from float32 is torch's, and what transformers keeps in float32 (wo) is kept.
    how = {"dtype": getattr(hf.torch, dtype)}
    model = hf.transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "full", **how)
    kept = {str(weight.dtype) for name, weight in model.named_parameters() if ".wo." in name}
    assert kept == {"torch.float32" if dtype == "float16" else "torch.bfloat16"}
    hf.assert_same_tensors(model, hf.load(tmp_path / "cast"))

    hf.save(model, tmp_path / "half")
    _, params = load_params(tmp_path / "half")
    table = params["token_embedder"]["embedding"]
    assert table.dtype == np.float32
    assert np.array_equal(table, model.shared.weight.detach().float().numpy())
    assert not np.array_equal(table, hf.make("v1_1").shared.weight.detach().numpy())
    hf.convert("--from-hf", tmp_path / "half", "--out", tmp_path / "ckpt")
    arguments = ("--checkpoint", tmp_path / "ckpt", "--dtype", dtype)
    assert hf.convert("--to-hf", tmp_path / "back", *arguments) == 0
    hf.assert_same_tensors(model, hf.load(tmp_path / "back"))


def test_shards_both_ways(hf, saved, tmp_path):
    whole = load_params(saved("v1_1", "deep"))[1]
    source = hf.save(hf.make("v1_1", "deep"), tmp_path / "shards", max_shard_size="20KB")
    assert len(list(source.glob("*.safetensors"))) > 3
    assert hf.equal(load_params(source)[1], whole)

    hf.convert("--from-hf", source, "--out", tmp_path / "ckpt")
    arguments = ("--checkpoint", tmp_path / "ckpt", "--max-shard-gb", 20e-6)
    assert hf.convert("--to-hf", tmp_path / "back", *arguments) == 0
    files = list((tmp_path / "back").glob("*.safetensors"))
    assert len(files) > 3 and all(file.stat().st_size < 24_000 for file in files)
    assert not (tmp_path / "back/model.safetensors").exists()
    hf.assert_same_tensors(hf.make("v1_1", "deep"), hf.load(tmp_path / "back"))
    index = read_json(tmp_path / "back/model.safetensors.index.json")
    assert index["metadata"]["total_size"] == sum(leaf.nbytes for leaf in jax.tree.leaves(whole))


@pytest.mark.parametrize("preset,sizes", [("fsdp", (1, 4, 1)), ("tp", (1, 1, 2)),
                                          ("fsdp_tp", (2, 2, 2)), ("dp", (8, 1, 1))])  # fmt: skip
def test_tensors_are_read_straight_onto_devices(hf, saved, preset, sizes):
    folder = saved("v1_1", "deep")
    devices = jax.devices()[: int(np.prod(sizes))]
    mesh = make_mesh(*sizes, devices=devices)

    config, whole = load_params(folder)
    shardings = param_shardings(mesh, rules(preset), t5.logical_axes(config), whole)
    _, spread = load_params(folder, shardings)
    assert hf.equal(spread, whole)
    same = jax.tree.map(lambda leaf, want: leaf.sharding == want, spread, shardings)
    assert all(jax.tree.leaves(same))
    if preset != "dp":
        wi = spread["encoder"]["layers_0"]["mlp"]["wi_0"]["kernel"]
        assert wi.addressable_shards[0].data.size < wi.size
    # What lies on several devices is written all the same.
    out = folder.with_name("out")
    out.mkdir()
    save_hf(out, config, spread)
    hf.assert_same_tensors(hf.make("v1_1", "deep"), hf.load(out))


def test_large_tables_are_read_and_saved_in_pieces(hf, tmp_path):
    """Above 16 MB both files and checkpoints go piece by piece."""
    config = T5Config(9000, d_model=600, d_kv=2, d_ff=2, n_heads=1, tied=False, mlp="gated-gelu")
    shapes = jax.eval_shape(lambda key: t5.init(config, key), jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes)
    assert params["token_embedder"]["embedding"].nbytes > 2**24
    (tmp_path / "hf").mkdir()
    save_hf(tmp_path / "hf", config, params)
    assert hf.equal(load_params(tmp_path / "hf")[1], params)
    more = load_params(tmp_path / "hf", vocab_rows=9005)[1]["decoder"]["logits_dense"]["kernel"]
    kernel = params["decoder"]["logits_dense"]["kernel"]
    assert np.array_equal(more[:, :9000], kernel)
    np.testing.assert_allclose(more[:, 9004], kernel.mean(axis=1), atol=1e-6)
    less = load_params(tmp_path / "hf", vocab_rows=8990)[1]["decoder"]["logits_dense"]["kernel"]
    assert np.array_equal(less, kernel[:, :8990])

    place = save_params(tmp_path / "ckpt", params)
    mesh = make_mesh(1, 4, 2)
    on = param_shardings(mesh, rules("fsdp_tp"), t5.logical_axes(config), shapes)
    target = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes, on,
    )  # fmt: skip
    assert hf.equal(restore_params(place, target), params)


def test_converted_parameters_are_restored_and_init_from_is_printed(hf, saved, tmp_path, capsys):
    folder = saved("v1_0", "deep")
    assert hf.convert("--from-hf", folder, "--out", tmp_path / "ckpt") == 0
    told = capsys.readouterr().out
    config, params = load_params(folder)
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), params
    )
    for place in (tmp_path / "ckpt", tmp_path / "ckpt/step_0"):
        assert hf.equal(restore_params(place, target), params)
    fields = [line.strip() for line in told.splitlines() if line.startswith("  --config.")]
    assert fields == [f"--config.model.init_from={tmp_path / 'ckpt'}"]
    assert "no field for layer_norm_epsilon=1e-05" in told
    back = tmp_path / "back"
    assert hf.convert("--to-hf", back, "--checkpoint", tmp_path / "ckpt/step_0") == 0
    assert describe_hf(back).model == describe_hf(folder).model == config


@pytest.mark.parametrize("kind", ("v1_0", "v1_1"))
def test_vocab_rows_adds_and_cuts_rows(hf, saved, tmp_path, capsys, kind):
    folder = saved(kind)
    more, less = tmp_path / "more", tmp_path / "less"
    assert hf.convert("--from-hf", folder, "--out", more, "--vocab-rows", 128) == 0
    assert hf.convert("--to-hf", tmp_path / "large", "--checkpoint", more) == 0
    large, model = hf.load(tmp_path / "large"), hf.make(kind)
    assert large.config.vocab_size == 128
    table = model.shared.weight.detach().numpy()
    assert np.array_equal(large.shared.weight.detach()[:48], table)
    np.testing.assert_allclose(large.shared.weight.detach()[48:], [table.mean(0)] * 80, rtol=1e-5)
    source, target = hf.prompts(1, 5, 9), hf.prompts(2, 5, 7)
    want = hf.run(model, source, target)[1]
    got = hf.run(large, source, target)[1]
    hf.torch.testing.assert_close(got[..., :48], want)

    # Trimmed again on the way out: the model it was.
    arguments = ("--to-hf", less, "--checkpoint", more)
    assert hf.convert(*arguments, "--vocab-rows", 48) == 0
    hf.assert_same_tensors(hf.load(less), model)
    for rows in ("0", "-3", "many"):
        told = hf.refuse(capsys, "--to-hf", tmp_path / "x", "--checkpoint", more,
                      f"--vocab-rows={rows}")  # fmt: skip
        assert "--vocab-rows" in told
    told = hf.refuse(capsys, "--to-hf", tmp_path / "x", "--checkpoint", more,
                  "--vocab-rows", "tokenizer")  # fmt: skip
    assert "holds no tokenizer" in told


def test_t5_tokenizer_is_kept_in_both_directions(hf, saved, tmp_path, capsys, data_folder):
    folder = saved("v1_0")
    shutil.copy(data_folder / "t5_vocab/spiece.model", folder)
    assert hf.convert("--from-hf", folder, "--out", tmp_path / "ckpt", "--vocab-rows", 32128) == 0
    assert "vocab" not in capsys.readouterr().out
    ours = load_vocabulary("sentencepiece", str(folder / "spiece.model"), 100)
    assert describe_start(tmp_path / "ckpt").vocab.fingerprint == ours.fingerprint
    out = ("--to-hf", tmp_path / "back", "--checkpoint", tmp_path / "ckpt")
    assert "32100 ids" in hf.refuse(capsys, *out, "--vocab-rows", 32000)
    assert hf.convert(*out, "--vocab-rows", "tokenizer") == 0
    assert hf.load(tmp_path / "back").config.vocab_size == 32100
    tokenizer = hf.transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    text = "Natalia sold 48 clips, <extra_id_0> in May."
    assert tokenizer(text).input_ids == [*ours.encode(text), 1]
    # What transformers wrote itself is copied as it is.
    tokenizer.save_pretrained(folder)
    assert hf.convert("--from-hf", folder, "--out", tmp_path / "two", "--vocab-rows", 32128) == 0
    assert hf.convert("--to-hf", tmp_path / "again", "--checkpoint", tmp_path / "two") == 0
    again = hf.transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    assert again(text).input_ids == tokenizer(text).input_ids


def make_role(workdir, vocab, **model):
    """The folder of a trained role, its shape and parameters."""
    rows = -(-vocab.size // 128) * 128
    shape = T5Config(rows, d_model=16, d_ff=24, n_heads=2, d_kv=4, n_encoder_layers=1,
                     n_decoder_layers=1, **model)  # fmt: skip
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(lambda key: t5.init(shape, key), jax.random.key(0))
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    role = workdir / "roles/direct/main"
    save_params(role / "checkpoints", params, Description(shape, vocab, "direct", "main"))
    return shape, params, role


TEXTS = [f"Amy has {i} red apples. Bob's {i + j} pears" for i in range(40) for j in range(9)]


def test_role_of_a_run_with_its_own_vocabulary(hf, tmp_path, capsys):
    vocab = train_vocabulary(TEXTS, 150, True, 30)
    shape, params, role = make_role(tmp_path / "run", vocab, mlp="gated-gelu", tied=False)
    for number, place in enumerate((role, role / "checkpoints", role / "checkpoints/step_0")):
        assert hf.convert("--to-hf", tmp_path / f"hf{number}", "--checkpoint", place) == 0
        assert hf.equal(load_params(tmp_path / f"hf{number}")[1], params)
    model = hf.load(tmp_path / "hf0")
    assert describe_hf(tmp_path / "hf0").model == shape
    assert model.config.vocab_size == 128 > vocab.size
    tokenizer = hf.transformers.AutoTokenizer.from_pretrained(tmp_path / "hf0")
    hard = ["", " two  spaces\nand lines ", "Amyyyy peeears", "½ ① Ünïcode 中文", "a<extra_id_3> b"]
    for text in TEXTS + hard:
        assert tokenizer(text).input_ids == [*vocab.encode(text), 1], text
    assert tokenizer.decode(tokenizer(TEXTS[0]).input_ids, skip_special_tokens=True) == TEXTS[0]
    ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
    assert ids == (0, 1, 2) and len(tokenizer) == vocab.size

    # A checkpoint alone, far from its run, is all that is needed; one without model.json is not.
    moved = tmp_path / "elsewhere/copy"
    shutil.copytree(role / "checkpoints/step_0", moved)
    shutil.rmtree(tmp_path / "run")
    assert hf.convert("--to-hf", tmp_path / "hf3", "--checkpoint", moved) == 0
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        same = [(tmp_path / folder / name).read_bytes() for folder in ("hf0", "hf3")]
        assert same[0] == same[1]
    (moved / "model.json").unlink()
    told = hf.refuse(capsys, "--to-hf", tmp_path / "x", "--checkpoint", moved)
    assert "has no model.json" in told


def test_role_of_a_run_over_bytes_or_symbols(hf, tmp_path, capsys):
    from asesjax.data.symbols import ALPHABET
    from asesjax.data.vocab import with_symbols

    for kind in ("byte", "byt5"):
        vocab = load_vocabulary(kind, "", 10)
        _, _, role = make_role(tmp_path / kind, vocab)
        assert hf.convert("--to-hf", tmp_path / f"hf-{kind}", "--checkpoint", role) == 0
        tokenizer = hf.transformers.AutoTokenizer.from_pretrained(tmp_path / f"hf-{kind}")
        text = "½ of\n<extra_id_9>x<extra_id_0>"
        assert tokenizer(text).input_ids == [*vocab.encode(text), 1]
        assert describe_hf(tmp_path / f"hf-{kind}").vocab.fingerprint == vocab.fingerprint
    vocab = with_symbols(train_vocabulary([*TEXTS, ALPHABET, "x"], 200, True, 20))
    _, _, role = make_role(tmp_path / "symbols", vocab)
    assert hf.convert("--to-hf", tmp_path / "hf2", "--checkpoint", role) == 0
    assert "must be escaped" in capsys.readouterr().out
    tokenizer = hf.transformers.AutoTokenizer.from_pretrained(tmp_path / "hf2")
    assert tokenizer(TEXTS[3]).input_ids == [*vocab.encode(TEXTS[3]), 1]


def test_the_hub_is_asked_for_owner_and_name_only(hf, saved, tmp_path, capsys, monkeypatch):
    out = ("--out", tmp_path / "ckpt")
    told = hf.refuse(capsys, "--from-hf", "google/flan-t5-nano", *out)
    assert "google/flan-t5-nano" in told and "network" in told
    for path in ("no_such_folder", "./no/such", "/no/such", "a/b/c", "https://huggingface.co/a/b"):
        assert "is no folder" in hf.refuse(capsys, "--from-hf", path, *out)
    asked = {}

    def snapshot_download(name, allow_patterns):
        asked[name] = allow_patterns
        return str(folder)

    folder = saved("v1_0")
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert hf.convert("--from-hf", "google/t5", *out) == 0
    [(name, patterns)] = asked.items()
    assert name == "google/t5" and "model.safetensors" in patterns
    assert not any("bin" in pattern for pattern in patterns)
    assert describe_start(tmp_path / "ckpt").origin == "google/t5"
