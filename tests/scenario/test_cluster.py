"""Several nodes, one Redis, one bucket: they behave like one cache, and any of them may go away."""
import signal
import time

import pytest

from support import pktline, repos
from support.cluster import LEASE_TTL, NODE_TTL, command
from support.faulty import Gate
from support.gitclient import Reader, ask, same_objects, wait_traced
from support.wait import DEADLINE, until

NAME = "origin/public/simple"


@pytest.fixture(scope="module")
def big(origin):
    return origin.make("public/big-cluster", repos.big, files=16)


BIG = "public/big-cluster"


@pytest.fixture
def three(cluster, upstream):
    """Three nodes behind the lying upstream."""
    return cluster.nodes_up("a", "b", "c", upstream=upstream.url)


def whole(reader):
    status, body = reader.read_response()
    return status == 200 and pktline.pack_is_whole(body)


def read_some(reader, size=900_000):
    while len(reader.got) < size:
        data = reader.socket.recv(65536)
        assert data, "closed before its end"
        reader.got += data
    return reader


def asking(node, oid, refs=True, path=BIG):
    """A raw client that has asked for all behind oid, as git does it: for the refs first, unless what it
    wants is an id."""
    if refs:
        assert ask(node.url_of(path), pktline.ls_refs()).status == 200
    return Reader(node.port).post(f"/origin/{path}.git/git-upload-pack", pktline.fetch([oid]))


def for_a_pack(asked):
    """Not the question whether a credential may have an id, which upstream answers with next to nothing."""
    return asked.kind == "fetch" and b"filter tree:0" not in asked.body


def packs_asked(upstream):
    return [asked for asked in upstream.requests() if for_a_pack(asked)]


def clone_by_hand(node, oid, path=BIG):
    reader = asking(node, oid, path=path)
    ok = whole(reader)
    reader.leave()
    return ok


# One cache --------------------------------------------------------------------------------------------


def test_a_hundred_cold_clones_over_three_nodes_cost_one_pack_and_one_object(
        cluster, three, upstream, origin, simple, git, tmp_path):
    gate = upstream.on("fetch", Gate(after=40))
    clones, traces = [], []
    for n in range(100):
        traces.append(tmp_path / f"trace{n}")
        clones.append(git.start("clone", "-q", three[n % 3].url_of("public/simple"), f"twin{n}",
                                GIT_TRACE_PACKET=str(traces[-1])))
    for trace in traces:
        wait_traced(trace, b"< packfile")
    assert [c.poll() for c in clones] == [None] * 100
    gate.open()
    for clone in clones:
        _, said = clone.communicate(timeout=240)
        assert clone.returncode == 0, said
    assert len(upstream.requests("fetch")) == 1
    until(lambda: len(cluster.results(*three)) == 100, "all are logged")
    assert cluster.results(*three) == ["hit, coalesced"] * 97 + ["hit, peer"] * 2 + ["miss, upstream"]
    direct = git.clone(origin.url_of("public/simple"))
    for n in (0, 1, 2, 99):
        same_objects(git.home / f"twin{n}", direct)
    for node in three:
        cluster.tier.wait_idle(node)
    assert len(cluster.tier.answers()) == 1 and len(cluster.tier.manifests()) == 1


@pytest.mark.parametrize("refs", [True, False], ids=["by ref", "by id"])
def test_a_second_node_follows_the_growing_answer_of_the_first(cluster, three, upstream, big, refs):
    a, b, _ = three
    gate = upstream.on(for_a_pack, Gate(after=1 << 20))
    first = asking(a, big.oid(), refs)
    first.read_until(b"PACK")
    gate.wait_held()
    second = asking(b, big.oid(), refs)
    second.read_until(b"PACK")
    read_some(second)
    assert gate.held == 1 and len(packs_asked(upstream)) == 1
    gate.open()
    assert whole(first) and whole(second)
    assert len(packs_asked(upstream)) == 1
    assert a.packs(1) == ["miss, upstream"] and b.packs(1) == ["hit, peer"]
    # What was followed to its end is kept.
    b.wait_answers()
    assert clone_by_hand(b, big.oid())
    assert b.packs(2)[1] == "hit, local"


