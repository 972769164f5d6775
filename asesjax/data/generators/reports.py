"""Generated medical-style reports: findings -> impression, with gold ES and AS by rule.

    question   The lung shows a nodule of 12 mm with high uptake. The liver is normal.
    rationale  The lung shows a nodule of 12 mm with high uptake. The nodule in the lung
               suggests malignancy.

ES segments repeat an abnormal finding to the letter, AS segments conclude by a made-up rule, in the
order of ``SITES``. The impression is the whole answer, so ``answer`` is empty. This is no medicine.
"""

import random
from typing import Any

from asesjax.core.errors import UserError
from asesjax.core.types import AS, ES, Record
from asesjax.data.generators import draw
from asesjax.data.registry import SOURCES

SITES = ("brain", "thyroid", "lung", "liver", "spleen", "pancreas", "kidney", "femur")
KINDS = ("nodule", "mass", "cyst")
UPTAKES = ("low", "high")
LARGE_MM = 8
FINDINGS = (  # the last is kept for the test split where templates are held out
    "The {site} shows a {kind} of {size} mm with {uptake} uptake.",
    "A {kind} of {size} mm with {uptake} uptake is seen in the {site}.",
    "In the {site} there is a {kind} with {uptake} uptake measuring {size} mm.",
    "There is {uptake} uptake in a {kind} of {size} mm of the {site}.",
)
NORMAL = (
    "The {site} is normal.",
    "Nothing abnormal is seen in the {site}.",
    "The {site} has normal size and shape.",
    "There is no finding in the {site}.",
)


def conclusion(kind: str, size: int, uptake: str) -> str:
    """Return what the rule concludes from a lesion of ``size`` mm."""
    if kind == "cyst":
        return "an infected cyst" if uptake == "high" else "a simple cyst"
    if uptake == "high":
        return "malignancy" if size >= LARGE_MM else "inflammation"
    return "a benign tumour" if size >= LARGE_MM else "an old scar"


@SOURCES.register("synthetic_reports")
def make_reports(settings: Any, split: str, n: int, seed: int) -> list[Record]:
    """Make reports as ``draw.generate`` does. min_steps and max_steps count abnormal findings,
    n_distractors normal ones; max_value bounds the sizes in mm (2 and up).
    """
    draw.check_settings(settings, n_fillers=0, n_rationales=1, n_words=300)
    if settings.max_value < LARGE_MM:
        raise UserError(
            f"data.max_value must be at least {LARGE_MM} for reports (sizes in mm on both sides "
            f"of the rule's {LARGE_MM}), got {settings.max_value}"
        )
    most = max(settings.max_steps, settings.test_max_steps)
    if most + settings.n_distractors > len(SITES):
        raise UserError(
            f"data.max_steps {most} and data.n_distractors {settings.n_distractors} "
            f"need more than the {len(SITES)} sites there are; lower one of them"
        )
    return draw.generate("report", settings, split, n, seed, _draw, _write)


# A report: (site, kind, size, uptake) in anatomical order; kind None where the site is normal.


def _draw(settings, rng: random.Random, n_findings):
    sites = draw.shuffled(rng, range(len(SITES)))
    findings: list[tuple[Any, str | None, int, str | None]] = []
    for site in sites[:n_findings]:
        kind = KINDS[draw.pick(rng, len(KINDS))]
        size = 2 + draw.pick(rng, settings.max_value - 1)
        findings.append((site, kind, size, UPTAKES[draw.pick(rng, 2)]))
    normal = sites[n_findings : n_findings + settings.n_distractors]
    findings += [(site, None, 0, None) for site in normal]
    return tuple(sorted(findings, key=lambda finding: finding[0]))


def _write(settings, rng, problem, test):
    texts, impression = [], []
    for site, kind, size, uptake in problem:
        text = draw.template(settings, rng, FINDINGS if kind else NORMAL, test)
        texts.append(text.format(site=SITES[site], kind=kind, size=size, uptake=uptake))
        if kind:
            result = conclusion(kind, size, uptake)
            impression.append((texts[-1], ES))
            impression.append((f"The {kind} in the {SITES[site]} suggests {result}.", AS))
    if settings.fact_order == "shuffled":
        texts = draw.shuffled(rng, texts)
    return draw.labelled_record("", " ".join(texts), impression, "")
