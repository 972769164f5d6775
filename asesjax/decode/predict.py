"""Generation for any number of questions: batches of few shapes, results in the order asked."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from asesjax.core.errors import UserError
from asesjax.core.types import Params
from asesjax.decode import beam
from asesjax.decode.iterative import DecodeSpec, Limits, generate
from asesjax.models.t5_config import T5Config
from asesjax.sharding.place import BATCH_AXES, on_mesh, put_batch


@dataclasses.dataclass(frozen=True)
class Generated:
    """The chain of one question; the flags are those of ``iterative.Chains``.

    Attributes:
      ids: [N] int32, all segments joined.
      segments: the same ids, cut into segments.
      done: the chain came to its own end.
      truncated: some bound cut a segment or the chain.
      repeated: ended because a segment was empty or that before it again.
      broken: ended because the logits were not finite.
      tokens: decoder steps used.
      log_probability: of those steps, natural.
    """

    ids: np.ndarray
    segments: tuple[np.ndarray, ...]
    done: bool
    truncated: bool
    repeated: bool
    broken: bool
    tokens: int
    log_probability: float


def predict(
    config: T5Config,
    params_by_phase: tuple[Params, ...],
    questions: Sequence[np.ndarray],
    limits: Limits,
    spec: DecodeSpec | beam.BeamSpec,
    batch_size: int,
    buckets: Sequence[int],
    mesh: Mesh | None = None,
) -> list[Generated]:
    """Generate the chains of many questions.

    A question is padded to the smallest bucket that holds it and shares its batch with questions of
    that bucket, so what it is answered does not depend on what else is asked. Each bucket in use is
    a compilation.

    Args:
      config: shape of the model.
      params_by_phase: see ``iterative.generate``.
      questions: int32 ids each, without end of sequence; at least one id.
      limits: see ``iterative.generate``.
      spec: see ``iterative.generate``, and ``beam.generate`` for beam search.
      batch_size: questions decoded at once.
      buckets: question lengths to pad to, rising.
      mesh: spread the rows of a batch over its devices; None for one device.

    Returns:
      One for each question, in order.

    Raises:
      UserError: an empty question, or one longer than the largest bucket.
    """
    groups: dict[int, list[int]] = {}
    for index, question in enumerate(questions):
        fits = [bucket for bucket in buckets if len(question) <= bucket]
        if not fits or not len(question):
            raise UserError(
                f"question {index} has {len(question)} tokens; it must have from 1 to "
                f"{max(buckets)} (the largest bucket)"
            )
        groups.setdefault(min(fits), []).append(index)
    rows = min(batch_size, max(map(len, groups.values()), default=0))
    write = beam.generate if isinstance(spec, beam.BeamSpec) else generate
    if mesh is not None:
        parts = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
        rows = -(-rows // parts) * parts
        write = on_mesh(mesh, write)
    out: list = [None] * len(questions)
    for bucket in sorted(groups):
        for start in range(0, len(groups[bucket]), rows):
            members = groups[bucket][start : start + rows]
            tokens = np.zeros((rows, bucket), np.int32)
            for row, index in enumerate(members):
                tokens[row, : len(questions[index])] = questions[index]
            if mesh is not None:
                tokens = put_batch(mesh, {"questions": tokens})["questions"]
            chains = jax.device_get(write(config, params_by_phase, tokens, limits, spec))
            for row, index in enumerate(members):
                out[index] = _generated(chains, row)
    return out


def _generated(chains, row: int) -> Generated:
    ids = chains.ids[row, : chains.length[row]]
    ends = chains.segment_ends[row, : chains.n_segments[row]]
    return Generated(
        ids=ids,
        segments=tuple(np.split(ids, ends[:-1])) if len(ends) else (),
        done=bool(chains.done[row]),
        truncated=bool(chains.truncated[row]),
        repeated=bool(chains.repeated[row]),
        broken=bool(chains.broken[row]),
        tokens=int(chains.generated_tokens[row]),
        log_probability=float(chains.log_probability[row]),
    )
