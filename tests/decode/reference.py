"""Iterative generation in plain Python: one question, lists, no cache. The independent reference.

Every token comes from a full teacher-forced pass over the segment so far.
"""

import dataclasses
import functools

import jax
import numpy as np

from asesjax.decode.spec import FinishReason
from asesjax.models import t5


@dataclasses.dataclass
class Result:
    segments: list[list[int]]
    finish_reason: FinishReason = FinishReason.RUNNING
    cut_segments: int = 0
    tokens: int = 0
    log_probability: float = 0.0
    token_log_probability: list[float] = dataclasses.field(default_factory=list)
    smallest_margin: float = np.inf  # between the two best logits of any step

    @property
    def chain(self):
        return [i for segment in self.segments for i in segment]


@functools.partial(jax.jit, static_argnums=0)
def _logits(config, params, source, inputs):
    batch = {"encoder_input_tokens": source, "decoder_input_tokens": inputs}
    return t5.logits(config, params, t5.forward(config, params, batch))


def next_logits(config, params, source, written):
    """Logits after ``written``, with shapes rounded up so that few are compiled."""
    inputs = [0, *written]
    source = np.pad(np.asarray(source), (0, -len(source) % 64))
    padded = np.pad(np.asarray(inputs), (0, -len(inputs) % 16))
    return np.asarray(_logits(config, params, source[None], padded[None]))[0, len(inputs) - 1]


def loops(segment, n):
    """Whether the last n ids stand earlier in the segment too."""
    tail = segment[-n:]
    return (
        n > 0
        and len(segment) > n
        and any(segment[i : i + n] == tail for i in range(len(segment) - n))
    )


def context(question, extra, result, prompt, spec):
    chain = result.chain if prompt.history else [i for s in result.segments[-1:] for i in s]
    return [*prompt.lead, *question, *(extra if prompt.extra_input else ()), *chain, spec.eos_id]


def decode(config, params_by_role, question, limits, spec, prefix=(), extra=(), number=0):
    """``prefix``: ids of the first segment, or a list of such for the first segments."""
    result = Result([])
    if not len(prefix) or np.ndim(prefix[0]) == 0:
        prefix = [prefix]
    marks = [turn.mark for turn in spec.turns]
    max_segment = np.atleast_1d(limits.max_segment_tokens)
    for n_round in range(limits.max_rounds):
        turn = spec.turns[number % len(spec.turns)]
        params = params_by_role[turn.role]
        source = context(question, extra, result, turn.prompt, spec)
        segment, log_ps, end, following = [], [], None, number + 1
        forced = prefix[n_round] if n_round < len(prefix) else ()
        room = max_segment[min(n_round, len(max_segment) - 1)]
        while end is None:
            logits = next_logits(config, params, source, segment)[: spec.vocab_limit].copy()
            logits[0] = -np.inf
            result.tokens += 1
            if not np.isfinite(logits[1:]).all():
                result.finish_reason = FinishReason.NONFINITE
                return result
            first, second = np.sort(logits)[[-1, -2]]
            result.smallest_margin = min(result.smallest_margin, float(first - second))
            token = int(logits.argmax())
            wide = logits[1:].astype(np.float64)
            log_p = float(wide.max() - np.log(np.exp(wide).sum()))
            if len(segment) < len(forced):
                token, log_p = int(forced[len(segment)]), 0.0
            result.log_probability += log_p
            if token == spec.eos_id:
                end = "eos"
            elif token == spec.sentinel_id:
                end = "sentinel"
            elif token in marks:
                end, following = "mark", marks.index(token)
            else:
                segment.append(token)
                log_ps.append(log_p)
                if len(segment) == room:
                    end = "cut"
                if len(result.chain) + len(segment) == limits.max_chain_tokens:
                    end = "cut"
                if loops(segment, spec.repeat_ngram):
                    end = "looping"
        result.cut_segments += end == "cut"
        is_last = 0 < spec.n_turns <= number + 1
        text, pattern = f",{','.join(map(str, segment))},", ",".join(map(str, spec.stop_ids))
        if end == "looping":
            result.finish_reason = FinishReason.LOOPING
        elif (
            end == "sentinel"
            or (bool(pattern) and f",{pattern}," in text)
            or (is_last and end != "cut")
        ):
            result.finish_reason = FinishReason.END
        elif spec.empty_first and not segment and n_round == 0:
            pass
        elif not spec.n_turns and (
            not segment or (result.segments and segment == result.segments[-1])
        ):
            result.finish_reason = FinishReason.REPEATED
            return result
        if segment:
            result.segments.append(segment)
            result.token_log_probability += log_ps
        if result.finish_reason:
            return result
        if len(result.chain) == limits.max_chain_tokens and segment or is_last:
            break
        number = following
    result.finish_reason = FinishReason.LENGTH
    return result
