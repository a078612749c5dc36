# SPDX-License-Identifier: MIT OR Apache-2.0
"""Small charts as SVG: lines and grouped bars, linear or logarithmic."""
import math
from xml.sax.saxutils import escape

FONT = 'font-family="Helvetica, Arial, sans-serif"'
INK, FAINT, GRID = "#222222", "#666666", "#dddddd"
# Of each tracker, in every figure: name, colour, shape of its points, dashes.
STYLE = {
    "pt": ("PT", "#0072b2", "circle", ""),
    "emul": ("Emul", "#e69f00", "square", ""),
    "ptxen": ("PTxen", "#d55e00", "diamond", ""),
    "emulxen": ("Emulxen", "#009e73", "triangle", ""),
    "scanxen": ("Scanxen", "#cc79a7", "circle", ""),
    "autoxen": ("Autoxen", "#000000", "square", ""),
    "pagemap-scan": ("WP_ASYNC + PAGEMAP_SCAN", "#56b4e9", "triangle", "5 3"),
    "uffd-wp": ("userfaultfd (sync)", "#8c6bb1", "diamond", "5 3"),
    "soft-dirty": ("soft-dirty", "#999999", "circle", "5 3"),
}


def text(x, y, words, size=12, anchor="middle", color=INK, extra=""):
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{color}" '
            f'{FONT} {extra}>{escape(str(words))}</text>')


def point(shape, x, y, color, r=4.0):
    if shape == "square":
        return f'<rect x="{x - r * .9:.1f}" y="{y - r * .9:.1f}" width="{r * 1.8:.1f}" height="{r * 1.8:.1f}" fill="{color}"/>'
    if shape == "diamond":
        d = f"M{x:.1f} {y - r * 1.3:.1f}l{r * 1.3:.1f} {r * 1.3:.1f}l{-r * 1.3:.1f} {r * 1.3:.1f}l{-r * 1.3:.1f} {-r * 1.3:.1f}z"
        return f'<path d="{d}" fill="{color}"/>'
    if shape == "triangle":
        d = f"M{x:.1f} {y - r * 1.2:.1f}l{r * 1.2:.1f} {r * 2.1:.1f}h{-r * 2.4:.1f}z"
        return f'<path d="{d}" fill="{color}"/>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}" fill="{color}"/>'


