"""Upstreams that pannier has credentials of its own for: a host with passwords that change, a
credential helper, GitHub's API."""
import base64
import hashlib
import json
import subprocess
import time
from pathlib import Path

from .faulty import Asked, Faulty, relay
from .origin import basic

ALICE = basic("alice")


def login(user, password):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def token_hash(token):
    return "sha256:" + hashlib.sha256(token.encode()).hexdigest()


class Guarded:
    """The lying upstream with passwords of its own: whoever has one of them is alice at the origin."""

    def __init__(self, upstream):
        self.upstream = upstream
        self.valid = set()
        upstream.on(lambda asked: True, self)

    def __call__(self, x):
        if x.asked.header("Authorization") not in self.valid:
            return x.reply(401, b"no", [("WWW-Authenticate", 'Basic realm="host"')])
        rest = [(n, v) for n, v in x.asked.headers if n.lower() != "authorization"]
        x.asked = Asked(x.asked.method, x.asked.target, rest + [("Authorization", ALICE)], x.asked.raw)
        relay(x)

    @property
    def url(self):
        return self.upstream.url

    def let_in(self, user, password):
        """From now on this one alone."""
        self.valid = {login(user, password)}

    def seen(self):
        """Every Authorization that came, in order."""
        return [asked.header("Authorization") for asked in self.upstream.requests()]


class Helper:
    """A credential helper of git's that gives what it is told to, and notes what it was told."""

    def __init__(self, folder):
        folder.mkdir()
        self.program = folder / "helper"
        self.answer = folder / "answer"
        self.told = folder / "told"
        self.program.write_text(
            f"#!/bin/sh\n{{ echo \"[$*]\"; cat; }} >>{self.told}\n"
            f'test "$2" = get && cat {self.answer}\nexit 0\n'
        )
        self.program.chmod(0o755)
        self.value = f"{self.program} an-argument"

    def give(self, **fields):
        new = self.answer.with_suffix(".new")
        new.write_text("".join(f"{k}={v}\n" for k, v in fields.items()))
        new.rename(self.answer)

    def calls(self, verb):
        """What came with each of these, as a dict."""
        text = self.told.read_text() if self.told.exists() else ""
        found = [call.partition("]\n") for call in text.split("[")[1:]]
        return [dict(line.split("=", 1) for line in said.splitlines() if line)
                for words, _, said in found if words == f"an-argument {verb}"]


class GitHub(Faulty):
    """The part of its API that apps use.  installations: {owner: (folder, id)}."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.key, self.public = self.folder / "app.pem", self.folder / "app.pub"
        self.openssl("genrsa", "-out", str(self.key), "2048")
        self.openssl("rsa", "-in", str(self.key), "-pubout", "-out", str(self.public))
        self.installations = {}
        self.tokens = []
        self.life_s = 3600
        self.refuses = None
        super().__init__()

    def openssl(self, *args):
        return subprocess.run(["openssl", *args], capture_output=True, check=False)

    def is_the_app(self, asked):
        kind, _, jwt = (asked.header("Authorization") or "").partition(" ")
        signed, _, signature = jwt.rpartition(".")
        if kind != "Bearer" or signed.count(".") != 1:
            return False
        files = [self.folder / "signed", self.folder / "signature"]
        files[0].write_text(signed)
        files[1].write_bytes(unpadded(signature))
        checked = self.openssl("dgst", "-sha256", "-verify", str(self.public), "-signature", str(files[1]), str(files[0]))
        claims = json.loads(unpadded(signed.partition(".")[2]))
        return (checked.returncode == 0 and claims["iss"] == "4711" and claims["iat"] <= time.time() < claims["exp"]
                and claims["exp"] - claims["iat"] <= 600)

    def otherwise(self):
        return self.serve

    def serve(self, x):
        asked = x.asked
        if self.refuses:
            return self.refuses(x)
        if not self.is_the_app(asked):
            return x.reply(401, b"{}")
        for owner, (folder, number) in self.installations.items():
            if asked.method == "GET" and asked.path == f"/{folder}/{owner}/installation":
                return x.reply(200, json.dumps({"id": number}).encode())
            if asked.method == "POST" and asked.path == f"/app/installations/{number}/access_tokens":
                return self.make_token(x, owner)
        return x.reply(404, b"{}")

    def make_token(self, x, owner):
        rights = json.loads(x.asked.body)["permissions"]["contents"]
        self.tokens.append(f"ghs-{owner}-{rights}-{len(self.tokens)}-s3cret")
        ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + self.life_s))
        x.reply(201, json.dumps({"token": self.tokens[-1], "expires_at": ends}).encode())


def unpadded(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))

