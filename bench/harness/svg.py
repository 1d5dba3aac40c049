# SPDX-License-Identifier: MIT
"""Pictures of figures. Colours follow the reader's light or dark setting; everything is placed by what it holds, so nothing overlaps."""
import math
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

WIDTH = 880
MARGIN = 24
ROW = 22
FONT = 13
CHARACTER = 7.3  # of this font, on the wide side

# Classes that series may have: how they look on light and on dark paper.
COLOURS = {
    "own": ("#1f6fb2", "#5aa9e6"),
    "own2": ("#64a6d8", "#2f78b0"),
    "own3": ("#123f66", "#9fd0f5"),
    "limit": ("#b4b8bd", "#5b6168"),
    "peer": ("#d9822b", "#e8a05a"),
    "calm": ("#7aa874", "#7fb77a"),
    "busy": ("#c2453f", "#ef7b73"),
    "late": ("#8c79b4", "#ab99d6"),
}
INK = {"paper": ("#ffffff", "#14171a"), "ink": ("#1d2125", "#e4e7ea"), "faint": ("#5d656d", "#9aa3ab"), "grid": ("#e3e6e9", "#2c3137")}


def _style():
    def rules(which):
        lines = [f".{name}{{fill:{shades[which]}}}.{name}-line{{stroke:{shades[which]};fill:none}}"
                 for name, shades in {**COLOURS, **INK}.items()]
        return "".join(lines)

    return (f"text{{font:{FONT}px 'DejaVu Sans',Verdana,sans-serif}}.title{{font-size:17px;font-weight:bold}}.head{{font-weight:bold}}"
            f"{rules(0)}@media (prefers-color-scheme:dark){{{rules(1)}}}")


def text_width(text):
    return len(text) * CHARACTER


class Drawing:
    def __init__(self):
        self._parts = []
        self.bottom = MARGIN

    def text(self, x, y, words, cls="ink", anchor="start"):
        self._parts.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{cls}" text-anchor="{anchor}">{escape(words)}</text>')

    def rect(self, x, y, width, height, cls):
        self._parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{height:.1f}" class="{cls}"/>')

    def line(self, x1, y1, x2, y2, cls, width=1.0):
        self._parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{cls}-line" stroke-width="{width}"/>')

    def dot(self, x, y, radius, cls):
        self._parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" class="{cls}"/>')

    def path(self, points, cls):
        d = "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._parts.append(f'<path d="{d}" class="{cls}-line" stroke-width="2"/>')

    def document(self, title):
        height = self.bottom + MARGIN
        return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" viewBox="0 0 {WIDTH} {height:.0f}" '
                f'role="img"><title>{escape(title)}</title><style>{_style()}</style>\n'
                f'<rect width="{WIDTH}" height="{height:.0f}" class="paper"/>\n' + "\n".join(self._parts) + "\n</svg>\n")


# --- axes


def linear_ticks(most, unit=1.0, count=5):
    """Steps from 0 that reach `most`, round in `unit`s."""
    if most <= 0:
        return [0, unit]
    raw = most / unit / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw)
    return [unit * step * i for i in range(math.ceil(most / unit / step) + 1)]


def decades(least, most):
    """Powers of ten around both."""
    first, last = math.floor(math.log10(least)), math.ceil(math.log10(most))
    return [10.0 ** i for i in range(first, max(last, first + 1) + 1)]


@dataclass
class Axis:
    """From a value to a place between two."""
    ticks: list
    start: float
    end: float
    log: bool = False

    def at(self, value):
        low, high = self.ticks[0], self.ticks[-1]
        if self.log:
            share = (math.log(max(value, low)) - math.log(low)) / (math.log(high) - math.log(low))
        else:
            share = (value - low) / (high - low)
        return self.start + share * (self.end - self.start)


# --- what stands above every picture


def _header(drawing, title, subtitle, legend):
    drawing.text(MARGIN, drawing.bottom + 14, title, "ink title")
    drawing.bottom += 24
    for line in subtitle:
        drawing.text(MARGIN, drawing.bottom + 12, line, "faint")
        drawing.bottom += 18
    if legend:
        drawing.bottom += 8
        x = MARGIN
        for name, cls in legend:
            if x + 18 + text_width(name) > WIDTH - MARGIN:
                x = MARGIN
                drawing.bottom += 20
            drawing.rect(x, drawing.bottom + 2, 12, 12, cls)
            drawing.text(x + 18, drawing.bottom + 13, name)
            x += 18 + text_width(name) + 22
        drawing.bottom += 20
    drawing.bottom += 8


def _vertical_grid(drawing, axis, top, bottom, show):
    for tick in axis.ticks:
        drawing.line(axis.at(tick), top, axis.at(tick), bottom, "grid")
        drawing.text(axis.at(tick), bottom + 16, show(tick), "faint", "middle")


# --- bars