def short(value):
    """1500 as 1.5k."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{unit}"
    return f"{value:g}"


class Axis:
    """Values to positions; ticks at round numbers."""

    def __init__(self, low, high, start, end, log=False, ticks=None):
        self.log, self.start, self.end = log, start, end
        if log:
            low = max(low, 1e-12)
            low, high = 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(max(high, low * 1.0001)))
            self.ticks = [10 ** e for e in range(round(math.log10(low)), round(math.log10(high)) + 1)]
        else:
            low = min(0, low)
            step = 10 ** math.floor(math.log10(max(high - low, 1e-12)))
            step *= next(s for s in (0.1, 0.2, 0.5, 1, 2) if (high - low) / (step * s) <= 8)
            high = math.ceil(high / step - 1e-9) * step
            self.ticks = [low + step * n for n in range(round((high - low) / step) + 1)]
        if ticks:
            self.ticks = ticks
            if log:
                low, high = ticks[0], ticks[-1]
        self.low, self.high = low, high

    def __call__(self, value):
        f = math.log if self.log else float
        low, high = f(self.low), f(self.high)
        part = (f(max(value, self.low)) - low) / ((high - low) or 1)
        return self.start + part * (self.end - self.start)


def frame(width, height, title, parts):
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" role="img">')
    return "\n".join([head, f"<title>{escape(title)}</title>", f'<rect width="{width}" height="{height}" fill="white"/>',
                      text(16, 26, title, 15, "start", extra='font-weight="bold"')] + parts + ["</svg>"]) + "\n"


def y_axis(axis, left, right, label):
    parts = []
    for tick in axis.ticks:
        y = axis(tick)
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="{GRID}"/>')
        parts.append(text(left - 7, y + 4, short(tick), 11, "end", FAINT))
    middle = (axis.start + axis.end) / 2
    parts.append(text(left - 48, middle, label, 12, extra=f'transform="rotate(-90 {left - 48} {middle:.1f})"'))
    return parts


def lines(title, x_label, y_label, series, log_x=False, log_y=False, x_ticks=None, notes=(), marks=()):
    """series: (name, colour, shape, dashes, [(x, y), ...]); marks: (x, words)."""
    series = [s for s in series if s[4]]
    height, left, right, top, bottom = 420, 78, 500, 52, 360
    names = max([len(s[0]) for s in series], default=0)
    width = right + 56 + round(8 * max(names, 8))
    xs = [x for s in series for x, _ in s[4]] or [1]
    ys = [y for s in series for _, y in s[4]] or [1]
    ax = Axis(min(xs), max(xs), left, right, log_x, x_ticks)
    ay = Axis(min(ys), max(ys), bottom, top, log_y)
    parts = y_axis(ay, left, right, y_label)
    for tick in ax.ticks:
        parts.append(f'<line x1="{ax(tick):.1f}" y1="{bottom}" x2="{ax(tick):.1f}" y2="{bottom + 4}" stroke="{INK}"/>')
        parts.append(text(ax(tick), bottom + 18, short(tick), 11, color=FAINT))
    parts.append(f'<line x1="{left}" y1="{bottom}" x2="{right}" y2="{bottom}" stroke="{INK}"/>')
    parts.append(text((left + right) / 2, bottom + 40, x_label))
    for x, words in marks:
        if ax.low <= x <= ax.high:
            parts.append(f'<line x1="{ax(x):.1f}" y1="{top}" x2="{ax(x):.1f}" y2="{bottom}" stroke="{FAINT}" stroke-dasharray="2 3"/>')
            parts.append(text(ax(x) + 4, top + 12, words, 11, "start", FAINT))
    for n, (name, color, shape, dashes, values) in enumerate(series):
        path = "M" + "L".join(f"{ax(x):.1f} {ay(y):.1f}" for x, y in values)
        parts.append(f'<path d="{path}" fill="none" stroke="{color}" stroke-width="1.8" stroke-dasharray="{dashes or "none"}"/>')
        parts += [point(shape, ax(x), ay(y), color) for x, y in values]
        y = top + 10 + 20 * n
        parts.append(f'<line x1="{right + 12}" y1="{y}" x2="{right + 36}" y2="{y}" stroke="{color}" stroke-width="1.8" stroke-dasharray="{dashes or "none"}"/>')
        parts.append(point(shape, right + 24, y, color))
        parts.append(text(right + 42, y + 4, name, 12, "start"))
    for n, note in enumerate(notes):
        parts.append(text(16, height - 4 - 14 * (len(notes) - 1 - n), note, 10.5, "start", FAINT))
    return frame(width, height, title, parts)


def bars(title, y_label, groups, names, log_y=False, per_panel=5, notes=(), line=None):
    """groups: (name, {key: value}); names: keys with their STYLE, in order."""
    names = [key for key in names if any(key in values for _, values in groups)]
    panels = [groups[n:n + per_panel] for n in range(0, len(groups), per_panel)] or [[]]
    panel, left, right = 196, 78, 78 + max(560, per_panel * max(88, 14 * len(names) + 26))
    height = 74 + panel * len(panels) + 16 * len(notes)
    parts, x = [], left
    for key in names:
        name, color = STYLE[key][:2]
        parts.append(f'<rect x="{x}" y="38" width="11" height="11" fill="{color}"/>')
        parts.append(text(x + 16, 48, name, 12, "start"))
        x += 36 + round(7.4 * len(name))
    values = [v for _, group in groups for v in group.values()] or [1]
    for number, members in enumerate(panels):
        top, bottom = 66 + number * panel, 66 + number * panel + panel - 46
        ay = Axis(min(values), max(values), bottom, top, log_y)
        parts += y_axis(ay, left, right, y_label)
        slot = (right - left) / per_panel
        for place, (group, values_of) in enumerate(members):
            bar = min(14, (slot - 18) / max(len(names), 1))
            first = left + slot * place + (slot - bar * len(names)) / 2
            for n, key in enumerate(names):
                if key in values_of:
                    y = ay(values_of[key])
                    parts.append(f'<rect x="{first + n * bar:.1f}" y="{y:.1f}" width="{bar - 1.5:.1f}" height="{max(bottom - y, 0.5):.1f}" fill="{STYLE[key][1]}">'
                                 f"<title>{escape(group)}, {escape(STYLE[key][0])}: {values_of[key]:.4g}</title></rect>")
            for n, word in enumerate(group.split()):
                parts.append(text(left + slot * (place + .5), bottom + 14 + 13 * n, word, 11))
        if line is not None:
            parts.append(f'<line x1="{left}" y1="{ay(line):.1f}" x2="{right}" y2="{ay(line):.1f}" stroke="{INK}" stroke-dasharray="4 3"/>')
        parts.append(f'<line x1="{left}" y1="{bottom}" x2="{right}" y2="{bottom}" stroke="{INK}"/>')
    for n, note in enumerate(notes):
        parts.append(text(16, height - 8 - 16 * (len(notes) - 1 - n), note, 10.5, "start", FAINT))
    return frame(max(right + 16, x), height, title, parts)
