"""What the shared tier costs: an answer from S3 against the same bytes by curl, from the same server,
and what goes up when a mirror has grown a little.

A first node clones and uploads; then nodes with empty folders are asked.  Between the nodes and the
server lies a relay that counts bytes by key, for the uploads only."""
import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.parse

import repository
from figures import alternate, cpu_seconds, median, ratios, settle
from support.faulty_s3 import FaultyS3
from support.gitclient import Git
from support.net import HOST
from support.pannier import Pannier
from support.repos import Repo
from support.rgw import ACCESS_KEY, BUCKET, SECRET_KEY, Rgw
from support.wait import until
from table import Row

MB = 1000 * 1000
LARGE = "public/large"
GROWN = 1_000_000  # bytes of the new pack
TOUCHED = 3 << 30  # of an answer, its mirror, and what else is in between


class Tier:
    def __init__(self, bench, rgw, prefix):
        self.bench, self.rgw = bench, rgw
        self.objects = rgw.s3.below(prefix)
        self.keys = bench.new_folder("keys") / "credentials"
        self.keys.write_text(f"[default]\naws_access_key_id = {ACCESS_KEY}\n"
                             f"aws_secret_access_key = {SECRET_KEY}\n")

    def config(self, endpoint=None, **cache):
        return {"node": "bench", "cache": cache or {"mirrors": True},
                "shared": {"driver": "s3", "endpoint": endpoint or self.rgw.endpoint, "bucket": BUCKET,
                           "prefix": self.objects.prefix, "credentials_file": str(self.keys)}}

    def wait_up(self, node, parts=("answers/",)):
        """All that it has is in the bucket."""
        def is_up():
            shared = json.loads(node.health()[1])["shared"]
            assert shared["status"] == "ok", shared
            uploads = shared["uploads"]
            assert uploads["failed"] == uploads["dropped"] == 0, uploads
            return uploads["waiting"] == uploads["sending"] == 0 and all(map(self.objects.keys, parts))
        until(is_up, "all is in the bucket", 600)


def wait_usable(node):
    until(lambda: json.loads(node.health()[1])["shared"]["status"] == "ok", "the shared tier works")


def ask_refs(bench, node):
    Git(bench.new_folder("home")).run("ls-remote", node.url_of(LARGE))


# One large answer -----------------------------------------------------------------------------------


def fill(bench, tier, asked):
    """The answer is in the bucket, and so is the mirror; the answer's key."""
    with bench.pannier(bench.origin(), tier.config()) as node:
        ask_refs(bench, node)
        bench.load(node.port, bench.request_file(asked, node.port, "origin"), seconds=600)
        node.wait_mirror(LARGE)
        tier.wait_up(node, ("answers/", "mirrors/"))
    [key] = tier.objects.keys("answers/")
    return key


