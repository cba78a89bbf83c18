"""What nodes cost each other: a lease against a bare SET, and an answer that is followed on another node
against the same bytes read where they are."""
import contextlib
import re
import shutil
import socket
import subprocess
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from figures import alternate, cpu_seconds, median, ratios, settle
from support.faulty import Faulty, Gate
from support.gitclient import Git
from support.net import HOST, free_port
from support.pannier import Pannier, binary
from support.redis_server import RedisServer
from support.wait import until
from table import Row

TOUCHED = 1 << 30
TEN_GIGABIT = 1.25e9
REST = 64 * 1024  # what upstream holds back of an answer that grows


# A lease --------------------------------------------------------------------------------------------


def lease_figures(redis, program):
    """us of a SET, us of a lease taken and released."""
    said = subprocess.run([program, redis.url], capture_output=True, text=True, check=True).stdout
    return tuple(map(float, re.match(r"SET ([\d.]+) us, lease taken and released ([\d.]+) us", said).groups()))


def measure_lease(bench, say, redis):
    program = Path(binary()).parent / "bench_lease"
    if not program.exists():
        say(f"there is no {program}: the lease isn't measured")
        return
    figures = [lease_figures(redis, program) for _ in range(bench.options.rounds)]
    sets, leases = [f[0] for f in figures], [f[1] for f in figures]
    bench.rows.append(Row("a lease taken and released: time, lease / two bare SETs",
                          ratios(leases, [2 * s for s in sets]),
                          note=f"{median(leases):.0f} µs / 2 × {median(sets):.0f} µs"))


# Following ------------------------------------------------------------------------------------------


class Nodes:
    def __init__(self, bench, redis, upstream):
        self.bench, self.redis, self.upstream = bench, redis, upstream
        self.secret = bench.new_folder("secret") / "secret"
        self.secret.write_text(uuid.uuid4().hex + "\n")
        self.prefix = f"{uuid.uuid4().hex[:8]}:"

    @contextlib.contextmanager
    def node(self, name):
        """One that has nothing, and knows the refs."""
        folder = self.bench.new_folder(f"node-{name}")
        config = {"node": f"{name}-{folder.name}", "cache": {"mirrors": False},
                  "redis": {"url": self.redis.url, "prefix": self.prefix},
                  "cluster": {"listen": f"{HOST}:{free_port()}", "secret_file": str(self.secret)},
                  "upstreams": [{"name": "origin", "url": self.upstream, "stall_timeout": "1d"}]}
        node = Pannier(folder, config=config).start()
        try:
            until(lambda: '"caught_up":true' in node.health()[1], "it has joined")
            Git(self.bench.new_folder("home")).run("ls-remote", node.url_of("public/bench"))
            yield node
        finally:
            node.kill()
            shutil.rmtree(folder, ignore_errors=True)


def gigabytes_per_second(bench, asked, node, size, rate=None):
    """Until so many bytes of the response are here; read no faster than rate (bytes a second)."""
    data = bench.request_file(asked, node.port, "origin").read_bytes()
    room = memoryview(bytearray(1 << 20))
    with socket.create_connection((HOST, node.port), timeout=120) as s:
        started = time.monotonic()
        s.sendall(data)
        left = size
        while left > 0:
            n = s.recv_into(room)
            assert n > 0, f"closed {left} bytes before {size}"
            left -= n
            early = rate and (size - left) / rate - (time.monotonic() - started)
            if early and early > 0.001:
                time.sleep(early)
        return size / 1e9 / (time.monotonic() - started)


def costing(nodes, size, read):
    """(GB/s, CPU s per GB of these nodes)"""
    settle(TOUCHED)
    pids = [n.process.pid for n in nodes]
    before = cpu_seconds(pids)
    speed = read()
    return speed, (cpu_seconds(pids) - before) / (size / 1e9)


def through_another(bench, nodes, a, asked, size, rate):
    with nodes.node("b") as b:
        return costing((a, b), size, lambda: gigabytes_per_second(bench, asked, b, size, rate))


