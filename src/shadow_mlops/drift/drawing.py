"""The pictures of a drift report as inline SVG; colours and fonts come from ``report.css``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from shadow_mlops.drift.report import Bin, FeatureDrift, Moment
from shadow_mlops.drift.wording import figure, moment, printable, share
from shadow_mlops.markup import Node, element

_WIDTH = 360.0
_LETTER = 6.1  # width of a letter of a tick, in units of the view box: on the safe side of usual fonts
_TOPS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
_MOST_ROWS = 8  # categories that are drawn; the others are one bar, and rows of the table
_MOST_LINES = 5  # of a time line: more cannot be told apart


@dataclass(frozen=True, slots=True)
class _Bar:
    bin: Bin
    reference: float
    current: float
    """Shares."""


def histogram(feature: FeatureDrift) -> Node:
    """Reference and current of one feature, one over the other: columns for a number, rows for categories."""
    bars = _bars(feature.bins)
    drawn, height = _rows(_largest(bars)) if feature.kind == "category" else _columns(bars)
    title = f"{printable(feature.name)}: share of rows per bin, reference and current"
    return _picture(title, height, drawn, "histogram")


def sketch(feature: FeatureDrift) -> Node:
    """The same, without words, for a cell of a table."""
    bars = _largest(_bars(feature.bins), 12)
    most = max((max(bar.reference, bar.current) for bar in bars), default=0.0) or 1.0
    step = 96 / max(len(bars), 1)
    drawn = []
    for place, bar in enumerate(bars):
        drawn += _pair(place * step, 26, step, 26 / most, bar)
    return element("svg", *drawn, viewBox="0 0 96 26", class_="sketch", aria_hidden="true", preserveAspectRatio="none")


def meter(score: float, threshold: float) -> Node:
    """How far a score is from its threshold, which stands in the middle."""
    filled = min(score / (2 * threshold), 1.0) * 64
    return element(
        "svg",
        _rectangle(0, 3, 64, 4, "track"),
        _rectangle(0, 3, filled, 4, "over" if score > threshold else "under"),
        element("line", x1=32, x2=32, y1=0, y2=10, class_="threshold"),
        viewBox="0 0 64 10",
        class_="meter",
        aria_hidden="true",
    )


def _picture(title: str, height: float, drawn: Sequence[Node], kind: str) -> Node:
    return element(
        "svg", element("title", title), *drawn, viewBox=f"0 0 {_WIDTH:g} {height:g}", role="img", class_=kind
    )


def _bars(bins: Sequence[Bin]) -> list[_Bar]:
    reference, current = max(sum(b.reference for b in bins), 1), max(sum(b.current for b in bins), 1)
    return [_Bar(b, b.reference / reference, b.current / current) for b in bins]


def _largest(bars: Sequence[_Bar], most: int = _MOST_ROWS) -> list[_Bar]:
    """The bars that are large on either side, in their order, and one for all others."""
    if len(bars) <= most:
        return list(bars)
    by_size = sorted(bars, key=lambda bar: max(bar.reference, bar.current), reverse=True)
    kept = {id(bar) for bar in by_size[: most - 1]}
    rest = by_size[most - 1 :]
    counts = sum(bar.bin.reference for bar in rest), sum(bar.bin.current for bar in rest)
    folded = Bin(label=f"{len(rest):,} more", role="other", reference=counts[0], current=counts[1])
    shares = sum(bar.reference for bar in rest), sum(bar.current for bar in rest)
    return [*(bar for bar in bars if id(bar) in kept), _Bar(folded, *shares)]


def _rectangle(x: float, y: float, width: float, height: float, kind: str) -> Node:
    return element("rect", x=_short(x), y=_short(y), width=_short(width), height=_short(height), rx=1.5, class_=kind)


def _short(x: float) -> str:
    return f"{x:.1f}".removesuffix(".0")


def _text(x: float, y: float, text: str, anchor: str = "middle", kind: str = "tick") -> Node:
    return element("text", text, x=_short(x), y=_short(y), text_anchor=anchor, class_=kind)


def _said(bar: _Bar) -> Node:
    # Shown by browsers when the pointer rests on the bar.
    return element(
        "title", f"{printable(bar.bin.label)}: reference {share(bar.reference)}, current {share(bar.current)}"
    )


def _pair(x: float, bottom: float, step: float, scale: float, bar: _Bar) -> list[Node]:
    tall, short = bar.reference * scale, bar.current * scale
    return [
        _rectangle(x + step * 0.06, bottom - tall, step * 0.88, tall, "reference"),
        _rectangle(x + step * 0.28, bottom - short, step * 0.44, short, "current"),
    ]


def _columns(bars: Sequence[_Bar]) -> tuple[list[Node], float]:
    left, top, bottom = 34.0, 8.0, 128.0
    apart = [place for place, bar in enumerate(bars) if bar.bin.role != "value"][:1]
    gap = 8.0 if apart and apart[0] else 0.0
    step = (_WIDTH - left - gap) / max(len(bars), 1)
    places = [left + place * step + (gap if apart and place >= apart[0] else 0.0) for place in range(len(bars))]
    most = max((max(bar.reference, bar.current) for bar in bars), default=0.0)
    most = next((each for each in _TOPS if each >= most - 1e-9), 1.0)
    drawn = list(_grid(most, left, top, bottom))
    for x, bar in zip(places, bars, strict=True):
        reach = _rectangle(x, top, step, bottom - top, "reach")  # the pointer finds a bar by its whole column
        drawn.append(element("g", _said(bar), reach, *_pair(x, bottom, step, (bottom - top) / most, bar)))
    drawn += _axis(_ticks(bars, places, step), bottom + 13)
    return drawn, bottom + 20


def _grid(most: float, left: float, top: float, bottom: float) -> Iterator[Node]:
    for part in (0.0, 0.5, 1.0):
        y = bottom - (bottom - top) * part
        yield element("line", x1=left, x2=_WIDTH, y1=y, y2=y, class_="grid" if part else "axis")
        yield _text(left - 5, y + 3, f"{100 * most * part:.3g} %", "end")


def _ticks(bars: Sequence[_Bar], places: Sequence[float], step: float) -> list[tuple[float, str]]:
    """The label of each bin under its middle; where there is no room for that, the edges between numeric bins."""
    ticks = [(x + step / 2, printable(bar.bin.label, 24)) for x, bar in zip(places, bars, strict=True)]
    if all(len(label) * _LETTER < step for _, label in ticks):
        return ticks
    ticks = []
    for x, bar in zip(places, bars, strict=True):
        if bar.bin.role == "value":
            if bar.bin.high is not None:
                ticks.append((x + step, f"{bar.bin.high:,.4g}" if abs(bar.bin.high) < 1e6 else f"{bar.bin.high:.3g}"))
        else:
            ticks.append((x + step / 2, bar.bin.label))
    return ticks


def _axis(ticks: Sequence[tuple[float, str]], y: float) -> Iterator[Node]:
    """The last tick, and from the right to the left as many as have room."""
    free = _WIDTH + 12
    for x, text in reversed(ticks):
        half = len(text) * _LETTER / 2
        middle = min(x, _WIDTH - half)
        if middle + half <= free - 4:
            yield _text(middle, y, text)
            free = middle - half


def _rows(bars: Sequence[_Bar]) -> tuple[list[Node], float]:
    left, right, tall = 104.0, _WIDTH - 44.0, 20.0
    most = max((max(bar.reference, bar.current) for bar in bars), default=0.0) or 1.0
    drawn = []
    for place, bar in enumerate(bars):
        y = place * tall
        widths = [(right - left) * part / most for part in (bar.reference, bar.current)]
        drawn.append(
            element(
                "g",
                _said(bar),
                _rectangle(0, y, _WIDTH, tall, "reach"),
                _text(
                    left - 8,
                    y + 13.5,
                    printable(bar.bin.label, 16),
                    "end",
                    "tick" if bar.bin.role == "value" else "tick aside",
                ),
                _rectangle(left, y + 3, widths[0], tall - 6, "reference"),
                _rectangle(left, y + 6.5, widths[1], tall - 13, "current"),
                _text(left + max(widths) + 6, y + 13.5, share(bar.current), "start"),
            )
        )
    drawn.append(element("line", x1=left, x2=left, y1=0, y2=len(bars) * tall, class_="axis"))
    return drawn, len(bars) * tall + 2


def timeline(moments: Sequence[Moment], features: Sequence[str], threshold: float) -> Node:
    """PSI of a few features over the windows, and below each window what it was judged to be.

    Parameters
    ----------
    moments
        At least 2, oldest first.
    features
        Whose lines are drawn: the first five.
    threshold
        Drawn as a line.
    """
    left, right, top, bottom = 44.0, 706.0, 14.0, 190.0
    shown = features[:_MOST_LINES]
    most = max([threshold * 1.25, *(each.psi.get(name, 0.0) for each in moments for name in shown)])
    places = [left + (right - left) * i / (len(moments) - 1) for i in range(len(moments))]

    def height(psi: float) -> float:
        # PSI grows with the square of a shift: so drawn, a steady drift is a straight line.
        return bottom - (bottom - top) * math.sqrt(max(psi, 0.0) / most)

    drawn = [
        element("line", x1=left, x2=right, y1=bottom, y2=bottom, class_="axis"),
        element(
            "line", x1=left, x2=right, y1=_short(height(threshold)), y2=_short(height(threshold)), class_="threshold"
        ),
        _text(left - 5, height(threshold) + 3, f"{threshold:g}", "end"),
        _text(left - 5, bottom + 3, "0", "end"),
        _text(left - 5, top + 3, f"{most:.2g}", "end"),
    ]
    for number, name in enumerate(shown):
        points = [
            f"{_short(x)},{_short(height(each.psi[name]))}"
            for x, each in zip(places, moments, strict=True)
            if name in each.psi
        ]
        drawn.append(element("polyline", points=" ".join(points), class_=f"line line-{number}"))
    width = min((right - left) / (len(moments) - 1), 24.0)
    for x, each in zip(places, moments, strict=True):
        scores = "".join(f"; {printable(name)} {figure(each.psi.get(name))}" for name in shown)
        said = f"{moment(each.since)} to {moment(each.until)}: {each.verdict}, {each.rows:,} rows{scores}"
        drawn.append(
            element(
                "g",
                element("title", said),
                _rectangle(x - width / 2, top, width, bottom - top, "reach"),
                _rectangle(x - width * 0.4, bottom + 6, width * 0.8, 6, f"verdict {each.verdict}"),
            )
        )
    title = "PSI of the features that moved most, window by window"
    return element("svg", element("title", title), *drawn, viewBox="0 0 720 206", role="img", class_="timeline")
