# SPDX-License-Identifier: MIT
"""Programs that a benchmark starts, ends and counts."""
import json
import signal
import subprocess
import tempfile
from dataclasses import dataclass


class Failed(Exception):
    """A program did not do what it should have."""


class Skip(Exception):
    """This row cannot be measured here; the text says why."""


@dataclass
class Usage:
    """What a program that has ended took."""
    status: int
    cpu_seconds: float
    peak_bytes: int


class Child:
    """A program with pipes for its input and output, killed at the end of the `with` where it has not ended by itself."""

    def __init__(self, *argv, prefix=(), stderr=None):
        self.argv = [str(word) for word in argv]
        self.process = subprocess.Popen([*prefix, *self.argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=stderr, text=True, bufsize=1)

    @property
    def pid(self):
        return self.process.pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass

    def wait_line(self, words):
        """The first line with these words in it."""
        for line in self.process.stdout:
            if words in line:
                return line.rstrip("\n")
        raise Failed(f"{self.argv[0]} ended before it said '{words}'")

    def say(self, line):
        self.process.stdin.write(line + "\n")

    def ask(self, line):
        """A command whose answer is one JSON object on a line."""
        self.say(line)
        answer = self.process.stdout.readline()
        if not answer:
            raise Failed(f"{self.argv[0]} ended when asked '{line}'")
        return json.loads(answer)

    def wait(self):
        """Waits for its end: its exit status."""
        return self.process.wait()

    def end(self, how=signal.SIGTERM):
        """A signal, and its end."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.wait()


class Counted(Child):
    """A Child of which wait() tells the Usage, kept in a file in `folder` in between."""

    def __init__(self, tool, folder, *argv, **options):
        self._file = tempfile.mkstemp(dir=folder)[1]
        super().__init__(tool, self._file, *argv, **options)
        self.argv = self.argv[2:]

    def wait(self):
        super().wait()
        with open(self._file, encoding="utf-8") as f:
            said = f.read()
        if not said:
            raise Failed(f"{self.argv[0]} ended without its usage")
        return Usage(**json.loads(said))


def run(*argv, check=True, prefix=()):
    """A program from start to end: its output."""
    done = subprocess.run([*prefix, *map(str, argv)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    if check and done.returncode != 0:
        raise Failed(f"{argv[0]} failed with {done.returncode}: {done.stderr.strip()}")
    return done
