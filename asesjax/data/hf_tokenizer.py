"""Read the vocabulary of a folder of transformers, or write one as transformers 5 loads it.

A folder says it by a ``spiece.model``, a ``tokenizer.json`` or the name ByT5Tokenizer, and may add
tokens. A plain ``spiece.model`` is read by SentencePiece; everything else becomes a tokenizer.json.

transformers reads every ``spiece.model`` beside a T5 as a unigram model, as T5's own is. Those
trained here are byte-pair models, which it would silently cut differently; they become a
``tokenizer.json`` that lists the merges.
"""

import base64
import json
import shutil
from pathlib import Path
from typing import Any

from asesjax.core.errors import UserError
from asesjax.core.files import read_json, write_json
from asesjax.data.vocab import (
    SPACE,
    SPACES,
    WORDS,
    ByteVocabulary,
    SentencePieceVocabulary,
    SymbolVocabulary,
    TokenizerVocabulary,
    Vocabulary,
    load_vocabulary,
)

# What a folder of transformers may hold of a tokenizer.
FILES = ("spiece.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
         "added_tokens.json")  # fmt: skip
_SPECIAL = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
_AS_WRITTEN = ("PreTrainedTokenizerFast", "TokenizersBackend")  # classes that add nothing
# Parts of a tokenizer.json: the end mark.
_A, _B = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
_MARK = {"SpecialToken": {"id": "</s>", "type_id": 0}}
_END = {
    "type": "TemplateProcessing", "single": [_A, _MARK], "pair": [_A, _MARK, _B, _MARK],
    "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
}  # fmt: skip


def read_hf_vocabulary(folder: Path) -> Vocabulary | None:
    """Load the vocabulary of a folder of transformers, None where nothing says what it is. Raises
    UserError for files that are malformed or contradict each other, and for other control ids than
    T5's.
    """
    try:
        return _read(folder)
    except (TypeError, AttributeError, KeyError, IndexError, ValueError) as error:
        # Of the many forms that these files may have, only the right one is worth code.
        raise UserError(
            f"{folder}: the files of its tokenizer ({', '.join(_there(folder))}) are malformed: "
            f"{type(error).__name__}: {str(error)[:200]}; save the tokenizer again by transformers"
        ) from None


def _there(folder: Path) -> list[str]:
    return [name for name in FILES if (folder / name).is_file()]


def _read(folder: Path) -> Vocabulary | None:
    config = _object(folder / "tokenizer_config.json")
    model, file = folder / "spiece.model", folder / "tokenizer.json"
    name = config.get("tokenizer_class") or _object(folder / "config.json").get("tokenizer_class")
    name = str(name or "T5Tokenizer")
    extra_ids = config.get("extra_ids", 125 if name.startswith("ByT5") else 100)
    if type(extra_ids) is not int or not 0 <= extra_ids < 2**16:
        raise UserError(
            f"{folder / 'tokenizer_config.json'}: field extra_ids must be a whole number from 0, "
            f"got {extra_ids!r}"
        )
    if name.startswith("ByT5"):
        return _bytes(folder, config, extra_ids)
    if not model.is_file() and not file.is_file():
        return None
    for field, default in _SPECIAL.items():
        config[field] = _text(config.get(field)) or default
        if config[field] != default and not file.is_file():
            raise UserError(f"{folder}: {field} is {config[field]!r}; T5's {default!r} is needed")
    content = _object(file)
    added = _added_tokens(folder, content, config)
    if model.is_file():
        vocab = load_vocabulary("sentencepiece", str(model), extra_ids)
        assert isinstance(vocab, SentencePieceVocabulary)
        names = [vocab.pieces.id_to_piece(i) for i in range(vocab.pieces.get_piece_size())]
        names += [f"<extra_id_{k}>" for k in range(vocab.new_ids)][::-1]
        more = {i: entry for i, entry in added.items()
                if i >= len(names) or names[i].lstrip("\u2581") != entry["content"]}  # fmt: skip
        if not content:
            if not more:
                return vocab
            content = _unigram_json(vocab, names)
        elif not more and [row[0] for row in content["model"]["vocab"]] in (
            names, names[: len(names) - vocab.new_ids]
        ):  # fmt: skip
            return vocab
    if content["model"]["type"] == "Unigram" and name not in _AS_WRITTEN:
        content |= _t5_parts(content)  # whatever the file says, T5Tokenizer takes these
    added |= {entry["id"]: entry for entry in content.get("added_tokens") or ()}
    content["added_tokens"] = [added[i] for i in sorted(added)]
    content |= {"truncation": None, "padding": None}  # what was trained with is no vocabulary
    where = file if file.is_file() else model
    # The same bytes for the same vocabulary, whichever files it came from.
    text = json.dumps(content, ensure_ascii=False, sort_keys=True)
    vocab = TokenizerVocabulary(text.encode("utf-8", "surrogatepass"), str(where))
    _check_control(where, content, config)
    return vocab


