"""An S3 endpoint that misbehaves, in front of a real one (support.rgw).

    s3 = FaultyS3(rgw)
    s3.on(asks("get", "answers/"), slow_down(), times=3)
    s3.on(asks("GET"), cut(after=1 << 20), times=1)
    gate = s3.on(asks("put"), Gate(after=1000))     holds each PUT there, until gate.open()
    s3.count("get", "answers/"), s3.bytes_up("put part"), s3.bytes_down()
    ... shared.endpoint = s3.url ...

A request's kind is what it is to S3: put; begin, part, complete, abort of an upload in parts; get,
head, list, remove.  Wherever a kind is asked for, the method or several words will do as well.

Bodies pass through in pieces, in both directions: nothing is kept of them but how many bytes there
were.  Rules and `never`, which hangs here too, are support.faulty's."""
import email.utils
import http.client
import time
import urllib.parse

from . import faulty
from .faulty import HOP_BY_HOP, Exchange, Faulty, never
from .net import HOST
from .wait import DEADLINE

__all__ = ["FaultyS3", "Gate", "Late", "asks", "bucket_missing", "changed", "cut", "flipped", "lost", "never",
           "refused", "relay", "slow_down", "stall", "wrong_clock"]

PIECE = 65536


class Asked(faulty.Asked):
    """raw and body are empty: what passed is only counted.  up and down are bytes of bodies that
    passed, length is how many were said to come up, status is what was answered (0: nothing yet)."""

    def __post_init__(self):
        self.body = b""
        self.length = int(self.header("content-length") or 0)
        self.up = self.down = self.status = 0
        self.done = False
        # Keys travel percent-encoded.
        self.bucket, _, self.key = urllib.parse.unquote(self.path[1:]).partition("/")
        self.query = dict(urllib.parse.parse_qsl(self.target.partition("?")[2], keep_blank_values=True))

    @property
    def kind(self):
        if not self.key:
            return "list" if self.method == "GET" else "bucket"
        if self.method == "POST":
            return "begin" if "uploads" in self.query else "complete"
        if "uploadId" in self.query:
            return "abort" if self.method == "DELETE" else "part"
        return {"DELETE": "remove"}.get(self.method, self.method.lower())

    def is_(self, kinds, part=""):
        """kinds: words, or None for all; part: of the key, or of the prefix that is listed."""
        words = kinds.split() if kinds else [self.method]
        return (self.method in words or self.kind in words) and \
            part in (self.key or self.query.get("prefix", ""))


def asks(kinds=None, part=""):
    """A predicate: one of these methods or kinds, with that part in its key."""
    return lambda asked: asked.is_(kinds, part)


class S3Exchange(Exchange):
    def __init__(self, handler, asked):
        super().__init__(handler, asked)
        self.unread = asked.length

    def start(self, status, headers=(), length=None):
        self.asked.status = status
        super().start(status, headers, length)

    def send(self, data):
        super().send(data)
        self.asked.down += len(data)

    def take(self, limit=None):
        """The request's body, in pieces; no more than so many bytes."""
        left = self.unread if limit is None else min(limit, self.unread)
        while left > 0:
            data = self.handler.rfile.read1(min(left, PIECE))
            if not data:
                raise ConnectionError("the client has left")
            left -= len(data)
            self.unread -= len(data)
            self.asked.up += len(data)
            yield data

    def drain(self):
        for _ in self.take():
            pass

    def open(self):
        """A connection to the real one, and the request's head on it.  Host is part of what was
        signed, so it stays as it came."""
        asked = self.asked
        self.far = http.client.HTTPConnection(HOST, self.server.faulty.origin.port, timeout=4 * DEADLINE)
        self.far.putrequest(asked.method, asked.target, skip_host=True, skip_accept_encoding=True)
        for name, value in asked.headers:
            if name.lower() == "host" or name.lower() not in HOP_BY_HOP + ("expect",):
                self.far.putheader(name, value)
        if asked.header("content-length") is not None:
            self.far.putheader("Content-Length", asked.header("content-length"))
        self.far.endheaders()

    def pass_up(self, limit=None):
        for data in self.take(limit):
            self.far.send(data)

    def answer(self):
        """The real one's response, once it has had the rest of the body."""
        self.pass_up()
        return self.far.getresponse()

    def begin(self, response):
        """Its head goes to the client."""
        length = response.getheader("content-length", 0 if response.status == 204 else None)
        self.start(response.status, response.getheaders(), None if length is None else int(length))

    def pass_down(self, response, limit=None):
        left = limit
        while left != 0 and (data := response.read1(min(PIECE, left or PIECE))):
            left = None if left is None else left - len(data)
            self.send(data)

    def ask_up_to(self, after):
        """So many bytes of the body are on their way: the request's if it has one, else the
        response's.  Returns the response, if it has begun."""
        self.open()
        if self.unread:
            self.pass_up(after)
            return None
        response = self.answer()
        self.begin(response)
        self.pass_down(response, after)
        return response

    def go_on(self, response):
        if response is None:
            response = self.answer()
            self.begin(response)
        self.pass_down(response)
        self.end()

    def break_off(self, reset=False):
        """Towards both sides."""
        self.far.close()
        self.close(reset)


