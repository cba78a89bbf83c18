"""What pannier costs and what it gains, each figure against something else in the same run.  Called
by `tests/bench/run`, which says what it needs."""
import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import cluster  # noqa: E402
import repository  # noqa: E402
import shared  # noqa: E402
import startup  # noqa: E402
from figures import alternate, cpu_seconds, median, ratios  # noqa: E402
from support import origin as support_origin  # noqa: E402
from support.faulty import Faulty, reply  # noqa: E402
from support.gitclient import Failed, Git  # noqa: E402
from support.net import HOST, free_port, wait_for_port  # noqa: E402
from support.repos import git  # noqa: E402
from support.pannier import Pannier, descendants  # noqa: E402
from support.wait import until  # noqa: E402
from table import Row, machine, markdown  # noqa: E402

MB = 1000 * 1000
MIB = 1 << 20
REPO = "public/bench"
SLOW_RATE = 25 * MB
READERS = (1, 16, 64)
PACED_READERS, PACE = 1000, 100 * 1000
PARTS = ("cold", "first-byte", "warm", "together", "paced", "startup", "upkeep", "shared", "cluster")
WITHOUT_REPOSITORY = {"startup"}
FETCHES = 500


def say(text):
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def limited_origin(rate):
    """The origin of the tests, held to that many bytes a second for each response.  nginx takes no
    notice of limit_rate where it passes on a response unbuffered."""
    plain = support_origin.NGINX
    assert "fastcgi_buffering off;" in plain
    support_origin.NGINX = plain.replace(
        "fastcgi_buffering off;", "fastcgi_max_temp_file_size 0; fastcgi_buffers 64 16k;"
    )
    try:
        return support_origin.Origin(limit_rate=rate)
    finally:
        support_origin.NGINX = plain


# What is measured, and by what ---------------------------------------------------------------------


class Bench:
    def __init__(self, options):
        self.options = options
        self.folder = Path(tempfile.mkdtemp(prefix="bench-"))
        self.load_client = options.cache / "load"
        self.rows = []
        self.stack = contextlib.ExitStack()
        self.stack.callback(shutil.rmtree, self.folder, True)
        self.origins = {}
        self.names = 0
        self.repository = None

    def prepare(self):
        """What all parts need but those of WITHOUT_REPOSITORY."""
        say("making the repository, unless it is there")
        self.repository = repository.make(self.options.cache)
        self.clone_request = self.record("clone")
        self.clone_request_shown = self.record("clone", terminal=True)
        self.shallow_request = self.record("clone", "--depth=1")
        self.by_id_request = self.record_by_id()

    def close(self):
        self.stack.close()

    def new_folder(self, name):
        self.names += 1
        folder = self.folder / f"{name}-{self.names}"
        folder.mkdir()
        return folder

    def origin(self, rate=None):
        """One origin for each rate; all serve the same repository."""
        if rate not in self.origins:
            origin = limited_origin(rate) if rate else support_origin.Origin()
            self.stack.callback(origin.stop)
            # fcgiwrap leaves its children behind when it is ended alone; the session is its own.
            self.stack.callback(os.killpg, origin.cgi.pid, signal.SIGTERM)
            self.serve(origin, REPO, self.repository)
            self.origins[rate] = origin
        return self.origins[rate]

    @contextlib.contextmanager
    def pannier(self, origin, config=None):
        """A new one, with nothing in its cache."""
        folder = self.new_folder("pannier")
        pannier = Pannier(folder, {"origin": origin.url}, config).start()
        try:
            yield pannier
        finally:
            started = [pid for pid, _ in descendants(pannier.process.pid)]
            pannier.kill()
            until(lambda: not any(map(is_running, started)), "git programs end with pannier")
            shutil.rmtree(folder, ignore_errors=True)

    @staticmethod
    def serve(origin, name, repository):
        place = origin.folder / "repos" / f"{name}.git"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(repository)

    def recorded(self, action, repo=REPO):
        """The POST by which a real git asks for its pack, when it does action(git, url)."""
        faulty = Faulty(self.origin())
        faulty.on("fetch", reply(500))
        try:
            action(Git(self.new_folder("home")), f"{faulty.url}/{repo}.git")
        except Failed:
            pass
        finally:
            faulty.close()
        return faulty.requests("fetch")[0]

    def record(self, *command, terminal=False, repo=REPO):
        def action(client, url):
            (client.on_terminal if terminal else client.run)(*command, url, client.place())

        asked = self.recorded(action, repo)
        assert terminal == (b"no-progress" not in asked.body), "progress is as it should be"
        return asked

    def record_by_id(self):
        tip = git(self.repository, "rev-parse", "refs/heads/main")
        return self.recorded(lambda client, url: client.fetch_commit(url, tip))

    def request_file(self, asked, port, upstream=None):
        """A whole HTTP request for the load client."""
        path = f"/{upstream}{asked.path}" if upstream else asked.path
        lines = [f"POST {path} HTTP/1.1", f"Host: {HOST}:{port}"]
        lines += [f"{n}: {v}" for n, v in asked.headers if n.lower() not in ("host", "connection")]
        data = "\r\n".join([*lines, "Connection: close"]).encode() + b"\r\n\r\n" + asked.raw
        return self.keep(data)

    def keep(self, data):
        file = self.new_folder("request") / "request"
        file.write_bytes(data)
        return file

    def load(self, port, request, readers=1, repeat=1, watch=None, strict=True, **options):
        """Run the load client; watch() is called again and again meanwhile."""
        command = [self.load_client, "--port", port, "--request", request, "--readers", readers]
        command += ["--repeat", repeat]
        for name, value in options.items():
            command += [f"--{name}"] + ([] if value is True else [value])
        process = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True)
        try:
            while watch and process.poll() is None:
                watch()
                time.sleep(0.02)
            out = process.communicate()[0]
        finally:
            process.kill()
            process.wait()
        result = json.loads(out)
        assert not strict or result["failed"] == 0, f"{result['failed']} readers failed: {result['why']}"
        return result


