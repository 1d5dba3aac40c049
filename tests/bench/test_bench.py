#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The parts of the benchmarks that nobody would see rot: statistics, tables, pictures, and the loads' writes.

    test_bench.py SOURCE BENCH        the repository, and the folder of the bench_* programs
"""
import contextlib
import mmap
import os
import socket
import sys
import tempfile
import threading
import unittest
import xml.etree.ElementTree as xml

SOURCE, BENCH = sys.argv[1:3]
sys.path.insert(0, SOURCE)
sys.dont_write_bytecode = True

from bench.benchmarks import ALL, codecs, first_round, later_rounds, link  # noqa: E402
from bench.harness import document, experiment, limits, pictures, results, stats, svg, table, tidemark  # noqa: E402
from bench.harness.children import Child, Counted, Skip, Usage  # noqa: E402

FIXED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "results")
COLUMNS = {name: module.COLUMNS for name, module in ALL.items()}
PAGE = 4096


def row(what, **median):
    return {"labels": {"what": what}, "median": median, "samples": []}


class Statistics(unittest.TestCase):
    def test_medians_are_taken_of_the_samples_that_have_the_figure(self):
        samples = [{"a": 1, "b": None, "c": "x"}, {"a": 9}, {"a": 2, "b": 4.0}]
        self.assertEqual(stats.medians(samples), {"a": 2, "b": 4.0})

    def test_changes_are_relative(self):
        self.assertAlmostEqual(stats.change(200, 150), -0.25)
        self.assertIsNone(stats.change(0, 5))
        self.assertAlmostEqual(stats.spread([90, 100, 120]), 0.3)


class Experiment(unittest.TestCase):
    def test_cases_take_turns_and_the_first_run_is_not_counted(self):
        calls = []

        def case(name, figures):
            figures = iter(figures)

            def sample():
                calls.append(name)
                return {"figure": next(figures)}

            return experiment.Case({"what": name}, sample)

        rows = experiment.in_turn(3, [case("a", (1000, 1, 2, 30)), case("b", (0, 5, 5, 5))], say=lambda _: None)
        self.assertEqual(calls, ["a", "b"] * 4)
        self.assertEqual([r["median"]["figure"] for r in rows], [2, 5])
        self.assertEqual(len(rows[0]["samples"]), 3)

    def test_what_cannot_be_measured_is_tried_once_and_says_why(self):
        calls = []

        def sample():
            calls.append(1)
            raise Skip("not here")

        rows = experiment.in_turn(3, [experiment.Case({"what": "a"}, sample)], say=lambda _: None)
        self.assertEqual(rows, [{"labels": {"what": "a"}, "skipped": "not here"}])
        self.assertEqual(len(calls), 1)


def a_round(number, pages, ms, wire, final=False, unchanged=0):
    return {"round": number, "pages": pages, "bytes": pages * PAGE, "wire_bytes": wire, "time_ms": ms, "final": final,
            "unchanged_pages": unchanged}


class Figures(unittest.TestCase):
    def setUp(self):
        rounds = [a_round(0, 1000, 4.0, 2000000), a_round(1, 100, 0.5, 100000, unchanged=100), a_round(2, 50, 1.5, 60000),
                  a_round(3, 10, 1.0, 40000, final=True)]
        summary = {"ratio": 2.0, "downtime_ms": 1.5, "total_ms": 9.0, "wire_bytes": 2200000, "bytes": 1160 * PAGE}
        self.sent = tidemark.Sent(rounds, summary, Usage(0, 0.1, 5 << 20), Usage(0, 0.2, 6 << 20))

    def test_rates_are_bytes_a_second(self):
        figures = tidemark.figures(self.sent)
        self.assertAlmostEqual(figures["first_round_rate"], 1000 * PAGE / 0.004)
        self.assertAlmostEqual(figures["live_round_rate"], 150 * PAGE / 0.002)
        self.assertAlmostEqual(figures["last_round_seconds"], 0.001)
        self.assertAlmostEqual(figures["sender_cpu"], 0.1 / (1160 * PAGE / 1e9))
        self.assertEqual(figures["later_wire_bytes"], 200000)
        self.assertEqual(stats.medians([figures])["rounds"], 4)

    def test_a_page_that_need_not_travel_counts_as_written(self):
        figures = codecs.page_figures(self.sent)
        self.assertAlmostEqual(figures["first_page_bytes"], 2000)
        self.assertAlmostEqual(figures["later_page_bytes"], 200000 / 260)

    def test_sends_are_held_against_the_better_pipe(self):
        rows = [row("lz4", first_round_rate=3.0), row("limit: pipe", first_round_rate=2.0),
                row("limit: pipe_2_threads", first_round_rate=4.0), row("limit: memcpy", first_round_rate=99.0)]
        first_round.compare_with_pipe(rows)
        self.assertAlmostEqual(rows[0]["median"]["of_pipe"], 0.75)
        self.assertNotIn("of_pipe", rows[3]["median"])

    def test_delta_is_held_against_lz4(self):
        rows = codecs.compare([row(codecs.BASE, later_page_bytes=2000.0), row("delta", later_page_bytes=50.0)])
        self.assertAlmostEqual(rows[1]["median"]["fewer"], 40)
        self.assertAlmostEqual(rows[1]["median"]["less"], 0.975)
        self.assertNotIn("fewer", rows[0]["median"])

    def test_the_link_is_held_against_plain_bytes(self):
        rows = link.compare_with_link([row("lz4", wire_rate=90.0), row(link.LIMIT, wire_rate=100.0)])
        self.assertAlmostEqual(rows[0]["median"]["of_link"], 0.9)


class Tables(unittest.TestCase):
    columns = [table.Column("what", "what"), table.Column("rate", "rate", "rate"), table.Column("never", "never", "count"),
               table.Column("share", "share", "share")]
    rows = [row("a", rate=1.5e9, share=0.5), row("bcd", rate=12e6), {"labels": {"what": "e"}, "skipped": "no root"}]

    def test_figures_are_shown_in_human_units(self):
        shown = {table.show_bytes: (1536, "1.50 KiB"), table.show_rate: (2.5e9, "2.50 GB/s"), table.show_seconds: (0.0125, "12.5 ms"),
                 table.show_count: (1234567, "1 234 567"), table.show_share: (0.985, "98.5 %")}
        for show, (value, text) in shown.items():
            self.assertEqual(show(value), text)

    def test_columns_stand_under_each_other_and_empty_ones_are_left_out(self):
        self.assertEqual(table.text_table(self.columns, self.rows),
                         ["what       rate   share", "a     1.50 GB/s  50.0 %", "bcd   12.0 MB/s       –", "skipped: e: no root"])

    def test_markdown_has_as_many_cells_in_each_line(self):
        lines = table.markdown_table(self.columns, self.rows)
        self.assertEqual(lines, ["| what | rate | share |", "| --- | ---: | ---: |", "| a | 1.50 GB/s | 50.0 % |",
                                 "| bcd | 12.0 MB/s | – |"])

    def test_every_benchmark_shows_figures_that_it_has(self):
        for name, result in results.load(FIXED).items():
            shown = table.used_columns(COLUMNS[name], [r for r in result["rows"] if "median" in r])
            self.assertGreater(len(shown), 4, name)


class Documents(unittest.TestCase):
    text = "before\n<!-- picture first_round -->\n<!-- table first_round -->\nold\n<!-- end of table -->\nafter\n"

    def test_tables_and_pictures_are_put_in_their_places(self):
        saved = results.load(FIXED)
        once = document.filled(self.text, COLUMNS, saved, ["first_round"])
        self.assertIn("![first round](pictures/first_round.svg)\n", once)
        self.assertIn("| 256 MiB | half | lz4 |", once)
        self.assertNotIn("old", once)
        self.assertTrue(once.startswith("before\n") and once.endswith("after\n"))
        self.assertEqual(document.filled(once, COLUMNS, saved, ["first_round"]), once)

    def test_without_results_the_document_says_so(self):
        self.assertIn("Not measured yet.", document.filled(self.text, COLUMNS, {}, []))

    def test_the_saved_results_are_those_of_the_document_and_of_the_pictures(self):
        saved = results.load(os.path.join(SOURCE, "bench/results"))
        drawn = pictures.draw_all(saved)
        with open(os.path.join(SOURCE, "docs/performance.md"), encoding="utf-8") as f:
            text = f.read()
        self.assertEqual(text, document.filled(text, COLUMNS, saved, drawn), "run bench/tables")
        for name, picture in drawn.items():
            with open(os.path.join(SOURCE, f"docs/pictures/{name}.svg"), encoding="utf-8") as f:
                self.assertEqual(f.read(), picture, "run bench/plot")


def boxes(picture):
    """Where each text lies: (left, top, right, bottom, words)."""
    for element in xml.fromstring(picture).iter("{http://www.w3.org/2000/svg}text"):
        size = 17 if "title" in element.get("class") else svg.FONT
        width = svg.text_width(element.text) * size / svg.FONT * 0.9
        x, y = float(element.get("x")), float(element.get("y"))
        left = x - {"start": 0, "middle": width / 2, "end": width}[element.get("text-anchor")]
        yield left, y - size * 0.8, left + width, y + size * 0.2, element.text


class Pictures(unittest.TestCase):
    def test_every_picture_is_drawn_of_results_that_have_everything(self):
        self.assertEqual(set(pictures.draw_all(results.load(FIXED))), set(pictures.ALL))

    def test_nothing_is_drawn_without_results(self):
        self.assertEqual(pictures.draw_all({}), {})

    def test_no_label_lies_upon_another_or_outside(self):
        for name, picture in pictures.draw_all(results.load(FIXED)).items():
            placed = list(boxes(picture))
            self.assertGreater(len(placed), 8, name)
            height = float(xml.fromstring(picture).get("height"))
            for i, (left, top, right, bottom, words) in enumerate(placed):
                self.assertTrue(left >= 0 and top >= 0 and right <= svg.WIDTH and bottom <= height, f"{name}: '{words}' is outside")
                for other in placed[i + 1:]:
                    apart = right < other[0] or other[2] < left or bottom < other[1] or other[3] < top
                    self.assertTrue(apart, f"{name}: '{words}' lies upon '{other[4]}'")

    def test_a_longer_bar_is_a_larger_figure(self):
        drawn = svg.bar_picture("t", [], [], [svg.Panel("p", [("a", 1e9, "own"), ("b", 2e9, "own")], table.show_rate)])
        bars = [float(e.get("width")) for e in xml.fromstring(drawn).iter("{http://www.w3.org/2000/svg}rect") if e.get("class") == "own"]
        self.assertAlmostEqual(bars[1] / bars[0], 2, places=2)

    def test_axes_reach_what_they_show(self):
        for most in (0.003, 1, 7, 99, 1001):
            ticks = svg.linear_ticks(most)
            self.assertTrue(ticks[0] == 0 and ticks[-1] >= most and len(ticks) <= 7, ticks)
        self.assertEqual(svg.linear_ticks(87 << 20, unit=2**20)[1], 20 << 20)
        self.assertEqual(svg.decades(0.004, 2), [10.0**n for n in (-3, -2, -1, 0, 1)])


def present_pages(pid, size):
    """Of the private mapping of that size, or with others of its kind at its ends."""
    with open(f"/proc/{pid}/maps", encoding="utf-8") as f:
        ranges = [[int(at, 16) for at in line.split()[0].split("-")] for line in f if " rw-p " in line and " 0 " in line]
    start, end = max(ranges, key=lambda r: r[1] - r[0])
    assert end - start >= size
    with open(f"/proc/{pid}/pagemap", "rb") as f:
        f.seek(start // PAGE * 8)
        entries = f.read((end - start) // PAGE * 8)
    return sum(entry >> 63 for entry in memoryview(entries).cast("Q"))


class Programs(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.path = os.path.join(self.folder.name, "memory")

    def tool(self, name):
        return os.path.join(BENCH, f"bench_{name}")

    def pages(self):
        with open(self.path, "rb") as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as m:
            return [hash(m[at:at + PAGE]) for at in range(0, len(m), PAGE)]

    def written(self, commands, *options):
        """The numbers of the pages that commands change, of 4 MiB."""
        with Child(self.tool("writer"), "--size", 4, "--file", self.path, *options) as writer:
            writer.wait_line("ready")
            before = self.pages()
            for command in commands:
                writer.say(command)
                writer.wait_line("wrote")
            return [i for i, (old, new) in enumerate(zip(before, self.pages())) if old != new]

    def test_each_page_is_written_once_before_any_twice(self):
        for pattern in ("uniform", "counter"):
            self.assertEqual(len(self.written(["write 1000"], "--pattern", pattern)), 1000)
            self.assertEqual(len(self.written(["write 1000", "write 24"], "--pattern", pattern)), 1024)
        self.assertEqual(self.written(["write 10"], "--pattern", "sequential"), list(range(10)))

    def test_only_the_pages_asked_for_are_written(self):
        self.assertEqual(len(self.written(["write 5000"], "--hot", 1)), 256)
        self.assertEqual(self.written(["write 5000"], "--every", 100), list(range(0, 1000, 100)))

    def truth_of(self, pattern, commands, *options):
        """What the writer says of each command, and how many pages of its memory are there after it."""
        with Child(self.tool("writer"), "--size", 4, "--pattern", pattern, *options) as writer:
            writer.wait_line("ready")
            for command in commands:
                writer.say(command)
                writer.wait_line("wrote")
                yield writer.ask("truth"), present_pages(writer.pid, 4 << 20)

    def test_the_truth_is_what_was_written(self):
        for pattern in ("uniform", "zipf", "sequential", "hot-and-cold", "stride", "counter"):
            with Child(self.tool("writer"), "--size", 4, "--file", self.path, "--pattern", pattern) as writer:
                writer.wait_line("ready")
                for count in (100, 700, 2000):
                    before = self.pages()
                    writer.say(f"write {count}")
                    writer.wait_line("wrote")
                    truth = writer.ask("truth")
                    changed = sum(old != new for old, new in zip(before, self.pages()))
                    self.assertEqual((truth["writes"], truth["written_pages"]), (count, changed), pattern)
                    self.assertEqual((truth["new_pages"], truth["dropped_pages"], truth["held_pages"]), (0, 0, 1024))

    def test_the_truth_is_what_is_there(self):
        for pattern in ("append", "churn"):
            held, changes = 0, set()
            for truth, present in self.truth_of(pattern, [f"write {n}" for n in (10, 300, 5, 500, 2000)]):
                self.assertEqual(truth["held_pages"], present, pattern)
                self.assertTrue(not held or held + truth["new_pages"] - truth["dropped_pages"] == present)
                held = present
                changes |= {name for name in ("new_pages", "dropped_pages") if truth[name]}
            self.assertEqual(len(changes), 2, pattern)

    def test_few_pages_are_written_often(self):
        for pattern, most in (("zipf", 500), ("hot-and-cold", 300)):
            (truth, _), = self.truth_of(pattern, ["write 1000"])
            self.assertLess(truth["written_pages"], most, pattern)

    def test_memory_of_a_file_is_not_given_back(self):
        with Child(self.tool("writer"), "--size", 4, "--file", self.path, "--pattern", "append", stderr=-1) as writer:
            self.assertEqual(writer.wait(), 2)

    def test_bytes_that_are_written_again_are_the_same(self):
        self.assertEqual(self.written(["write 5000"], "--pattern", "rewrite"), [])

    def test_limits_carry_every_byte(self):
        roads = ["process_vm_readv", "proc_mem", "tcp", "store", "pipe", "pipe_2_threads"]
        with Child(self.tool("writer"), "--size", 8) as writer:
            writer.wait_line("ready")
            shop = type("Shop", (), {"tool": lambda _, name: self.tool(name), "store": lambda _: contextlib.nullcontext(self.folder.name)})()
            for every, share in ((1, 1.0), (later_rounds.EVERY, 0.01)):
                sample = limits.measure(shop, writer.pid, roads, every=every)
                for road in roads:
                    carried = round(sample[road + "_rate"] * sample[road + "_seconds"])
                    self.assertGreaterEqual(carried, (8 << 20) * share, road)
                    self.assertLess(carried, (16 << 20) * share, road)
        self.assertEqual(os.listdir(self.folder.name), [])

    def test_usage_is_that_of_the_program(self):
        program = "import sys; a = bytearray(64 << 20); sys.exit(3)"
        with Counted(self.tool("usage"), self.folder.name, sys.executable, "-c", program) as counted:
            usage = counted.wait()
        self.assertEqual(usage.status, 3)
        self.assertGreater(usage.peak_bytes, 64 << 20)
        with Counted(self.tool("usage"), self.folder.name, "true") as counted:
            self.assertLess(counted.wait().peak_bytes, 8 << 20)

    def test_the_relay_carries_everything_both_ways_and_passes_the_end_on(self):
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        with Child(self.tool("relay"), 1, f"127.0.0.1:{listener.getsockname()[1]}") as relay:
            port = int(relay.wait_line("listening on").split()[2])
            near = socket.create_connection(("127.0.0.1", port))
            far, _ = listener.accept()
            with near, far:
                # More than is ever under way, so that the rings go round.
                sent = os.urandom(1 << 20) * 40
                thread = threading.Thread(target=lambda: (near.sendall(sent), near.shutdown(socket.SHUT_WR)))
                thread.start()
                with far.makefile("rb") as stream:
                    self.assertTrue(stream.read() == sent)
                thread.join()
                far.sendall(b"answer")
                far.shutdown(socket.SHUT_WR)
                with near.makefile("rb") as stream:
                    self.assertEqual(stream.read(), b"answer")


unittest.main(argv=sys.argv[:1], verbosity=2)
