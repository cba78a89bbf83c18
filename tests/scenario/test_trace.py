"""The trace that tests/bench/policies replays: its shape, and that it is the same each time."""
import subprocess
import sys
from collections import Counter
from pathlib import Path

TRACE = Path(__file__).resolve().parents[1] / "bench/trace.py"


def generate(*arguments):
    done = subprocess.run([sys.executable, TRACE, "--days", "2", "--rate", "20000", *arguments],
                          stdout=subprocess.PIPE, check=True)
    return done.stdout


def test_the_same_seed_makes_the_same_trace():
    assert generate("--seed", "3") == generate("--seed", "3") != generate("--seed", "4")


def test_three_keys_of_four_are_asked_for_once():
    requests = [tuple(map(int, line.split())) for line in generate().splitlines()]
    times = [time for time, _, _ in requests]
    asked = Counter(key for _, key, _ in requests)
    assert times == sorted(times)
    assert list(asked) == list(range(len(asked)))  # numbered by their first request
    assert len({(key, size) for _, key, size in requests}) == len(asked)
    once = sum(1 for count in asked.values() if count == 1)
    assert 0.70 < once / len(asked) < 0.80


def test_a_crawl_asks_for_every_repository_once_more():
    assert len(generate("--crawls", "2").splitlines()) - len(generate().splitlines()) > 5000
