"""The tests' own tools, proven without pannier: what they say about it is worth no more than this."""
import subprocess

import pytest

from support import pktline, repos
from support.faulty import Gate, changed_pack, cut, err
from support.gitclient import Reader, ask, ask_gzipped, refs, same_objects, wait_traced
from support.net import Ports
from support.pannier import descendants
from support.wait import until


def test_ports_are_taken_by_one_process_only():
    one, other = Ports(), Ports()  # as of two processes: a lock is a file's, not a process's
    taken = [p.take() for p in (one, other) for _ in range(100)]
    assert len(set(taken)) == 200


def test_descendants_of_who_is_gone_are_none():
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert list(descendants(process.pid)) == []


def test_origin_serves_protocol_0_1_and_2_and_counts_what_it_serves(origin, simple, git):
    for protocol in (0, 1, 2):
        since = origin.mark()
        clone = git.clone(origin.url_of("public/simple"), "-c", f"protocol.version={protocol}", "--mirror")
        same_objects(clone, simple.path, same_refs=False)
        kinds = [s.kind for s in origin.requests(since)]
        assert kinds == (["refs", "ls-refs", "fetch"] if protocol == 2 else ["refs", "fetch"])
        assert origin.requests(since)[-1].bytes > 5000


def test_origin_without_protocol_2_is_asked_in_protocol_0(origin, simple, git):
    since = origin.mark()
    git.clone(f"{origin.url}/v0/public/simple.git")
    assert [s.kind for s in origin.requests(since)] == ["refs", "fetch"]


def test_origin_keeps_users_apart(origin, private, person, git):
    path, _ = private(read=["alice"])
    shared, _ = private(read=["alice", "bob"])
    person("alice").clone(origin.url_of(path))
    person("bob").clone(origin.url_of(shared))
    assert "Authentication failed" in person("bob").fails("clone", origin.url_of(path))
    assert "could not read Username" in git.fails("clone", origin.url_of(path))


def test_origin_lets_only_those_push_who_may(origin, private, person):
    path, repo = private(read=["alice", "bob"], push=["alice"])
    for user in ("alice", "bob"):
        client = person(user)
        clone = client.clone(origin.url_of(path))
        client.commit(clone, user)
        if user == "alice":
            client.run("push", "-q", "origin", "main", cwd=clone)
        else:
            client.fails("push", "-q", "origin", "main", cwd=clone)
    assert repo.git("log", "-1", "--format=%s", "main") == "alice"


def test_origin_speaks_tls_under_its_own_authority(origin, simple, git):
    url = f"{origin.tls_url}/public/simple.git"
    assert "certificate" in git.fails("clone", url)
    git.clone(url, "-c", f"http.sslCAInfo={origin.ca_file}")


def test_origin_redirects_a_renamed_repository(origin, git):
    origin.make("public/new/moved")
    git.clone(f"{origin.url}/public/old/moved.git")


def test_repositories_are_alike_each_time(tmp_path):
    one = repos.simple(tmp_path / "1" / "r")
    two = repos.simple(tmp_path / "2" / "r")
    assert one.oid() == two.oid() and one.objects() == two.objects()


def test_every_recipe_makes_a_sound_repository(tmp_path, git):
    recipes = {
        "sha256": lambda p: repos.simple(p, object_format="sha256"),
        "hidden": lambda p: repos.simple(p, hidden=True),
        "many": lambda p: repos.many_refs(p, 200),
        "empty": repos.empty,
        "big": lambda p: repos.big(p, files=2),
    }
    for name, recipe in recipes.items():
        repo = recipe(tmp_path / name)
        same_objects(git.clone(repo.path, "--mirror"), repo.path, same_refs=name != "empty")
    assert len(refs(tmp_path / "many")) == 1 + 200


def test_a_gate_holds_clones_until_it_is_opened(upstream, simple, git, tmp_path):
    gate = upstream.on("fetch", Gate(after=2000))
    clones = []
    for n in range(3):
        trace = tmp_path / f"trace{n}"
        clones.append(git.start("clone", "-q", f"{upstream.url}/public/simple.git", f"held{n}",
                                GIT_TRACE_PACKET=str(trace)))
    for n in range(3):
        wait_traced(tmp_path / f"trace{n}", b"< packfile")
    gate.wait_held(3)
    assert [c.poll() for c in clones] == [None] * 3
    gate.open()
    assert [c.wait(60) for c in clones] == [0] * 3
    assert len(upstream.requests("fetch")) == 3


@pytest.mark.parametrize("script, says", [
    (cut(after=3000), "early EOF"),
    (cut(after=3000, reset=True), "early EOF"),
    (cut(after=3000, clean=True), "early EOF"),
    (changed_pack(pktline.wrong_checksum), "pack is corrupted"),
    (changed_pack(pktline.lying_count), "fatal"),
    (err("slow down, please"), "remote error: slow down, please"),
], ids=["cut", "reset", "short", "checksum", "count", "err"])
def test_git_itself_notices_each_lie(upstream, simple, git, script, says):
    upstream.on("fetch", script, times=1)
    url = f"{upstream.url}/public/simple.git"
    assert says in git.fails("clone", url)
    same_objects(git.clone(url), git.clone(simple.path, "--no-local"), same_refs=False)


def test_hand_made_requests_are_answered_like_gits_own(upstream, simple):
    url = f"{upstream.url}/public/simple.git"
    body = pktline.fetch([simple.oid()])
    answer = ask(url, body)
    assert answer.status == 200 and pktline.pack_is_whole(answer.body)
    assert pktline.pack_is_whole(ask_gzipped(url, body).body)
    assert upstream.requests("fetch")[-1].body == body
    status, raw = Reader(upstream.port).post("/public/simple.git/git-upload-pack", body).read_response()
    assert status == 200 and pktline.pack_is_whole(raw)


def test_a_request_shows_who_sent_it(upstream, private, person):
    path, _ = private()
    person("alice").clone(f"{upstream.url}/{path}.git")
    assert [a.user for a in upstream.requests()] == ["", "alice", "alice", "alice"]
    until(lambda: upstream.requests("fetch"), "the fetch is recorded")
