"""Vocabularies: SentencePiece, loaded or trained on the spot, tokenizers of transformers, bytes.

All have T5's layout: pad 0, end of sequence 1, unknown 2, then pieces, then the sentinels
``<extra_id_k>``, which count down from the last id unless they came otherwise. Offsets are
characters of the text as given, before SentencePiece's NFKC normalisation and before escapes
(``data/symbols.py``).
"""

import base64
import functools
import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

from asesjax.core.errors import UserError, unknown
from asesjax.core.files import check_output, read_json, write_bytes, write_json
from asesjax.data.symbols import ALPHABET, escape, unescape

_SENTINEL = re.compile(r"<extra_id_(0|[1-9][0-9]*)>")
_BYTE_OFFSET = 3  # ByT5: byte b has id b + 3
# How a tokenizer.json writes T5's words and spaces.
WORDS = {"type": "WhitespaceSplit"}
SPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
SPACES = {"type": "Sequence", "pretokenizers": [WORDS, SPACE]}

Encoded = tuple[np.ndarray, np.ndarray, np.ndarray]  # ids, starts, ends, each int32 [N]


def sentinel_names(k: int) -> list[str]:
    """Return how pieces spell ``<extra_id_k>``: T5's, mT5's."""
    return [f"<extra_id_{k}>", f"▁<extra_id_{k}>"]


class Vocabulary:
    """Text to ids and back; ``size`` ids, sentinels included, while a model may have more rows.
    Each kind has ``_encode_plain`` (texts to ids), ``_encode_plain_with_offsets`` (text to ids,
    starts, ends) and ``_decode_plain``, all without sentinels.
    """

    pad_id = 0
    eos_id = 1  # closes every input and target; ``encode`` does not add it
    unk_id = 2
    kind = ""
    symbols = False  # escapes stand for what the pieces cannot spell
    model = b""  # serialised pieces, where there are any
    file = ""  # what ``save`` calls them

    def __init__(self, n_pieces: int, extra_ids: int, sentinels: Sequence[int] | None = None):
        self.n_pieces = n_pieces
        self.extra_ids = extra_ids
        self.size = n_pieces + extra_ids
        # The id of each <extra_id_k>; T5's convention unless the vocabulary has its own.
        self.sentinels = range(n_pieces, self.size)[::-1] if sentinels is None else sentinels
        self._number = {i: k for k, i in enumerate(self.sentinels)}

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what decides the meaning of an id: kind, pieces and number of sentinels; of
        T5's pieces the same for a ``spiece.model`` and a ``tokenizer.json``. Escapes (``symbols``)
        are no part of it: they give a text other ids, which mean the same.
        """
        content = self._unigram()
        if content is None:
            content = f"{self.kind} {self.n_pieces} {self.extra_ids} ".encode() + self.model
        return hashlib.sha256(content).hexdigest()

    def _unigram(self) -> bytes | None:
        """Write down the pieces and the normalisation of T5's kind of model; None for others."""
        return None

    def _written(self, pieces: Iterable[tuple[str, float]], charsmap: bytes) -> bytes:
        own = set(self.sentinels)
        rows = [[i, piece, float(np.float32(score))]
                for i, (piece, score) in enumerate(pieces) if i not in own]  # fmt: skip
        facts = [rows, list(self.sentinels), self.size, hashlib.sha256(charsmap).hexdigest()]
        return json.dumps(facts, ensure_ascii=False).encode("utf-8", "surrogatepass")

    def sentinel(self, k: int) -> int:
        """Return the id of ``<extra_id_k>``."""
        if not 0 <= k < self.extra_ids:
            raise UserError(
                f"the vocabulary has {self.extra_ids} sentinels, no <extra_id_{k}>; set "
                f"vocab.extra_ids to at least {k + 1}, or, where it came with weights, add the "
                "token to their tokenizer"
            )
        return self.sentinels[k]

    def _encode_plain(self, texts: list[str]) -> list[np.ndarray]:
        raise NotImplementedError

    def _encode_plain_with_offsets(self, text: str) -> Encoded:
        raise NotImplementedError

    def _decode_plain(self, ids: list[int]) -> str:
        raise NotImplementedError

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of a text, int32 [N], without end of sequence. A literal ``<extra_id_k>``
        becomes the sentinel, and the text on each side is encoded alone.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return ``encode`` of every text, much faster than one by one."""
        texts = list(texts)
        if not any("<extra_id_" in text for text in texts):
            return self._encode_plain(texts)
        return [self.encode_with_offsets(text)[0] for text in texts]

    def encode_with_offsets(self, text: str) -> Encoded:
        """Return ids and the characters ``text[start:end]`` that each covers, int32 [N] each, with
        starts that never decrease. A piece made by normalisation, as a leading space, covers none.
        """
        parts: list[tuple[Any, Any, Any]] = [((), (), ())]
        for stretch, start in self._stretches(text):
            if isinstance(stretch, int):
                end = start + len(f"<extra_id_{self._number[stretch]}>")
                parts.append(([stretch], [start], [end]))
            else:
                ids, starts, ends = self._encode_plain_with_offsets(stretch)
                parts.append((ids, np.add(starts, start), np.add(ends, start)))
        columns = (np.concatenate(own).astype(np.int32) for own in zip(*parts, strict=True))
        ids, starts, ends = columns
        return ids, starts, ends

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; pad and end of sequence are skipped wherever they stand, and
        sentinels are set off by spaces. An id outside the vocabulary is a ValueError.
        """
        parts: list[str] = []
        plain: list[int] = []
        for i in np.asarray(ids, np.int64).tolist():
            if not 0 <= i < self.size:
                raise ValueError(f"id {i} is outside the vocabulary of {self.size} ids")
            if i in self._number:
                parts += [self._decode_plain(plain), f"<extra_id_{self._number[i]}>"]
                plain = []
            elif i not in (self.pad_id, self.eos_id):
                plain.append(i)
        parts.append(self._decode_plain(plain))
        return " ".join(part for part in parts if part)

    def save(self, folder: str | os.PathLike) -> None:
        """Write the vocabulary into a folder, from which ``load_saved`` reads it again."""
        if self.file:
            write_bytes(Path(folder) / self.file, self.model)
        facts = {"version": 1, "kind": self.kind, "extra_ids": self.extra_ids}
        write_json(Path(folder) / "vocab.json", facts | ({"symbols": True} if self.symbols else {}))

    def _stretches(self, text):
        """Yield (sentinel id or plain text, first character) pairs that tile the text."""
        position = 0
        for match in _SENTINEL.finditer(text):
            if int(match[1]) < self.extra_ids:
                if match.start() > position:
                    yield text[position : match.start()], position
                yield self.sentinel(int(match[1])), match.start()
                position = match.end()
        if position < len(text):
            yield text[position:], position


