"""What checkpoints and folders of Hugging Face say of themselves, and what a run makes of it."""

import contextlib
import dataclasses
import functools
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from asesjax.config import base_config, finish, flatten, load_config
from asesjax.core.errors import UserError
from asesjax.core.files import read_json, write_json
from asesjax.data.symbols import ALPHABET
from asesjax.data.vocab import ByteVocabulary, SentencePieceVocabulary, with_symbols
from asesjax.data.vocab_training import train_vocabulary
from asesjax.methods.method import make_method
from asesjax.models import t5
from asesjax.models.hf_io import save_hf
from asesjax.models.t5_config import T5Config
from asesjax.run import Run, load_start, model_config
from asesjax.training.checkpoint import restore_params, save_params
from asesjax.training.describe import SHAPE, Description, describe_start, fill

VOCAB = train_vocabulary(["Amy has 5 apples"] * 3, 60, extra_ids=8)
_pieces = train_vocabulary(["Ben had 6"] * 3, 20)
OTHER = SentencePieceVocabulary(_pieces.model, VOCAB.size - _pieces.n_pieces)
MODEL = T5Config(128, d_model=16, d_ff=24, n_heads=2, d_kv=4, n_encoder_layers=1,
                 n_decoder_layers=1, dropout=0.1)  # fmt: skip


def draw(model, seed=0):
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda key: t5.init(model, key), jax.random.key(0))
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.fixture
def checkpoint(tmp_path):
    """One checkpoint, alone in a folder of another name."""
    place = save_params(tmp_path / "run/roles/usm/main/checkpoints", draw(MODEL),
                        Description(MODEL, VOCAB, "usm", "main"))  # fmt: skip
    moved = tmp_path / "copies/best"
    shutil.copytree(place, moved)
    shutil.rmtree(tmp_path / "run")
    return moved


@pytest.fixture
def hugging_face(tmp_path):
    """A folder as transformers writes it, with a SentencePiece model."""
    folder = tmp_path / "hf"
    folder.mkdir()
    save_hf(folder, MODEL, draw(MODEL))
    (folder / "spiece.model").write_bytes(VOCAB.model)
    write_json(folder / "tokenizer_config.json", {"extra_ids": VOCAB.extra_ids})
    return folder


def filled(start, **fields):
    """Defaults and the fields that are set, filled from a start."""
    explicit = {name.replace("__", "."): value for name, value in fields.items()}
    return fill(flatten(finish(base_config())) | explicit, set(explicit), describe_start(start))


def run_from(start, workdir, vocab=VOCAB):
    vocab.save(workdir / "vocab")
    return Run(finish(base_config(), {"model.init_from": str(start)}), workdir)


@pytest.mark.parametrize("kind", ["checkpoint", "hugging_face"])
def test_a_moved_checkpoint_and_a_hugging_face_folder_fill_the_configuration(
    kind, request, tmp_path
):
    start = request.getfixturevalue(kind)
    fields = filled(start)
    assert {name: fields[f"model.{name}"] for name in (*SHAPE, "dropout")} == {
        name: getattr(MODEL, name) for name in (*SHAPE, "dropout")
    }
    assert fields["vocab.kind"] == "sentencepiece" and fields["vocab.extra_ids"] == 8
    assert fields["vocab.symbols"] is False
    loaded = SentencePieceVocabulary(Path(fields["vocab.path"]).read_bytes(), 8)
    assert loaded.fingerprint == VOCAB.fingerprint
    untouched = [name for name in fields if name.split(".")[0] not in ("model", "vocab")]
    default = flatten(finish(base_config()))
    assert all(fields[name] == default[name] for name in untouched)
    # And the parameters are the same to the bit.
    run = run_from(start, tmp_path / "new")
    same(load_start(run, dataclasses.replace(MODEL, dropout=0.0, dtype="bfloat16")), draw(MODEL))
    assert load_start(run_from("", tmp_path / "new"), MODEL) is None


