"""Options of chunk-wise training, and of skip-thinking behind it."""

from asesjax.core.options import option, section


@section("chunk")
class ChunkOptions:
    """Where rationales are cut into chunks."""

    n_chunks: int = option(4, "M: chunks of a rationale, fewer where it has fewer sentences",
                           least=1, most=1000)  # fmt: skip
    chunking: str = option("search", "cuts move where the student's loss wants them; average: "
                           "never", choices=("average", "search"))  # fmt: skip
    refreshes: int = option(2, "times in training that cuts move, evenly spread",
                            least=0, most=1000)  # fmt: skip
    threshold: float = option(0.01, "nats a token that a moved cut must gain", least=0)
    objective: str = option(
        "total", "what it must gain in: the loss of both chunks' tokens together, or the mean of "
        "their means", choices=("total", "mean_of_means"),
    )  # fmt: skip
    batches: str = option(
        "by_stage", "a batch holds one stage and each item weighs the same; mixed: all stages "
        "share batches and each token weighs the same", choices=("by_stage", "mixed"),
    )  # fmt: skip
    mark_from: int = option(1, "sentinel that marks the first chunk; M + 2 more follow: answer, "
                            "skip, full", least=0, most=10**5)  # fmt: skip


@section("skip")
class SkipOptions:
    """Which chunks are left out and how the others are written; a stage of its own: "data"."""

    write: str = option("one_pass", "kept chunks are written at once, or in stages that name the "
                        "next", choices=("one_pass", "stages"))  # fmt: skip
    order: str = option("front_to_back", "in which chunks are left out on trial", changes="data",
                        choices=("front_to_back", "back_to_front"))  # fmt: skip
    continuation: str = option("student", "who writes on behind a chunk left out on trial",
                               changes="data", choices=("student", "teacher"))  # fmt: skip
    protect_first: bool = option(False, "never leave out the first chunk", changes="data")
    protect_last: bool = option(False, "never leave out the last chunk", changes="data")
    mix: float = option(0.25, "share of the chunk-wise examples that skip_thinking and "
                        "full_thinking train on too", least=0, most=1)  # fmt: skip