@dataclass
class Panel:
    """Some bars on one scale: (label, value, class)."""
    title: str
    bars: list
    show: object
    show_tick: object = None
    unit: float = 1.0  # ticks are round in this


def bar_picture(title, subtitle, legend, panels, same_scale=False):
    """Panels of bars below each other."""
    drawing = Drawing()
    _header(drawing, title, subtitle, legend)
    labels = [bar[0] for panel in panels for bar in panel.bars]
    left = MARGIN + max(map(text_width, labels), default=0) + 10
    most = max((bar[1] for panel in panels for bar in panel.bars), default=1)
    for panel in panels:
        own = max((bar[1] for bar in panel.bars), default=1)
        ends = max((text_width(panel.show(bar[1])) for bar in panel.bars), default=0)
        axis = Axis(linear_ticks(most if same_scale else own, panel.unit), left, WIDTH - MARGIN - ends - 6)
        drawing.text(MARGIN, drawing.bottom + 14, panel.title, "ink head")
        top = drawing.bottom + 24
        bottom = top + len(panel.bars) * ROW
        _vertical_grid(drawing, axis, top, bottom, panel.show_tick or panel.show)
        for i, (label, value, cls) in enumerate(panel.bars):
            y = top + i * ROW
            drawing.text(left - 8, y + 15, label, "ink", "end")
            drawing.rect(left, y + 3, axis.at(value) - left, ROW - 6, cls)
            drawing.text(axis.at(value) + 6, y + 15, panel.show(value), "ink")
        drawing.bottom = bottom + 36
    drawing.bottom -= 16
    return drawing.document(title)


# --- ranges


@dataclass
class Range:
    """Values of one thing, the first a bar's beginning, the last its end; a dot at each."""
    label: str
    values: list
    cls: str


@dataclass
class Group:
    title: str
    ranges: list = field(default_factory=list)


def range_picture(title, subtitle, legend, groups, show):
    """Groups of ranges on one logarithmic scale."""
    drawing = Drawing()
    _header(drawing, title, subtitle, legend)
    ranges = [r for group in groups for r in group.ranges]
    left = MARGIN + max((text_width(r.label) for r in ranges), default=0) + 16
    values = [v for r in ranges for v in r.values if v > 0] or [1]
    axis = Axis(decades(min(values), max(values)), left, WIDTH - MARGIN - 40, log=True)
    for group in groups:
        drawing.text(MARGIN, drawing.bottom + 14, group.title, "ink head")
        top = drawing.bottom + 24
        bottom = top + len(group.ranges) * ROW
        _vertical_grid(drawing, axis, top, bottom, show)
        for i, r in enumerate(group.ranges):
            y = top + (i + 0.5) * ROW
            drawing.text(left - 14, y + 5, r.label, "ink", "end")
            drawing.line(axis.at(r.values[0]), y, axis.at(r.values[-1]), y, r.cls, 3)
            for k, value in enumerate(r.values):
                drawing.dot(axis.at(value), y, (4, 6, 4)[k % 3], r.cls)
        drawing.bottom = bottom + 36
    drawing.bottom -= 16
    return drawing.document(title)


# --- lines


@dataclass
class Series:
    """Points (x, y), x ascending."""
    name: str
    points: list
    cls: str


def line_picture(title, subtitle, series, show_x, show_y, x_title, y_title):
    """Lines over a scale of doublings; the other scale is logarithmic too."""
    drawing = Drawing()
    _header(drawing, title, subtitle, [(s.name, s.cls) for s in series])
    xs = sorted({x for s in series for x, _ in s.points})
    ys = [y for s in series for _, y in s.points]
    left, height = MARGIN + 70, 300
    drawing.text(MARGIN, drawing.bottom + 12, y_title, "faint")
    top = drawing.bottom + 30
    vertical = Axis(decades(min(ys), max(ys)), top + height, top, log=True)
    horizontal = Axis([xs[0], xs[-1] if len(xs) > 1 else xs[0] * 2], left + 30, WIDTH - MARGIN - 40, log=True)
    for tick in vertical.ticks:
        drawing.line(left, vertical.at(tick), WIDTH - MARGIN, vertical.at(tick), "grid")
        drawing.text(left - 8, vertical.at(tick) + 4, show_y(tick), "faint", "end")
    for x in xs:
        drawing.line(horizontal.at(x), top, horizontal.at(x), top + height, "grid")
        drawing.text(horizontal.at(x), top + height + 18, show_x(x), "faint", "middle")
    drawing.text((left + WIDTH - MARGIN) / 2, top + height + 38, x_title, "faint", "middle")
    for s in series:
        points = [(horizontal.at(x), vertical.at(y)) for x, y in s.points]
        drawing.path(points, s.cls)
        for x, y in points:
            drawing.dot(x, y, 4.5, s.cls)
    drawing.bottom = top + height + 44
    return drawing.document(title)