class SentencePieceVocabulary(Vocabulary):
    """Pieces of a SentencePiece model with its own sentinels among them (mT5), or else followed by
    ``extra_ids`` new ones (T5).
    """

    kind = "sentencepiece"
    file = "spiece.model"  # the name that transformers' T5 tokenizers look for

    def __init__(self, model: bytes, extra_ids: int, origin: str = "the model"):
        """Load the content of a ``spiece.model``; ``origin`` names it in errors."""
        try:
            self.pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        except (RuntimeError, OSError) as error:
            raise UserError(f"{origin} is not a SentencePiece model: {error}") from None
        got = (self.pieces.pad_id(), self.pieces.eos_id(), self.pieces.unk_id())
        if got != (0, 1, 2):
            raise UserError(
                f"{origin} has pad, eos, unk ids {got}; T5's 0, 1, 2 are needed: train it with "
                "pad_id=0, eos_id=1, unk_id=2, bos_id=-1"
            )
        self.model = model
        n_pieces, own = self.pieces.get_piece_size(), list[int]()
        while (found := max(self.pieces.piece_to_id(sentinel_names(len(own))))) != self.unk_id:
            own.append(found)
        self.new_ids = 0 if own else extra_ids  # sentinels that are no pieces of the model
        super().__init__(n_pieces - len(own), len(own) or extra_ids, own or None)

    @property
    def proto(self) -> Any:
        """The content of the file as a message."""
        from sentencepiece.sentencepiece_model_pb2 import (  # type: ignore[attr-defined]  # made on import
            ModelProto,  # only needed here
        )

        return ModelProto.FromString(self.model)

    def _unigram(self):
        model = self.proto
        spaces = model.normalizer_spec
        t5s = (model.trainer_spec.model_type == model.trainer_spec.UNIGRAM
               and not model.trainer_spec.byte_fallback and spaces.add_dummy_prefix
               and spaces.remove_extra_whitespaces and spaces.escape_whitespaces)  # fmt: skip
        pieces = ((entry.piece, entry.score) for entry in model.pieces)
        return self._written(pieces, spaces.precompiled_charsmap) if t5s else None

    def knows(self, piece: str) -> bool:
        """Return whether there is a piece of this very text."""
        return self.pieces.piece_to_id(piece) != self.unk_id

    def _encode_plain(self, texts):
        # Copies: what sentencepiece returns is read-only.
        return [ids.copy() for ids in self.pieces.encode(texts, return_type="numpy")]

    def _encode_plain_with_offsets(self, text):
        found = self.pieces.encode(text, return_type="offset_mapping")
        offsets = np.asarray(found["offsets"], np.int32).reshape(-1, 2)
        return np.asarray(found["ids"], np.int32), offsets[:, 0], offsets[:, 1]

    def _decode_plain(self, ids):
        return self.pieces.decode(ids)