def curl(url):
    """GB/s"""
    settle(TOUCHED)
    done = subprocess.run(["curl", "-sS", "-f", "-o", "/dev/null", "-w", "%{json}", url],
                          capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    return said["size_download"] / 1e9 / said["time_total"]


def through(bench, tier, asked, **cache):
    """(GB/s, CPU s per GB) of a node that has nothing."""
    with bench.pannier(bench.origin(), tier.config(**cache)) as node:
        wait_usable(node)
        ask_refs(bench, node)
        settle(TOUCHED)
        before = cpu_seconds([node.process.pid])
        # As curl does, its client reads what comes.
        result = bench.load(node.port, bench.request_file(asked, node.port, "origin"), seconds=600, copy=True)
        gb = result["bytes"] / 1e9
        cpu = cpu_seconds([node.process.pid]) - before
        assert node.packs(1) == ["hit, shared"], node.packs(1)
        return gb / result["seconds"], cpu / gb


def first_byte_ms(port, data, wanted):
    """From the request's first byte to the end of these bytes."""
    with socket.create_connection((HOST, port), timeout=60) as s:
        got = b""
        started = time.monotonic()
        s.sendall(data)
        while wanted not in got:
            piece = s.recv(65536)
            assert piece, f"closed after {got[:300]!r}"
            got = got[-8:] + piece
        return (time.monotonic() - started) * 1000


def plain_first_byte_ms(tier, key):
    url = urllib.parse.urlsplit(tier.objects.presigned(key))
    get = f"GET {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\nConnection: close\r\n\r\n"
    return first_byte_ms(url.port, get.encode(), b"PACK\0\0\0\2")


def pannier_first_byte_ms(bench, tier, asked):
    with bench.pannier(bench.origin(), tier.config(mirrors=False)) as node:
        wait_usable(node)
        ask_refs(bench, node)
        data = bench.request_file(asked, node.port, "origin").read_bytes()
        taken = first_byte_ms(node.port, data, b"PACK\0\0\0\2")
        return taken


def measure_answer(bench, say, tier):
    bench.serve(bench.origin(), LARGE, repository.make_large(bench.options.cache))
    asked = bench.record("clone", "--bare", repo=LARGE)
    say("uploading 1 GiB")
    key = fill(bench, tier, asked)
    url = tier.objects.presigned(key, 6 * 3600)
    curl(url)  # from the server's disk into its memory
    say("downloading it")
    rounds = bench.options.rounds
    plain, alone, busy = alternate(
        rounds, lambda: curl(url), lambda: through(bench, tier, asked, mirrors=False),
        lambda: through(bench, tier, asked))
    gbs = [r[0] for r in alone]
    what = "1 GiB from S3 through an empty node"
    bench.rows += [
        Row(f"{what}: throughput, pannier / curl", ratios(gbs, plain), goal=0.8, at_least=True,
            note=f"{median(gbs):.2f} / {median(plain):.2f} GB/s"),
        Row(f"{what}: CPU per GB", [r[1] for r in alone], "s",
            note="TCP, checksums, disk, TCP; git takes none"),
        Row(f"{what}, which restores the mirror meanwhile: throughput, pannier / curl",
            ratios([r[0] for r in busy], plain), note="twice the bytes, from the same server and disk"),
    ]
    own, first = alternate(3 * rounds, lambda: plain_first_byte_ms(tier, key),
                           lambda: pannier_first_byte_ms(bench, tier, asked))
    bench.rows.append(Row(
        "1 GiB from S3 through an empty node: first pack byte, pannier / plain GET", ratios(first, own),
        goal=1.2, note=f"{median(first):.1f} ms / {median(own):.1f} ms"))


# A mirror that grows --------------------------------------------------------------------------------


def measure_growth(bench, say, rgw, name, path):
    sent, of_answers, sizes = [], [], []
    repo = Repo(path)
    for n in range(bench.options.few):
        say("uploading a mirror, and what is new of it")
        tier = Tier(bench, rgw, f"growth-{n}/")
        with contextlib.ExitStack() as stack:
            front = FaultyS3(rgw)
            stack.callback(front.close)
            folder = bench.new_folder("growing")
            stack.callback(shutil.rmtree, folder, True)
            node = Pannier(folder, {"origin": bench.origin().url}, tier.config(front.url)).start()
            stack.callback(node.kill)
            client = Git(bench.new_folder("home"))
            clone = client.place()
            client.run("clone", "-q", "--bare", node.url_of(name), clone)
            node.wait_mirror(name)
            tier.wait_up(node, ("answers/", "mirrors/"))
            [manifest] = [k for k in tier.objects.keys("mirrors/") if k.endswith("/manifest.json")]
            before = json.loads(tier.objects.read(manifest))["generation"]
            sizes.append(sum(tier.objects.objects("mirrors/").values()) / MB)
            front.forget()
            repo.commit(text=f"grown {n}", size=GROWN)
            client.run("-C", clone, "-c", "gc.auto=0", "fetch", "-q", "origin", "main:main")
            until(lambda: json.loads(tier.objects.read(manifest))["generation"] > before, "it went up", 300)
            tier.wait_up(node)
            sent.append(front.bytes_up(None, "mirrors/") / MB)
            of_answers.append(front.bytes_up(None, "answers/") / MB)
        tier.objects.clear()
    bench.rows.append(Row(
        f"a mirror of {median(sizes):.0f} MB with a new pack of {GROWN / MB:.0f} MB: bytes sent", sent, "MB",
        goal=2, note=f"and {median(of_answers):.1f} MB of the answer itself"))


def measure(bench, say, name, path):
    """name, path: a copy of the repository at the origin that may be changed."""
    say("starting Ceph's gateway")
    rgw = Rgw()
    try:
        measure_answer(bench, say, Tier(bench, rgw, "answer/"))
        measure_growth(bench, say, rgw, name, path)
    finally:
        rgw.stop()
