"""What all rows start from, asked as it is: a row of the table to see what training adds."""

from asesjax.core.files import write_json
from asesjax.data.vocab import load_saved
from asesjax.methods.method import METHODS, Method
from asesjax.run import Run, model_config, role_folder, untouched
from asesjax.train.checkpoint import save_params
from asesjax.train.checkpoint_files import steps
from asesjax.train.describe import Description


@METHODS.register("start")
class Start(Method):
    """The pretrained student, or ``model.init_from``, or random weights; nothing is trained."""

    def train(self, run: Run) -> None:
        """Save the parameters as the row's checkpoint, of step 0."""
        folder = role_folder(run, self.name, "main")
        vocab = load_saved(run / "vocab")
        model = model_config(run, vocab)
        if not steps(folder / "checkpoints"):
            description = Description(model, vocab, self.name, "main")
            save_params(folder / "checkpoints", untouched(run, model), description)
        facts = dict.fromkeys(("examples", "seen", "steps", "tokens", "best_step"), 0)
        write_json(folder / "result.json", facts | {"seconds": 0.0, "kept_steps": []})
