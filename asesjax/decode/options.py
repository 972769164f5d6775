"""Options of decoding."""

import functools

from asesjax.core import options
from asesjax.decode.sampling import SAMPLERS

# Fields that a run chooses from its data where they are 0 or () (``jobs.lengths``).
CHOSEN = ("question_buckets", "max_chain_tokens", "max_segment_tokens", "max_rounds")
option = functools.partial(options.option, changes="decode")


@options.section("decode")
class DecodeOptions:
    """How chains are written; all of it may change what is written, if only in last bits."""

    batch_size: int = option(100, "questions written at once", least=1, most=2**20)
    max_rounds: int = option(0, "most segments of a chain ([code]: 5 rounds of two); 0: half as "
                             "many again as the most in the data", least=0, most=1000)  # fmt: skip
    max_segment_tokens: int = option(0, "most new tokens of a segment ([code]: 100); 0: half as "
                                     "many again as the longest in the data has",
                                     least=0, most=2**20)  # fmt: skip
    max_chain_tokens: int = option(0, "most new tokens of a chain, direct's single segment too; 0: "
                                   "half as many again as the longest in the data has",
                                   least=0, most=2**20)  # fmt: skip
    beams: int = option(1, "above 1: beam search of each segment", least=1, most=1000)
    length_penalty: float = option(1.0, "of beam search, as in transformers: above 0 favours long "
                                   "chains")  # fmt: skip
    sampler: str = option("greedy", "greedy: the most probable token; or sample, or another that "
                          "is registered", choices=SAMPLERS)  # fmt: skip
    temperature: float = option(1.0, "sampler sample: logits are divided by it", above=0)
    top_k: int = option(0, "sampler sample: the k most probable tokens alone; 0: all", least=0)
    top_p: float = option(1.0, "sampler sample: of those the fewest that reach this share; 1: all",
                          above=0, most=1)  # fmt: skip
    seed: int = option(0, "of what is drawn", least=0)
    samples: int = option(1, "chains drawn for a question; above 1 their answers vote "
                          "(self-consistency)", least=1, most=10_000)  # fmt: skip
    prefix: str = option("", "text that every chain begins with")
    repeat_ngram: int = option(0, "n: a segment that writes n tokens in a row again ends there; "
                               "0: never", least=0, most=1000)  # fmt: skip
    question_buckets: tuple[int, ...] = option(
        (), "lengths that questions are padded to; (): chosen from the data, the last half as long "
        "again as the longest question", items=int, least=1, most=2**20)
    encode_rows: int = option(0, "contexts encoded at once; 0: batch_size / 8", least=0, most=2**20)
    context_lengths: tuple[int, ...] = option(
        (64, 128, 192), "lengths that contexts are padded to, besides the longest",
        items=int, least=1, most=2**20)  # fmt: skip
    int8: bool = option(False, "round weights to int8 with a scale a channel: less to read, other "
                        "ids")  # fmt: skip
    curve_questions: int = option(100, "validation questions decoded at each kept checkpoint; 0: "
                                  "no curves", least=0)  # fmt: skip
