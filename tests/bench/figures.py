"""Taking figures: two sides in turn, and what a process costs."""
import os
import statistics
import time
from pathlib import Path

median = statistics.median
HANDED_BACK_S = 3


def cpu_seconds(pids):
    """Of these processes and all their threads.  The kernel scales these ticks to what it has
    measured in nanoseconds, so their sum is right to one tick."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def alternate(rounds, *sides):
    """Call the sides in turn, in an order that changes from round to round; a list of results for
    each side."""
    results = [[] for _ in sides]
    for n in range(rounds):
        order = list(range(len(sides)))
        for side in order if n % 2 == 0 else reversed(order):
            results[side].append(sides[side]())
    return results


def ratios(a, b):
    return [x / y for x, y in zip(a, b)]


def settle(size):
    """What figures before left to be written is written first.  And a virtual machine that hands free
    memory back to its host pays for each page anew, up to seconds for a GB: so what is about to be
    written is touched before, by somebody else.  Linux hands back two seconds after something was freed
    (mm/page_reporting.c), so what figures before have freed has to be gone by then, or it takes along,
    while the next figure is taken, what was touched for that."""
    os.sync()
    time.sleep(HANDED_BACK_S)
    pages = bytearray(b"\1") * size
    del pages
