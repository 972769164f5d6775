"""Questions of files: their bounds, pipes, and what is unlike the training questions."""

import json
import os

import numpy as np
import pytest

from asesjax.cli.questions import doubts, read_questions
from asesjax.config import base_config, finish
from asesjax.core.errors import UserError
from asesjax.core.files import write_array
from asesjax.data.vocab import ByteVocabulary
from asesjax.data.vocab_training import train_vocabulary
from asesjax.methods.method import make_method
from asesjax.run import Run

CONFIG = finish(base_config(), {
    "vocab.kind": "byte", "vocab.extra_ids": "4", "decode.max_rounds": "3",
    "decode.max_segment_tokens": "6", "decode.max_chain_tokens": "12",
    "decode.question_buckets": "(16, 24)",
})  # fmt: skip


def test_bounds_of_a_method_of_one_segment(tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_text(
        '{"question": "ab?"}\n{"question": "ab?", "max_chain_tokens": 3, "max_rounds": 2}\n'
    )
    request, _ = read_questions(source, CONFIG, make_method("direct", CONFIG), ByteVocabulary(4))
    assert [value.tolist() for value in request.limits] == [[1, 1], [12, 3], [12, 3]]
    assert request.forced is None


def test_questions_come_from_a_pipe():
    out, into = os.pipe()
    os.write(into, b'{"question": "a?", "answer": true}\n\n{"question": ["b?"]}\n')
    os.close(into)
    try:
        request, _ = read_questions(
            f"/dev/fd/{out}", CONFIG, make_method("direct", CONFIG), ByteVocabulary(4)
        )
    finally:
        os.close(out)
    assert [(r.id, r.question, r.answer) for r in request.records] == [
        ("1", "a?", "yes"), ("3", "b?", "")
    ]  # fmt: skip


def test_questions_unlike_those_of_training_are_warned_of(tmp_path):
    run = Run(CONFIG, tmp_path)
    vocab = train_vocabulary(["ab ba " * 9], 20)
    texts = ["ab", "ab \u4e2d", "ab ba ab ba"]
    ids = vocab.encode_batch(texts)
    (unknown,) = doubts(run, vocab, texts, ids)
    assert "tokens of what is asked are unknown to the vocabulary, most often '\u4e2d'" in unknown
    write_array(tmp_path / "corpus/train/question_ends.npy", np.array([2, 2 + len(ids[2]) - 1]))
    (_, longer) = doubts(run, vocab, texts, ids)
    n = len(ids[2])
    assert f"1 of 3 questions are longer than any trained on, up to {n} tokens instead" in longer


@pytest.mark.parametrize("rows", [[{"id": "a"}, {"id": "a"}], [{"id": "2"}, {}]])
def test_questions_of_one_id_are_refused(tmp_path, rows):
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps(row | {"question": "1 2"}) + "\n" for row in rows))
    with pytest.raises(UserError, match=f"{path}:2: its id .* is that of {path}:1"):
        read_questions(path, CONFIG, make_method("direct", CONFIG), ByteVocabulary(4))
