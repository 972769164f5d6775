"""Training a vocabulary on texts."""

import io
import itertools
import re
from collections.abc import Iterable

import sentencepiece

from asesjax.core.errors import UserError
from asesjax.core.signals import check_stop, must_stop
from asesjax.data.vocab import SentencePieceVocabulary

_CONTROL = re.compile(r"<(?=/s>|s>|pad>|unk>)")


def train_vocabulary(
    texts: Iterable[str], size: int, split_digits: bool = True, extra_ids: int = 100,
    byte_fallback: bool = False,
) -> SentencePieceVocabulary:  # fmt: skip
    """Train a SentencePiece model of at most ``size`` pieces without sentinels; the same texts and
    settings give the same bytes, and every character of the texts is covered.

    It is byte-pair encoding: T5's unigram takes no word as a piece that occurs in one form only,
    and so splits most words of generated data. ``split_digits`` makes arithmetic learnable.
    ``byte_fallback`` spells unseen characters as bytes (256 pieces) but normalises only spaces.
    """
    # The trainer takes a line as a sentence and would refuse one holding a line break.
    lines = (line for text in texts for line in text.splitlines() if line.strip())
    # It would leave out the characters of what looks like a mark of its own.
    lines = (_CONTROL.sub("< ", line) for line in lines)
    # The trainer turns what is raised in here into an error of its own.
    lines = itertools.takewhile(lambda _: not must_stop(), lines)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines, model_writer=model, model_type="bpe", vocab_size=size,
            hard_vocab_limit=False, character_coverage=1.0, split_digits=split_digits,
            byte_fallback=byte_fallback, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
            # T5's NFKC would write ， as , and there is nothing that bytes cannot spell.
            normalization_rule_name="identity" if byte_fallback else "nmt_nfkc",
            num_threads=1,  # several threads sum in no fixed order
            max_sentence_length=1 << 20,  # bytes; longer ones would be left out silently
        )  # fmt: skip
    except RuntimeError as error:
        check_stop()
        needed = re.search(r"required_chars\. \d+ vs (\d+)", str(error))
        if needed:
            raise UserError(
                f"vocab.size {size} is too small: the texts alone need {needed[1]} pieces"
            ) from None
        if "sentences_.empty()" in str(error):
            raise UserError("there is no text to train a vocabulary on") from None
        raise
    check_stop()
    return SentencePieceVocabulary(model.getvalue(), extra_ids)
