"""The admin listener as a program sees it."""
import hashlib
import http.client
import json
from pathlib import Path

from .net import HOST
from .wait import DEADLINE, until

ROOT = Path(__file__).resolve().parents[2]


class Answer:
    def __init__(self, response):
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def type(self):
        return (self.headers.get("Content-Type") or "").partition(";")[0]

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def problem(self):
        """What a problem document says; it has to be one."""
        assert self.type == "application/problem+json", (self.type, self.body)
        problem = self.json
        assert problem["status"] == self.status and problem["title"] and problem["detail"]
        return problem


class Admin:
    """Calls of one pannier's API: get("/stats") -> its document."""

    def __init__(self, pannier, token=None):
        self.pannier = pannier
        self.token = token

    def call(self, method, path, body=None, headers=None, raw=None, host=None):
        headers = dict(headers or {})
        if self.token:
            headers.setdefault("Authorization", f"Bearer {self.token}")
        if host:
            headers["Host"] = host
        if body is not None:
            raw = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        connection = http.client.HTTPConnection(HOST, self.pannier.admin_port, timeout=4 * DEADLINE)
        try:
            connection.request(method, path, raw, headers)
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def done(self, method, path, body=None):
        answer = self.call(method, f"/api/v1{path}", body)
        assert answer.status == 200, (method, path, answer.status, answer.body)
        return answer.json

    def get(self, path):
        return self.done("GET", path)

    def post(self, path, body=None):
        return self.done("POST", path, body)

    def refused(self, status, method, path, body=None, **how):
        answer = self.call(method, f"/api/v1{path}", body, **how)
        assert answer.status == status, (answer.status, answer.body)
        return answer.problem

    def repository(self, name):
        """The id of "<upstream>/<path>"."""
        host, _, path = name.partition("/")
        return hashlib.sha256(host.encode() + b"\0" + path.encode()).hexdigest()

    def metrics(self):
        """{'name{labels}': value}"""
        answer = self.call("GET", "/metrics")
        assert answer.status == 200 and answer.type == "text/plain"
        lines = (line for line in answer.body.decode().splitlines() if not line.startswith("#"))
        return {series: float(value) for series, _, value in (line.rpartition(" ") for line in lines)}

    def events(self):
        return Events(self)


class Events:
    """Server-sent events: next() -> the next one's data."""

    def __init__(self, admin):
        self.connection = http.client.HTTPConnection(HOST, admin.pannier.admin_port, timeout=4 * DEADLINE)
        self.connection.request("GET", "/api/v1/events")
        self.response = self.connection.getresponse()
        assert self.response.status == 200, self.response.read()
        assert self.response.headers["Content-Type"] == "text/event-stream"

    def line(self):
        return self.response.readline().decode().rstrip("\n")

    def next(self):
        data = None
        while True:
            line = self.line()
            if line.startswith("data: "):
                data = json.loads(line.removeprefix("data: "))
            elif not line and data is not None:
                return data

    def wait(self, event):
        while True:
            if (data := self.next()).get("event") == event:
                return data

    def close(self):
        self.response.close()
        self.connection.close()


def tokens_file(path, **tokens):
    """tokens_file(path, scraper=("read", "secret")): written as an operator writes it."""
    lines = [f"{name} {scopes} sha256:{hashlib.sha256(token.encode()).hexdigest()}"
             for name, (scopes, token) in tokens.items()]
    fresh = path.with_suffix(".fresh")
    fresh.write_text("# who may do what\n" + "\n".join(lines) + "\n")
    fresh.replace(path)
    return path


def routes():
    """What proxy/admin/routes_table.h has: (method, path, scope)."""
    import re

    table = (ROOT / "proxy/admin/routes_table.h").read_text()
    return re.findall(r'^    X\((\w+), "([^"]+)", (\w+), \w+\)', table, re.M)


def begin_warmup(node, *repositories, **more):
    """POST warmups; its id."""
    body = {**({"repositories": list(repositories)} if repositories else {}), **more}
    answer = Admin(node).call("POST", "/api/v1/warmups", body)
    assert answer.status == 202, answer.body
    return answer.json["id"]


def ended_warmup(node, warmup):
    """What has become of it, once it has come to its end."""
    def look():
        said = Admin(node).get(f"/warmups/{warmup}")
        return said["ended"] and said
    return until(look, f"warm-up {warmup} has ended")


def warm(node, *paths, **more):
    return ended_warmup(node, begin_warmup(node, *(f"origin/{path}" for path in paths), **more))
