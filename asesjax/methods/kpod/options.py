"""Options of KPOD; stages of its own: "weights", "clusters" and "schedule"."""

from asesjax.core.options import option, section


@section("kpod")
class KpodOptions:
    """Weighted tokens, and rationales that are learned from their end."""

    weight_epochs: float = option(5.0, "passes over the training questions that the token weights "
                                  "train for", above=0, changes="weights", most=10**6)  # fmt: skip
    alpha: float = option(0.5, "price of keeping a whole rationale, in nats (the paper says 0.5 "
                          "and 0.7)", least=0, changes="weights")  # fmt: skip
    predictor_share: float = option(0.5, "share of their training in which the predictor alone "
                                    "learns to answer", least=0, below=1,
                                    changes="weights")  # fmt: skip
    predictor_from: str = option(
        "", "checkpoint or Hugging Face folder of the student's vocabulary that the predictor of "
        "answers begins as, of any shape (the paper has FlanT5-Large); empty: as the student",
        changes="weights",
    )  # fmt: skip
    predictor_shape: tuple[int, ...] = option(
        (), "d_model, d_ff, d_kv, heads and layers of each stack of a predictor that begins from "
        "random weights; empty: the student's",
        least=1, items=int, changes="weights", most=2**19)  # fmt: skip
    mask: str = option(
        "partial", "gradients of masks: partial, measured at partly masked tokens; gumbel: "
        "Gumbel-softmax, straight through, as in the paper", choices=("partial", "gumbel"),
        changes="weights",
    )  # fmt: skip
    temperature: float = option(1.0, "of the Gumbel-softmax (not in the paper)",
                                above=0, changes="weights")  # fmt: skip
    weighted_loss: bool = option(True, "weights act on the student's loss")
    weighted_difficulty: bool = option(True, "weights act on a step's difficulty; otherwise it is "
                                       "the plain mean loss", changes="schedule")  # fmt: skip
    schedule: str = option(
        "progressive", "of what is given; self_paced: whole rationales; none: nothing",
        choices=("progressive", "self_paced", "none"), changes="schedule",
    )  # fmt: skip
    n_stages: int = option(10, "T; one epoch each in the paper, half of all epochs together",
                           least=1, changes="schedule", most=1000)  # fmt: skip
    progressive_share: float = option(0.5, "share of training that the stages take", least=0,
                                      most=1)  # fmt: skip
    start_share: float = option(0.3, "C0 / B: share of the whole difficulty asked for before the "
                                "first stage", least=0, most=1, changes="schedule")  # fmt: skip
    power: float = option(0.5, "p: the ceiling rises with the (p + 1)th power of time",
                          least=0, changes="schedule", most=100)  # fmt: skip
    steps_at_once: int = option(1, "steps that a chosen question stops being given in a stage",
                                least=1, changes="schedule")  # fmt: skip
    beta: float = option(12.0, "worth of choosing questions from many clusters, in nats",
                         least=0, changes="schedule")  # fmt: skip
    n_clusters: int = option(5, "clusters of questions", least=1, changes="clusters", most=10**5)
    word_vectors: str = option("", "file of GloVe's text format; empty: clusters of the student's "
                               "encoder states", changes="clusters")  # fmt: skip
    given: str = option("decoder", "where given steps stand: a prefix without weight, or the "
                        "encoder", choices=("decoder", "encoder"))  # fmt: skip