def test_what_one_node_has_whole_another_one_takes_from_it(cluster, upstream, big):
    a, b = cluster.nodes_up("a", "b", upstream=upstream.url, shared=False)
    assert clone_by_hand(a, big.oid())
    a.wait_answers()
    assert clone_by_hand(b, big.oid())
    assert b.packs(1) == ["hit, peer"]
    assert len(upstream.requests("fetch")) == 1


def test_without_redis_nothing_changes(cluster, upstream, simple, origin, git):
    a, b = [cluster.node(name, upstream=upstream.url, redis=False, shared=False) for name in "ab"]
    for node in (a, b):
        git.clone_alike(node.url_of("public/simple"), origin.url_of("public/simple"))
        assert node.packs(1) == ["miss, upstream"]
    assert len(upstream.requests("fetch")) == 2
    assert cluster.redis.keys() == []


# A node that goes away --------------------------------------------------------------------------------


def test_the_filling_node_is_killed_amid_a_stream(cluster, three, upstream, big, origin, git, tmp_path):
    """Who has got bytes ends with git's own error; who has got none doesn't notice."""
    a, b, c = three
    gate = upstream.on("fetch", Gate(after=1 << 20), times=1)
    clones = []
    for node in (a, b):
        trace = tmp_path / f"trace-{node.name}"
        clones.append(git.start("clone", "-q", node.url_of(BIG), f"clone-{node.name}", GIT_TRACE_PACKET=trace))
        wait_traced(trace, b"< packfile")
    gate.wait_held()
    a.kill()
    for clone in clones:
        _, said = clone.communicate(timeout=2 * DEADLINE)
        assert clone.returncode == 128 and "fatal: " in said, said
    assert len(upstream.requests("fetch")) == 1
    assert b.packs(1) == ["hit, peer"]
    gate.open()
    # The claim of the dead node stands in nobody's way, and nothing half was kept.
    git.clone_alike(c.url_of(BIG), origin.url_of(BIG))
    git.clone_alike(b.url_of(BIG), origin.url_of(BIG))
    assert len(upstream.requests("fetch")) == 2


def test_the_filling_node_is_killed_before_its_first_byte(cluster, three, upstream, big, origin, git):
    a, b, c = three
    gate = upstream.on("fetch", Gate(after=None), times=1)
    filling = asking(a, big.oid())
    gate.wait_held()
    clones = [git.start("clone", "-q", node.url_of(BIG), f"clone-{node.name}") for node in (b, c)]
    until(lambda: all(len(upstream.requests("ls-refs")) >= 3 for _ in (b, c)), "both have the refs")
    a.kill()
    filling.leave()
    for clone in clones:
        _, said = clone.communicate(timeout=4 * DEADLINE)
        assert clone.returncode == 0, said
    gate.open()
    assert len(upstream.requests("fetch")) == 2
    assert cluster.results(b, c) in (["hit, peer", "miss, upstream"],)


def test_a_wrong_secret_is_refused_and_clones_go_on(cluster, upstream, big):
    a = cluster.node("a", upstream=upstream.url, shared=False)
    b = cluster.node("b", upstream=upstream.url, shared=False,
                     secret_file=cluster.write_secret("other", "a-secret-that-nobody-else-knows"))
    cluster.wait_met(a, b)
    for node in (a, b):
        assert clone_by_hand(node, big.oid())
        node.wait_answers()
    assert b.packs(1) == ["miss, upstream"]
    line = b.wait_event("another node can't be followed")
    assert "secret" in line["reason"] and line["node"] == "a"
    for node in (a, b):
        assert "a-secret-that" not in node.output()


def test_a_push_through_one_node_is_seen_through_another(cluster, own, git):
    path, repo = own()
    a, b = cluster.nodes_up("a", "b", upstreams={"refs_ttl": "1h"})

    def seen_by(node):
        return git.run("ls-remote", node.url_of(path), "refs/heads/main").split()[0]

    before = repo.oid()
    assert seen_by(b) == before
    clone = git.clone(a.url_of(path))
    # Refs are believed for an hour: what comes past the nodes isn't seen.
    elsewhere = repo.commit(text="elsewhere")
    assert seen_by(b) == before
    git.run("-C", clone, "pull", "-q", f"{cluster.tier.upstream}/{path}.git", "main")
    pushed = git.commit(clone, "pushed")
    git.run("-C", clone, "push", "-q", "origin", "main")
    assert repo.oid() == pushed != elsewhere
    until(lambda: seen_by(b) == pushed, "the other node sees it")
    assert seen_by(a) == pushed