def ask_refs(bench, pannier, repo=REPO):
    """What every git does before it asks for a pack."""
    Git(bench.new_folder("home")).run("ls-remote", pannier.url_of(repo))


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# Cold clones ------------------------------------------------------------------------------------------


def clone_seconds(bench, url):
    client = Git(bench.new_folder("home"))
    started = time.monotonic()
    to = client.clone(url)
    seconds = time.monotonic() - started
    assert (to / "source").is_dir()
    shutil.rmtree(client.home)
    return seconds


def measure_cold(bench):
    """A clone that pannier has never heard of, at the pace of a slow origin."""
    origin = bench.origin(SLOW_RATE)

    def through():
        with bench.pannier(origin) as pannier:
            return clone_seconds(bench, pannier.url_of(REPO))

    direct, cold = alternate(
        bench.options.rounds, lambda: clone_seconds(bench, origin.url_of(REPO)), through
    )
    bench.rows.append(Row(
        "cold clone, origin at 25 MB/s: wall time, pannier / direct", ratios(cold, direct), goal=1.05,
        note=f"{median(cold):.1f} s / {median(direct):.1f} s",
    ))


def first_pack_byte_ms(asked, port, path):
    """From the request's first byte to the pack's."""
    with socket.create_connection((HOST, port), timeout=60) as s:
        head = [f"POST {path} HTTP/1.1", f"Host: {HOST}:{port}"]
        head += [f"{n}: {v}" for n, v in asked.headers if n.lower() != "host"]
        data = "\r\n".join(head).encode() + b"\r\n\r\n" + asked.raw
        got = b""
        started = time.monotonic()
        s.sendall(data)
        while b"PACK\0\0\0\2" not in got:
            piece = s.recv(65536)
            assert piece, f"closed after {got[:300]!r}"
            got = got[-8:] + piece
        return (time.monotonic() - started) * 1000


def measure_first_byte(bench):
    """As in a clone: the refs are asked for first, then a pack that pannier does not have."""
    origin = bench.origin()
    asked = bench.clone_request

    def direct():
        return first_pack_byte_ms(asked, origin.port, asked.path)

    def through():
        with bench.pannier(origin) as pannier:
            ask_refs(bench, pannier)
            return first_pack_byte_ms(asked, pannier.port, f"/origin{asked.path}")

    direct()
    own, cold = alternate(3 * bench.options.rounds, direct, through)
    late = [c - o for c, o in zip(cold, own)]
    bench.rows.append(Row(
        "cold clone: first pack byte, pannier - upstream", late, "ms", goal=20,
        note=f"{median(cold):.1f} ms - {median(own):.1f} ms",
    ))


# Warm -------------------------------------------------------------------------------------------------

# As Debian installs nginx, less the modules.
NGINX = """
daemon off;
worker_processes auto;
%(user)s
pid nginx.pid;
error_log error.log warn;
events { worker_connections 4096; }
http {
    client_body_temp_path temp;
    fastcgi_temp_path temp;
    proxy_temp_path temp;
    scgi_temp_path temp;
    uwsgi_temp_path temp;
    sendfile on;
    tcp_nopush on;
    access_log access.log;
    server { listen %(host)s:%(port)d backlog=4096; root files; }
}
"""


