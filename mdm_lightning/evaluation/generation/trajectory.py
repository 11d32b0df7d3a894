"""Which token appeared at which step: a page to look at, and to play."""

import html
from collections.abc import Sequence
from itertools import islice
from string import Template

import matplotlib
from matplotlib.colors import to_hex

_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Trajectories</title><style>
body { font: 16px/1.6 system-ui, sans-serif; margin: 2em auto; max-width: 60em; color: #222; }
pre { font: 14px/1.7 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid #ccc;
      padding: 1em; }
pre span { border-radius: 2px; } .given { font-weight: bold; } .hidden { background: #eee !important; color: #bbb; }
input { width: 60%; vertical-align: middle; } .key { display: inline-block; padding: 0 .5em; }
</style></head><body>
<h1>Trajectories</h1>
<p>$caption. Colour: the step at which a token appeared, <span class="key" style="background:$first">step 0</span> to
<span class="key" style="background:$last">step $steps</span>; given text is bold. Hover over a token for its step.</p>
<p><label>Shown after step <output id="at">$steps</output>
<input id="step" type="range" min="-1" max="$steps" value="$steps"></label></p>
$texts
<script>
const slider = document.getElementById("step"), tokens = [...document.querySelectorAll("span[data-step]")];
tokens.forEach(token => token.dataset.text = token.textContent);
slider.addEventListener("input", () => {
  document.getElementById("at").textContent = slider.value;
  for (const token of tokens) {
    const hidden = +token.dataset.step > +slider.value;
    token.classList.toggle("hidden", hidden);
    token.textContent = hidden ? "\u2591" : token.dataset.text;
  }
});
</script></body></html>
""")


def trajectory_page(
    pieces: Sequence[Sequence[tuple[str, int]]], revealed_at: Sequence[Sequence[int]], caption: str
) -> str:
    """A self-contained HTML page with a slider over the steps.

    Args:
        pieces: each sequence's text in pieces, with the number of tokens that spell each (`spell_out`).
        revealed_at: the step at which each token appeared, -1 for those that were given. A piece is there when the last
            of its tokens is.
        caption: how the sequences were generated.
    """
    last = max((step for row in revealed_at for step in row), default=0)
    colours = matplotlib.colormaps["viridis_r"].resampled(256)

    def colour(step: int) -> str:
        # The light half of the map, so that black text stays readable on it.
        return to_hex(colours(0.45 * step / max(last, 1)))

    def span(piece: str, step: int) -> str:
        text = html.escape(piece)
        if step < 0:
            return f'<span class="given">{text}</span>'
        return f'<span data-step="{step}" title="step {step}" style="background:{colour(step)}">{text}</span>'

    def spans(row: Sequence[tuple[str, int]], steps: Sequence[int]) -> str:
        own = iter(steps)
        return "".join(span(piece, max(islice(own, tokens))) for piece, tokens in row)

    texts = "\n".join(f"<pre>{spans(row, steps)}</pre>" for row, steps in zip(pieces, revealed_at, strict=True))
    return _PAGE.substitute(
        caption=html.escape(caption), first=colour(0), last=colour(last), steps=max(last, 0), texts=texts
    )
