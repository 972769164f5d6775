"""configs/cpet.py from a folder of transformers with a small mT5 of random weights."""

import csv
import io
from pathlib import Path

import numpy as np
import sentencepiece

from asesjax.cli.main import main
from asesjax.core.files import read_json, write_json
from asesjax.data.vocab import load_saved
from asesjax.experiment import open_run
from asesjax.run import load_method

CPET = str(Path(__file__).resolve().parents[2] / "configs/cpet.py")
REPORTS = [(f"{i}、双肺见{i}枚小结节，边界清晰，代谢未见增高。肝脏形态可，轮廓光整，密度均匀。",
            f"双肺多发小结节{i}枚，考虑良性病变可能性大，建议随访。肝脏未见明显异常代谢增高灶。")
           for i in range(60)]  # fmt: skip


def test_a_run_starts_from_mt5_with_its_pieces_sentinels_and_rows(hf, tmp_path):
    import torch
    import transformers

    folder, workdir = tmp_path / "mt5", tmp_path / "run"
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text for report in REPORTS for text in report]),
        model_writer=model, model_type="unigram", vocab_size=180, hard_vocab_limit=False,
        character_coverage=1.0, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
    # As in mT5, the last hundred pieces are the sentinels, and rows are a multiple of 128.
    names = [f"▁<extra_id_{k}>".encode() for k in reversed(range(100))]
    pieces = b"".join(bytes((10, len(name) + 2, 10, len(name))) + name for name in names)
    content = model.getvalue() + pieces
    size = sentencepiece.SentencePieceProcessor(model_proto=content).get_piece_size()
    rows = -(-size // 128) * 128
    torch.manual_seed(0)
    config = transformers.MT5Config(
        vocab_size=rows, d_model=16, d_kv=8, d_ff=24, num_heads=2, num_layers=1,
        decoder_start_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    hf.save(transformers.MT5ForConditionalGeneration(config), folder)
    (folder / "spiece.model").write_bytes(content)
    write_json(folder / "tokenizer_config.json", {"extra_ids": 0})
    data = tmp_path / "cpet.csv"
    with open(data, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("question", "answer", "qid"),
                                    *((*r, f"q{i}") for i, r in enumerate(REPORTS))])  # fmt: skip
    fields = {
        "model.init_from": folder, "data.path": data, "methods": "usm", "segment.beta": "0.9",
        "segment.strategy": "rouge", "train.epochs": "0.0", "train.steps": 2, "train.batch_size": 8,
        "train.learning_rate": "1e-30", "train.weight_decay": "0.0", "model.dtype": "float32",
        "train.evaluate_every_share": "1.0", "train.source_buckets": "(128,)",
        "train.target_buckets": "(64,)", "decode.question_buckets": "(64,)",
        "decode.context_lengths": "()", "decode.max_rounds": 3, "decode.max_segment_tokens": 8,
        "decode.max_chain_tokens": 16, "decode.batch_size": 8, "decode.curve_questions": 2,
    }  # fmt: skip
    command = ["run", "--config", CPET, "--workdir", str(workdir)]
    assert main([*command, *(f"--config.{name}={value}" for name, value in fields.items())]) == 0

    vocab = load_saved(workdir / "vocab")
    assert (vocab.size, vocab.sentinel(0), vocab.extra_ids) == (size, size - 1, 100)
    assert vocab.model == content
    found = load_method(open_run(None, workdir), "usm")
    assert found.model.vocab_size == rows and found.model.mlp == "gated-gelu"
    theirs = hf.load(folder).state_dict()["shared.weight"].numpy()
    ours = np.asarray(found.params["main"]["token_embedder"]["embedding"])
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert read_json(workdir / "report.json")["rows"][0]["questions"] > 0
