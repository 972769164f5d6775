"""Work of GSM8K's lengths without its texts, and weights of T5's sizes without a checkpoint: random
numbers, for machines that have no data.

The table holds lengths in T5's vocabulary, measured on the 7,473 training questions and the 39,072
segments of their solutions. Drawn from it, questions, segments and their number do not depend on
each other, as they do in GSM8K (a question's length and its segments: correlation 0.41).
"""

import functools

import jax
import numpy as np

from asesjax.core.types import Example, Params
from asesjax.models import t5
from asesjax.models.t5_config import T5Config

SHARES = (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1)
# The length below which each share of them is.
QUESTION = (11, 34, 40, 45, 49, 54, 59, 65, 74, 88, 101, 129, 235)
SEGMENT = (4, 6, 8, 11, 12, 14, 15, 17, 19, 23, 26, 33, 70)  # ids
SEGMENTS = (1, 3, 3, 4, 4, 5, 5, 6, 7, 8, 10, 12, 20)  # of a solution
IDS = 32100  # of T5's tokenizer
# Longest source and target, end marks included, of the examples below: 76 % of GSM8K's.
# All of them would need up to 442 and 71, and bucketed batches several programs; compiling would
# take most of gpu.sh's nine minutes.
LONGEST = (128, 40)


def draw(n: int, seed: int) -> tuple[list[np.ndarray], list[list[int]]]:
    """Ids of n questions, and the number of ids of each segment of their solutions."""
    random = np.random.default_rng(seed)
    lengths = lambda table, n: np.interp(random.random(n), SHARES, table).round().astype(int)  # noqa: E731
    questions = [_ids(random, length) for length in lengths(QUESTION, n)]
    return questions, [lengths(SEGMENT, segments).tolist() for segments in lengths(SEGMENTS, n)]


def examples(n: int, seed: int) -> list[Example]:
    """AS-ES examples of n questions: from the question and the segments so far, the next one."""
    random, out = np.random.default_rng([seed, 1]), []
    for number, (question, plan) in enumerate(zip(*draw(n, seed), strict=True)):
        context, end = question, np.ones(1, np.int32)
        for place, length in enumerate(plan):
            segment = _ids(random, length)
            source, target = np.concatenate([context, end]), np.concatenate([segment, end])
            if len(source) <= LONGEST[0] and len(target) <= LONGEST[1]:
                weights = np.ones(len(target), np.float32)
                out.append(Example(f"{number}/{place}", source, target, weights))
            context = np.concatenate([context, segment])
    return out


def _ids(random: np.random.Generator, n: int) -> np.ndarray:
    return random.integers(3, IDS, n).astype(np.int32)


def params(config: T5Config, seed: int) -> Params:
    """Parameters on the host, of the standard deviations of ``t5.init``, which would compile for
    longer than this draws.
    """
    shapes = jax.eval_shape(functools.partial(t5.init, config), jax.random.key(0))
    random = np.random.default_rng(seed)

    def draw(path, leaf):
        name = jax.tree_util.keystr(path)
        if "scale" in name:
            return np.ones(leaf.shape, np.float32)
        scale = 1.0 if "token_embedder" in name else leaf.shape[0] ** -0.5
        if "rel_embedding" in name:
            scale = config.d_model**-0.5
        if "query" in name:
            scale *= config.d_kv**-0.5
        return random.standard_normal(leaf.shape, np.float32) * np.float32(scale)

    return jax.tree.map_with_path(draw, shapes)
