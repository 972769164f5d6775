"""Every method side by side from one student.

    asesjax run --config configs/evidence/methods.py --workdir runs/evidence/methods

Five seeds, 400 problems of two or three steps, 2 M training tokens a row, and before them what each
method needs (the report shows it). About 4 hours of one core. Argument "tiny": models too small to
learn anything.
"""

from pathlib import Path

from asesjax.config import load_file

common = load_file(Path(__file__).with_name("common.py"))

METHODS = load_file(Path(__file__).parents[1] / "compare.py").METHODS


def get_config(arg: str = ""):
    common.first_word(arg, ("",), __file__)  # nothing, or tiny
    c = common.student_config(arg)
    c.methods = ("start", *METHODS)
    c.data.n_train, c.data.max_steps = 400, 3
    c.data.n_rationales = 3  # for diverse; all others learn from the first
    c.vocab.size, c.vocab.extra_ids = 244, 12
    # A chunk is a sentence, six of them at most: no cut to move.
    c.chunk.n_chunks, c.chunk.chunking, c.skip.order = 6, "average", "back_to_front"
    c.step_by_step.predict_prefix, c.step_by_step.explain_prefix = "<extra_id_1>", "<extra_id_2>"
    c.in_context.chain_prompt, c.in_context.answer_prompt = "<extra_id_1>", "<extra_id_2>"
    c.train.normalize = "examples"  # which KPOD needs
    c.train.source_buckets = (40, 48, 56, 64, 80, 96, 112, 128, 192, 320)
    c.train.target_buckets = (12, 16, 24, 32, 48, 64, 80, 112)
    c.kpod.weight_epochs, c.kpod.alpha = common.scaled(arg, 100.0, 1.0), 0.1
    c.decode.max_chain_tokens, c.decode.question_buckets = 112, (64, 320)
    return c
