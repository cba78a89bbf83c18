"""A real redis-server on a loopback port, a plain client for it, and relays in front of it.

    redis = RedisServer()
    redis.ask("GET", "key")                  as redis-cli does it
    RedisServer("--tls-port", "6380", ...)   with more options
    redis.kill(); redis.start()              it comes back empty; restart_empty() is both
    redis.freeze(); redis.thaw()             it hangs: SIGSTOP, SIGCONT
    link = Link(redis.port)                  one node's way to it, at link.port
    link.cut(); link.heal()                  its connections break, and new ones do at once
    link.cut(silent=True)                    nothing breaks and nothing arrives, as behind a dead router
    link.hold(b"progress:"); link.wait_held()    the same, from the first command that has this in it
    watched = Watched()                      a master and a replica, watched by three sentinels
    Watched(tls=[...])                       all of them with TLS to each other, by these options
    watched.url, watched.master.kill(), watched.wait_failed_over(), watched.kill_sentinels()
"""
import atexit
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
from pathlib import Path

from .net import HOST, free_port
from .wait import DEADLINE, until


class RedisError(Exception):
    """What Redis answers with when it refuses something."""


class Client:
    """One connection; for what tests look at, not for speed."""

    def __init__(self, port):
        self.socket = socket.create_connection((HOST, port), timeout=DEADLINE)
        self.file = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.file.close()
        self.socket.close()

    def ask(self, *words):
        """Text, a number, None, or a list of those."""
        out = b"*%d\r\n" % len(words)
        for word in words:
            word = word if isinstance(word, bytes) else str(word).encode()
            out += b"$%d\r\n%b\r\n" % (len(word), word)
        self.socket.sendall(out)
        return self.read()

    def read(self):
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("Redis closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest.decode()
        if kind == b"-":
            raise RedisError(rest.decode())
        if kind == b":":
            return int(rest)
        size = int(rest)
        if size < 0:
            return None
        if kind == b"$":
            return self.file.read(size + 2)[:-2].decode("utf-8", "replace")
        assert kind == b"*", line
        return [self.read() for _ in range(size)]


class RedisServer:
    """Keeps nothing on the disk; ends with the process that started it."""

    def __init__(self, *options, tls=()):
        """tls: options of a server that speaks TLS beside, to its like, too."""
        if shutil.which("redis-server") is None:
            raise AssertionError("not installed: redis-server (tests/run installs it)")
        self.folder = Path(tempfile.mkdtemp(prefix="redis-"))
        self.port = free_port()
        self.reached = free_port() if tls else self.port  # by others
        self.options = [*options, *(("--tls-port", self.reached, "--tls-replication", "yes", *tls) if tls else ())]
        self.process = None
        self.frozen = False
        atexit.register(self.stop)
        self.start()

    @property
    def url(self):
        return f"redis://{HOST}:{self.port}"

    # Life -----------------------------------------------------------------------------------------

    def start(self):
        """With nothing in it."""
        assert not self.runs(), "redis-server runs"
        command = ["setpriv", "--pdeathsig", "KILL", "redis-server", "--port", str(self.port), "--bind", HOST,
                   "--save", "", "--appendonly", "no", "--daemonize", "no", "--dir", str(self.folder),
                   *map(str, self.options)]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

        until(self.answers, "redis-server answers")
        return self

    def answers(self):
        if not self.runs():
            raise AssertionError(f"redis-server ended: {(self.folder / 'log').read_text()[-2000:]}")
        try:
            return self.ask("PING") == "PONG"
        except (OSError, RedisError):
            return False

    def runs(self):
        return self.process is not None and self.process.poll() is None

    def kill(self):
        """As a power failure does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
            self.frozen = False

    def restart_empty(self):
        self.kill()
        self.start()

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)
        self.frozen = True

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)
        self.frozen = False

    def revive(self):
        """For the end of a test: it runs, whatever was done to it."""
        if self.frozen:
            self.thaw()
        if not self.runs():
            self.start()

    def stop(self):
        atexit.unregister(self.stop)
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    # What is in it --------------------------------------------------------------------------------

    def ask(self, *words):
        with Client(self.port) as client:
            return client.ask(*words)

    def keys(self, pattern="*"):
        return sorted(self.ask("KEYS", pattern))

    def hash(self, key):
        words = self.ask("HGETALL", key)
        return dict(zip(words[::2], words[1::2]))


class Sentinel(RedisServer):
    """Knows who is master; as Debian's redis-sentinel, which is the same program."""

    def __init__(self, name, master_port, quorum, tls=()):
        self.config = [f"sentinel monitor {name} {HOST} {master_port} {quorum}",
                       f"sentinel down-after-milliseconds {name} 500", f"sentinel failover-timeout {name} 3000"]
        super().__init__(tls=tls)

    def start(self):
        """What it knew is forgotten, if it did not run before."""
        file = self.folder / "sentinel.conf"
        if not file.exists():
            file.write_text("\n".join(self.config) + "\n")
        command = ["setpriv", "--pdeathsig", "KILL", "redis-server", str(file), "--sentinel", "--port",
                   str(self.port), "--bind", HOST, *map(str, self.options)]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until(self.answers, "a sentinel answers")
        return self


class Watched:
    """A master and a replica, and three sentinels of which two must agree that the master is gone."""

    NAME = "pannier"

    def __init__(self, tls=()):
        self.scheme = "rediss+sentinel" if tls else "sentinel"
        self.master = RedisServer(tls=tls)
        self.replica = RedisServer("--replicaof", HOST, self.master.reached, tls=tls)
        self.sentinels = [Sentinel(self.NAME, self.master.reached, 2, tls) for _ in range(3)]
        until(lambda: all(self.sees_all(s) for s in self.sentinels), "the sentinels know of all", 2 * DEADLINE)

    @property
    def url(self):
        return f"{self.scheme}://" + ",".join(f"{HOST}:{s.reached}" for s in self.sentinels) + f"/{self.NAME}"

    def sees_all(self, sentinel):
        words = sentinel.ask("SENTINEL", "master", self.NAME)
        seen = dict(zip(words[::2], words[1::2]))
        return seen["num-slaves"] == "1" and seen["num-other-sentinels"] == "2" and self.follows()

    def follows(self):
        return "master_link_status:up" in self.replica.ask("INFO", "replication")

    def wait_failed_over(self):
        """The replica is the master now, and all sentinels say so."""
        now = [HOST, str(self.replica.reached)]
        until(lambda: all(s.ask("SENTINEL", "get-master-addr-by-name", self.NAME) == now for s in self.sentinels)
              and self.replica.ask("ROLE")[0] == "master", "the replica has taken over", 2 * DEADLINE)

    def kill_sentinels(self):
        for sentinel in self.sentinels:
            sentinel.kill()

    def stop(self):
        for server in (*self.sentinels, self.replica, self.master):
            server.stop()


class Link:
    """A relay to a port of loopback that can be cut and healed."""

    def __init__(self, to):
        self.to = to
        self.lock = threading.Lock()
        self.pairs = set()
        self.is_cut = False
        self.flows = threading.Event()  # not set: what comes waits
        self.flows.set()
        self.holds = None
        self.held = threading.Event()
        self.closed = False
        self.listener = socket.create_server((HOST, 0), backlog=256)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def cut(self, silent=False):
        if silent:
            self.flows.clear()
            return
        with self.lock:
            self.is_cut = True
            pairs = list(self.pairs)
        for pair in pairs:
            self.reset(pair)

    def hold(self, words):
        self.held.clear()
        self.holds = words

    def wait_held(self):
        assert self.held.wait(DEADLINE), f"nobody said {self.holds}"

    def heal(self):
        """What waited in silence goes on; what was broken has to connect anew."""
        with self.lock:
            self.is_cut = False
        self.flows.set()

    def close(self):
        self.closed = True
        self.cut()
        self.flows.set()
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.listener.close()

    @staticmethod
    def reset(pair):
        for s in pair:
            try:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def accept(self):
        while not self.closed:
            try:
                client = self.listener.accept()[0]
            except OSError:
                return
            try:
                server = socket.create_connection((HOST, self.to))
            except OSError:
                client.close()
                continue
            for s in (client, server):
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = (client, server)
            with self.lock:
                refused = self.is_cut
                if not refused:
                    self.pairs.add(pair)
            if refused:
                self.reset(pair)
                client.close()
                server.close()
                continue
            threading.Thread(target=self.carry, args=(pair,), daemon=True).start()

    def carry(self, pair):
        client, server = pair
        back = threading.Thread(target=self.pump, args=(server, client), daemon=True)
        back.start()
        self.pump(client, server)
        back.join()
        with self.lock:
            self.pairs.discard(pair)
        client.close()
        server.close()

    def pump(self, source, target):
        try:
            while data := source.recv(65536):
                if self.holds is not None and self.holds in data:
                    self.holds = None
                    self.flows.clear()
                    self.held.set()
                self.flows.wait()
                target.sendall(data)
        except OSError:
            pass
        # Either end of a connection ends both: Redis knows no half-closed ones.
        for s in (source, target):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
