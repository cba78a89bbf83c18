#!/usr/bin/python3
"""docs/page.png: the operators' page with something to see on it, in a real browser.

    tests/support/screenshot.py [--seconds N] [FILE]

Some repositories are cloned and pushed to for so long (360 s), through the pannier that PANNIER_BIN
names (build/asan/pannier)."""
import argparse
import random
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support import pktline, repos  # noqa: E402
from support.browser import Browser  # noqa: E402
from support.faulty import Faulty, Gate  # noqa: E402
from support.gitclient import Git, Reader  # noqa: E402
from support.origin import Origin  # noqa: E402
from support.pannier import ROOT, Pannier  # noqa: E402
from support.wait import until  # noqa: E402

# Name, commits, bytes of noise in each, and how often it is asked for.
REPOSITORIES = [("example/compiler", 60, 60_000, 6), ("example/website", 30, 25_000, 4), ("example/toolbox", 40, 9_000, 3),
                ("example/protocols", 20, 14_000, 2), ("platform/charts", 25, 4_000, 2), ("platform/runner", 35, 20_000, 3),
                ("research/corpus", 12, 250_000, 1)]
SIZE = (1200, 830)


def work(pannier, made, git, seconds):
    """What jobs do: shallow clones of what was just pushed, and now and then a whole one."""
    chance, end, begun = random.Random(5), time.monotonic() + seconds, 1
    while (left := end - time.monotonic()) > 0:
        begun = max(begun, min(len(made), 2 + round(len(made) * (1 - left / seconds) * 1.5)))
        known = REPOSITORIES[:begun]
        name = chance.choices([r[0] for r in known], [r[3] for r in known])[0]
        if chance.random() < 0.12:
            made[name].commit(text=str(left), size=3000)
        clone = git.clone(f"{pannier.url}/github.com/{name}.git", *(["--depth=1"] if chance.random() < 0.7 else []))
        assert clone
        threading.Event().wait(chance.random() * 1.2)


def ask(pannier, name, repo):
    """Who reads no faster than it is told."""
    return Reader(pannier.port, receive_buffer=16384).post(f"/github.com/{name}.git/git-upload-pack",
                                                           pktline.fetch([repo.oid()]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", default=ROOT / "docs/page.png")
    parser.add_argument("--seconds", type=float, default=360)
    chosen = parser.parse_args()
    origin = Origin()
    upstream = Faulty(origin)
    made = {name: origin.make(f"public/{name}", repos.simple, commits=commits, blob=blob)
            for name, commits, blob, _ in REPOSITORIES}
    with tempfile.TemporaryDirectory() as folder:
        config = {"cache": {"local_size": "200M"}}
        pannier = Pannier(Path(folder) / "pannier", {"github.com": f"{upstream.url}/public"}, config).start()
        browser = Browser()
        try:
            work(pannier, made, Git(Path(folder) / "home"), chosen.seconds)
            readers, gates = [], []
            for name, held in (("example/firmware", 1_700_000), ("platform/images", 230_000)):
                gates.append(upstream.on("fetch", Gate(after=held), times=1))
                readers.append(ask(pannier, name, origin.make(f"public/{name}", repos.big, files=3)))
                gates[-1].wait_held()
            archive = origin.make("public/platform/archive", repos.big, files=10)
            ask(pannier, "platform/archive", archive).read_response()
            readers.append(ask(pannier, "platform/archive", archive))
            readers[-1].read_until(b"packfile")
            page = browser.page(pannier, size=SIZE)
            until(lambda: len(page.rows("Requests under way")) == len(readers), "the requests are seen")
            page.driver.save_screenshot(str(chosen.file))
            for gate in gates:
                gate.open()
            for reader in readers:
                reader.read_response()
                reader.leave()
        finally:
            browser.close()
            pannier.stop()
            upstream.close()
            origin.stop()


main()
