"""The real git with a clean environment, and hand-made HTTP requests."""
import gzip
import http.client
import os
import pty
import re
import select
import socket
import subprocess
import urllib.parse
from pathlib import Path

from .net import HOST
from .origin import PASSWORDS, basic
from .repos import ENV
from .wait import DEADLINE, until


class Failed(AssertionError):
    """git ended with another status than 0; the text is what it said."""


class Git:
    """A person's git with a home of its own."""

    def __init__(self, home, user=None, protocol=2):
        self.home = Path(home)
        self.home.mkdir(parents=True, exist_ok=True)
        self.env = {
            **{k: v for k, v in ENV.items() if k != "GIT_CONFIG_GLOBAL"},
            "HOME": str(self.home),
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_OPTIONAL_LOCKS": "0",
        }
        self.clones = 0
        self.set("init.defaultBranch", "main")
        self.set("protocol.version", str(protocol))
        self.set("gc.auto", "0")
        self.set("advice.detachedHead", "false")
        self.set("protocol.file.allow", "always")
        if user:
            self.log_in(user)

    def set(self, key, value):
        self.run("config", "--global", key, value)

    def log_in(self, user):
        """Credentials through a helper, which notes each time it is asked."""
        helper = self.home / "helper"
        helper.write_text(
            f"#!/bin/sh\necho $1 >>{self.home}/asked\n"
            f'test "$1" = get && echo username={user} && echo password={PASSWORDS[user]}\nexit 0\n'
        )
        helper.chmod(0o755)
        self.set("credential.helper", str(helper))

    def helper_was_asked(self):
        asked = self.home / "asked"
        return asked.exists() and "get" in asked.read_text()

    # Running --------------------------------------------------------------------------------------

    def start(self, *args, cwd=None, **env):
        return subprocess.Popen(
            ["git", *map(str, args)], cwd=cwd or self.home, env={**self.env, **env},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            errors="replace",
        )

    def run(self, *args, cwd=None, **env):
        """What git wrote to stdout; Failed with its stderr otherwise."""
        self.stderr = ""
        process = self.start(*args, cwd=cwd, **env)
        try:
            out, self.stderr = process.communicate(timeout=4 * DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise AssertionError(f"git {' '.join(map(str, args))} hangs") from None
        if process.returncode != 0:
            raise Failed(f"git {' '.join(map(str, args))}: {process.returncode}\n{self.stderr}")
        return out.strip()

    def fails(self, *args, cwd=None, **env):
        """What git said on stderr, having failed."""
        try:
            self.run(*args, cwd=cwd, **env)
        except Failed:
            return self.stderr
        raise AssertionError(f"git {' '.join(map(str, args))} should have failed")

    def on_terminal(self, *args, cwd=None):
        """Run with stderr on a terminal, so that progress is on; everything shown there."""
        mine, its = pty.openpty()
        process = subprocess.Popen(
            ["git", *map(str, args)], cwd=cwd or self.home, env={**self.env, "TERM": "dumb"},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=its,
        )
        os.close(its)
        shown = b""
        while select.select([mine], [], [], 4 * DEADLINE)[0]:
            try:
                data = os.read(mine, 65536)
            except OSError:  # the terminal's other end is closed
                break
            if not data:
                break
            shown += data
        os.close(mine)
        code = process.wait(DEADLINE)
        if code != 0:
            raise Failed(shown.decode("utf-8", "replace"))
        return shown.decode("utf-8", "replace")

    # Doing ----------------------------------------------------------------------------------------

    def place(self):
        self.clones += 1
        return self.home / f"clone{self.clones}"

    def clone(self, url, *options, **env):
        """Clone into a new folder; returns it."""
        to = self.place()
        self.run("clone", "-q", *options, url, to, **env)
        return to

    def clone_alike(self, url, direct, *options, **env):
        """Clone from url; the clone must be what a clone from direct is.  Returns it."""
        through = self.clone(url, *options, **env)
        same_objects(through, self.clone(direct, *options, **env))
        return through

    def fetch_commit(self, url, oid, *options):
        """As actions/checkout does it."""
        to = self.place()
        self.run("init", "-q", to)
        self.run("remote", "add", "origin", url, cwd=to)
        self.run("fetch", "-q", "--no-tags", *(options or ("--depth=1",)), "origin", oid, cwd=to)
        self.run("checkout", "-q", oid, cwd=to)
        return to

    def commit(self, folder, text):
        (Path(folder) / text).write_text(text)
        self.run("add", text, cwd=folder)
        self.run("commit", "-q", "-m", text, cwd=folder)
        return self.run("rev-parse", "HEAD", cwd=folder)


def objects(folder):
    """Every object of a repository, as `<oid> <type> <size>`."""
    return sorted(in_repo(folder, "cat-file", "--batch-all-objects", "--batch-check"))


def refs(folder):
    """Every ref with its value, and what HEAD is."""
    head = subprocess.run(["git", "-C", folder, "symbolic-ref", "-q", "HEAD"], env=ENV,
                          capture_output=True, text=True).stdout.strip()
    return [head] + in_repo(folder, "for-each-ref", "--format=%(objectname) %(refname) %(symref)")


def in_repo(folder, *args):
    done = subprocess.run(
        ["git", "-C", str(folder), *args], env=ENV, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def fsck(folder):
    done = subprocess.run(
        ["git", "-C", str(folder), "fsck", "--full", "--strict", "--no-dangling"],
        env=ENV, capture_output=True, text=True,
    )
    assert done.returncode == 0, f"fsck of {folder}: {done.stdout}{done.stderr}"


def same_objects(a, b, same_refs=True):
    """Both repositories are sound and equal: every object, every ref, the shallow boundary."""
    fsck(a)
    fsck(b)
    assert objects(a) == objects(b)
    if same_refs:
        assert refs(a) == refs(b)
    assert boundary(a) == boundary(b)


def boundary(folder):
    file = Path(in_repo(folder, "rev-parse", "--absolute-git-dir")[0]) / "shallow"
    return sorted(file.read_text().split()) if file.exists() else []


# By hand --------------------------------------------------------------------------------------------


class Answer:
    def __init__(self, response):
        self.status = response.status
        self.reason = response.reason
        self.headers = response.msg
        try:
            self.body = response.read()
            self.whole = True
        except http.client.IncompleteRead as cut:
            self.body = cut.partial
            self.whole = False
        except OSError:
            self.body = b""
            self.whole = False

    def header(self, name):
        return self.headers.get(name)

    @property
    def text(self):
        return self.body.decode("utf-8", "replace")


def call(url, method="GET", body=None, user=None, protocol=2, headers=(), raw_target=None,
         connection=None, chunks=None):
    """One HTTP request.  raw_target goes onto the request line as it is; chunks is a list of
    pieces sent chunked; headers override what git would send."""
    parts = urllib.parse.urlsplit(url)
    own = connection or http.client.HTTPConnection(parts.hostname, parts.port, timeout=2 * DEADLINE)
    target = raw_target or parts.path + (f"?{parts.query}" if parts.query else "")
    sent = {"User-Agent": "git/2.39.5"}
    if protocol:
        sent["Git-Protocol"] = f"version={protocol}"
    if user:
        sent["Authorization"] = basic(user)
    if method == "POST":
        sent["Content-Type"] = "application/x-git-upload-pack-request"
    sent.update(dict(headers))
    try:
        if chunks is not None:
            own.request(method, target, iter(chunks), sent, encode_chunked=True)
        else:
            own.request(method, target, body, sent)
        return Answer(own.getresponse())
    finally:
        if connection is None:
            own.close()


def advertisement(url, service="git-upload-pack", **options):
    return call(f"{url}/info/refs?service={service}", **options)


def ask(url, body, **options):
    """POST git-upload-pack."""
    return call(f"{url}/git-upload-pack", "POST", body, **options)


def ask_gzipped(url, body, encoding="gzip", **options):
    return ask(url, gzip.compress(body), headers={"Content-Encoding": encoding}, **options)


class Reader:
    """A raw connection: sends what it is told, reads as much as it is told, when it is told."""

    def __init__(self, port, receive_buffer=None):
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(2 * DEADLINE)
        self.socket.connect((HOST, port))
        self.got = b""

    def send(self, data):
        self.socket.sendall(data)
        return self

    def post(self, path, body, user=None, protocol=2):
        head = [f"POST {path} HTTP/1.1", f"Host: {HOST}", "User-Agent: git/2.39.5"]
        head += ["Content-Type: application/x-git-upload-pack-request"]
        head += [f"Content-Length: {len(body)}"]
        head += [f"Git-Protocol: version={protocol}"] if protocol else []
        head += [f"Authorization: {basic(user)}"] if user else []
        return self.send("\r\n".join(head).encode() + b"\r\n\r\n" + body)

    def read_until(self, wanted):
        """Everything so far; at least until these bytes have come."""
        while wanted not in self.got:
            data = self.socket.recv(65536)
            assert data, f"closed after {self.got[-300:]!r}"
            self.got += data
        return self.got

    def read_all(self):
        """Until the other side closes."""
        try:
            while data := self.socket.recv(1 << 20):
                self.got += data
        except ConnectionError:
            pass
        return self.got

    def read_response(self):
        """Head and de-chunked body of one response."""
        head = self.read_until(b"\r\n\r\n").partition(b"\r\n\r\n")[0]
        status = int(head.split()[1])
        if length := re.search(rb"(?i)\r\ncontent-length: *(\d+)", head):
            total = len(head) + 4 + int(length[1])
            while len(self.got) < total:
                data = self.socket.recv(1 << 20)
                assert data, "closed before its end"
                self.got += data
            return status, self.got[len(head) + 4 :]
        self.read_until(b"\r\n0\r\n\r\n")
        return status, dechunked(self.got[len(head) + 4 :])

    def leave(self, reset=False):
        if reset:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()


def dechunked(data):
    """The bytes of a chunked body, as far as they came."""
    out, at = [], 0
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            break
        size = int(data[at:end].partition(b";")[0], 16)
        if size == 0:
            break
        out.append(data[end + 2 : end + 2 + size])
        at = end + 2 + size + 2
    return b"".join(out)


def wait_traced(trace, what):
    """Until a file that git writes (GIT_TRACE_PACKET=...) has these bytes in it."""
    until(lambda: trace.exists() and what in trace.read_bytes(), f"{what!r} in {trace.name}")
