"""A scripted upstream that lies, stalls and breaks off, in front of the origin or by itself.

    upstream = Faulty(origin)
    upstream.on("fetch", cut(after=5000), times=1)     the first fetch is cut, later ones are relayed
    gate = upstream.on("fetch", Gate(after=5000))      holds every fetch there, until gate.open()

It records every request whole, so that tests can say what must not have been sent."""
import base64
import http.client
import socket
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from . import pktline
from .net import HOST
from .origin import inflated, kind_of
from .wait import DEADLINE, until

HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding", "content-length", "host", "te")


@dataclass
class Asked:
    method: str
    target: str
    headers: list  # (name, value) as they came
    raw: bytes
    body: bytes = field(init=False)  # inflated

    def __post_init__(self):
        self.body = inflated(self.raw, self.header("content-encoding") or "")

    def all(self, name):
        return [v for n, v in self.headers if n.lower() == name.lower()]

    def header(self, name):
        return next(iter(self.all(name)), None)

    @property
    def path(self):
        return self.target.partition("?")[0]

    @property
    def kind(self):
        return kind_of(self.method, self.target, self.body)

    @property
    def user(self):
        value = self.header("authorization") or ""
        if not value.lower().startswith("basic "):
            return ""
        return base64.b64decode(value[6:]).decode().partition(":")[0]


def for_a_pack(asked):
    """Not the question whether a credential may have an id, which upstream answers with next to nothing."""
    return asked.kind == "fetch" and b"filter tree:0" not in asked.body


def packs_asked(upstream):
    return [asked for asked in upstream.requests() if for_a_pack(asked)]


class Exchange:
    """One request and the answer under way; what a script gets to play with."""

    def __init__(self, handler, asked):
        self.handler = handler
        self.asked = asked
        self.server = handler.server
        self.chunked = False

    # Towards the client.

    def start(self, status, headers=(), length=None):
        """The response's head; without a length the body is chunked."""
        self.chunked = length is None and self.asked.method != "HEAD"
        out = [f"HTTP/1.1 {status} {http.client.responses.get(status, 'Odd')}"]
        out += [f"{n}: {v}" for n, v in headers if n.lower() not in HOP_BY_HOP]
        out.append("Transfer-Encoding: chunked" if self.chunked else f"Content-Length: {length or 0}")
        self.write("\r\n".join(out).encode("latin-1") + b"\r\n\r\n")

    def send(self, data):
        if data:
            self.write(b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data)

    def end(self):
        if self.chunked:
            self.write(b"0\r\n\r\n")

    def reply(self, status, body=b"", headers=()):
        self.start(status, headers, len(body))
        if self.asked.method != "HEAD":
            self.send(body)

    def close(self, reset=False):
        """Break off here."""
        if reset:
            linger = struct.pack("ii", 1, 0)
            self.handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.handler.close_connection = True

    def write(self, data):
        self.handler.wfile.write(data)
        self.handler.wfile.flush()

    # Towards the origin.

    def ask_origin(self, target=None):
        url = self.server.faulty.origin
        connection = http.client.HTTPConnection(HOST, url.port, timeout=DEADLINE * 2)
        asked = self.asked
        connection.putrequest(asked.method, target or asked.target, skip_host=True,
                              skip_accept_encoding=True)
        connection.putheader("Host", f"{HOST}:{url.port}")
        for name, value in asked.headers:
            if name.lower() not in HOP_BY_HOP + ("expect",):
                connection.putheader(name, value)
        if asked.raw or asked.method == "POST":
            connection.putheader("Content-Length", str(len(asked.raw)))
        connection.endheaders(asked.raw)
        return connection.getresponse()

    def pieces(self, response):
        while data := response.read1(65536):
            yield data

    def wait(self, event):
        """Until the event is set, or the whole upstream is closed."""
        until(lambda: event.is_set() or self.server.faulty.closing.is_set(), "release", 120)


# Scripts: callables that take an Exchange -----------------------------------------------------------


def relay(x):
    response = x.ask_origin()
    x.start(response.status, response.getheaders())
    for data in x.pieces(response):
        x.send(data)
    x.end()


def cut(after, reset=False, clean=False):
    """Relay that many bytes of the body, then break off; clean: end it as if it were whole."""

    def script(x):
        response = x.ask_origin()
        x.start(response.status, response.getheaders())
        x.send(response.read(after))
        x.end() if clean else x.close(reset)

    return script


def changed(change):
    """Relay with the body changed: change(body) -> body."""

    def script(x):
        response = x.ask_origin()
        x.reply(response.status, change(response.read()), response.getheaders())

    return script