def test_method_role_and_origin_are_in_the_checkpoint(checkpoint, hugging_face):
    start = describe_start(checkpoint)
    assert (start.method, start.role, start.model, start.is_hf) == ("usm", "main", MODEL, False)
    assert describe_start(hugging_face).is_hf
    facts = read_json(checkpoint / "model.json")
    assert facts["format"] == 2 and facts["vocabulary"]["fingerprint"] == VOCAB.fingerprint


@pytest.mark.parametrize(
    "fields, told",
    [
        ({"model__d_ff": 32}, ["model.d_ff is 32 here and 24 there"]),
        ({"model__tied": False, "model__mlp": "gated-gelu"},
         ["model.tied is False", "model.mlp is 'gated-gelu' here and 'relu' there"]),
        ({"model__preset": "t5-small"}, ["preset 't5-small'", "d_model is 512 here and 16 there"]),
        ({"vocab__kind": "byte"}, ["vocab.kind is 'byte' here and 'sentencepiece' there"]),
        ({"vocab__extra_ids": 100}, ["vocab.extra_ids is 100 here and 8 there"]),
        ({"vocab__path": "other.model"}, ["vocab.path is 'other.model'", "spiece.model"]),
    ],
)  # fmt: skip
def test_explicit_fields_that_contradict_are_refused(checkpoint, fields, told):
    with pytest.raises(UserError, match="contradicts model.init_from") as error:
        filled(checkpoint, **fields)
    assert all(words in str(error.value) for words in [*told, str(checkpoint)])


def test_explicit_fields_that_agree_or_are_free_are_kept(checkpoint, tmp_path):
    (tmp_path / "my.model").write_bytes(VOCAB.model)
    mine = {"model__d_ff": 24, "model__dropout": 0.3, "vocab__path": str(tmp_path / "my.model"),
            "vocab__symbols": True, "vocab__kind": "sentencepiece"}  # fmt: skip
    fields = filled(checkpoint, **mine)
    assert {name: fields[name.replace("__", ".")] for name in mine} == mine


def test_symbols_and_bytes_are_filled(tmp_path):
    symbols = with_symbols(train_vocabulary(["Amy has 5", ALPHABET, "x"], 200, extra_ids=8))
    save_params(tmp_path / "s", draw(MODEL), Description(MODEL, symbols))
    assert filled(tmp_path / "s")["vocab.symbols"] is True
    with pytest.raises(UserError, match="vocab.symbols is False here and True there"):
        filled(tmp_path / "s", vocab__symbols=False)
    save_params(tmp_path / "b", draw(MODEL), Description(MODEL, ByteVocabulary(5)))
    fields = filled(tmp_path / "b")
    assert [fields[f"vocab.{name}"] for name in ("kind", "path", "extra_ids")] == ["byte", "", 5]


def test_a_preset_of_the_same_shape_is_kept(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({
        "model_type": "t5", "vocab_size": 32128, "d_model": 512, "d_kv": 64, "d_ff": 2048,
        "num_heads": 8, "num_layers": 6,
    }))  # fmt: skip
    fields = filled(tmp_path, model__preset="t5-small", vocab__kind="byte")
    default = flatten(finish(base_config()))
    changed = {name: value for name, value in fields.items() if value != default[name]}
    assert changed == {"model.preset": "t5-small", "model.dropout": 0.1, "vocab.kind": "byte",
                       "model.vocab_rows": 32128}  # fmt: skip
    with pytest.raises(UserError, match="does not say what its vocabulary is"):
        filled(tmp_path, model__preset="t5-small")


def test_another_vocabulary_of_the_same_size_is_refused(checkpoint, tmp_path):
    assert OTHER.size == VOCAB.size
    with pytest.raises(UserError, match="has another vocabulary") as error:
        load_start(run_from(checkpoint, tmp_path / "new", OTHER), MODEL)
    for vocab in (VOCAB, OTHER):
        assert f"{vocab.size} ids, sha256 {vocab.fingerprint[:12]}" in str(error.value)


