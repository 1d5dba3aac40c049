# SPDX-License-Identifier: MIT
"""Builds and drops large objects, and checks them. Prints "ready"; ends on SIGTERM with "N rounds, M wrong"."""
import hashlib
import random
import signal
import sys

ended = False


def on_term(signum, frame):
    global ended
    ended = True


signal.signal(signal.SIGTERM, on_term)
source = random.Random(42)
kept = {}
rounds = wrong = 0


def build():
    """An object of one of several kinds, with a digest of what it holds."""
    kind = source.randrange(3)
    if kind == 0:
        value = source.randbytes(source.randrange(1 << 20, 8 << 20))
    elif kind == 1:
        value = [source.random() for _ in range(source.randrange(1000, 100000))]
    else:
        value = {str(i): "x" * source.randrange(200) for i in range(source.randrange(1000, 30000))}
    return value, digest(value)


def digest(value):
    data = value if isinstance(value, bytes) else repr(value).encode()
    return hashlib.blake2b(data).digest()


while not ended:
    slot = source.randrange(16)
    if slot in kept:
        value, right = kept.pop(slot)
        if digest(value) != right:
            wrong += 1
        del value
    kept[slot] = build()
    rounds += 1
    if rounds == 16:
        print("ready", flush=True)

print(f"{rounds} rounds, {wrong} wrong")
sys.exit(wrong != 0)