def changed_pack(change):
    return changed(lambda body: pktline.with_pack(body, change))


def reply(status, body=b"", **headers):
    """headers: Retry_After="7" and so on."""
    pairs = [(n.replace("_", "-"), v) for n, v in headers.items()]
    return lambda x: x.reply(status, body, pairs)


def err(message):
    """An ERR packet, as hosts refuse, throttle and excuse themselves."""

    def script(x):
        service = "receive-pack" if "receive-pack" in x.asked.target else "upload-pack"
        kind = "advertisement" if x.asked.method == "GET" else "result"
        content_type = f"application/x-git-{service}-{kind}"
        x.reply(200, pktline.pkt(b"ERR " + message.encode()), [("Content-Type", content_type)])

    return script


def never(x):
    """No answer at all."""
    x.wait(x.server.faulty.closing)
    x.close()


def stall(after=0):
    """The head and so many bytes of the body, then nothing more."""

    def script(x):
        response = x.ask_origin()
        x.start(response.status, response.getheaders())
        x.send(response.read(after) if after else b"")
        never(x)

    return script


def drip(size=997, pause=0.002):
    """Everything, in many small pieces."""

    def script(x):
        response = x.ask_origin()
        x.start(response.status, response.getheaders())
        while data := response.read(size):
            x.send(data)
            x.server.faulty.closing.wait(pause)
        x.end()

    return script


class Gate:
    """Holds each response after so many bytes of its body, until opened; then it goes on, or with
    breaks=True breaks off.  after=None: holds it before upstream is asked at all, and runs the
    script `then`."""

    def __init__(self, after=None, then=relay, breaks=False):
        self.after = after
        self.then = then
        self.breaks = breaks
        self.opened = threading.Event()
        self.held = 0
        self.lock = threading.Lock()

    def __call__(self, x):
        if self.after is None:
            self.hold(x)
            return self.then(x)
        response = x.ask_origin()
        x.start(response.status, response.getheaders())
        x.send(response.read(self.after))
        self.hold(x)
        if self.breaks:
            return x.close()
        for data in x.pieces(response):
            x.send(data)
        x.end()

    def hold(self, x):
        with self.lock:
            self.held += 1
        x.wait(self.opened)

    def wait_held(self, count=1):
        until(lambda: self.held >= count, f"upstream holds {count} responses")

    def open(self):
        self.opened.set()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def read_body(self):
        if "chunked" in (self.headers.get("transfer-encoding") or "").lower():
            out = []
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                out.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(out)
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def serve(self):
        try:
            asked = Asked(self.command, self.path, self.headers.items(), self.read_body())
            self.server.faulty.script_for(asked)(Exchange(self, asked))
        except OSError:
            self.close_connection = True  # the other side has left

    do_GET = do_POST = do_HEAD = do_PUT = do_DELETE = serve


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_):
        pass


class Faulty:
    handler = Handler

    def __init__(self, origin=None):
        self.origin = origin
        self.rules = []
        self.asked = []
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.server = Server((HOST, 0), self.handler)
        self.server.faulty = self
        self.port = self.server.server_address[1]
        self.url = f"http://{HOST}:{self.port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()

    def on(self, what, script, times=None):
        """what: a kind ("fetch", "ls-refs", "refs", "push", ...) or a predicate on Asked.  The
        latest matching rule wins.  Returns the script."""
        matches = what if callable(what) else lambda asked: asked.kind == what
        with self.lock:
            self.rules.insert(0, [matches, script, times])
        return script

    def script_for(self, asked):
        with self.lock:
            self.asked.append(asked)
            for rule in self.rules:
                if rule[2] != 0 and rule[0](asked):
                    if rule[2] is not None:
                        rule[2] -= 1
                    return rule[1]
        return self.otherwise()

    def otherwise(self):
        return relay if self.origin else reply(404)

    def requests(self, kind=None):
        with self.lock:
            return [a for a in self.asked if kind is None or a.kind == kind]

    def wait_asked(self, kind, count=1):
        return until(
            lambda: (found := self.requests(kind)) and len(found) >= count and found,
            f"upstream is asked for {count} x {kind}",
        )


class Blackhole:
    """A port where connections are accepted by the kernel and nobody ever answers."""

    def __init__(self):
        self.socket = socket.create_server((HOST, 0))
        self.port = self.socket.getsockname()[1]
        self.url = f"http://{HOST}:{self.port}"

    def close(self):
        self.socket.close()

    def untouched(self):
        """True when nobody has connected."""
        self.socket.setblocking(False)
        try:
            self.socket.accept()[0].close()
            return False
        except BlockingIOError:
            return True
