"""Options of scoring."""

from asesjax.core.options import option, section


@section("evaluate")
class EvaluateOptions:
    """What counts as a right answer."""

    metric: str = option("numeric", "how answers are read and compared", changes="report",
                         choices=("numeric", "authors", "exact"))  # fmt: skip
    language: str = option("en", "zh: BLEU's Chinese tokenizer, ROUGE over characters",
                           changes="report")  # fmt: skip
    against: str = option("direct", "row that the others are compared with over seeds",
                          changes="report")  # fmt: skip
