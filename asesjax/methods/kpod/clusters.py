"""Clusters of questions, for the diversity of KPOD's schedule.

A question's vector is the mean of its word vectors, as in the paper, or of the student's encoder
states, which needs no file.
"""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from asesjax.core.errors import UserError
from asesjax.core.signals import check_stop
from asesjax.core.types import Example, Params
from asesjax.decode.passes import map_batches
from asesjax.models import t5
from asesjax.models.t5_config import T5Config

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*|\d+")
_STARTS = 5  # of k-means; the best result is taken


def cluster(vectors: np.ndarray, n_clusters: int, seed: int) -> np.ndarray:
    """Divide vectors [N, D] by k-means++; returns the cluster of each, int32 [N]."""
    from scipy.cluster.vq import kmeans2  # slow to import, and only needed here

    vectors = np.asarray(vectors, np.float64)
    n_clusters = min(n_clusters, len(np.unique(vectors, axis=0)))
    random = np.random.default_rng(seed)
    best, labels = np.inf, np.zeros(len(vectors), np.int32)
    for _ in range(_STARTS if n_clusters > 1 else 0):
        check_stop()
        with warnings.catch_warnings():
            # A cluster may end empty: then there is one fewer.
            warnings.filterwarnings("ignore", message="One of the clusters is empty")
            centres, own = kmeans2(vectors, n_clusters, iter=50, minit="++", rng=random)
        distance = float(((vectors - centres[own]) ** 2).sum())
        if distance < best:
            best, labels = distance, own.astype(np.int32)
    return labels


def state_vectors(
    model: T5Config,
    params: Params,
    questions: Sequence[Example],
    source_buckets: Sequence[int],
    target_buckets: Sequence[int],
    batch_size: int = 64,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """Return the mean encoder state of each question, float32 [N, D]."""

    @jax.jit
    def states(params, tokens):
        encoded = t5.encode(model, params, tokens).astype(jnp.float32)
        real = (tokens != 0)[..., None]
        return (encoded * real).sum(1) / jnp.maximum(real.sum(1), 1)

    of_batch = lambda batch: states(params, batch["encoder_input_tokens"])  # noqa: E731
    buckets = source_buckets, target_buckets
    return np.stack(map_batches(of_batch, questions, *buckets, batch_size, mesh))


def word_vectors(path: str | Path, texts: Sequence[str]) -> tuple[np.ndarray, int]:
    """Return the mean word vector of each text, float32 [N, D], and how many have none (zeros).
    ``path`` is a file in GloVe's text format. Texts are split into words and numbers in lower case.
    Raises UserError for a missing file, a line that is no word vector, or no known word at all.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"kpod.word_vectors: there is no file {path}; give one in GloVe's format")
    words = [_WORD.findall(text.lower()) for text in texts]
    wanted, known, size = set().union(*words), {}, 0
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            parts = line.rstrip().split(" ")
            size = size or len(parts) - 1
            word = " ".join(parts[: len(parts) - size])  # some words of GloVe hold spaces
            if word in wanted or number == 1:
                try:
                    vector = np.array(parts[len(parts) - size :], np.float32)
                except ValueError:
                    vector = np.zeros(0)
                if not size or len(vector) != size or not np.isfinite(vector).all():
                    raise UserError(
                        f"{path}:{number}: not a word and {size or 'its'} numbers: "
                        f"{line.strip()[:60]!r}; kpod.word_vectors needs GloVe's text format"
                    )
                known[word] = vector
    means = [np.mean([known[w] for w in own], axis=0) if own else np.zeros(size, np.float32)
             for own in ([w for w in text if w in known] for text in words)]  # fmt: skip
    n_unknown = sum(not any(w in known for w in text) for text in words)
    if n_unknown == len(texts):
        raise UserError(f"{path} knows no word of the questions; give vectors of their language")
    return np.stack(means), n_unknown