class ByteVocabulary(Vocabulary):
    """UTF-8 bytes at ids 3 to 258, as in ByT5 (Xue et al. 2022), followed by sentinels: kind "byt5"
    from the first on, as transformers has them, kind "byte" from the last, as seqio.
    """

    def __init__(self, extra_ids: int, kind: str = "byte"):
        self.kind = kind
        own = range(_BYTE_OFFSET + 256, _BYTE_OFFSET + 256 + extra_ids)
        super().__init__(_BYTE_OFFSET + 256, extra_ids, own if kind == "byt5" else None)

    def _encode_plain(self, texts):
        data = [np.frombuffer(text.encode(), np.uint8) for text in texts]
        return [own.astype(np.int32) + _BYTE_OFFSET for own in data]

    def _encode_plain_with_offsets(self, text):
        widths = [len(character.encode()) for character in text]
        starts = np.repeat(np.arange(len(text), dtype=np.int32), widths)
        return self._encode_plain([text])[0], starts, starts + 1

    def _decode_plain(self, ids):
        # A model may write half a character: show it as U+FFFD rather than hide it.
        data = bytes(i - _BYTE_OFFSET for i in ids if i >= _BYTE_OFFSET)
        return data.decode(errors="replace")


class TokenizerVocabulary(Vocabulary):
    """What a ``tokenizer.json`` of transformers says, by the library that transformers uses: tokens
    that were added to the pieces, and pieces that are in no SentencePiece model.

    The names of ids 0 to 2 and of sentinels are hidden from the library: in a text they are text,
    or ``encode`` has found them.
    """

    kind = "tokenizer"
    file = "tokenizer.json"

    def __init__(self, model: bytes, origin: str = "the tokenizer"):
        """Load the content of a ``tokenizer.json``; ``origin`` names it in errors."""
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # it is no friend of forks
        from tokenizers import Tokenizer

        try:
            content = json.loads(model)
            pieces, added = content["model"]["vocab"], content["added_tokens"]
            names = [piece for piece, _ in pieces] if isinstance(pieces, list) else pieces
            ids = dict(zip(names, range(len(pieces)), strict=True))
            ids = (ids if isinstance(pieces, list) else dict(pieces)) | {
                entry["content"]: entry["id"] for entry in added
            }
            own = list[int]()
            while found := [ids[name] for name in sentinel_names(len(own)) if name in ids]:
                own.append(found[0])
            hidden = {name for name, i in ids.items() if i <= self.unk_id or i in set(own)}
            hide = lambda name: f"\0{name}\0" if name in hidden else name  # noqa: E731
            content["model"]["vocab"] = (
                [[hide(name), score] for name, score in pieces] if isinstance(pieces, list)
                else {hide(name): i for name, i in pieces.items()}
            )  # fmt: skip
            if content["model"].get("unk_token"):
                content["model"]["unk_token"] = hide(content["model"]["unk_token"])
            for entry in added:
                if entry["content"] in hidden:
                    entry |= {"content": hide(entry["content"]), "normalized": False}
            content |= dict.fromkeys(("truncation", "padding", "post_processor"))
            self.tokenizer = Tokenizer.from_str(json.dumps(content))
        except Exception as error:  # the library raises nothing more exact
            raise UserError(f"{origin} is no tokenizer.json that can be used: {error!r}") from None
        wrong = [name for name, i in ids.items() if self.tokenizer.token_to_id(hide(name)) != i]
        if wrong or not {0, 1, 2} <= set(ids.values()):
            raise UserError(
                f"{origin} contradicts itself: the ids of {', '.join(map(repr, wrong[:5]))} and of "
                "pad, end and unknown are not those that it gives when it is loaded"
            )
        self.model = model
        super().__init__(max(ids.values()) + 1 - len(own), len(own), own)

    def _unigram(self):
        content = json.loads(self.model)
        model, normalizer = content["model"], content.get("normalizer") or {}
        if model["type"] != "Unigram" or model.get("byte_fallback"):
            return None
        names = [piece for piece, _ in model["vocab"]]
        marks = {self.pad_id, self.eos_id, self.unk_id, *self.sentinels}
        more = [entry for entry in content["added_tokens"] if entry["id"] not in marks]
        t5s = content.get("pre_tokenizer") == SPACES and content.get("decoder") == SPACE
        if more or not t5s or normalizer.get("type", "Precompiled") != "Precompiled":
            return None
        if not set(range(len(names), self.size)) <= marks:
            return None
        charsmap = base64.b64decode(normalizer.get("precompiled_charsmap", ""))
        return self._written(model["vocab"], charsmap)

    def knows(self, piece: str) -> bool:
        """Return whether there is a piece of this very text."""
        return self.tokenizer.token_to_id(piece) is not None

    def _encode_plain(self, texts):
        found = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.asarray(one.ids, np.int32) for one in found]

    def _encode_plain_with_offsets(self, text):
        found = self.tokenizer.encode(text, add_special_tokens=False)
        offsets = np.asarray(found.offsets, np.int32).reshape(-1, 2)
        return np.asarray(found.ids, np.int32), offsets[:, 0], offsets[:, 1]

    def _decode_plain(self, ids):
        # As SentencePiece shows what is unknown; ids between the tokens have no text.
        tokens = ["▁⁇" if i == self.unk_id else self.tokenizer.id_to_token(i) or "" for i in ids]
        decoder = self.tokenizer.decoder
        return decoder.decode(tokens) if decoder else " ".join(tokens)