def _check_control(where: Path, content: dict, config: dict) -> None:
    pieces = content["model"]["vocab"]
    ids = {row[0]: i for i, row in enumerate(pieces)} if isinstance(pieces, list) else dict(pieces)
    ids |= {entry["content"]: entry["id"] for entry in content["added_tokens"]}
    got = tuple(ids.get(config[field]) for field in _SPECIAL)
    if got != (0, 1, 2) or content["model"].get("unk_id", 2) != 2:
        raise UserError(f"{where} has pad, eos, unk ids {got}; T5's 0, 1, 2 are needed")


def _bytes(folder: Path, config: dict, extra_ids: int) -> ByteVocabulary:
    added = _added_tokens(folder, {}, config)
    first = ByteVocabulary(0).size
    order = [_text(token) for field in ("additional_special_tokens", "extra_special_tokens")
             for token in config.get(field) or ()]  # fmt: skip
    order = [token for token in order if token not in _SPECIAL.values()]
    order = [added[i]["content"] for i in sorted(added) if i >= first] or order
    names = [f"<extra_id_{k}>" for k in range(extra_ids)]
    for kind, own in (("byt5", names), ("byte", names[::-1])):
        if order in (own, []):
            return ByteVocabulary(extra_ids, kind)
    raise UserError(
        f"{folder / 'tokenizer_config.json'}: a vocabulary of bytes has {extra_ids} sentinels and "
        f"no other tokens, but the file adds {len(order)}: {', '.join(map(repr, order[:5]))}; "
        "remove those that are no sentinels"
    )


def _added_tokens(folder: Path, content: dict, config: dict) -> dict[int, dict[str, Any]]:
    """Return what the files of a folder add to the pieces, by id, as in a tokenizer.json."""
    rows = [(entry.get("id"), entry) for entry in content.get("added_tokens") or ()]
    if "added_tokens_decoder" in config:  # then transformers reads no older file
        rows += list(config["added_tokens_decoder"].items())
    else:
        rows += [(i, name) for name, i in _object(folder / "added_tokens.json").items()]
    out: dict[int, dict[str, Any]] = {}
    for i, entry in rows:
        text = _text(entry)
        if not text or not str(i).isdecimal():
            raise UserError(f"{folder}: {entry!r} is no added token with an id, got {i!r}")
        flags = {} if isinstance(entry, str) else entry
        special = bool(flags.get("special", False))
        own = {"id": int(i), "content": text, "special": special,
               "normalized": bool(flags.get("normalized", not special))}  # fmt: skip
        own |= {flag: bool(flags.get(flag)) for flag in ("single_word", "lstrip", "rstrip")}
        if int(i) in out and out[int(i)]["content"] != text:
            raise UserError(
                f"{folder}: the files of its tokenizer give the id {i} to "
                f"{out[int(i)]['content']!r} and to {text!r}; remove the wrong one"
            )
        out[int(i)] = own
    return out


def _text(token: Any) -> str:
    """Return the text of a token that a file writes as text or as an object."""
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else ""


def _object(file: Path) -> dict[str, Any]:
    return read_json(file) if file.is_file() else {}


def copy_tokenizer(source: Path, folder: Path) -> bool:
    """Copy a tokenizer as transformers wrote it, if there is one; return whether there is."""
    files = [source / name for name in _there(source)]
    if not (source / "tokenizer_config.json").is_file():
        return False
    folder.mkdir(exist_ok=True)
    for file in files:
        shutil.copyfile(file, folder / file.name)
    return True