@contextlib.contextmanager
def static_nginx(bench):
    """nginx with a folder of files: yields (port, folder, pids)."""
    folder = bench.new_folder("nginx")
    (folder / "files").mkdir()
    (folder / "temp").mkdir()
    port = free_port()
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(NGINX % {"user": user, "host": HOST, "port": port})
    process = subprocess.Popen(["nginx", "-p", f"{folder}/", "-c", "nginx.conf", "-e", "error.log"])
    try:
        wait_for_port(port, process)
        # The port is open before the workers are there, and all of them cost CPU.
        workers = until(lambda: len(found := dict(descendants(process.pid))) == os.cpu_count()
                        and found, "nginx's workers are there")
        yield port, folder / "files", [process.pid, *workers]
    finally:
        process.terminate()
        process.wait()


def save_answer(port, request, path):
    """The body that pannier sends, as a file: exactly what nginx has to send too."""
    with socket.create_connection((HOST, port), timeout=600) as s, open(path, "wb") as out:
        s.sendall(request.read_bytes())
        head = b""
        while b"\r\n\r\n" not in head:
            head += s.recv(65536)
        head, _, rest = head.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = int(re.search(rb"(?i)content-length: *(\d+)", head)[1])
        out.write(rest)
        while piece := s.recv(1 << 20):
            out.write(piece)
    assert path.stat().st_size == length


def is_answer_kept(bench, pannier, request):
    """The recorded clone has been asked for, and the mirror that follows it is made."""
    bench.load(pannier.port, request, seconds=300)
    pannier.wait_answers()
    pannier.wait_mirror(REPO)
    until(lambda: not pannier.children(), "git programs are done", 120)


class Replay:
    """One server's side of a warm replay."""

    def __init__(self, bench, port, request, pids, prepare=lambda: None):
        self.bench, self.port, self.request, self.pids = bench, port, request, pids
        self.prepare = prepare

    def run(self, readers, repeat, **options):
        self.prepare()
        before = cpu_seconds(self.pids)
        result = self.bench.load(self.port, self.request, readers, repeat, seconds=300, **options)
        gb = result["bytes"] / 1e9
        return gb / result["seconds"], (cpu_seconds(self.pids) - before) / gb


