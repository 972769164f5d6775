"""Options of cutting rationales into labelled pieces."""

from asesjax.core.options import option, section
from asesjax.segmentation.score import SCORES


@section("segment")
class SegmentOptions:
    """How rationales are cut, scored and labelled; stages: "score", then "label"."""

    strategy: str = option("entropy", "a registered segmentation score", choices=SCORES,
                           changes="label")  # fmt: skip
    beta: float = option(0.0, "label AS above beta times the mean score; 0: the strategy's own "
                         "(near 1; [code]: 1.4)", least=0, changes="label")  # fmt: skip
    scorer: str = option("direct", "method whose model scores pieces, where the score asks one",
                         changes="score")  # fmt: skip
    folds: int = option(0, "2 or more: so many scorers, each of which scores the part of the "
                        "training set that it has not seen; the first scores validation too",
                        least=0, changes="score", most=1000)  # fmt: skip
    reduce: str = option("sum", "of token scores over a piece; mean divides by its words",
                         choices=("sum", "mean"), changes="score")  # fmt: skip
    given: str = option(
        "piece", "what the scorer is asked: the piece alone given the question, end of sequence "
        "included ([code]); the chain given the question; each piece given the question and the "
        "earlier pieces", choices=("piece", "question", "prefix"), changes="score",
    )  # fmt: skip
    cut: str = option(
        "clauses", "cut after . ! ? ; : , and their like; or after . , and newlines alone ([code])",
        choices=("clauses", "commas"), changes="score",
    )  # fmt: skip
    short: str = option("merge", "treatment of pieces of min_words words or fewer ([code]: "
                        "drop)", choices=("merge", "drop", "keep"), changes="score")  # fmt: skip
    min_words: int = option(3, "pieces of so many words or fewer are short", least=0,
                            changes="score")  # fmt: skip
    merge_adjacent: bool = option(True, "neighbours with one label become one segment ([paper])",
                                  changes="label")  # fmt: skip
