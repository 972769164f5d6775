"""Options of scoring."""

from asesjax.core.options import option, section
from asesjax.evals.answers import METRICS


@section("evaluate")
class EvaluateOptions:
    """What counts as a right answer."""

    metric: str = option(
        "numeric", "how answers are read and compared: numbers, expressions, letters of choices, "
        "yes or no, words, or as the AS-ES authors do", changes="report", choices=METRICS,
    )  # fmt: skip
    language: str = option("en", "zh: BLEU's Chinese tokenizer, ROUGE over characters",
                           changes="report")  # fmt: skip
    against: str = option("direct", "row that the others are compared with over seeds",
                          changes="report")  # fmt: skip
