# SPDX-License-Identifier: MIT
"""The chart: a few measures, as bars, in SVG for light and dark pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from xml.sax.saxutils import escape

from contestants import CONTESTANTS
from report import number, times

if TYPE_CHECKING:
    from collections.abc import Iterator

    from samples import Results


class Panel(NamedTuple):
    """A measure whose seconds are shown, multiplied by a factor."""

    measure: str
    title: str
    unit: str
    factor: float


PANELS = [
    Panel("command", "A small command on an open connection", "ms", 1e3),
    Panel("one", "Connect, and run a small command", "ms", 1e3),
    Panel("output", "64 MiB of output", "ms", 1e3),
    Panel("tokens", "An output token of 8 octets", "µs", 1e6),
    Panel("noop", "noop()", "µs", 1e6),
    Panel("sleep200", "200 one-second commands at a time", "s", 1),
]

# Why there is no bar with 200 threads.
NO_BAR = {"pyremctl": "one after the other", "perl": "no threads"}

# Who is drawn how; all others are ours.
KINDS = {"own": "limit", "open": "other", "pyremctl": "other", "perl": "other"}
LEGEND = {"ours": "this package", "limit": "the limit of latency", "other": "others"}

STYLE = """\
text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600 }
.label { text-anchor: end }
.page { fill: #ffffff }
.ours { fill: #2f6fde }
.limit { fill: #8a919b }
.other { fill: #dd8a3c }
.spread { stroke: #1f2328; stroke-width: 1.2 }
.note { fill: #59636e }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .page { fill: #0d1117 }
  .ours { fill: #4a8df5 }
  .spread { stroke: #e6edf3 }
  .note { fill: #9aa4af }
}
"""

# In pixels.  The labels are to the left of the bars, the figures to their right.
WIDTH, MARGIN, HEAD = 960, 16, 56
LABELS, BARS = 166, 170
ROW, BAR, GAP = 18, 12, 44
PANEL_WIDTH, PANEL_HEIGHT = WIDTH // 2, len(CONTESTANTS) * ROW + GAP


def draw(results: Results) -> str:
    """Return the chart."""
    height = HEAD + PANEL_HEIGHT * len(PANELS) // 2
    size = f'width="{WIDTH}" height="{height}"'
    box = f'viewBox="0 0 {WIDTH} {height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {size} {box}>',
        "<title>The times of this package and of the others, as bars</title>",
        f"<style>\n{STYLE}</style>",
        f'<rect class="page" {size}/>',
        *legend(),
    ]
    for count, panel in enumerate(PANELS):
        x, y = PANEL_WIDTH * (count % 2), HEAD + PANEL_HEIGHT * (count // 2)
        lines.append(f'<g transform="translate({x + MARGIN} {y})">')
        lines += draw_panel(results, panel)
        lines.append("</g>")
    return "\n".join([*lines, "</svg>\n"])


def legend() -> Iterator[str]:
    """Say what the colours and the figures are."""
    for count, (kind, title) in enumerate(LEGEND.items()):
        x = MARGIN + 150 * count
        yield f'<rect class="{kind}" x="{x}" y="15" width="{BAR}" height="{BAR}"/>'
        yield text(x + BAR + 6, 25, title)
    yield text(
        MARGIN + 150 * len(LEGEND),
        25,
        "Less is better. Lines: least to greatest. In brackets: times the limit.",
        "note",
    )


def draw_panel(results: Results, panel: Panel) -> Iterator[str]:
    """Draw one measure's bars, whose longest gives the scale."""
    measure = panel.measure
    yield text(0, 12, f"{panel.title} ({panel.unit})", "title")
    drawn = [c.key for c in CONTESTANTS if results.has(measure, c.key, "seconds")]
    scale = BARS / max(max(results.samples(measure, key)) for key in drawn)
    for count, contestant in enumerate(CONTESTANTS):
        key = contestant.key
        top = 22 + ROW * count
        base = top + BAR - 2
        yield text(LABELS - 8, base, contestant.title, "label")
        if key not in drawn:
            yield text(LABELS, base, NO_BAR.get(key, ""), "note")
            continue
        median = results.median(measure, key)
        low, high = (end(results.samples(measure, key)) * scale for end in (min, max))
        left, right = LABELS + low, LABELS + high
        yield (
            f'<rect class="{KINDS.get(key, "ours")}" x="{LABELS}" y="{top}" '
            f'width="{median * scale:.1f}" height="{BAR}"/>'
        )
        yield f'<path class="spread" d="M{left:.1f} {top + BAR / 2:g}H{right:.1f}"/>'
        ratio = times(results.ratio(measure, key, "own"))
        yield text(right + 6, base, f"{number(median * panel.factor)} ({ratio})")


def text(x: float, y: float, words: str, kind: str = "") -> str:
    """Return a line of text, whose baseline is at ``y``."""
    attribute = f' class="{kind}"' if kind else ""
    return f'<text{attribute} x="{x:.1f}" y="{y:g}">{escape(words)}</text>'
