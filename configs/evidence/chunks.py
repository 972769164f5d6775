r"""Whether chunk-wise training gains more over direct the more filler rationales hold.

    asesjax run --config configs/evidence/chunks.py:0 --workdir runs/evidence/chunks_0
    asesjax run --config configs/evidence/chunks.py:2 --workdir runs/evidence/chunks_2
    asesjax run --config configs/evidence/chunks.py:6 --workdir runs/evidence/chunks_6
    asesjax run --config configs/evidence/chunks.py:2 --config.methods=direct \
        --config.train.epochs=240 --workdir runs/evidence/chunks_2_direct_4

The argument is the number of filler sentences in each rationale; "tiny" beside it ("2,tiny") makes
models too small to learn anything. Five seeds, 200 problems, 60 passes of every row over its own
examples; the last command gives direct as many tokens as cwt has. cwt_mixed is the control, whose
batches mix the stages: there the core tokens have the share of an update that they have in direct,
so what cwt gains over it is due to batches of one stage. The student that all rows start from has
read one filler sentence in each of its one-step rationales, so that their words are in its
vocabulary; it is the same for all of these runs.
"""

from pathlib import Path

from asesjax.config import load_file

common = load_file(Path(__file__).with_name("common.py"))


def get_config(arg: str = ""):
    fillers, c = common.first_word(arg, ("2", "0", "6"), __file__), common.student_config(arg)
    c.pretrain.data.n_fillers = 1
    c.pretrain.train.target_buckets = (40,)
    rows = {"cwt_mixed": {"method": "cwt", "chunk": {"batches": "mixed"}}}
    c.methods = ("start", "direct", "cwt", *common.add_variants(c, rows), "skip_thinking")
    c.skip.order = "back_to_front"  # see configs/skip_thinking.py
    c.data.n_train = common.scaled(arg, 200, 32)
    c.data.n_fillers = int(fillers)
    c.train.tokens, c.train.epochs = 0, common.scaled(arg, 60.0, 1.0)
    c.train.source_buckets = (40, 48, 56, 64, 80, 96, 112, 128, 160, 224)
    c.train.target_buckets = (12, 16, 24, 32, 48, 64, 80, 112, 160)
    c.decode.max_segment_tokens, c.decode.max_chain_tokens = 96, 176
    return c
