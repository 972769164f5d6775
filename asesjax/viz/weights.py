"""A rationale whose tokens are coloured by weight, for terminals and for pages."""

import html
from collections.abc import Sequence

# Colours of a terminal (of its 256), from light to heavy.
_TERMINAL = (250, 223, 216, 209, 202, 196)


def weights_text(tokens: Sequence[str], weights: Sequence[float], colour: bool = True) -> str:
    """Write a rationale for a terminal.

    Args:
      tokens: characters of each token, joined the text.
      weights: of each, in [0, 1].
      colour: the heavier the redder; otherwise each token is followed by its weight in tenths,
        0 to 9.

    Example:
      >>> weights_text(["5", " +", " 3"], [0.91, 0.4, 1.0], colour=False)
      '5[9] +[4] 3[9]'
    """
    parts = []
    for token, weight in zip(tokens, weights, strict=True):
        if colour:
            shade = _TERMINAL[_level(weight, len(_TERMINAL))]
            parts.append(f"\x1b[38;5;{shade}m{token}\x1b[0m")
        else:
            parts.append(f"{token}[{_level(weight, 10)}]" if token else "")
    return "".join(parts)


def weights_html(tokens: Sequence[str], weights: Sequence[float], question: str = "") -> str:
    """Write a rationale as one HTML paragraph; each token's title is its weight.

    Example:
      >>> weights_html(["a < b"], [0.5])
      '<p><span title="0.500" style="background:rgba(255,90,0,0.50)">a &lt; b</span></p>'
    """
    spans = "".join(
        f'<span title="{weight:.3f}" style="background:rgba(255,90,0,{weight:.2f})">'
        f"{html.escape(token)}</span>"
        for token, weight in zip(tokens, weights, strict=True)
    )
    head = f"<p><b>{html.escape(question)}</b></p>" if question else ""
    return f"{head}<p>{spans}</p>"


def weights_page(
    title: str, rationales: Sequence[tuple[str, Sequence[str], Sequence[float]]]
) -> str:
    """Write a whole HTML page of questions and their coloured rationales, with a legend.

    Args:
      title: of the page.
      rationales: question, tokens and weights of each.
    """
    tenths = [i / 10 for i in range(11)]
    legend = weights_html([f" {tenth:.1f} " for tenth in tenths], tenths)
    body = "\n".join(weights_html(tokens, own, question) for question, tokens, own in rationales)
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title>'
    style = "body{max-width:50em;margin:2em auto;font-family:sans-serif;white-space:pre-wrap}"
    return (
        f"<!doctype html>\n<html><head>{head}<style>{style}</style></head>\n"
        f"<body><h1>{html.escape(title)}</h1>\n{legend}\n{body}\n</body></html>\n"
    )


def _level(weight: float, levels: int) -> int:
    return min(int(weight * levels), levels - 1)
