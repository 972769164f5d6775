"""Read the vocabulary of a folder of transformers, or write one as transformers 5 loads it.

transformers reads every ``spiece.model`` beside a T5 as a unigram model, as T5's own is. Those
trained here are byte-pair models, which it would silently cut differently; they become a
``tokenizer.json`` that lists the merges.
"""

import base64
import shutil
from pathlib import Path
from typing import Any

from asesjax.core.files import read_json, write_json
from asesjax.data.vocab import SentencePieceVocabulary, Vocabulary, load_vocabulary

# What a folder of transformers may hold of a tokenizer.
FILES = ("spiece.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
         "added_tokens.json")  # fmt: skip
_SPECIAL = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}


def read_hf_vocabulary(folder: Path) -> Vocabulary | None:
    """Load the vocabulary of a folder of transformers, None where there is no spiece.model."""
    model, config = folder / "spiece.model", folder / "tokenizer_config.json"
    if not model.is_file():
        return None
    extra_ids = read_json(config).get("extra_ids", 100) if config.is_file() else 100
    return load_vocabulary("sentencepiece", str(model), extra_ids)


def copy_tokenizer(source: Path, folder: Path) -> bool:
    """Copy a tokenizer as transformers wrote it, if there is one; return whether there is."""
    files = [source / name for name in FILES if (source / name).is_file()]
    if not {file.name for file in files} & {"tokenizer_config.json", "tokenizer.json"}:
        return False
    folder.mkdir(exist_ok=True)
    for file in files:
        shutil.copyfile(file, folder / file.name)
    return True


def write_hf_tokenizer(vocab: Vocabulary, folder: Path) -> str:
    """Write the files of a tokenizer; return what it cannot do that ``vocab`` does, or ""."""
    note = ""
    if vocab.symbols:
        vocab = vocab.plain
        note = ("texts must be escaped by asesjax.data.symbols before this tokenizer, and "
                "unescaped after it: transformers knows no escapes")  # fmt: skip
    if not isinstance(vocab, SentencePieceVocabulary):
        return f"no tokenizer is written: transformers has none for a vocabulary of {vocab.kind}s"
    from sentencepiece.sentencepiece_model_pb2 import ModelProto  # only needed here

    model = ModelProto.FromString(vocab.model)
    kind = model.trainer_spec.model_type
    config: dict[str, Any] = dict(_SPECIAL)
    if kind == model.trainer_spec.UNIGRAM:
        (folder / "spiece.model").write_bytes(vocab.model)
        config |= {"tokenizer_class": "T5Tokenizer", "extra_ids": vocab.new_ids}
    elif kind == model.trainer_spec.BPE:
        sentinels = [f"<extra_id_{k}>" for k in range(vocab.extra_ids)]
        write_json(folder / "tokenizer.json", _bpe_json(model, vocab))
        config |= {"tokenizer_class": "PreTrainedTokenizerFast",
                   "additional_special_tokens": sentinels}  # fmt: skip
    else:
        return "no tokenizer is written: the SentencePiece model is neither unigram nor byte-pair"
    write_json(folder / "tokenizer_config.json", config)
    return note


def _bpe_json(model: Any, vocab: SentencePieceVocabulary) -> dict:
    """Return the ``tokenizer.json`` of a byte-pair model."""
    ids = {entry.piece: i for i, entry in enumerate(model.pieces)}
    merges = []
    for entry in model.pieces[3:]:
        piece = entry.piece
        cuts = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        merges += [(-entry.score, ids[piece], a, b) for a, b in cuts if a in ids and b in ids]
    tokens = list(enumerate(_SPECIAL.values()))
    tokens += [(vocab.sentinel(k), f"<extra_id_{k}>") for k in range(vocab.extra_ids)]
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    space = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always",
             "split": True}  # fmt: skip
    if charsmap := model.normalizer_spec.precompiled_charsmap:
        charsmap = base64.b64encode(charsmap).decode()
        normalizer = {"type": "Precompiled", "precompiled_charsmap": charsmap}
        words = {"type": "WhitespaceSplit"}
    else:  # nothing is normalised but runs of spaces: line breaks are text
        normalizer = None
        words = {"type": "Split", "pattern": {"Regex": " +"}, "behavior": "Removed",
                 "invert": False}  # fmt: skip
    end = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    a, b = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": text, **plain, "special": True}
                         for i, text in sorted(tokens)],
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [words, space]},
        "post_processor": {
            "type": "TemplateProcessing", "single": [a, end], "pair": [a, end, b, end],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
        },
        "decoder": space,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<unk>", "fuse_unk": True,
            "continuing_subword_prefix": None, "end_of_word_suffix": None, "ignore_merges": False,
            "byte_fallback": any(entry.type == entry.BYTE for entry in model.pieces),
            "vocab": ids,
            "merges": [list(merge[2:]) for merge in sorted(merges, key=lambda merge: merge[:2])],
        },
    }  # fmt: skip