class SymbolVocabulary(Vocabulary):
    """A SentencePiece vocabulary with escapes for what its pieces lack, so that
    ``decode(encode(text)) == text`` for every text without literal sentinels. All pieces of an
    escape cover its character in the offsets.
    """

    symbols = True

    def __init__(self, plain: SentencePieceVocabulary | TokenizerVocabulary):
        """Wrap a vocabulary; one without pieces for the escapes is a UserError."""
        self.plain, self.kind, self.model, self.file = plain, plain.kind, plain.model, plain.file
        self._known: dict[str, bool] = {}
        missing = sorted(c for c in set(ALPHABET) - {" "} if not self._writes(c))
        if missing:
            raise UserError(
                f"vocab.symbols: the vocabulary cannot spell the escapes, it lacks "
                f"{' '.join(missing)}; set vocab.symbols=false, or use another vocabulary"
            )
        super().__init__(plain.n_pieces, plain.extra_ids, plain.sentinels)

    def _unigram(self):
        return self.plain._unigram()

    def _writes(self, character):
        """Whether a character survives wherever it stands, but for marks that join others."""
        if character not in self._known:
            # A piece for it alone, or bytes for any, whatever stands beside it.
            ids = self.plain._encode_plain([f"x{character}x"])[0].tolist()
            self._known[character] = (
                self.unk_id not in ids
                and (self.plain.knows(character) or self.plain.knows("<0x00>"))
                and self.plain._decode_plain(ids) == f"x{character}x"
            )
        return self._known[character]

    def _escaped(self, texts):
        """Return ``symbols.escape`` of every text, and the ids of what it returned."""
        pairs = [escape(text, self._writes) for text in texts]
        ids = self.plain._encode_plain([escaped for escaped, _ in pairs])
        for i, (escaped, _) in enumerate(pairs):
            if not escaped.isascii() and self.plain._decode_plain(ids[i].tolist()) != escaped:
                # Normalisation has joined characters that it leaves alone one by one.
                pairs[i] = escape(texts[i], lambda c: c.isascii() and self._writes(c))
                ids[i] = self.plain._encode_plain([pairs[i][0]])[0]
        return pairs, ids

    def _stretches(self, text):
        # Decoding sets sentinels off by spaces, so those are not text.
        found = list(super()._stretches(text))
        for i, (stretch, start) in enumerate(found):
            if isinstance(stretch, str):
                if i > 0 and stretch.startswith(" "):
                    stretch, start = stretch[1:], start + 1
                if i + 1 < len(found) and stretch.endswith(" "):
                    stretch = stretch[:-1]
            yield stretch, start

    def _encode_plain(self, texts):
        return self._escaped(texts)[1]

    def _encode_plain_with_offsets(self, text):
        [(escaped, lengths)], _ = self._escaped([text])
        ids, starts, ends = self.plain._encode_plain_with_offsets(escaped)
        widths = np.ones(len(text), np.int32)
        widths[list(lengths)] = list(lengths.values())
        place = np.repeat(np.arange(len(text), dtype=np.int32), widths)  # of escaped characters
        place = np.append(place, len(text))
        return ids, place[starts], np.where(starts == ends, place[starts], place[ends - 1] + 1)

    def _decode_plain(self, ids):
        return unescape(self.plain._decode_plain(ids))


