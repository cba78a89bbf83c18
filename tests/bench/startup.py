"""How long it takes until pannier listens, with very many answers on its disk."""
import hashlib
import json
import os
import struct
import time

from support.pannier import Pannier
from table import Row

ANSWERS = 100_000
REPOSITORIES = 5_000
FILE_VERSION = 1  # of cache/answer_file.c


def answer_file(number, path):
    """As cache/answer_file.c lays it out: body, record, tail."""
    repository = number % REPOSITORIES
    body = hashlib.sha256(b"body %d" % number).digest() * (1 + number % 64)
    record = json.dumps({
        "kind": "answer",
        "repo_id": hashlib.sha256(b"repository %d" % repository).hexdigest(),
        "repo": f"origin/group/repository-{repository}",
        "url": f"https://origin.example.org/group/repository-{repository}",
        "path": path,
        "ref": "refs/heads/main",
        "commit": hashlib.sha1(b"%d" % number).hexdigest(),
        "size": len(body),
        "created": 1_700_000_000 + number,
        "note_offset": -1,
        "objects": 1 + number % 1000,
    }).encode() + b"\n"
    tail = b"PANNIERA" + struct.pack("<IIQ", FILE_VERSION, len(record), len(body))
    tail += hashlib.sha256(body).digest()
    return body + record + tail + hashlib.sha256(record + tail).digest()[:8]


def make_answers(data):
    for number in range(ANSWERS):
        key = hashlib.sha256(b"key %d" % number).hexdigest()
        path = f"answers/{key[:2]}/{key}"
        file = data / path
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.write_bytes(answer_file(number, path))


class Started:
    """A start, watched until it has compared index and files."""

    def __init__(self, bench, data):
        self.pannier = Pannier(bench.new_folder("startup"), {"origin": "http://127.0.0.1:9"}, data=data)
        began = time.monotonic()
        self.pannier.spawn()
        self.pannier.wait_event("listening")
        self.listening_s = time.monotonic() - began
        assert self.pannier.health()[0] == 200
        scanned = self.pannier.wait_lines(
            lambda line: line.get("event") == "index compared with the files", deadline=600)[0]
        self.scanned_s = time.monotonic() - began
        assert scanned["answers"] == ANSWERS, scanned
        self.rss_mib = self.pannier.rss(peak=True) / (1 << 20)
        self.pannier.stop()


def measure(bench, say):
    data = bench.new_folder("many")
    say(f"making {ANSWERS} answers")
    make_answers(data)
    say("starting, for the index to be made")
    Started(bench, data)

    def known():
        assert (data / "index.db").stat().st_size > ANSWERS * 100
        return Started(bench, data)

    def read_from_disk():
        """As after the machine's own start."""
        fd = os.open(data / "index.db", os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
        return known()

    def lost():
        for file in data.glob("index.db*"):
            file.unlink()
        return Started(bench, data)

    starts = {"its index there": known, "its index there, not in memory": read_from_disk,
              "its index lost": lost}
    for what, start in starts.items():
        found = [start() for _ in range(bench.options.rounds)]
        middle = sorted(found, key=lambda s: s.scanned_s)[len(found) // 2]
        bench.rows.append(Row(
            f"start with {ANSWERS:,} answers, {what}: until it listens",
            [s.listening_s for s in found], "s", goal=2,
            note=f"compared with the files after {middle.scanned_s:.1f} s",
        ))
        bench.rows.append(Row(
            f"start with {ANSWERS:,} answers, {what}: peak RSS", [s.rss_mib for s in found], "MiB"))
