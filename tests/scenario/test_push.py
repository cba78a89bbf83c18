"""What is relayed and never kept: pushes, LFS calls, the dumb protocol."""
import hashlib
import json

import pytest

from support import repos
from support.gitclient import call, same_objects


@pytest.mark.parametrize("protocol", [0, 2])
def test_a_push_goes_through_and_is_seen_at_once(pannier, origin, own, git, protocol):
    git.set("protocol.version", str(protocol))
    path, repo = own()
    clone = git.clone(pannier.url_of(path))
    other = git.clone(pannier.url_of(path))
    for text in ("one", "two"):
        oid = git.commit(clone, text)
        git.run("push", "-q", "origin", "main", cwd=clone)
        assert repo.oid() == oid
        assert git.run("ls-remote", pannier.url_of(path), "refs/heads/main").split()[0] == oid
        git.run("pull", "-q", cwd=other)
        assert git.run("rev-parse", "HEAD", cwd=other) == oid
        git.clone_alike(pannier.url_of(path), origin.url_of(path))
    assert pannier.requests(2, result="push", service="receive-pack")


def test_a_push_ends_remembered_refs(start, origin, own, git):
    path, _ = own()
    pannier = start(config={"upstreams": [{"name": "origin", "url": origin.url, "refs_ttl": "1h"}]})
    clone = git.clone(pannier.url_of(path))
    oid = git.commit(clone, "new")
    git.run("push", "-q", "origin", "main", cwd=clone)
    assert git.run("ls-remote", pannier.url_of(path), "refs/heads/main").split()[0] == oid


def test_a_big_push_comes_chunked_and_is_not_held_to_the_limit_of_bodies(start, origin, own, git):
    path, repo = own(repos.empty)
    pannier = start(origin=origin.url, config={"limits": {"body": "100K"}})
    source = git.clone(origin.make("public/3mb", repos.big, files=3).path, "--no-local")
    git.run("-c", "http.postBuffer=65536", "push", "-q", pannier.url_of(path), "main", cwd=source)
    same_objects(repo.path, source, same_refs=False)
    assert pannier.answers() == [] and pannier.incoming() == []


def test_a_push_that_upstream_rejects_says_why(pannier, origin, own, git):
    path, repo = own()
    clone = git.clone(pannier.url_of(path))
    git.commit(clone, "mine")
    repo.commit(text="theirs")
    assert "fetch first" in git.fails("push", "origin", "main", cwd=clone)
    hook = repo.path / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho policy says no\nexit 1\n")
    hook.chmod(0o755)
    assert "remote: policy says no" in git.fails("push", "origin", "HEAD:refs/heads/x", cwd=clone)


def test_a_push_carries_the_clients_own_credential_and_no_other(start, upstream, private, person, git):
    path, repo = private(read=["alice", "bob"], push=["bob"])
    pannier = start(origin=upstream.url)
    person("alice").clone(pannier.url_of(path))
    bob = person("bob")
    clone = bob.clone(pannier.url_of(path))
    bob.commit(clone, "bobs")
    bob.run("push", "-q", "origin", "main", cwd=clone)
    for kind in ("push-refs", "push"):
        assert {a.user for a in upstream.requests(kind)} <= {"", "bob"}
    assert upstream.requests("push")[-1].user == "bob"


def test_who_may_read_may_not_therefore_push(pannier, private, person, git):
    path, repo = private(read=["alice", "bob"], push=["bob"])
    before = repo.oid()
    alice = person("alice")
    clone = alice.clone(pannier.url_of(path))
    alice.commit(clone, "mine")
    assert "Authentication failed" in alice.fails("push", "origin", "main", cwd=clone)
    assert repo.oid() == before
    answer = call(f"{pannier.url_of(path)}/git-receive-pack", "POST", b"0000",
                  headers={"Content-Type": "application/x-git-receive-pack-request"})
    assert answer.status == 401 and answer.header("WWW-Authenticate") == 'Basic realm="origin"'


# LFS ------------------------------------------------------------------------------------------------