def with_symbols(vocab: Vocabulary) -> Vocabulary:
    """Let a vocabulary write every text (``SymbolVocabulary``); bytes do so as they are."""
    if isinstance(vocab, SentencePieceVocabulary | TokenizerVocabulary):
        return SymbolVocabulary(vocab)
    return vocab


def load_vocabulary(kind: str, path: str = "", extra_ids: int = 100) -> Vocabulary:
    """Load a "sentencepiece" or "tokenizer" vocabulary from a file, or "byte" or "byt5". T5 has 100
    sentinels, ByT5 125; a tokenizer.json says which it has.
    """
    if extra_ids < 0:
        raise UserError(f"vocab.extra_ids must not be negative, got {extra_ids}")
    if kind in ("byte", "byt5"):
        return ByteVocabulary(extra_ids, kind)
    if kind not in ("sentencepiece", "tokenizer"):
        raise unknown("kind of vocabulary", kind, ("sentencepiece", "tokenizer", "byte", "byt5"))
    if not Path(path).is_file():
        what = "SentencePiece model" if kind == "sentencepiece" else "tokenizer"
        name = SentencePieceVocabulary.file if kind == "sentencepiece" else TokenizerVocabulary.file
        raise UserError(f"vocab.path: no {what} at {path!r}; give the path of a {name}")
    content = Path(path).read_bytes()
    if kind == "tokenizer":
        return TokenizerVocabulary(content, path)
    return SentencePieceVocabulary(content, extra_ids, origin=path)


def load_saved(folder: str | os.PathLike) -> Vocabulary:
    """Load what ``Vocabulary.save`` wrote; a folder without it is a UserError."""
    file = Path(folder) / "vocab.json"
    if not file.is_file():
        raise UserError(f"{folder} holds no vocabulary: {file} does not exist")
    check_output(file.parent)
    facts = read_json(file)
    own = facts.get("version"), type(facts.get("kind")), type(facts.get("extra_ids"))
    if own != (1, str, int):
        raise UserError(
            f"{file} is no vocabulary of version 1, the only one that this version reads (version, "
            f"kind, extra_ids: {[facts.get(name) for name in ('version', 'kind', 'extra_ids')]}); "
            "put back what was written, or make it anew"
        )
    name = "tokenizer.json" if facts["kind"] == "tokenizer" else "spiece.model"
    vocab = load_vocabulary(facts["kind"], str(file.parent / name), facts["extra_ids"])
    return with_symbols(vocab) if facts.get("symbols") else vocab
