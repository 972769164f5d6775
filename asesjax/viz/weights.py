"""Rationales with their tokens coloured by weight, as text for terminals and as HTML."""

import html
from collections.abc import Sequence

from asesjax.core.errors import harmless
from asesjax.viz.segments import html_page, paragraphs

# Of a terminal's 256 colours, from weight 0 to 1.
_TERMINAL = (250, 223, 216, 209, 202, 196)


def weights_text(tokens: Sequence[str], weights: Sequence[float], colour: bool = True) -> str:
    """Write a rationale with its weights, in [0, 1], as shades of red or as tenths, 0 to 9.

    >>> weights_text(["5", " +", " 3"], [0.91, 0.4, 1.0], colour=False)
    '5[9] +[4] 3[9]'
    """
    pairs, n = zip(map(harmless, tokens), weights, strict=True), len(_TERMINAL)
    if colour:
        return "".join(f"\x1b[38;5;{_TERMINAL[_level(w, n)]}m{token}\x1b[0m" for token, w in pairs)
    return "".join(f"{token}[{_level(w, 10)}]" for token, w in pairs if token)


def weights_html(tokens: Sequence[str], weights: Sequence[float], question: str = "") -> str:
    """Write a rationale as an HTML paragraph; the title of each token is its weight.

    >>> weights_html(["a < b"], [0.5])
    '<p><span title="0.500" style="background:rgba(255,90,0,0.50)">a &lt; b</span></p>'
    """
    spans = "".join(
        f'<span title="{weight:.3f}" style="background:rgba(255,90,0,{weight:.2f})">'
        f"{html.escape(token)}</span>"
        for token, weight in zip(tokens, weights, strict=True)
    )
    return paragraphs(question, spans)


def weights_page(
    title: str, rationales: Sequence[tuple[str, Sequence[str], Sequence[float]]]
) -> str:
    """Write an HTML page with a legend and the question, tokens and weights of each rationale."""
    tenths = [i / 10 for i in range(11)]
    legend = weights_html([f" {tenth:.1f} " for tenth in tenths], tenths)
    body = [weights_html(tokens, own, question) for question, tokens, own in rationales]
    return html_page(title, [legend, *body])


def _level(weight: float, levels: int) -> int:
    return min(int(weight * levels), levels - 1)
