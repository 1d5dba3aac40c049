# SPDX-License-Identifier: MIT
"""Rows of figures as text and as Markdown. Figures are in bytes, seconds and shares; a column says how they are shown."""
from dataclasses import dataclass


def _scaled(value, steps):
    for factor, unit in steps:
        if abs(value) >= factor:
            break
    shown = value / factor
    digits = 0 if abs(shown) >= 100 else 1 if abs(shown) >= 10 else 2
    return f"{shown:.{digits}f} {unit}"


def show_bytes(value):
    return _scaled(value, ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B")))


def show_rate(value):
    return _scaled(value, ((1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s"), (1, "B/s")))


def show_seconds(value):
    return _scaled(value, ((1, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")))


def show_count(value):
    return f"{value:,.0f}".replace(",", " ")


def show_share(value):
    return f"{value * 100:.1f} %"


SHOW = {
    "bytes": show_bytes,
    "rate": show_rate,
    "seconds": show_seconds,
    "count": show_count,
    "share": show_share,
    "ratio": lambda value: f"{value:.2f}",
    "cpu": lambda value: f"{value:.2f} s/GB",
    "text": str,
}


@dataclass(frozen=True)
class Column:
    """A figure: its name in the JSON, its heading, and how it is shown (a key of SHOW). A detail is left out of documents."""
    key: str
    heading: str
    kind: str = "text"
    detail: bool = False

    def show(self, row):
        value = row.get(self.key)
        return "–" if value is None else SHOW[self.kind](value)


def cells(columns, rows):
    """Headings, then the rows, as text."""
    shown = [[c.heading for c in columns]]
    for row in rows:
        figures = {**row["labels"], **row.get("median", {})}
        shown.append([c.show(figures) for c in columns])
    return shown


def _is_label(columns, rows, index):
    return any(columns[index].key in row["labels"] for row in rows)


def used_columns(columns, rows):
    """Without those that no row has a figure for."""
    return [c for c in columns if any(c.key in row["labels"] or c.key in row.get("median", {}) for row in rows)]


def text_table(columns, rows):
    """Lines, columns under each other; labels to the left, figures to the right."""
    shown_rows = [row for row in rows if "skipped" not in row]
    lines = []
    if shown_rows:
        columns = used_columns(columns, shown_rows)
        table = cells(columns, shown_rows)
        widths = [max(len(line[i]) for line in table) for i in range(len(columns))]
        left = [_is_label(columns, shown_rows, i) for i in range(len(columns))]
        for line in table:
            padded = [c.ljust(w) if l else c.rjust(w) for c, w, l in zip(line, widths, left)]
            lines.append("  ".join(padded).rstrip())
    return lines + skipped_lines(rows)


def skipped_lines(rows):
    """What was left out, by the reason."""
    reasons = {}
    for row in rows:
        if "skipped" in row:
            reasons.setdefault(row["skipped"], []).append(label_text(row))
    return [f"skipped: {'; '.join(labels)}: {why}" for why, labels in reasons.items()]


def markdown_table(columns, rows):
    """The same for a document. Rows that were skipped are not in it."""
    rows = [row for row in rows if "skipped" not in row]
    if not rows:
        return ["Not measured."]
    columns = used_columns(columns, rows)
    table = cells(columns, rows)
    rule = ["---" if _is_label(columns, rows, i) else "---:" for i in range(len(columns))]
    return ["| " + " | ".join(line) + " |" for line in [table[0], rule] + table[1:]]


def label_text(row):
    shown = [show_bytes(value) if key == "size" else str(value) for key, value in row["labels"].items() if value is not None]
    return ", ".join(shown) or "all"
