"""An S3 endpoint that misbehaves, in front of a real one (support.rgw).

    s3 = FaultyS3(rgw)
    s3.on(asks("GET", "answers/"), slow_down(), times=3)
    s3.on(asks("GET"), cut(after=1 << 20), times=1)
    ... shared.endpoint = s3.url ...

Rules, gates and the record of what was asked are support.faulty's.  Its `never` hangs here, too."""
import email.utils
import http.client
import time

from .faulty import HOP_BY_HOP, Faulty, never
from .net import HOST
from .wait import DEADLINE

__all__ = ["FaultyS3", "asks", "changed", "cut", "never", "refused", "relay", "slow_down", "stall",
           "wrong_clock"]


def asks(method, part=""):
    """A predicate: this method, and that part in its target."""
    return lambda asked: asked.method == method and part in asked.target


def ask(x):
    """The real one's response.  Host is part of what was signed, so it stays as it came."""
    connection = http.client.HTTPConnection(HOST, x.server.faulty.origin.port, timeout=DEADLINE * 2)
    asked = x.asked
    connection.putrequest(asked.method, asked.target, skip_host=True, skip_accept_encoding=True)
    for name, value in asked.headers:
        if name.lower() == "host" or name.lower() not in HOP_BY_HOP + ("expect",):
            connection.putheader(name, value)
    if asked.raw or asked.method in ("PUT", "POST"):
        connection.putheader("Content-Length", str(len(asked.raw)))
    connection.endheaders(asked.raw)
    return connection.getresponse()


def begin(x):
    response = ask(x)
    length = response.getheader("content-length")
    x.start(response.status, response.getheaders(), int(length) if length is not None else None)
    return response


def relay(x):
    response = begin(x)
    for data in x.pieces(response):
        x.send(data)
    x.end()


def refused(status, code, headers=()):
    body = f"<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>".encode()
    return lambda x: x.reply(status, body, [("Content-Type", "application/xml"), *headers])


def slow_down(retry_after=None):
    return refused(503, "SlowDown", [("Retry-After", str(retry_after))] if retry_after else [])


def wrong_clock(ahead=7200):
    """As if the endpoint's clock were so many seconds ahead."""
    def script(x):
        date = email.utils.formatdate(time.time() + ahead, usegmt=True)
        refused(403, "RequestTimeTooSkewed", [("Date", date)])(x)

    return script


def cut(after, reset=False):
    """Relay so many bytes of the body, then break off."""
    def script(x):
        response = begin(x)
        x.send(response.read(after))
        x.close(reset)

    return script


def stall(after=0):
    """The head and so many bytes of the body, then nothing more."""
    def script(x):
        response = begin(x)
        x.send(response.read(after) if after else b"")
        never(x)

    return script


def changed(change):
    """Wrong bytes: change(body) -> body, with the real one's head."""
    def script(x):
        response = ask(x)
        body = change(response.read())
        x.start(response.status, response.getheaders(), len(body))
        x.send(body)

    return script


class FaultyS3(Faulty):
    def otherwise(self):
        return relay