def compare_replays(bench, what, ours, nginx, readers, **options):
    """At least 4 GB for each figure, so that CPU ticks are fine enough.  One reader is over in a second
    and feels every neighbour: more rounds."""
    repeat = max(1, 16 // readers)
    rounds = bench.options.rounds * (3 if readers == 1 else 1)
    a, b = alternate(rounds, lambda: nginx.run(readers, repeat, **options),
                     lambda: ours.run(readers, repeat, **options))
    for i, (name, unit) in enumerate((("throughput", "GB/s"), ("CPU per GB", "s"))):
        mine, its = [x[i] for x in b], [x[i] for x in a]
        bench.rows.append(Row(
            f"{what}, {readers} reader{'s' * (readers > 1)}: {name}, pannier / nginx", ratios(mine, its),
            goal=1.3 if i else 0.9, at_least=not i, note=f"{median(mine):.2f} / {median(its):.2f} {unit}"))


def measure_warm(bench):
    """A recorded clone that pannier has kept, against the same bytes as a file of nginx's."""
    with bench.pannier(bench.origin()) as pannier, static_nginx(bench) as (port, files, pids):
        request = bench.request_file(bench.clone_request, pannier.port, "origin")
        shown = bench.request_file(bench.clone_request_shown, pannier.port, "origin")
        is_answer_kept(bench, pannier, request)
        save_answer(pannier.port, request, files / "answer")
        get = f"GET /answer HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"

        def prepare():
            ask_refs(bench, pannier)

        # The same before either, though only one needs it.
        nginx = Replay(bench, port, bench.keep(get.encode()), pids, prepare)
        ours = Replay(bench, pannier.port, request, [pannier.process.pid], prepare)
        terminal = Replay(bench, pannier.port, shown, [pannier.process.pid], prepare)
        for readers in READERS:
            compare_replays(bench, "warm clone", ours, nginx, readers)
        for readers in READERS:
            compare_replays(bench, "warm clone, on a terminal", terminal, nginx, readers)
        others = set(pannier.packs(10)[1:]) - {"hit, local"}
        assert not others, f"all but the first come from the cache, not {others}"


# Many at once -----------------------------------------------------------------------------------------


def together(bench, what, asked, refs_known):
    origin = bench.origin()
    packs, requests, failed, peaks, children = [], [], [], [], []
    for _ in range(bench.options.rounds):
        with bench.pannier(origin) as pannier:
            request = bench.request_file(asked, pannier.port, "origin")
            if refs_known:
                ask_refs(bench, pannier)
            since = origin.mark()
            most = [0]

            def watch():
                most[0] = max(most[0], len(pannier.children()))

            result = bench.load(pannier.port, request, 100, watch=watch, strict=False, seconds=300)
            failed.append(100 - result["whole"])
            packs.append(len(origin.packs(since)))
            requests.append(len(origin.requests(since)))
            peaks.append(pannier.rss(peak=True) / MIB)
            children.append(most[0])
    size = result["most"] / MB
    bench.rows += [
        Row(f"{what}: pack requests at upstream", packs, goal=1, note=f"an answer is {size:.1f} MB"),
        Row(f"{what}: requests of any kind at upstream", requests),
        Row(f"{what}: clients that failed", failed, goal=0),
        Row(f"{what}: peak RSS", peaks, "MiB", goal=64),
        Row(f"{what}: git processes at once", children, note="bound: limits.git_processes, 4 here"),
    ]


def measure_together(bench):
    """100 readers ask for the same depth-1 pack of a repository that pannier has never heard of."""
    together(bench, "100 cold depth-1 fetches at once", bench.shallow_request, True)
    # As jobs do that are told which commit to build: no one has asked for the refs.
    together(bench, "100 cold depth-1 fetches by id, refs unknown", bench.by_id_request, False)
    together(bench, "100 cold depth-1 fetches with tags, refs unknown", bench.shallow_request, False)


def paced(bench, what, origin, warm):
    seconds = 10 if bench.options.quick else 20
    peaks, threads, rates = [], [], []
    for _ in range(bench.options.few):
        with bench.pannier(origin) as pannier:
            request = bench.request_file(bench.clone_request, pannier.port, "origin")
            if warm:
                is_answer_kept(bench, pannier, request)
            else:
                ask_refs(bench, pannier)
            before = pannier.threads()
            start = pannier.rss() / MIB
            rss, most = [], []

            def watch():
                rss.append(pannier.rss())
                most.append(pannier.threads())

            result = bench.load(pannier.port, request, PACED_READERS, rate=PACE, seconds=seconds,
                                watch=watch)
            assert result["whole"] == 0 and result["left"] == PACED_READERS, "all are still reading"
            peaks.append(max(rss) / MIB)
            threads.append(max(most))
            rates.append(result["least"] / seconds / 1000)
    bench.rows += [
        Row(f"{what}: peak RSS", peaks, "MiB", goal=96,
            note=f"{start:.0f} MiB before; the slowest reader got {min(rates):.0f} KB/s"),
        Row(f"{what}: threads", threads, note=f"{before} before"),
    ]


def measure_paced(bench):
    """1,000 readers that take 100 KB/s each."""
    what = "1,000 readers at 100 KB/s"
    paced(bench, f"{what}, answer whole", bench.origin(), warm=True)
    # They all stay behind an answer that fills at 10 MB/s; at 90 KB/s they wait for each piece.
    paced(bench, f"{what}, being filled at 10 MB/s", bench.origin(10 * MB), warm=False)
    paced(bench, f"{what}, being filled at 90 KB/s", bench.origin(90 * 1000), warm=False)


def measure_startup(bench):
    startup.measure(bench, say)


# Upkeep -----------------------------------------------------------------------------------------------


def growing_copy(bench, commits, name="public/growing"):
    """The repository as it was some commits ago, at the origin: (name, path, those commits)."""
    origin = bench.origin()
    path = origin.folder / "repos" / f"{name}.git"
    git(bench.folder, "clone", "-q", "--bare", "--local", "--no-tags", str(bench.repository), str(path))
    tips = git(path, "rev-list", "--reverse", f"--max-count={commits + 1}", "main").split()
    git(path, "update-ref", "refs/heads/main", tips[0])
    return name, path, tips[1:]


def is_maintained(mirror):
    """All but a few packs are in its multi-pack index, which has a bitmap, and old ones are gone."""
    lines = (mirror / "pannier-packs").read_text().splitlines()
    indexed = [n for n, line in enumerate(lines) if line.startswith("multi-pack-index ")]
    packs = mirror / "objects" / "pack"
    if not indexed or not list(packs.glob("multi-pack-index-*.bitmap")):
        return False
    return len(list(packs.glob("*.pack"))) == len(lines) - 1 and len(lines) - 1 - indexed[0] <= 8


def wait_maintained(pannier, name):
    until(lambda: is_maintained(pannier.mirror(name)) and not pannier.children(),
          "the mirror is maintained", 300)


def upload_pack_seconds(mirror, tip):
    """CPU of what makes a clone's pack, as pannier runs it."""
    lines = ["command=fetch", None, "thin-pack", "no-progress", "ofs-delta", f"want {tip}", "done"]
    body = "".join(f"{len(line) + 5:04x}{line}\n" if line else "0001" for line in lines) + "0000"
    before = os.times()
    done = subprocess.run(
        ["git", "-c", "safe.directory=*", "-c", "uploadpack.allowAnySHA1InWant=true", "-c", "pack.window=0",
         "upload-pack", "--stateless-rpc", "--strict", str(mirror)],
        input=body.encode(), stdout=subprocess.DEVNULL, env={**os.environ, "GIT_PROTOCOL": "version=2"})
    after = os.times()
    assert done.returncode == 0
    return sum(after[2:4]) - sum(before[2:4])


def measure_upkeep(bench):
    """A mirror that was fetched into 500 times, against one that was cloned in one piece; both as the
    janitor leaves them."""
    name, path, tips = growing_copy(bench, FETCHES)
    config = {"cache": {"maintenance_interval": "1s"}}
    upstreams = {"origin": bench.origin().url}
    with contextlib.ExitStack() as stack:
        def started(what):
            pannier = Pannier(bench.new_folder(what), upstreams, config).start()
            stack.callback(pannier.kill)
            return pannier

        old, client = started("old"), Git(bench.new_folder("home"))
        clone = client.place()
        client.run("clone", "-q", "--bare", old.url_of(name), clone)
        old.wait_mirror(name)
        for tip in tips:
            git(path, "update-ref", "refs/heads/main", tip)
            client.run("-C", clone, "-c", "gc.auto=0", "fetch", "-q", "origin", "main:main")
        wait_maintained(old, name)
        upkeeps = sum(line.get("event") == "mirror maintained" for line in old.lines)
        packs = len(list((old.mirror(name) / "objects" / "pack").glob("*.pack")))
        fresh = started("fresh")
        Git(bench.new_folder("home")).run("clone", "-q", "--bare", fresh.url_of(name), client.place())
        fresh.wait_mirror(name)
        wait_maintained(fresh, name)
        a, b = alternate(3 * bench.options.rounds,
                         lambda: upload_pack_seconds(fresh.mirror(name), tips[-1]),
                         lambda: upload_pack_seconds(old.mirror(name), tips[-1]))
    bench.rows.append(Row(
        f"full clone from a mirror: CPU of git, fetched into {FETCHES} times / cloned at once",
        ratios(b, a), goal=1.3,
        note=f"{median(b):.2f} s / {median(a):.2f} s; {upkeeps} upkeeps, {packs} packs",
    ))


def measure_shared(bench):
    name, path, _ = growing_copy(bench, 0, "public/shared")
    shared.measure(bench, say, name, path)


def measure_cluster(bench):
    cluster.measure(bench, say, SLOW_RATE)


# ----------------------------------------------------------------------------------------------------


def parse():
    parser = argparse.ArgumentParser(
        prog="tests/bench/run", description="Measures pannier; prints a table of ratios.")
    parser.add_argument("--cache", type=Path, help="folder for the repository and the build")
    parser.add_argument("--pannier", type=Path, help="the program to measure, in place of building it")
    parser.add_argument("--only", action="append", choices=PARTS, help="this part; may be repeated")
    parser.add_argument("--rounds", type=int, help="how often each figure is taken (default 7)")
    parser.add_argument("--quick", action="store_true", help="3 rounds: to try something, not to publish")
    options = parser.parse_args()
    options.rounds = options.rounds or (3 if options.quick else 7)
    options.few = min(options.rounds, 3)  # of what changes little and takes long
    os.environ["PANNIER_BIN"] = str(options.pannier)
    return options


def main():
    options = parse()
    bench = Bench(options)
    parts = options.only or PARTS
    described = f"{options.rounds} rounds"
    try:
        if not WITHOUT_REPOSITORY.issuperset(parts):
            bench.prepare()
            objects, size = repository.describe(bench.repository)
            described = f"repository: {objects} objects, {size / MB:.0f} MB packed; {described}"
        for part in parts:
            say(f"measuring: {part}")
            globals()["measure_" + part.replace("-", "_")](bench)
            print(markdown(bench.rows), file=sys.stderr, flush=True)
    finally:
        bench.close()
    print("\n".join(f"- {line}" for line in machine()))
    print(f"- {described}\n")
    print(markdown(bench.rows))


if __name__ == "__main__":
    main()