# Scripts --------------------------------------------------------------------------------------------


def relay(x):
    x.open()
    x.go_on(None)


def cut(after, reset=False):
    """So many bytes of the body (the request's if it has one, else the response's), then break off."""
    def script(x):
        x.ask_up_to(after)
        x.break_off(reset)

    return script


def lost(x):
    """It is done, and nothing is said of it."""
    x.open()
    x.answer().read()
    x.break_off()


def stall(after=0):
    """The head and so many bytes of the body, then nothing more."""
    def script(x):
        x.ask_up_to(after)
        never(x)
        x.break_off()

    return script


def refused(status, code, headers=(), early=False):
    """early: before the body is read, as some endpoints do it; they close behind it."""
    body = f"<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>".encode()

    def script(x):
        if early and x.unread:
            x.close()
        else:
            x.drain()
        x.reply(status, body, [("Content-Type", "application/xml"), *headers])

    return script


def slow_down(retry_after=None, early=False):
    headers = [("Retry-After", str(retry_after))] if retry_after is not None else []
    return refused(503, "SlowDown", headers, early)


def bucket_missing():
    return refused(404, "NoSuchBucket")


def wrong_clock(ahead=7200):
    """As if the endpoint's clock were so many seconds ahead."""
    def script(x):
        date = email.utils.formatdate(time.time() + ahead, usegmt=True)
        refused(403, "RequestTimeTooSkewed", [("Date", date)])(x)

    return script


def changed(change):
    """Wrong bytes: change(body) -> body, with the real one's head."""
    def script(x):
        x.open()
        response = x.answer()
        body = change(response.read())
        x.start(response.status, response.getheaders(), len(body))
        x.send(body)

    return script


def flipped(at):
    """One byte of the body is another one."""
    return changed(lambda body: body[:at] + bytes([body[at] ^ 0xFF]) + body[at + 1:])


class Gate(faulty.Gate):
    """Holds each request after so many bytes of its body (the request's if it has one, else the
    response's), until opened; then it goes on, or with breaks=True breaks off.  after=None: holds it
    before S3 is asked at all, and runs the script `then`."""

    def __init__(self, after=None, then=relay, breaks=False):
        super().__init__(after, then, breaks)

    def __call__(self, x):
        if self.after is None:
            self.hold(x)
            return self.then(x)
        response = x.ask_up_to(self.after)
        self.hold(x)
        return x.break_off() if self.breaks else x.go_on(response)


class Late:
    """Holds each request before S3 is asked (`before`), and once more when S3 has done it, before a word
    of that comes back (`after`): two gates.  Between the two it is done, and who asked doesn't know."""

    def __init__(self):
        self.before, self.after = Gate(), Gate()

    def __call__(self, x):
        self.before.hold(x)
        x.open()
        response = x.answer()
        self.after.hold(x)
        x.begin(response)
        x.go_on(response)

    def open(self):
        self.before.open()
        self.after.open()


class Handler(faulty.Handler):
    def serve(self):
        asked = Asked(self.command, self.path, self.headers.items(), b"")
        x = S3Exchange(self, asked)
        try:
            self.server.faulty.script_for(asked)(x)
        except (OSError, http.client.HTTPException):
            self.close_connection = True  # one of both sides has left
        finally:
            if getattr(x, "far", None):
                x.far.close()
            if x.unread:  # what is on the connection is no request
                self.close_connection = True
            asked.done = True

    do_GET = do_POST = do_HEAD = do_PUT = do_DELETE = serve


class FaultyS3(Faulty):
    handler = Handler

    def on(self, what, script, times=None):
        """what: kinds, or a predicate (asks).  The latest matching rule wins.  Returns the script."""
        return super().on(what if callable(what) else asks(what), script, times)

    def behave(self):
        """No rules any more; what is held is held on."""
        with self.lock:
            self.rules.clear()

    def requests(self, kinds=None, part=""):
        with self.lock:
            return [a for a in self.asked if a.is_(kinds, part)]

    def under_way(self):
        return [a for a in self.requests() if not a.done]

    def count(self, kinds=None, part=""):
        return len(self.requests(kinds, part))

    def bytes_up(self, kinds=None, part=""):
        return sum(a.up for a in self.requests(kinds, part))

    def bytes_down(self, kinds=None, part=""):
        return sum(a.down for a in self.requests(kinds, part))

    def forget(self):
        """Count anew."""
        with self.lock:
            self.asked.clear()

    def otherwise(self):
        return relay
