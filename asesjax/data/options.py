"""Options of the records and of the vocabulary."""

from asesjax.core.options import option, section
from asesjax.data.registry import SOURCES


@section("data")
class DataOptions:
    """Where records come from and how many are kept."""

    source: str = option("synthetic_math", "a registered data source", choices=SOURCES)
    path: str = option("", "folder of a named data set; file of JSON lines, JSON, CSV, Parquet or "
                       "Arrow, perhaps with {split} in its name, or a folder of such; name of a "
                       "data set of huggingface or tfds")  # fmt: skip
    split: str = option("", "sources whose splits have names: the one that all records come from; "
                        "their own train, validation and test when empty")  # fmt: skip
    module: str = option("", "tfds and seqio: module, or Python file, that registers the data set "
                         "or the task")  # fmt: skip
    task: str = option("", "seqio: name of a task or mixture")
    n_drawn: int = option(0, "seqio: training rows drawn from the task, at the rates of a mixture, "
                          "again and again; 0: every row once", least=0, most=10**7)  # fmt: skip
    n_train: int = option(700, "training records kept, 0 for all", least=0, most=10**7)
    n_validation: int = option(100, "validation records kept, 0 for all", least=0, most=10**7)
    n_test: int = option(500, "test records kept, 0 for all", least=0, most=10**7)
    validation_share: float = option(
        0.1, "share of the training records where a source has no validation split",
        least=0, below=1)  # fmt: skip
    test_share: float = option(0.1, "the same for a test split", least=0, below=1)
    split_by: str = option(
        "question", "records with equal questions, or equal ids, are in one split",
        choices=("question", "id"),
    )  # fmt: skip
    question_field: str = option("question", "name of this field in rows of files, tfds and seqio")
    rationale_field: str = option("rationale", "the same; methods that learn answers alone need "
                                  "none")  # fmt: skip
    answer_field: str = option("answer", "the same; empty where the rationale is the answer")
    options_field: str = option("", "the same: options to choose from (a list, or an object by "
                                "their labels), which become part of the question")  # fmt: skip
    id_field: str = option("id", "the same; rows without ids get ids made of their text")
    steps_field: str = option("steps", "the same: [[subquestion, text], ...], where rows have it")
    others_field: str = option("rationales", "the same: further rationales, where rows have them")
    answer_template: str = option(
        "The answer is {answer}.", "sentence that closes a chain; empty where answers are empty"
    )
    strip_calculator: bool = option(True, "remove calculator marks such as <<48/2=24>>")
    duplicates: str = option("refuse", "refuse rows with question, rationale and answer of another "
                             "row, or drop and count them", choices=("refuse", "drop"))  # fmt: skip
    max_skipped_share: float = option(0.0, "stop when a larger share of the rows cannot be used",
                                      least=0, most=1)  # fmt: skip
    max_misread_share: float = option(
        0.05, "stop when evaluate.metric reads another answer than the record's own in a larger "
        "share of the chains to be learned", least=0, most=1,
    )  # fmt: skip
    only_right_chains: bool = option(
        False, "leave out chains that do not end in the right answer, except in the test split"
    )
    min_steps: int = option(2, "synthetic sources: fewest computed values in a problem",
                            least=1, most=1000)  # fmt: skip
    max_steps: int = option(4, "synthetic sources: most computed values in a problem",
                            least=1, most=1000)  # fmt: skip
    test_max_steps: int = option(0, "synthetic sources: most computed values in a test problem; 0: "
                                 "max_steps", least=0, most=1000)  # fmt: skip
    max_value: int = option(20, "synthetic sources: largest given or computed number",
                            least=1, most=10**9)  # fmt: skip
    n_distractors: int = option(0, "synthetic sources: facts that nobody needs", least=0, most=1000)
    wording: str = option("plain", "synthetic sources: one wording, or one of several templates",
                          choices=("plain", "varied"))  # fmt: skip
    fact_order: str = option("in_order", "synthetic sources: order of the facts",
                             choices=("in_order", "shuffled"))  # fmt: skip
    held_out_templates: bool = option(
        False, "synthetic sources: test questions use templates that training never shows"
    )
    n_fillers: int = option(0, "synthetic_math: sentences that nobody needs, in each rationale",
                            least=0, most=1000)  # fmt: skip
    n_words: int = option(300, "synthetic_letters: made-up words that problems draw from",
                          least=1, most=100_000)  # fmt: skip
    n_rationales: int = option(1, "synthetic_math: differently worded rationales of a question",
                               least=1, most=1000)  # fmt: skip


TRAINED = ("size", "split_digits", "byte_fallback")  # fields of a vocabulary that is trained


@section("vocab")
class VocabOptions:
    """How text becomes ids."""

    kind: str = option(
        "train", "train a SentencePiece model on the training texts, load one or a tokenizer of "
        "transformers, take that of data.task (task), or use bytes with the sentinels of seqio "
        "(byte) or transformers (byt5)",
        choices=("train", "sentencepiece", "tokenizer", "task", "byte", "byt5"),
    )  # fmt: skip
    path: str = option("", "spiece.model to load (kind sentencepiece); tokenizer.json, or folder "
                       "of transformers (kind tokenizer)")  # fmt: skip
    size: int = option(256, "most pieces of a trained vocabulary", least=4, most=10**6)
    extra_ids: int = option(100, "sentinels <extra_id_0> ... behind the pieces, unless the model "
                            "ends with its own, as mT5's", least=0, most=10**5)  # fmt: skip
    split_digits: bool = option(False, "trained vocabulary: one piece a digit, not a number")
    byte_fallback: bool = option(
        False, "trained vocabulary: bytes for unseen characters, and text as it is"
    )
    symbols: bool = option(
        False, "write what the pieces cannot spell (< { } ^ and line breaks) as escapes"
    )
    max_unknown_share: float = option(
        0.0, "stop when a larger share of the training tokens is unknown", least=0, most=1
    )
