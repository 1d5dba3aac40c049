# SPDX-License-Identifier: MIT
"""Which pictures there are, and what of the results is in each."""
from . import svg
from .results import measured
from .table import show_bytes, show_rate, show_seconds

CONTENT_TITLES = {"zero": "Zero-heavy memory", "text": "Text-like memory", "half": "Half compressible memory", "random": "Random memory"}
LIMITS_DRAWN = {"limit: pipe": "limit: pipe", "limit: pipe_2_threads": "limit: pipe, 2 threads"}


def _short_bytes(value):
    return show_bytes(value).replace(".00", "").replace(".0", "")


def _tick_rate(value):
    return "0" if value == 0 else show_rate(value).replace(".00", "").replace(".0", "")


def _tick_seconds(value):
    return "0" if value == 0 else show_seconds(value).replace(".00", "").replace(".0 ", " ")


def _subtitle(result, *lines):
    machine = result["machine"]
    where = f"{machine['cores']} cores, Linux {machine['kernel']}, median of {result['runs']}"
    return list(lines) + [where + (", a quick run" if result["quick"] else "")]


def _peers(results):
    return [row for row in measured(results.get("peers")) if row["what"] != "tidemark"]


def _largest(rows):
    most = max(row["size"] for row in rows)
    return [row for row in rows if row["size"] == most]


def _first_round_bars(rows):
    for row in rows:
        if row["what"] in LIMITS_DRAWN:
            yield LIMITS_DRAWN[row["what"]], row["first_round_rate"], "limit"
        elif not row["what"].startswith("limit"):
            streams = f", {row['streams']} streams" if row["streams"] > 1 else ""
            yield row["what"] + streams, row["first_round_rate"], "own"


def first_round(results):
    result = results.get("first_round")
    rows = measured(result)
    if not rows:
        return None
    rows = _largest(rows)
    peers = [p for p in _peers(results) if p["size"] == rows[0]["size"]]
    panels = []
    for content, title in CONTENT_TITLES.items():
        bars = list(_first_round_bars([r for r in rows if r["content"] == content]))
        bars += [(p["what"], p["first_round_rate"], "peer") for p in peers if p["content"] == content]
        if bars:
            panels.append(svg.Panel(title, bars, show_rate, _tick_rate))
    legend = [("tidemark", "own"), ("limit of the machine", "limit")] + ([("other programs", "peer")] if peers else [])
    return svg.bar_picture(f"First round of {_short_bytes(rows[0]['size'])}", _subtitle(result, "Longer is better."), legend, panels,
                           same_scale=True)


def later_rounds(results):
    result = results.get("later_rounds")
    rows = measured(result)
    if not rows:
        return None
    rows = _largest(rows)
    paced = [r for r in rows if "round_1_seconds" not in r]
    sparse = [r for r in rows if "round_1_seconds" in r]
    panels = []
    for key, title in (("total_seconds", "The whole send"), ("downtime_seconds", "Downtime")):
        panels.append(svg.Panel(title, [(r["written"], r[key], "own") for r in paced if key in r], show_seconds, _tick_seconds))
    panels.append(svg.Panel("Later rounds, bytes on the wire", [(r["written"], r["later_wire_bytes"], "own") for r in paced], show_bytes,
                            lambda value: "0" if value == 0 else _short_bytes(value), 2**20))
    if sparse:
        bars = [(r["what"] if r["what"].startswith("limit") else "tidemark", r["round_1_seconds"],
                 "limit" if r["what"].startswith("limit") else "own") for r in sparse]
        panels.append(svg.Panel(f"One round in which {sparse[0]['written']} of the pages was written", bars, show_seconds, _tick_seconds))
    legend = [("tidemark", "own"), ("limit of the machine", "limit")]
    return svg.bar_picture(f"{_short_bytes(rows[0]['size'])}, half compressible, written at random",
                           _subtitle(result, "Shorter is better."), legend, panels)


def downtime(results):
    result = results.get("downtime")
    rows = measured(result)
    if not rows:
        return None
    series = []
    classes = {("zero", "20ms"): "own", ("half", "5ms"): "own2", ("half", "20ms"): "own3", ("half", "100ms"): "late"}
    for (content, limit), cls in classes.items():
        points = sorted((r["size"], r["downtime_seconds"]) for r in rows if (r["content"], r["max_downtime"]) == (content, limit))
        if points:
            limit_text = limit.replace("ms", " ms")
            series.append(svg.Series(f"{CONTENT_TITLES[content].lower()}, limit {limit_text}", points, cls))
    by_name = {}
    for peer in _peers(results):
        if peer.get("downtime_seconds"):
            by_name.setdefault(peer["what"], []).append((peer["size"], peer["downtime_seconds"]))
    series += [svg.Series(name, sorted(points), cls) for (name, points), cls in zip(by_name.items(), ("peer", "busy", "calm"))]
    told = "100 MB/s written, loopback. Lower is better."
    return svg.line_picture("Downtime by the size of the process", _subtitle(result, told), series, _short_bytes, _tick_seconds,
                            "memory of the process", "downtime")


PHASES = (("before", "calm"), ("during", "busy"), ("after", "late"))


def _ranges(rows, title):
    groups = []
    for row in rows:
        group = svg.Group(title(row))
        for phase, cls in PHASES:
            values = [row[f"{phase}_{name}"] for name in ("p50", "p99", "max")]
            group.ranges.append(svg.Range(phase, values, cls))
        groups.append(group)
    return groups


def side_effects(results):
    result = results.get("side_effects")
    writer, redis = measured(result), measured(results.get("redis"))
    groups = _ranges(writer, lambda r: f"Writing {r['load']}, send {r['what']}")
    groups += _ranges(redis, lambda r: f"Redis at {r['load']:,} requests/s, send {r['what']}".replace(",", " ", 1))
    if not groups:
        return None
    told = "Time an operation takes since it was due: median, 99th percentile, longest."
    return svg.range_picture("What the process sees of being sent", _subtitle(result or results["redis"], told), list(PHASES), groups,
                             _tick_seconds)


def lost_work(results):
    result = results.get("side_effects")
    rows = measured(result)
    if not rows:
        return None
    panels = []
    for row in rows:
        bars = [(phase, row[f"{phase}_per_second"], cls) for phase, cls in PHASES]
        panels.append(svg.Panel(f"Writing {row['load']}, send {row['what']}", bars, lambda v: f"{v:,.0f}/s".replace(",", " "),
                                lambda v: f"{v:,.0f}".replace(",", " ")))
    return svg.bar_picture("Pages a process writes in a second", _subtitle(result, "Longer is better."), list(PHASES), panels)


ALL = {"first_round": first_round, "later_rounds": later_rounds, "downtime": downtime, "side_effects": side_effects,
       "lost_work": lost_work}


def draw_all(results):
    """SVG documents by name, of what has results."""
    drawn = {name: draw(results) for name, draw in ALL.items()}
    return {name: picture for name, picture in drawn.items() if picture}
