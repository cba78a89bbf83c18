"""The program under test: started, watched through its log, stopped and killed."""
import http.client
import json
import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

from .net import HOST, accepts, free_port
from .wait import DEADLINE, until

ROOT = Path(__file__).resolve().parents[2]
SANITIZER = re.compile(r"Sanitizer|runtime error:")
# What a client's request for a pack can be answered with.
PACKS = ("hit", "miss", "pass")


def binary():
    return os.environ.get("PANNIER_BIN") or str(ROOT / "build" / "asan" / "pannier")


def as_yaml(value, indent=0):
    """Block YAML, for the few types that configurations have."""
    pad = " " * indent
    if isinstance(value, dict):
        out = ""
        for key, item in value.items():
            nested = isinstance(item, (dict, list)) and item
            out += f"{pad}{key}:" + ("\n" + as_yaml(item, indent + 2) if nested else f" {scalar(item)}\n")
        return out
    return "".join(f"{pad}-\n{as_yaml(item, indent + 2)}" if isinstance(item, dict) else f"{pad}- {scalar(item)}\n"
                   for item in value)


def scalar(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value) if isinstance(value, str) else str(value)


class Pannier:
    """One `pannier serve`.

    upstreams: {name: url} on the command line; config: a dict that becomes the YAML file."""

    def __init__(self, folder, upstreams=None, config=None, data=None, arguments=(), env=None):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.data = Path(data) if data else self.folder / "data"
        self.upstreams = dict(upstreams or {})
        self.config_file = self.folder / "pannier.yaml" if config is not None else None
        self.arguments = list(arguments)
        self.env = {**os.environ, **(env or {})}
        self.wrapper, self.pass_fds = [], ()  # a program that execs it, and what it inherits
        self.process = None
        self.deaf = threading.Event()  # set: nobody reads its stderr
        self.same_admin_port = False  # when it is started again
        self.admin_port = None
        if config is not None:
            self.write_config(config)

    def write_config(self, config):
        self.config_file.write_text(as_yaml(config) if isinstance(config, dict) else config)

    # Life -----------------------------------------------------------------------------------------

    def command(self):
        command = [binary(), "serve", "--listen", f"{HOST}:{self.port}", "--data", str(self.data)]
        command += ["--log-format", "json", "--admin-listen", f"{HOST}:{self.admin_port}"]
        if self.config_file:
            command += ["--config", str(self.config_file)]
        for name, url in self.upstreams.items():
            command += ["--upstream", f"{name}={url}"]
        return command + self.arguments

    def spawn(self):
        """Start without waiting for anything."""
        self.port = free_port()
        if not self.admin_port or not self.same_admin_port:
            self.admin_port = free_port()
        self.lines = []
        self.text = []
        self.news = threading.Condition()
        self.process = subprocess.Popen(
            self.wrapper + self.command(), env=self.env, pass_fds=self.pass_fds, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL, cwd=self.folder,
        )
        self.reader = threading.Thread(target=self.read, args=(self.process.stderr,), daemon=True)
        self.reader.start()
        return self

    def start(self):
        self.spawn()

        def ready():
            if self.process.poll() is not None:
                self.reader.join()
                raise AssertionError(
                    f"pannier ended with {self.process.returncode} at start:\n{self.output()}"
                )
            return accepts(self.port)

        until(ready, "pannier accepts connections")
        return self

    def read(self, stream):
        for raw in stream:
            until(lambda: not self.deaf.is_set(), "somebody listens again", 120)
            text = raw.decode("utf-8", "replace").rstrip("\n")
            try:
                line = json.loads(text)
            except ValueError:
                line = None
            with self.news:
                self.text.append(text)
                if isinstance(line, dict):
                    self.lines.append(line)
                self.news.notify_all()

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self, deadline=DEADLINE):
        """The exit status."""
        code = self.process.wait(deadline)
        self.reader.join()
        return code

    def stop(self):
        """As an operator stops it; nothing may be wrong afterwards."""
        if self.process is None or self.process.poll() is not None:
            return
        self.signal(signal.SIGTERM)
        code = self.wait()
        assert code == 0, f"exit status {code}:\n{self.output()}"
        self.check_sane()

    def check_sane(self):
        assert not SANITIZER.search(self.output()), self.output()

    def kill(self):
        self.process.kill()
        self.wait()

    def run_to_end(self, deadline=DEADLINE):
        """For starts that must fail: exit status and everything on stderr."""
        self.spawn()
        try:
            code = self.wait(deadline)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"it should have ended:\n{self.output()}") from None
        self.check_sane()
        return code, self.output()

    # Where it is ----------------------------------------------------------------------------------

    @property
    def url(self):
        return f"http://{HOST}:{self.port}"

    def url_of(self, path, upstream="origin"):
        return f"{self.url}/{upstream}/{path}.git"

    # What it says ---------------------------------------------------------------------------------

    def output(self):
        with self.news:
            return "\n".join(self.text)

    def wait_lines(self, matches, count=1, what="log lines", deadline=DEADLINE):
        """All log lines for which matches(line); waits for count of them."""
        end = time.monotonic() + deadline
        with self.news:
            while True:
                found = [line for line in self.lines if matches(line)]
                if len(found) >= count:
                    return found
                if not self.news.wait(end - time.monotonic()):
                    break
        raise AssertionError(f"not within {deadline:g} s: {count} {what}, in:\n{self.output()}")

    def wait_event(self, event, **fields):
        return self.wait_lines(
            lambda l: l.get("event") == event and all(l.get(k) == v for k, v in fields.items()),
            what=f"lines with event {event!r} {fields or ''}",
        )[0]

    def requests(self, count=0, **fields):
        """The logged request lines with these fields, in order; waits for count of them."""
        return self.wait_lines(
            lambda l: l.get("event") == "request"
            and all(l.get(name) == value for name, value in fields.items()),
            count,
            f"request lines {fields or ''}",
        )

    def packs(self, count):
        """How requests for packs were answered, in order; waits for count of them."""
        found = self.wait_lines(
            lambda l: l.get("event") == "request" and str(l.get("result")).startswith(PACKS),
            count,
            "request lines for packs",
        )
        return [line["result"] for line in found]

    def warnings(self):
        with self.news:
            return [line for line in self.lines if line.get("level") in ("warn", "warning", "error")]

    def health(self):
        """Status and body of GET /healthz."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=DEADLINE)
        try:
            connection.request("GET", "/healthz")
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def space(self):
        """What it says that it takes, and may take: total, limit, filling, ..."""
        return json.loads(self.health()[1])["space"]

    def shared(self):
        """How it fares with the shared tier: status, reason, hits, misses, uploads, ..."""
        return json.loads(self.health()[1])["shared"]

    # What it keeps --------------------------------------------------------------------------------

    def usage(self):
        """Bytes on the disk, as `du` says; it complains of files that go meanwhile."""
        said = subprocess.run(["du", "-s", "-B1", self.data], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        return int(said.stdout.split()[0])

    def files(self, folder):
        return sorted(p for p in (self.data / folder).rglob("*") if p.is_file())

    def answers(self):
        return self.files("answers")

    def incoming(self):
        return self.files("incoming")

    def mirror(self, path, upstream="origin"):
        return self.data / "mirrors" / upstream / f"{path}.git"

    def wait_answers(self, count=1):
        return until(
            lambda: len(found := self.answers()) >= count and found, f"{count} answers are kept"
        )

    def wait_mirror(self, path, upstream="origin"):
        """Until there is a mirror with at least one ref or pack in it."""
        folder = self.mirror(path, upstream)
        until(lambda: any(folder.glob("objects/pack/*.idx")), f"a mirror of {path}")
        return folder

    def holds(self, needle):
        """The files of the data folder that have these bytes in them."""
        found = []
        for path in self.files("."):
            try:
                if needle in path.read_bytes() or needle in str(path).encode():
                    found.append(path)
            except FileNotFoundError:
                pass
        return found

    # What it costs --------------------------------------------------------------------------------

    def status(self, name):
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return line.split()[1]
        raise KeyError(name)

    def rss(self, peak=False):
        """Bytes."""
        return int(self.status("VmHWM" if peak else "VmRSS")) * 1024

    def threads(self):
        return int(self.status("Threads"))

    def cpu_seconds(self, children=True):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11 : 15 if children else 13])) / os.sysconf("SC_CLK_TCK")

    def children(self):
        """The command lines of all descendants that lived at one moment, by pid: to look takes a
        while, in which one may end and the next begin."""
        before = dict(descendants(self.process.pid))
        after = dict(descendants(self.process.pid))
        return {pid: line for pid, line in after.items() if before.get(pid) == line}


def descendants(pid):
    """(pid, command line); who ends meanwhile is left out."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for task in tasks:
        try:
            children = Path(f"/proc/{pid}/task/{task}/children").read_text().split()
        except OSError:
            continue
        for child in map(int, children):
            try:
                yield child, Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ")
            except OSError:
                continue
            yield from descendants(child)
