"""Options of the device mesh."""

from asesjax.core.options import NOTHING, option, section


@section("mesh")
class MeshOptions:
    """How devices are arranged and what is split over them; results do not depend on it."""

    preset: str = option("dp", "what is split: the batch alone, or parameters as well",
                         choices=("dp", "fsdp", "tp", "fsdp_tp"), changes=NOTHING)  # fmt: skip
    data: int = option(-1, "size of the data axis; one of the three may be -1: the other devices",
                       changes=NOTHING)  # fmt: skip
    fsdp: int = option(1, "size of the fsdp axis", changes=NOTHING)
    tensor: int = option(1, "size of the tensor axis", changes=NOTHING)
    slices: int = option(1, "TPU slices that the data axis goes over", least=1, changes=NOTHING)
