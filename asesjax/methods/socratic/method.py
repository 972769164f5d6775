"""Socratic CoT (Shridhar et al. 2023): one model asks subquestions, the other answers them.

The decomposer (the paper's QG) and the solver (QA) write in turn, until the decomposer writes the
sentinel that ends the chain. A guide, the operators or equations of the steps, may tell it what to
ask for; the solver never sees it, since an equation is the answer. In decoding this is the loop of
AS-ES's dual path with two kinds of stages (``decode.spec.Frame``).

With ``socratic.plan=whole`` the decomposer writes all subquestions before the first is answered,
set off by sentinel 1; they are then given to the same loop as whole segments.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from asesjax.core.errors import UserError
from asesjax.core.types import Example
from asesjax.data.vocab import Vocabulary
from asesjax.decode.spec import Frame, Limits
from asesjax.methods.method import Asked, Method, Prepared, Shape, Trained, Write
from asesjax.methods.socratic.chain import (
    Leads,
    ask_examples,
    encode_parts,
    guide_example,
    guide_ids,
    joined,
    reference,
    solve_examples,
)

PLANNER = "planner"
_SHORTEST_HINT = 16  # hints are padded to this or twice, four times ... as much: few programs


def _leads(unified: bool, config: ConfigDict, vocab: Vocabulary) -> Leads:
    """Encode the marks by which shared parameters tell the tasks apart."""
    if not unified:
        return Leads()
    marks = {name: config.socratic[f"{name}_mark"] for name in Leads._fields}
    leads = Leads(*(tuple(vocab.encode(mark).tolist()) for mark in marks.values()))
    # Unknown pieces do no harm here: all that matters is that the marks differ.
    if len(set(leads)) < len(leads) or not all(leads):
        raise UserError(
            "socratic_unified tells asking, solving and guiding apart by socratic.ask_mark, "
            "solve_mark and guide_mark, which must come to different tokens in this vocabulary; "
            f"got {', '.join(map(repr, marks.values()))}. Other words will do, or <extra_id_2> ..."
        )
    return leads


def _plans(config: ConfigDict) -> bool:
    """Whether all subquestions are written at once."""
    decode = config.decode
    if config.socratic.plan != "whole":
        return False
    for name, plain in {"beams": 1, "prefix": ""}.items():
        if decode[name] != plain:
            raise UserError(
                f"socratic.plan=whole gives subquestions to the decoding as they were planned, "
                f"which leaves no place for decode.{name}={decode[name]}; set decode.{name}="
                f"{plain or repr(plain)}, or socratic.plan=step"
            )
    return True


def _has_planner(config: ConfigDict) -> bool:
    return config.socratic.guidance != "none" and config.socratic.guide_source == "planner"


def _examples(
    unified: bool, prepared: Prepared, config: ConfigDict, vocab: Vocabulary
) -> dict[str, list[Example]]:
    settings, record, question = config.socratic, prepared.record, prepared.question_ids
    if not len(question):
        raise UserError(
            f"record {record.id}: the question {record.question[:60]!r} comes to no tokens in this "
            "vocabulary; mend the record or leave it out"
        )
    _plans(config)
    leads = _leads(unified, config, vocab)
    runs = encode_parts(vocab, record, config)
    guide = guide_ids(vocab, record, settings)
    ask_head, solve_head = joined(leads.ask, question, guide), joined(leads.solve, question)
    ask = ask_examples(vocab, record, ask_head, runs, settings.plan)
    solve = solve_examples(vocab, record, solve_head, runs, settings.history)
    plan = []
    if _has_planner(config):
        plan = [guide_example(vocab, record, joined(leads.guide, question), guide)]
    if unified:
        return {"main": [*ask, *solve, *plan]}
    return {"decomposer": ask, "solver": solve, **({PLANNER: plan} if plan else {})}


def _shape(unified: bool, config: ConfigDict, vocab: Vocabulary) -> Shape:
    leads = _leads(unified, config, vocab)
    # Planned subquestions are given: there is nothing to be guided any more.
    guided = not _plans(config) and config.socratic.guidance != "none"
    frames = Frame(leads.ask, hint=guided), Frame(leads.solve, history=config.socratic.history)
    return Shape(n_stages=0, frames=frames, sentinel=True)


def _ask(unified: bool, trained: Trained, config: ConfigDict, asked: Asked, write: Write) -> Asked:
    """Find the guides, and have the whole plan written where there is one."""
    leads = _leads(unified, config, trained.vocab)
    guides = _guides(leads, trained, config, asked, write)
    if not _plans(config):
        return asked if guides is None else asked._replace(hints=_padded(guides))
    if asked.forced is not None:
        raise UserError(
            "with socratic.plan=whole a chain begins with what was planned, so there is no place "
            "for a prefix; leave it out, or set socratic.plan=step"
        )
    more = [()] * len(asked.questions) if guides is None else guides
    heads = [joined(leads.ask, q, guide) for q, guide in zip(asked.questions, more, strict=True)]
    plans = write(trained.method.phases[0], heads)
    return _with_plans(plans, trained.vocab, config, asked)


def _guides(
    leads: Leads, trained: Trained, config: ConfigDict, asked: Asked, write: Write
) -> list[np.ndarray] | None:
    """The guide of each question: what a planner writes, or the gold one; None without guidance."""
    if config.socratic.guidance == "none":
        return None
    if _has_planner(config):
        planner = PLANNER if PLANNER in trained.method.roles else trained.method.phases[0]
        return write(planner, [joined(leads.guide, question) for question in asked.questions])
    for record in asked.records or [None]:
        if record is None or not (record.steps or record.rationale):
            raise UserError(
                f"socratic.guidance={config.socratic.guidance} shows the decomposer the gold "
                "guide, and a question without its solution has none; train with "
                "socratic.guide_source=planner to have guides written"
            )
    return [guide_ids(trained.vocab, record, config.socratic) for record in asked.records or ()]


def _with_plans(
    plans: Sequence[np.ndarray], vocab: Vocabulary, config: ConfigDict, asked: Asked
) -> Asked:
    """Give planned subquestions to the chains: every other segment, and then the end.

    A subquestion without room for its end mark is given without it, and is cut as any segment that
    is too long. A plan that was cut itself is no whole one: its chain has no round for the end.
    """
    decode, none = config.decode, np.zeros(0, np.int32)
    limits = asked.limits or Limits(
        decode.max_rounds, decode.max_segment_tokens, decode.max_chain_tokens
    )
    rounds = np.broadcast_to(limits.max_rounds, len(plans)).copy()
    forced = []
    for row, plan in enumerate(plans):
        pieces = np.split(plan, np.flatnonzero(plan == vocab.sentinel(1)))
        pieces = [piece[piece != vocab.sentinel(1)] for piece in pieces]
        given = []
        for piece in filter(len, pieces):
            room = min(_bound(limits.max_segment_tokens, row, len(given)),
                       _bound(limits.max_chain_tokens, row))  # fmt: skip
            fits = len(piece) < room
            given += [joined(piece, [vocab.eos_id]) if fits else piece[: room - 1], none]
        if len(plan) >= decode.max_chain_tokens:
            rounds[row] = min(rounds[row], max(len(given), 1))
        given.append(joined([vocab.sentinel(0)]))
        # One size for all calls: one program.
        given = (given + [none] * decode.max_rounds)[: decode.max_rounds]
        forced.append([np.pad(own, (0, decode.max_segment_tokens - len(own))) for own in given])
    return asked._replace(forced=forced, limits=limits._replace(max_rounds=rounds))


def _bound(limit: int | np.ndarray, row: int, place: int = 0) -> int:
    """The bound of a row, and where segments have their own, of the segment at a place."""
    own = np.atleast_1d(limit if np.ndim(limit) == 0 else limit[row])
    return int(own[min(place, len(own) - 1)])


def _padded(guides: Sequence[np.ndarray]) -> list[np.ndarray]:
    longest = max(map(len, guides), default=0)
    width = _SHORTEST_HINT
    while width < longest:
        width *= 2
    return [np.pad(guide, (0, width - len(guide))) for guide in guides]


def _with_planner(method: Method, config: ConfigDict) -> Method:
    if not _has_planner(config):
        return method
    return dataclasses.replace(method, roles=(*method.roles, PLANNER))


def _fields(unified: bool) -> dict:
    return dict(
        labels=("question", "answer"),
        shape=functools.partial(_shape, unified),
        ask=functools.partial(_ask, unified),
        reference=reference,
        train_fields=("socratic",),
        decode_fields=("socratic",),
    )


# Two sets of parameters, and a third where guides are written.
SOCRATIC = Method(
    "socratic", functools.partial(_examples, False), ("decomposer", "solver"),
    phases=("decomposer", "solver"), adapt=_with_planner, **_fields(False),
)  # fmt: skip
# One set of parameters for all tasks.
UNIFIED = Method(
    "socratic_unified", functools.partial(_examples, True), phases=("main", "main"),
    **_fields(True),
)  # fmt: skip