LFS = "application/vnd.git-lfs+json"


def test_an_lfs_call_is_relayed_as_it_is(behind, upstream):
    said = json.dumps({"objects": []}).encode()
    upstream.on("lfs", lambda x: x.reply(200, said, [("Content-Type", LFS), ("X-Odd", "kept")]))
    body = b'{"operation":"download","objects":[{"oid":"' + b"ab" * 32 + b'","size":3}]}'
    answer = call(f"{behind.url_of('public/simple')}/info/lfs/objects/batch", "POST", body, user="alice",
                  headers={"Content-Type": LFS, "Accept": LFS})
    assert (answer.status, answer.body) == (200, said)
    assert answer.header("Content-Type") == LFS
    [asked] = upstream.requests("lfs")
    assert asked.target == "/public/simple.git/info/lfs/objects/batch"
    assert (asked.body, asked.user, asked.header("Accept")) == (body, "alice", LFS)
    assert asked.header("Content-Type") == LFS
    behind.requests(1, result="lfs")
    assert behind.answers() == []


@pytest.mark.parametrize("status", [401, 403, 404, 422, 429])
def test_an_lfs_refusal_passes_unchanged(behind, upstream, status):
    headers = [("LFS-Authenticate", 'Basic realm="x"'), ("WWW-Authenticate", "Basic"), ("Retry-After", "7")]
    upstream.on("lfs", lambda x: x.reply(status, b'{"message":"no"}', [*headers, ("Content-Type", LFS)]))
    answer = call(f"{behind.url_of('x/y')}/info/lfs/objects/batch", "POST", b"{}", headers={"Content-Type": LFS})
    assert (answer.status, answer.body) == (status, b'{"message":"no"}')
    assert answer.header("WWW-Authenticate") == "Basic"
    assert answer.header("LFS-Authenticate") == 'Basic realm="x"'


def test_git_lfs_gets_its_objects(behind, upstream, own, git):
    content = b"large" * 1000
    oid = hashlib.sha256(content).hexdigest()
    path, repo = own()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(content)}\n"
    s = repos.Stream("lfs")
    s.commit("refs/heads/lfs", "lfs", [(".gitattributes", b"*.bin filter=lfs diff=lfs merge=lfs -text\n"),
                                       ("large.bin", pointer.encode())])
    repo.git("fast-import", "--quiet", data=b"".join(s.out))
    href = {"href": f"{upstream.url}/store/{oid}"}
    batch = {"transfer": "basic",
             "objects": [{"oid": oid, "size": len(content), "actions": {"download": href}}]}
    upstream.on("lfs", lambda x: x.reply(200, json.dumps(batch).encode(), [("Content-Type", LFS)]))
    upstream.on(lambda a: a.path.startswith("/store/"), lambda x: x.reply(200, content))
    git.run("lfs", "install", "--skip-repo")
    clone = git.clone(behind.url_of(path), "--branch=lfs")
    assert (clone / "large.bin").read_bytes() == content


# The dumb protocol ----------------------------------------------------------------------------------


def test_the_dumb_protocol_is_relayed(pannier, origin, own, git):
    path, repo = own()
    repo.git("update-server-info")
    through = git.clone(pannier.url_of(path), GIT_SMART_HTTP="0")
    same_objects(through, git.clone(origin.url_of(path), GIT_SMART_HTTP="0"))
    pannier.requests(3, result="dumb")
    assert pannier.answers() == []


def test_the_dumb_protocol_of_a_private_repository_needs_a_credential(pannier, private, person):
    path, repo = private()
    repo.git("update-server-info")
    person("alice").clone(pannier.url_of(path), GIT_SMART_HTTP="0")
    for file in ("HEAD", "info/refs", "objects/info/packs"):
        answer = call(f"{pannier.url_of(path)}/{file}")
        assert answer.status == 401 and "WWW-Authenticate" in answer.headers


def test_a_missing_dumb_file_is_404(pannier, simple):
    assert call(f"{pannier.url_of('public/simple')}/objects/info/nothing").status == 404
