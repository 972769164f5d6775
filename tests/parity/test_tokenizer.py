"""Ids against transformers' T5 tokenizer, on whole data sets and on odd texts.

Equal everywhere but in texts that hold ``</s>``, ``<pad>`` or ``<unk>`` literally: transformers
reads them as the control ids, so that text can end a sequence; for SentencePiece and for us they
are text. Both read ``<extra_id_0>`` to ``<extra_id_99>`` as sentinels.
"""

import csv
import gzip
import io
import json
import os
import re

import pytest
import sentencepiece

from asesjax.data.hf_tokenizer import write_hf_tokenizer
from asesjax.data.vocab import SentencePieceVocabulary, load_vocabulary
from asesjax.data.vocab_training import train_vocabulary

if os.environ.get("ASESJAX_REQUIRE_DATA") == "1":  # CI: a skip would be a failure
    import transformers
else:
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.data


def load_theirs(folder, model):
    # Given as vocab_file=..., the model would be ignored without a word.
    (folder / "spiece.model").write_bytes(model)
    return transformers.T5Tokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def ours(data_folder):
    return load_vocabulary("sentencepiece", str(data_folder / "t5_vocab/spiece.model"), 100)


@pytest.fixture(scope="module")
def theirs(ours, tmp_path_factory):
    return load_theirs(tmp_path_factory.mktemp("t5"), ours.model)


def differing(ours, theirs, texts):
    want = theirs(texts, add_special_tokens=False)["input_ids"]
    got = [ids.tolist() for ids in ours.encode_batch(texts)]
    return [text for text, a, b in zip(texts, got, want, strict=True) if a != b]


def json_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def strings(value):
    """All texts inside of JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from strings(part)


def test_layout(ours, theirs):
    assert len(theirs) == ours.size
    ids = (theirs.pad_token_id, theirs.eos_token_id, theirs.unk_token_id)
    assert ids == (ours.pad_id, ours.eos_id, ours.unk_id)
    for k in range(100):
        assert theirs.convert_tokens_to_ids(f"<extra_id_{k}>") == ours.sentinel(k)


def test_all_of_gsm8k(ours, theirs, data_folder):
    files = [data_folder / f"gsm8k/{name}.jsonl" for name in ("train", "test")]
    rows = [row for file in files for row in json_lines(file)]
    assert len(rows) == 7473 + 1319
    solutions = [row["answer"] for row in rows]
    stripped = [re.sub(r"<<[^<>]*>>", "", text) for text in solutions]
    assert not differing(ours, theirs, [row["question"] for row in rows] + solutions + stripped)


def test_all_of_svamp_and_strategyqa(ours, theirs, data_folder):
    svamp = json.loads((data_folder / "svamp/SVAMP.json").read_text(encoding="utf-8"))
    assert len(svamp) == 1000
    texts = list(strings(svamp))
    texts += [f"{row['Body']} {row['Question']}" for row in svamp]
    n_rows = 0
    for name in ("train", "dev"):
        rows = json.loads((data_folder / f"strategyqa/{name}.json").read_text(encoding="utf-8"))
        n_rows += len(rows)
        texts += strings(rows)
    assert n_rows == 2061 + 229
    assert not differing(ours, theirs, texts)


ODD = [
    "", " ", "\n", " a  b\n\nc ", "a\tb", "a\u00a0b", "a\u200bb", "a\u0000b", "\ufeffa",
    "<<48/2=24>>", "{x} ^ 2 ~ \\ × ÷ `", "½ ① ﬁ ｆｕｌｌ ﾊﾟ e\u0301 \u0301", "a▁b ▁", "中文 is 联想",
    "🙂", "-<-", "< extra_id_0>", "<extra_id_100>", "<extra_id_-1>", "<extra_id_01>",
    "<extra_id_0>", "a<extra_id_0>b", "a <extra_id_0> b", "a  <extra_id_0>  b", "<extra_id_0>.",
    "<extra_id_1><extra_id_2>", "<extra_id_99> <extra_id_100>", "<extra_id_0>\n<extra_id_0>",
    "The <extra_id_0> walks in <extra_id_1> park <extra_id_2>",
]  # fmt: skip


def test_odd_texts_and_sentinels(ours, theirs):
    assert not differing(ours, theirs, ODD)
    for text in ODD:
        want = theirs(text)["input_ids"]
        assert [*ours.encode(text).tolist(), ours.eos_id] == want


@pytest.mark.parametrize("name", ["</s>", "<pad>", "<unk>"])
def test_control_ids_in_text_are_text_here_and_ids_in_transformers(ours, theirs, name):
    text = f"one {name} two"
    ids = ours.encode(text).tolist()
    assert theirs.convert_tokens_to_ids(name) in theirs(text, add_special_tokens=False)["input_ids"]
    pieces = sentencepiece.SentencePieceProcessor(model_proto=ours.model)
    assert ids == pieces.encode(text)
    assert not {ours.pad_id, ours.eos_id} & set(ids)


def test_cpet_with_a_multilingual_vocabulary(data_folder, tmp_path):
    with gzip.open(data_folder / "cpet/cpet.csv.gz", "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10500
    texts = [row[name] for row in rows for name in ("question", "answer")]
    gsm8k = [row["question"] for row in json_lines(data_folder / "gsm8k/test.jsonl")[:200]]
    sample = [line for text in texts[::50] + gsm8k for line in text.splitlines() if line.strip()]
    # A line with every character of the data, so that no Chinese text ends in unknown pieces.
    sample.append(" ".join(sorted(set("".join(texts).replace("\n", "")))))
    model = io.BytesIO()
    # Unigram as T5's and mT5's; transformers reads a byte-pair model as if it were one.
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sample), model_writer=model, model_type="unigram",
        vocab_size=4000, hard_vocab_limit=False, character_coverage=1.0, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, num_threads=1, max_sentence_length=1 << 20, minloglevel=2,
    )  # fmt: skip
    vocab = SentencePieceVocabulary(model.getvalue(), 100)
    assert sum((ids == vocab.unk_id).sum() for ids in vocab.encode_batch(texts)) == 0
    assert not differing(vocab, load_theirs(tmp_path, vocab.model), texts + gsm8k)


def test_an_exported_vocabulary_with_bytes(data_folder, tmp_path):
    """What ``vocab.byte_fallback`` trains normalises nothing but runs of spaces, there as here."""
    with gzip.open(data_folder / "cpet/cpet.csv.gz", "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    texts = [row[name] for row in rows for name in ("question", "answer")]
    vocab = train_vocabulary(texts[:500], 4000, extra_ids=4, byte_fallback=True)
    assert write_hf_tokenizer(vocab, tmp_path) == ""
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    texts = [*texts[:2000], "a\nb", "a\t b", "a\u3000\u3000b", "龘x", "  ，½  "]
    assert not differing(vocab, theirs, texts)
