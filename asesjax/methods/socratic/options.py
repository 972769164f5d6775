"""Options of Socratic CoT."""

from asesjax.core.options import option, section


@section("socratic")
class SocraticOptions:
    """What is asked when, and what the two models see."""

    plan: str = option("step", "each subquestion is asked when those before are answered; whole: "
                       "all at once", choices=("step", "whole"))  # fmt: skip
    guidance: str = option("none", "what the decomposer sees of the steps",
                           choices=("none", "operators", "equations"))  # fmt: skip
    guide_source: str = option(
        "oracle", "where guides come from at test time: the record's steps, or a role planner that "
        "writes them", choices=("oracle", "planner"),
    )  # fmt: skip
    history: bool = option(True, "the solver reads all steps so far, not the last subquestion "
                           "alone")  # fmt: skip
    single_steps: bool = option(False, "a rationale without steps is one step, and no error")
    ask_mark: str = option("ask:", "begins inputs of a model whose tasks share parameters")
    solve_mark: str = option("solve:", "the same")
    guide_mark: str = option("guide:", "the same")
