"""Every way in which a folder of transformers says its vocabulary: converted, used as printed,
exported, with the ids of transformers and the rows of the weights at each step.
"""

import io
import json

import numpy as np
import pytest
import sentencepiece

from asesjax.cli.main import main
from asesjax.core.files import read_json, read_jsonl, write_json
from asesjax.data.hf_tokenizer import read_hf_vocabulary, write_hf_tokenizer
from asesjax.data.vocab import TokenizerVocabulary, load_saved, load_vocabulary
from asesjax.data.vocab_training import train_vocabulary
from asesjax.experiment import open_run
from asesjax.run import load_start, model_config

TEXTS = [f"Amy has {i} red apples {{x}} and Bob has {i + 1} pears." for i in range(30)]
ODD = ["", " two  spaces\nand\tlines ", "{a}", "a{b} {", "｛ ½ ﬁ", "<extra_id_0> x <extra_id_9> y",
       "<sep>Amy<sep>", "Amyxyz xyz", "右肺"]  # fmt: skip
LAYOUTS = ("spiece", "both", "added", "added-in-an-old-file", "json", "json-added", "resized",
           "truncating", "mt5", "mt5-shuffled", "byt5", "byt5-backwards", "bpe",
           "unigram-of-another-class")  # fmt: skip


def unigram(names=()):
    """A unigram model, with more pieces at its end."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text.replace("{x} ", "") for text in TEXTS]), model_writer=model,
        model_type="unigram", vocab_size=60, hard_vocab_limit=False, character_coverage=1.0,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2, num_threads=1,
    )  # fmt: skip
    pieces = [f"▁{name}".encode() for name in names]
    return model.getvalue() + b"".join(bytes((10, len(p) + 2, 10, len(p))) + p for p in pieces)


def write_tokenizer(layout, folder, transformers):
    """Write the files of a tokenizer into an empty folder."""
    sentinels = [f"<extra_id_{k}>" for k in range(100)]
    config = {"tokenizer_class": "T5Tokenizer", "extra_ids": 100}
    if layout.startswith("byt5"):
        config = {"tokenizer_class": "ByT5Tokenizer"}
        if layout == "byt5-backwards":
            config |= {"additional_special_tokens": sentinels[:20][::-1], "extra_ids": 20}
    elif layout == "bpe":
        write_hf_tokenizer(train_vocabulary(TEXTS, 90, extra_ids=10), folder)
        return
    elif layout.startswith("mt5"):
        names = [*sentinels, "w", "v"] if layout == "mt5-shuffled" else sentinels[::-1]
        (folder / "spiece.model").write_bytes(unigram(names))
        config = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0}
    else:
        (folder / "spiece.model").write_bytes(unigram())
    write_json(folder / "tokenizer_config.json", config)
    if layout.startswith("added"):
        size = len(transformers.AutoTokenizer.from_pretrained(folder))
        write_json(folder / "added_tokens.json", {"{": size, "}": size + 1})
        if layout == "added":
            entries = [{"content": "{"}, {"content": "}"},
                       {"content": "<sep>", "special": True, "normalized": False, "lstrip": True}]
            added = {str(size + i): entry for i, entry in enumerate(entries)}
            write_json(folder / "tokenizer_config.json", config | {"added_tokens_decoder": added})
    elif layout in ("both", "json", "json-added", "truncating", "unigram-of-another-class"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        if layout == "json-added":
            tokenizer.add_tokens(["{", "}", "xyz"])
            tokenizer.add_tokens(["<sep>"], special_tokens=True)
        tokenizer.save_pretrained(folder)
        if layout != "both":
            (folder / "spiece.model").unlink(missing_ok=True)
        content = read_json(folder / "tokenizer.json")
        if layout == "truncating":
            content["truncation"] = {"direction": "Right", "max_length": 3, "stride": 0,
                                     "strategy": "LongestFirst"}  # fmt: skip
        if layout == "unigram-of-another-class":
            content["normalizer"] = {"type": "Lowercase"}
            write_json(folder / "tokenizer_config.json",
                       {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>",
                        "eos_token": "</s>", "unk_token": "<unk>"})  # fmt: skip
        write_json(folder / "tokenizer.json", content)


def make_folder(layout, folder, hf):
    """A random T5 with a tokenizer, as one that was trained with it has it."""
    folder.mkdir()
    write_tokenizer(layout, folder, hf.transformers)
    write_json(folder / "config.json", {"model_type": "t5"})  # names the class of the tokenizer
    n = len(hf.transformers.AutoTokenizer.from_pretrained(folder))
    hf.torch.manual_seed(0)
    config = hf.transformers.T5Config(
        vocab_size=n if layout == "resized" or "added" in layout else -(-n // 128) * 128,
        d_model=16, d_kv=8, d_ff=24, num_heads=2, num_layers=1, decoder_start_token_id=0,
    )  # fmt: skip
    return hf.save(hf.transformers.T5ForConditionalGeneration(config), folder)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_goes_round(hf, tmp_path, capsys, layout):
    folder = make_folder(layout, tmp_path / "hf", hf)
    theirs = hf.transformers.AutoTokenizer.from_pretrained(folder)
    table = hf.load(folder).state_dict()["shared.weight"].numpy()
    want = [theirs(text).input_ids for text in TEXTS + ODD]
    assert any(2 in ids for ids in want) or layout.startswith("byt5")
    if "added" in layout:
        assert max(max(ids) for ids in want) == len(theirs) - 1 == len(table) - 1

    assert hf.convert("--from-hf", folder, "--out", tmp_path / "ckpt") == 0
    printed = [line.strip() for line in capsys.readouterr().out.splitlines() if "--config." in line]
    rows = [{"question": text, "rationale": text, "answer": str(i)} for i, text in enumerate(TEXTS)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "c.py").write_text("from asesjax.config import base_config\n"
                                   "get_config = lambda arg='': base_config()\n")  # fmt: skip
    starts = {"checkpoint": printed, "folder": [f"--config.model.init_from={folder}"]}
    for name, fields in starts.items():
        workdir = tmp_path / name
        command = ["data", "--config", str(tmp_path / "c.py"), "--workdir", str(workdir), *fields,
                   "--config.data.source=jsonl", f"--config.data.path={tmp_path / 'data.jsonl'}",
                   "--config.vocab.max_unknown_share=1.0", "--config.methods=direct"]  # fmt: skip
        assert main(command) == 0
        vocab, run = load_saved(workdir / "vocab"), open_run(None, workdir)
        got = [[*vocab.encode(text).tolist(), 1] for text in TEXTS + ODD]
        offsets = [vocab.encode_with_offsets(text) for text in TEXTS + ODD]
        assert got == want == [[*ids.tolist(), 1] for ids, _, _ in offsets]
        assert all((np.diff(starts) >= 0).all() for _, starts, _ in offsets)
        assert vocab.sentinel(3) == theirs.convert_tokens_to_ids(
            "▁<extra_id_3>" if layout.startswith("mt5") else "<extra_id_3>"
        )
        params = load_start(run, model_config(run, vocab))
        assert np.array_equal(params["token_embedder"]["embedding"], table)

    assert hf.convert("--to-hf", tmp_path / "back", "--checkpoint", tmp_path / "ckpt") == 0
    out = tmp_path / "own"  # what a role of a run, without their files, exports
    out.mkdir()
    write_json(out / "config.json", {"model_type": "t5"})
    assert write_hf_tokenizer(vocab, out) == ""
    for place in (tmp_path / "back", out):
        again = hf.transformers.AutoTokenizer.from_pretrained(place)
        assert [again(text).input_ids for text in TEXTS + ODD] == want
        assert [read_hf_vocabulary(place).encode(text).tolist() for text in ODD] == [
            ids[:-1] for ids in want[len(TEXTS) :]
        ]
    assert hf.load(tmp_path / "back").config.vocab_size == len(table)


# What the test makes smaller; none of it is needed.
SMALL = {"train.epochs": 0.0, "train.steps": 1, "train.batch_size": 8, "decode.batch_size": 8,
         "train.evaluate_every_share": 1.0, "decode.curve_questions": 1,
         "decode.context_lengths": "()", "decode.max_chain_tokens": 24,
         "train.source_buckets": 96, "train.target_buckets": 64,
         "data.answer_template": "Bob has {answer}."}  # fmt: skip


@pytest.mark.parametrize("layout", ["spiece", "json", "json-added", "added", "resized", "mt5",
                                    "byt5"])  # fmt: skip
def test_one_command_fine_tunes_it_and_the_export_writes_the_same(
    hf, tmp_path, monkeypatch, capsys, layout
):
    monkeypatch.chdir(tmp_path)
    folder = make_folder(layout, tmp_path / "t5", hf)
    rows = [{"question": f"Amy has {i} red apples.", "rationale": f"Bob has {i} pears and Amy.",
             "answer": i} for i in range(20, 60)]  # fmt: skip
    (tmp_path / "my.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = ["run", "--config", "finetune", "--workdir", "mine", "--config.data.path=my.jsonl",
               "--config.model.init_from=./t5"]  # fmt: skip
    # All of its rows, and for other layouts what compiles less.
    rows = ["start", "direct", "usm"] if layout == "spiece" else ["direct"]
    small = [f"--config.{name}={value}" for name, value in SMALL.items()]
    assert main([*command, *small, f"--config.methods={','.join(rows)}"]) == 0, capsys.readouterr()
    assert [row["method"] for row in read_json("mine/report.json")["rows"]] == rows
    for row in rows:
        assert main(["convert", "--to-hf", row, "--checkpoint", f"mine/roles/{row}/main"]) == 0
    theirs, model = hf.transformers.AutoTokenizer.from_pretrained("direct"), hf.load("direct")
    before = hf.transformers.AutoTokenizer.from_pretrained(folder)
    vocab = load_saved(tmp_path / "mine/vocab")
    assert hf.load(rows[-1]).config.vocab_size == hf.load(folder).config.vocab_size
    assert not hf.torch.equal(model.shared.weight, hf.load(folder).shared.weight)
    written = [row for _, row in read_jsonl("mine/predictions/direct/test.jsonl")]
    for row in written:
        ids = theirs(row["question"], return_tensors="pt").input_ids
        assert ids[0].tolist() == before(row["question"]).input_ids
        assert ids[0].tolist() == [*vocab.encode(row["question"]).tolist(), 1]
        never = [0, *range(vocab.size, model.config.vocab_size)]
        out = model.generate(ids, do_sample=False, num_beams=1, max_new_tokens=24,
                             suppress_tokens=never)[0, 1:].tolist()  # fmt: skip
        ended = 1 in out
        assert row["chain"] == vocab.decode(np.array(out[: out.index(1)] if ended else out))
        assert ended == (row["finish_reason"] == "end")


@pytest.mark.parametrize("layout", ["added", "spiece", "mt5", "resized"])
def test_one_vocabulary_has_one_fingerprint_whatever_files_say_it(hf, tmp_path, layout):
    folder = make_folder(layout, tmp_path / "hf", hf)
    hf.transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "json")
    one, other = read_hf_vocabulary(folder), read_hf_vocabulary(tmp_path / "json")
    assert other.kind == "tokenizer" and one.fingerprint == other.fingerprint
    # Another score, another map of characters or one token more: another vocabulary.
    for change in ("vocab", "precompiled_charsmap", "added_tokens"):
        content = json.loads(other.model)
        if change == "vocab":
            content["model"]["vocab"][9][1] -= 1.0
        elif change == "added_tokens":
            content[change].append(content[change][-1] | {"content": "~new", "id": other.size})
        else:
            content["normalizer"] = None
        assert TokenizerVocabulary(json.dumps(content).encode()).fingerprint != one.fingerprint


def test_rows_that_the_tokenizer_outgrew_are_told_and_added(hf, tmp_path, capsys):
    folder = make_folder("added-in-an-old-file", tmp_path / "hf", hf)
    added = read_json(folder / "added_tokens.json")
    write_json(folder / "added_tokens.json", added | {"~": max(added.values()) + 1})
    told = hf.refuse(capsys, "--from-hf", folder, "--out", tmp_path / "c")
    assert "rows" in told and "--vocab-rows tokenizer" in told
    more = ("--vocab-rows", "tokenizer")
    assert hf.convert("--from-hf", folder, "--out", tmp_path / "c", *more) == 0
    told = hf.refuse(capsys, "--to-hf", tmp_path / "x", "--checkpoint", tmp_path / "c",
                     "--vocab-rows", max(added.values()))  # fmt: skip
    assert "fewer than" in told


def test_weights_with_the_same_number_of_rows_and_other_pieces(hf, tmp_path, capsys):
    """The vocabulary decides: nothing is trained anew on old rows."""
    folder = make_folder("spiece", tmp_path / "hf", hf)
    (tmp_path / "c.py").write_text("from asesjax.config import base_config\n"
                                   "get_config = lambda arg='': base_config()\n")  # fmt: skip
    other = tmp_path / "other.model"
    other.write_bytes(train_vocabulary(TEXTS, 60).model)
    command = ["data", "--config", str(tmp_path / "c.py"), "--workdir", str(tmp_path / "run"),
               f"--config.model.init_from={folder}"]  # fmt: skip
    for fields, told in (
        ([f"--config.vocab.path={other}", "--config.vocab.kind=sentencepiece"], "contradicts"),
        (["--config.vocab.kind=byte"], "vocab.kind is 'byte' here and 'sentencepiece' there"),
        (["--config.vocab.kind=train"], "vocab.kind is 'train' here and 'sentencepiece' there"),
        (["--config.vocab.size=200"], "vocab.size: only a vocabulary that is trained"),
        (["--config.model.vocab_rows=512"], "model.vocab_rows is 512 here and 256 there"),
    ):
        capsys.readouterr()
        assert main([*command, *fields]) == 2
        assert told in capsys.readouterr().err
    for name in ("spiece.model", "tokenizer_config.json"):
        (folder / name).unlink()
    assert main(command) == 2
    assert "does not say what its vocabulary is" in capsys.readouterr().err
    with pytest.raises(Exception, match="kind of vocabulary"):
        load_vocabulary("pieces")


FILES = ("tokenizer.json", "tokenizer_config.json")


def test_no_change_of_a_tokenizer_ends_in_a_traceback(hf, tmp_path):
    """Each field with each kind of value: refused with the file's name, or read."""
    from asesjax.core.errors import UserError

    folder = make_folder("json-added", tmp_path / "hf", hf)
    values = (None, True, -1, 10**12, 0.5, "", "x", [], ["x"], [[]], {}, {"a": []}, {"type": "x"})
    read = refused = 0
    for name in FILES:
        whole = read_json(folder / name)
        places = [(key,) for key in whole]
        places += [("model", key) for key in whole.get("model", ())]
        places += [("added_tokens", i) for i in (0, 5) if "added_tokens" in whole]
        places += [("model", "vocab", 5), ("model", "vocab", 5, 1)] if "model" in whole else []
        for path in places:
            for value in values:
                changed = json.loads(json.dumps(whole))
                inner = changed
                for key in path[:-1]:
                    inner = inner[key]
                inner[path[-1]] = value
                (folder / name).write_text(json.dumps(changed))
                try:
                    read_hf_vocabulary(folder)
                    read += 1
                except UserError as error:
                    assert str(folder) in str(error), (name, path, value)
                    refused += 1
        write_json(folder / name, whole)
    assert read > 50 and refused > 50