def test_another_number_of_rows_or_shape_is_refused(checkpoint, hugging_face, tmp_path):
    for start in (checkpoint, hugging_face):
        run = run_from(start, tmp_path / "new")
        for field, value in (("vocab_size", 256), ("layer_norm_epsilon", 1e-5), ("tied", False)):
            changed = dataclasses.replace(MODEL, **{field: value})
            with pytest.raises(UserError, match=f"{field} is {value} here and ") as error:
                load_start(run, changed)
            assert str(start) in str(error.value)
        describe_start(start).check_start(
            dataclasses.replace(MODEL, dropout=0.5, dtype="bfloat16"), VOCAB
        )  # which a run may change


def test_every_id_needs_a_row():
    for rows, fits in ((VOCAB.size, True), (VOCAB.size - 1, False)):
        start = Description(dataclasses.replace(MODEL, vocab_size=rows), VOCAB)
        with contextlib.nullcontext() if fits else pytest.raises(UserError, match="add rows with"):
            start.check_rows()


def test_variants_are_filled_from_their_own_weights(checkpoint, tmp_path):
    """Each with its shape; all with one vocabulary, whoever names it first."""
    small, other = tmp_path / "small", tmp_path / "other"
    model = dataclasses.replace(MODEL, d_ff=8, vocab_size=VOCAB.size)
    save_params(small, draw(model), Description(model, VOCAB))
    save_params(other, draw(MODEL), Description(MODEL, OTHER))
    (tmp_path / "c.py").write_text("from asesjax.config import base_config as get\n"
                                   "get_config = lambda arg='': get()\n")  # fmt: skip
    config = functools.partial(load_config, str(tmp_path / "c.py"))
    own = {"variants.b.method": "direct", "variants.b.model.init_from": str(small)}
    for more in ({}, {"model.init_from": str(checkpoint)}):
        found = config(own | more)
        row = make_method("b", found)
        assert (row.config.model.d_ff, row.config.model.vocab_rows) == (8, VOCAB.size)
        assert found.model.d_ff == (24 if more else 256)
        assert Path(found.vocab.path).read_bytes() == VOCAB.model
        run = run_from("", tmp_path / f"run{len(more)}")
        run = dataclasses.replace(run, config=row.config)
        same(load_start(run, model_config(run, VOCAB)), draw(model))
    with pytest.raises(UserError, match="variants.b.model.init_from .* has another vocabulary"):
        config({"model.init_from": str(checkpoint), "variants.b.method": "direct",
                "variants.b.model.init_from": str(other)})  # fmt: skip
    with pytest.raises(UserError, match="variants.b.model.d_ff is 9 here and 8 there"):
        config(own | {"variants.b.model.d_ff": "9"})
    with pytest.raises(UserError, match="vocab.size: only a vocabulary that is trained has"):
        config(own | {"vocab.size": "100"})


def test_folders_that_nothing_starts_from_are_explained(checkpoint, tmp_path):
    save_params(tmp_path / "run/roles/usm/main/checkpoints", draw(MODEL))
    write_json(tmp_path / "run/config.json", {"name": "x"})
    for path, told in (
        (tmp_path / "run", "is the folder of a run; give one of its roles: .*roles/usm/main$"),
        (tmp_path / "run/roles/usm/main", "has no model.json"),
        (tmp_path / "nowhere", "no checkpoint in .*config.json"),
    ):
        with pytest.raises(UserError, match=told):
            describe_start(path)
    facts = read_json(checkpoint / "model.json")
    for changed, told in (
        ({"format": 9}, "has format 9; this version reads 2"),
        ({"model": {"d_model": 16}}, "does not describe a checkpoint"),
        ({"vocabulary": {"fingerprint": "0"}}, "is not the vocabulary"),
    ):
        write_json(checkpoint / "model.json", facts | changed)
        with pytest.raises(UserError, match=told):
            describe_start(checkpoint)


def test_damage_to_the_description_is_found(checkpoint, tmp_path):
    for name in ("model.json", "vocab/spiece.model", "vocab/vocab.json"):
        content = (checkpoint / name).read_bytes()
        (checkpoint / name).write_bytes(content + b" ")
        with pytest.raises(UserError, match=f"is damaged \\({name}"):
            restore_params(checkpoint, draw(MODEL))
        (checkpoint / name).write_bytes(content)
