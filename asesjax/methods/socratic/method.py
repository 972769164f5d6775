"""Socratic CoT (Shridhar et al. 2023): one model asks subquestions, the other answers them.

The decomposer (the paper's QG) and the solver (QA) write in turn, until the decomposer writes the
sentinel that ends the chain. The operators or equations of the steps may guide what it asks for;
the solver never sees them, since an equation is the answer. With ``socratic.plan=whole`` the
decomposer writes all subquestions first, separated by sentinel 1; they are then given to the same
loop as whole segments.
"""

from collections.abc import Sequence

import numpy as np

from asesjax.core.errors import UserError
from asesjax.core.options import Config
from asesjax.core.types import Example, Record
from asesjax.data.corpus import EncodedRecord
from asesjax.data.examples import Ids, join_ids, make_example
from asesjax.data.vocab import Vocabulary
from asesjax.decode.spec import DecodePlan, Limits, Prompt, Turn
from asesjax.methods.method import METHODS, GenerateFn, Method, Request, TrainedMethod
from asesjax.methods.socratic.chain import (
    Leads,
    ask_examples,
    encode_parts,
    guide_ids,
    reference,
    solve_examples,
)
from asesjax.methods.socratic.options import SocraticOptions

PLANNER = "planner"
_SHORTEST_GUIDE = 16  # guides are padded to this or twice, four times ... as much: few programs


@METHODS.register("socratic")
class Socratic(Method):
    """Two sets of parameters, and a third where guides are written."""

    Options = SocraticOptions
    roles: tuple[str, ...] = ("decomposer", "solver")
    solver = "solver"

    def __init__(self, name: str, config: Config):
        super().__init__(name, config)
        options = self.options
        self.guided = options.guidance != "none"
        self.has_planner = self.guided and options.guide_source == "planner"
        self.plans = options.plan == "whole"
        if self.has_planner and len(self.roles) > 1:
            self.roles = (*self.roles, PLANNER)
        for field, plain in {"beams": 1, "prefix": ""}.items() if self.plans else ():
            value = getattr(config.decode, field)
            if value != plain:
                raise UserError(
                    f"socratic.plan=whole gives subquestions to the decoding as they were planned, "
                    f"which leaves no place for decode.{field}={value}; set decode.{field}="
                    f"{plain or repr(plain)}, or socratic.plan=step"
                )

    def leads(self, vocab: Vocabulary) -> Leads:
        """Return the marks by which shared parameters tell the tasks apart; none here."""
        return Leads()

    def examples(self, record: EncodedRecord, vocab: Vocabulary) -> dict[str, list[Example]]:
        """Return the examples of decomposer, solver and planner."""
        ask, solve, plan = self.tasks(record, vocab)
        own = {self.roles[0]: ask, self.solver: solve}
        return own | {PLANNER: plan} if self.has_planner else own

    def tasks(self, record: EncodedRecord, vocab: Vocabulary) -> list[list[Example]]:
        """Return the examples of asking, solving and planning."""
        options, own, question = self.options, record.record, record.question.ids
        leads, runs = self.leads(vocab), encode_parts(vocab, own, self.config)
        guide = guide_ids(vocab, own, options)
        ask_head, solve_head = join_ids(leads.ask, question, guide), join_ids(leads.solve, question)
        ask = ask_examples(vocab, own, ask_head, runs, options.plan)
        solve = solve_examples(vocab, own, solve_head, runs, options.history)
        plan = [make_example(vocab, f"{own.id}/guide", [leads.guide, question], [guide], "guide")]
        return [ask, solve, plan if self.has_planner else []]

    def decode_plan(self, vocab: Vocabulary) -> DecodePlan:
        """A subquestion, its answer, and so on; planned subquestions need no guide any more."""
        leads = self.leads(vocab)
        ask = Prompt(leads.ask, extra_input=self.guided and not self.plans)
        solve = Prompt(leads.solve, history=self.options.history)
        turns = Turn(self.roles[0], "question", ask), Turn(self.solver, "answer", solve)
        return DecodePlan(turns, n_turns=0, sentinel=True)

    def reference(self, record: Record) -> Record:
        """The chain holds the subquestions."""
        return reference(record, self.config)

    def prepare_requests(
        self, trained: TrainedMethod, request: Request, generate_fn: GenerateFn
    ) -> Request:
        """Find the guides, and have the whole plan written where there is one."""
        vocab = trained.vocab
        leads, guides = self.leads(vocab), self.guides(vocab, request, generate_fn)
        if not self.plans:
            return request if guides is None else request._replace(extra_inputs=_padded(guides))
        if request.forced is not None:
            raise UserError(
                "with socratic.plan=whole a chain begins with what was planned, so there is no "
                "place for a prefix; leave it out, or set socratic.plan=step"
            )
        more: Sequence[Ids] = [()] * len(request.questions) if guides is None else guides
        heads = [join_ids(leads.ask, q, guide)
                 for q, guide in zip(request.questions, more, strict=True)]  # fmt: skip
        return self.with_plans(generate_fn(self.roles[0], heads), vocab, request)

    def guides(
        self, vocab: Vocabulary, request: Request, generate_fn: GenerateFn
    ) -> list[np.ndarray] | None:
        """Return each question's guide, of a planner or the gold one; None without guidance."""
        if not self.guided:
            return None
        if self.has_planner:
            role = PLANNER if PLANNER in self.roles else self.roles[0]
            lead = self.leads(vocab).guide
            return generate_fn(role, [join_ids(lead, q) for q in request.questions])
        records: Sequence[Record | None] = request.records or [None]
        for record in records:
            if record is None or not (record.steps or record.rationale):
                raise UserError(
                    f"socratic.guidance={self.options.guidance} shows the decomposer the gold "
                    "guide, and a question without its solution has none; train with "
                    "socratic.guide_source=planner to have guides written"
                )
        return [guide_ids(vocab, record, self.options) for record in request.records or ()]

    def with_plans(
        self, plans: Sequence[np.ndarray], vocab: Vocabulary, request: Request
    ) -> Request:
        """Give planned subquestions to the chains: every other segment, and then the end. One
        without room for its end mark is cut like any segment that is too long. The chain of a plan
        that was itself cut has no round for the end.
        """
        decode, none = self.config.decode, np.zeros(0, np.int32)
        limits = request.limits or Limits(
            decode.max_rounds, decode.max_segment_tokens, decode.max_chain_tokens
        )
        rounds = np.broadcast_to(limits.max_rounds, len(plans)).copy()
        forced = []
        for row, plan in enumerate(plans):
            pieces = np.split(plan, np.flatnonzero(plan == vocab.sentinel(1)))
            pieces = [piece[piece != vocab.sentinel(1)] for piece in pieces]
            given: list[np.ndarray] = []
            for piece in filter(len, pieces):
                room = min(_bound(limits.max_segment_tokens, row, len(given)),
                           _bound(limits.max_chain_tokens, row))  # fmt: skip
                fits = len(piece) < room
                given += [join_ids(piece, [vocab.eos_id]) if fits else piece[: room - 1], none]
            if len(plan) >= decode.max_chain_tokens:
                rounds[row] = min(rounds[row], max(len(given), 1))
            given.append(join_ids([vocab.sentinel(0)]))
            # One size for all calls: one program.
            given = (given + [none] * decode.max_rounds)[: decode.max_rounds]
            forced.append([np.pad(own, (0, decode.max_segment_tokens - len(own))) for own in given])
        return request._replace(forced=forced, limits=limits._replace(max_rounds=rounds))


