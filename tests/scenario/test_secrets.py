"""Credentials stay out of logs, argv, the data folder and error texts."""
import base64
import threading

import pytest

from support import pktline
from support.faulty import cut, err
from support.gitclient import advertisement, ask, basic, call
from support.origin import PASSWORDS

TOKEN = PASSWORDS["alice"].encode()
TRACES = [TOKEN, basic("alice").split()[1].encode(), base64.b64encode(TOKEN).rstrip(b"=")]


class Watch:
    """Collects the command lines of all of pannier's children until it is asked."""

    def __init__(self, pannier):
        self.pannier = pannier
        self.seen = set()
        self.enough = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def watch(self):
        while not self.enough.wait(0.002):
            self.seen.update(self.pannier.children().values())

    def end(self):
        self.enough.set()
        self.thread.join()
        return self.seen


def nowhere(pannier, *texts):
    for trace in TRACES:
        assert trace.decode() not in pannier.output()
        assert pannier.holds(trace) == []
        for text in texts:
            assert trace not in (text if isinstance(text, bytes) else text.encode())


def test_a_token_leaves_no_trace(start, upstream, private, person):
    """Clone, refresh of the mirror, push, failures, at the chattiest level."""
    path, repo = private()
    pannier = start(origin=upstream.url, config={"log": {"level": "debug"}})
    url, alice = pannier.url_of(path), person("alice")
    watch = Watch(pannier)
    clone = alice.clone(url)
    pannier.wait_mirror(path)
    for text in ("one", "two"):
        repo.commit(text=text)
        alice.clone(url)
        alice.clone(url, "--depth=1")
    alice.run("pull", "-q", cwd=clone)
    alice.commit(clone, "pushed")
    alice.run("push", "-q", "origin", "main", cwd=clone)
    commands = watch.end()
    assert any(b"index-pack" in c for c in commands) or commands
    nowhere(pannier, *commands)


@pytest.mark.parametrize("script", [cut(3000), err("not today"), None], ids=["cut", "err", "unreachable"])
def test_error_texts_hold_no_token(behind, upstream, private, person, script):
    path, repo = private()
    if script:
        upstream.on("fetch", script)
    else:
        upstream.close()
    said = person("alice").fails("clone", behind.url_of(path))
    answer = ask(behind.url_of(path), pktline.fetch([repo.oid()]), user="alice")
    nowhere(behind, said, answer.body)


def test_no_config_file_of_a_mirror_names_a_credential(pannier, private, person):
    path, _ = private()
    person("alice").clone(pannier.url_of(path))
    mirror = pannier.wait_mirror(path)
    config = (mirror / "config").read_text()
    assert "alice" not in config and "Authorization" not in config


def test_a_password_in_a_url_is_not_logged(pannier):
    for target in ("/alice:s3cr3t-pw@origin/a/b.git/info/refs?service=git-upload-pack",
                   "/origin/a/b.git/info/refs?service=git-upload-pack&private_token=s3cr3t-pw",
                   "/s3cr3t-pw@origin", "/origin/a/b.git/s3cr3t-pw?x=s3cr3t-pw"):
        answer = call(pannier.url, raw_target=target)
        assert "s3cr3t-pw" not in answer.text
    advertisement(pannier.url_of("a/b"), headers={"X-Token": "s3cr3t-pw", "Cookie": "s=s3cr3t-pw"})
    pannier.requests(5)
    assert "private_token" not in pannier.output() and "s=s3cr3t-pw" not in pannier.output()
    assert "alice:s3cr3t-pw" not in pannier.output()


def test_files_in_the_data_folder_are_for_its_owner_only(pannier, private, person):
    path, _ = private()
    person("alice").clone(pannier.url_of(path))
    pannier.wait_answers()
    assert pannier.data.stat().st_mode & 0o077 == 0 or all(
        f.stat().st_mode & 0o077 == 0 for f in pannier.answers())