def write_hf_tokenizer(vocab: Vocabulary, folder: Path) -> str:
    """Write the files of a tokenizer; return what it cannot do that ``vocab`` does, or ""."""
    note = ""
    if isinstance(vocab, SymbolVocabulary):
        vocab = vocab.plain
        note = ("texts must be escaped by asesjax.data.symbols before this tokenizer, and "
                "unescaped after it: transformers knows no escapes")  # fmt: skip
    config: dict[str, Any] = dict(_SPECIAL)
    sentinels = [f"<extra_id_{k}>" for k in range(vocab.extra_ids)]
    if isinstance(vocab, ByteVocabulary):
        ordered = sentinels if vocab.kind == "byt5" else sentinels[::-1]
        config |= {"tokenizer_class": "ByT5Tokenizer", "extra_ids": vocab.extra_ids,
                   "additional_special_tokens": ordered}  # fmt: skip
        write_json(folder / "tokenizer_config.json", config)
        return note
    if isinstance(vocab, TokenizerVocabulary):
        content = json.loads(vocab.model)
        names = {entry["id"]: entry["content"] for entry in content["added_tokens"]}
        config |= {field: names.get(i, token) for i, (field, token) in enumerate(config.items())}
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        write_json(folder / "tokenizer.json", content)
        write_json(folder / "tokenizer_config.json", config)
        return note
    assert isinstance(vocab, SentencePieceVocabulary)  # the only kind that is left
    model = vocab.proto
    kind = model.trainer_spec.model_type
    if kind == model.trainer_spec.UNIGRAM:
        (folder / "spiece.model").write_bytes(vocab.model)
        config |= {"tokenizer_class": "T5Tokenizer", "extra_ids": vocab.new_ids}
    elif kind == model.trainer_spec.BPE:
        write_json(folder / "tokenizer.json", _bpe_json(model, vocab))
        config |= {"tokenizer_class": "PreTrainedTokenizerFast",
                   "additional_special_tokens": sentinels}  # fmt: skip
    else:
        return "no tokenizer is written: the SentencePiece model is neither unigram nor byte-pair"
    write_json(folder / "tokenizer_config.json", config)
    return note


def _token(i: int, text: str) -> dict[str, Any]:
    """Return a control token or sentinel as a tokenizer.json lists it."""
    off = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": i, "content": text, **off, "special": True}


def _unigram_json(vocab: SentencePieceVocabulary, names: list[str]) -> dict:
    """Return the ``tokenizer.json`` that T5Tokenizer makes of a ``spiece.model``."""
    model = vocab.proto
    if model.trainer_spec.model_type == model.trainer_spec.BPE:
        return _bpe_json(model, vocab)
    scores = [entry.score for entry in model.pieces] + [0.0] * vocab.new_ids
    new = range(len(names) - vocab.new_ids, len(names))
    normalizer = _normalizer(model)
    return {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": normalizer,
        "added_tokens": [_token(i, names[i]) for i in (0, 1, 2, *new)],
        "model": {"type": "Unigram", "unk_id": 2, "byte_fallback": False,
                  "vocab": [list(row) for row in zip(names, scores, strict=True)]},
    }  # fmt: skip


def _normalizer(model: Any) -> dict | None:
    if not (charsmap := model.normalizer_spec.precompiled_charsmap):
        return None
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()}


def _t5_parts(content: dict) -> dict[str, Any]:
    """Return the parts of a tokenizer.json that transformers 5 takes from T5Tokenizer's class, not
    from the file: of its normalizers only the characters' map.
    """
    found = content.get("normalizer") or {}
    maps = [one for one in found.get("normalizers", [found]) if one.get("type") == "Precompiled"]
    return {
        "normalizer": maps[0] if maps else None,
        "pre_tokenizer": SPACES,
        "decoder": SPACE,
        "post_processor": _END,
        "model": content["model"] | {"byte_fallback": False},
    }


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
    normalizer, words = _normalizer(model), WORDS
    if normalizer is None:  # nothing is normalised but runs of spaces: line breaks are text
        words = {"type": "Split", "pattern": {"Regex": " +"}, "behavior": "Removed",
                 "invert": False}  # fmt: skip
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [_token(i, text) for i, text in sorted(tokens)],
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [words, SPACE]},
        "post_processor": _END,
        "decoder": SPACE,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<unk>", "fuse_unk": True,
            "continuing_subword_prefix": None, "end_of_word_suffix": None, "ignore_merges": False,
            "byte_fallback": any(entry.type == entry.BYTE for entry in model.pieces),
            "vocab": ids,
            "merges": [list(merge[2:]) for merge in sorted(merges, key=lambda merge: merge[:2])],
        },
    }  # fmt: skip