@METHODS.register("socratic_unified")
class SocraticUnified(Socratic):
    """One set of parameters for all tasks, which marks tell apart."""

    roles = ("main",)
    solver = "main"

    def leads(self, vocab: Vocabulary) -> Leads:
        """Encode the marks; raises UserError if the vocabulary cannot tell them apart."""
        marks = [getattr(self.options, f"{name}_mark") for name in Leads._fields]
        leads = Leads(*(tuple(vocab.encode(mark).tolist()) for mark in marks))
        # Unknown pieces do no harm here: all that matters is that the marks differ.
        if len(set(leads)) < len(leads) or not all(leads):
            raise UserError(
                f"{self.name} tells asking, solving and guiding apart by socratic.ask_mark, "
                "solve_mark and guide_mark, which must come to different tokens in this "
                f"vocabulary; got {', '.join(map(repr, marks))}. Other words will do, or "
                "<extra_id_2> ..."
            )
        return leads

    def examples(self, record: EncodedRecord, vocab: Vocabulary) -> dict[str, list[Example]]:
        """All tasks are the one role's."""
        return {"main": [example for task in self.tasks(record, vocab) for example in task]}


def _bound(limit: int | np.ndarray, row: int, place: int = 0) -> int:
    """The bound of a row, and where segments have their own, of the segment at a place."""
    own = np.atleast_1d(limit if np.ndim(limit) == 0 else np.asarray(limit)[row])
    return int(own[min(place, len(own) - 1)])


def _padded(guides: Sequence[np.ndarray]) -> list[np.ndarray]:
    longest = max(map(len, guides), default=0)
    width = _SHORTEST_GUIDE
    while width < longest:
        width *= 2
    return [np.pad(guide, (0, width - len(guide))) for guide in guides]
