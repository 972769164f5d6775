"""What all rows start from, asked as it is: a row of the table to see what training adds."""

from asesjax.core.files import write_json
from asesjax.core.processes import from_first, is_first
from asesjax.data.vocab import Vocabulary, load_saved
from asesjax.decode.spec import DecodePlan
from asesjax.methods.method import METHODS, Method, make_method
from asesjax.run import Run, model_config, role_folder, untouched
from asesjax.training.checkpoint import save_params
from asesjax.training.checkpoint_files import steps
from asesjax.training.describe import Description


@METHODS.register("start")
class Start(Method):
    """The pretrained student, or ``model.init_from``, or random weights; nothing is trained. A
    student writes as its own method does, other weights the whole chain at once.
    """

    learns_rationales = False

    def decode_plan(self, vocab: Vocabulary) -> DecodePlan:
        """Return the student's way to write."""
        kind = "" if self.config.model.init_from else self.config.pretrain.get("method", "")
        return make_method(kind, self.config).decode_plan(vocab) if kind else DecodePlan()

    def train(self, run: Run) -> None:
        """Save the parameters as the row's checkpoint, of step 0."""
        folder = role_folder(run, self.name, "main")
        vocab = load_saved(run / "vocab")
        model = model_config(run, vocab)
        if from_first(lambda: not steps(folder / "checkpoints")):
            description = Description(model, vocab, self.name, "main")
            save_params(folder / "checkpoints", untouched(run, model), description)
        facts = dict.fromkeys(("examples", "seen", "steps", "tokens", "best_step"), 0)
        if is_first():
            write_json(folder / "result.json", facts | {"seconds": 0.0, "kept_steps": []})