def compare(bench, what, nodes, a, asked, size, goal=0.8, rate=None):
    """The same request through another node, and at a itself."""
    here, there = alternate(
        bench.options.rounds,
        lambda: costing((a,), size, lambda: gigabytes_per_second(bench, asked, a, size, rate)),
        lambda: through_another(bench, nodes, a, asked, size, rate))
    (there, there_cpu), (here, here_cpu) = zip(*there), zip(*here)
    bench.rows.append(Row(
        f"{what}: throughput, through another node / here", ratios(there, here), goal=goal,
        at_least=goal is not None, note=f"{median(there):.2f} / {median(here):.2f} GB/s; CPU of both nodes / "
        f"of the one {median(there_cpu):.2f} / {median(here_cpu):.2f} s per GB"))


def measure_following(bench, say, redis):
    faulty = Faulty(bench.origin())
    size = response_size(bench)
    gate = faulty.on("fetch", Gate(after=size - REST))
    nodes = Nodes(bench, redis, faulty.url)
    request = bench.clone_request
    try:
        with nodes.node("a") as a:
            say("following what grows")
            first = socket.create_connection((HOST, a.port))
            first.sendall(bench.request_file(request, a.port, "origin").read_bytes())
            until(lambda: gate.held, "all but the end is there", 300)
            # One that reads has it all from the file; what stands last is on its way yet.
            grows = "an answer that grows"
            compare(bench, grows, nodes, a, request, size - 2 * REST, goal=None)
            compare(bench, f"{grows}, read at 10 Gbit/s", nodes, a, request, size - 2 * REST,
                    rate=TEN_GIGABIT)
            gate.open()
            first.close()
            a.wait_answers()
            say("following what is whole")
            compare(bench, "a whole answer", nodes, a, request, size - REST, goal=None)
            compare(bench, "a whole answer, read at 10 Gbit/s", nodes, a, request, size - REST,
                    rate=TEN_GIGABIT)
            assert len(faulty.requests("fetch")) == 1, "the other nodes took it from the first one"
    finally:
        gate.open()
        faulty.close()


def measure_pace(bench, say, redis, rate):
    """All three read while it grows as slowly as upstream sends it."""
    say("following what grows slowly")
    size = response_size(bench)
    ratio, seconds = [], []
    for _ in range(bench.options.few):
        nodes = Nodes(bench, redis, bench.origin(rate).url)
        with nodes.node("a") as a, nodes.node("b") as b, ThreadPoolExecutor(3) as pool:
            def reader(node):
                return pool.submit(gigabytes_per_second, bench, bench.clone_request, node, size - REST)
            first = reader(a)
            until(lambda: redis.keys(nodes.prefix + "filling:*"), "it is being filled")
            here, there = reader(a), reader(b)
            ratio.append(there.result() / here.result())
            seconds.append(size / 1e9 / here.result())
            first.result()
            assert b.packs(1) == ["hit, peer"], b.packs(1)
    bench.rows.append(Row(f"an answer that grows at {rate / 1e6:.0f} MB/s: throughput, through another node / here",
                          ratio, goal=0.8, at_least=True, note=f"{median(seconds):.1f} s"))


def response_size(bench):
    """Bytes of upstream's answer; pannier's own differs by less than REST."""
    url = f"{bench.origin().url}{bench.clone_request.path}"
    headers = [word for n, v in bench.clone_request.headers
               if n.lower() in ("content-type", "git-protocol", "accept", "content-encoding")
               for word in ("-H", f"{n}: {v}")]
    body = bench.keep(bench.clone_request.raw)
    done = subprocess.run(["curl", "-sS", "-o", "/dev/null", "-w", "%{size_download}", *headers,
                           "--data-binary", f"@{body}", url], capture_output=True, text=True, check=True)
    return int(done.stdout)


def measure(bench, say, slow_rate):
    redis = RedisServer()
    try:
        measure_lease(bench, say, redis)
        measure_following(bench, say, redis)
        measure_pace(bench, say, redis, slow_rate)
    finally:
        redis.stop()
