"""The configuration for a user's own data and checkpoint, with no more than these two."""

import json

import pytest

from asesjax.cli.main import main
from asesjax.config import finish, load_config
from asesjax.core.files import read_json
from asesjax.data.hf_tokenizer import write_hf_tokenizer
from asesjax.data.registry import SOURCES
from asesjax.data.vocab import train_vocabulary

# What the test makes smaller; none of it is needed.
SMALL = {"train.epochs": 0.5, "train.batch_size": 8, "decode.max_chain_tokens": 12,
         "decode.max_segment_tokens": 8, "decode.max_rounds": 2, "decode.curve_questions": 0,
         "train.keep_best": "validation_loss",
         "train.evaluate_every_share": 1.0, "decode.context_lengths": "()",
         "decode.question_buckets": "(64,)", "decode.batch_size": 8}  # fmt: skip


@pytest.mark.slow  # every shape of every row is compiled
def test_your_data_and_your_checkpoint(hf, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = finish(load_config("quickstart")).data
    records = SOURCES.get("synthetic_math")(data, "train", 60, 0)
    rows = [{"question": r.question, "rationale": r.rationale, "answer": r.answer} for r in records]
    (tmp_path / "my.jsonl").write_text("\n".join(map(json.dumps, rows)))
    texts = [f"The answer is {r.answer}. {r.question} {r.rationale}" for r in records]
    vocab = train_vocabulary(texts, 120, extra_ids=4)
    config = hf.transformers.T5Config(
        vocab_size=128, d_model=16, d_kv=8, d_ff=24, num_heads=2, num_layers=1,
        decoder_start_token_id=0, feed_forward_proj="gated-gelu", tie_word_embeddings=False,
    )  # fmt: skip
    hf.torch.manual_seed(0)
    folder = hf.save(hf.transformers.T5ForConditionalGeneration(config), tmp_path / "t5")
    write_hf_tokenizer(vocab, folder)
    command = ["run", "--config", "finetune", "--workdir", "mine", "--config.data.path=my.jsonl",
               "--config.model.init_from=./t5"]  # fmt: skip
    small = [f"--config.{name}={value}" for name, value in SMALL.items()]
    assert main(command + small) == 0, capsys.readouterr().err
    assert [row["method"] for row in read_json("mine/report.json")["rows"]] == [
        "start", "direct", "usm"
    ]  # fmt: skip
    out = tmp_path / "back"
    assert main(["convert", "--to-hf", str(out), "--checkpoint", "mine/roles/usm/main"]) == 0
    again = hf.transformers.AutoTokenizer.from_pretrained(out)
    assert [again(text).input_ids[:-1] for text in texts] == [
        vocab.encode(text).tolist() for text in texts
    ]  # fmt: skip
