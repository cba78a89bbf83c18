"""Repositories that are fetched before anybody asks: the queue, and who takes from it."""
from support import repos
from support.cluster import command
from support.faulty import Gate, for_a_pack, packs_asked


def warm(node, path):
    said = command(node, "warm", f"origin/{path}")
    assert said.status == 0 and f"origin/{path}: queued" in said.out, said


def warmed(*nodes):
    return [line for node in nodes for line in node.lines if line.get("event") == "warmed up"]


def wait_warmed(node, count):
    return node.wait_lines(lambda line: line.get("event") == "warmed up", count, "repositories warmed up")


def test_a_clone_after_it_asks_upstream_for_no_pack(behind, upstream, origin, own, git):
    path, _ = own()
    warm(behind, path)
    line = wait_warmed(behind, 1)[0]
    assert line["repository"] == f"origin/{path}" and line["mirror"] == "made"
    git.clone_alike(behind.url_of(path), origin.url_of(path))
    assert len(packs_asked(upstream)) == 1


def test_what_is_there_is_brought_forward(behind, upstream, own):
    path, repo = own()
    warm(behind, path)
    wait_warmed(behind, 1)
    warm(behind, path)
    wait_warmed(behind, 2)
    repo.commit()
    warm(behind, path)
    assert [line["mirror"] for line in wait_warmed(behind, 3)] == ["made", "unchanged", "refreshed"]
    assert len(packs_asked(upstream)) == 2
    assert repos.git(behind.mirror(path), "cat-file", "-t", repo.oid()).strip() == "commit"


def test_what_needs_a_credential_stays_out(behind, upstream, private, own):
    path, repo = private()
    warm(behind, path)
    line = behind.wait_event("not warmed up")
    assert line["repository"] == f"origin/{path}" and line["again"] == "no"
    assert packs_asked(upstream) == []
    assert not behind.mirror(path).exists()
    # And the next job's turn comes.
    public, _ = own()
    warm(behind, public)
    wait_warmed(behind, 1)


def test_an_upstream_that_is_away_is_tried_again(behind, upstream, own):
    path, _ = own()
    upstream.on("refs", lambda x: x.reply(503), times=1)
    warm(behind, path)
    assert behind.wait_event("not warmed up")["again"] == "yes"
    wait_warmed(behind, 1)


def test_nodes_share_the_work(cluster, upstream, own):
    three = cluster.nodes_up("a", "b", "c", upstream=upstream.url)
    gate = upstream.on(for_a_pack, Gate(after=None))
    paths = [own()[0] for _ in three]
    for path in paths:
        warm(three[0], path)
    # All at once: each node has one of them.
    gate.wait_held(3)
    gate.open()
    for node in three:
        wait_warmed(node, 1)
    assert sorted(line["repository"] for line in warmed(*three)) == sorted(f"origin/{p}" for p in paths)


def test_what_a_stopping_node_has_taken_another_one_does(cluster, upstream, own):
    a = cluster.nodes_up("a", upstream=upstream.url)[0]
    gate = upstream.on(for_a_pack, Gate(after=None), times=1)
    path, _ = own()
    warm(a, path)
    gate.wait_held()
    b = cluster.nodes_up("b", upstream=upstream.url)[0]
    a.stop()
    wait_warmed(b, 1)
    assert warmed(a) == []
    gate.open()


def test_what_the_bucket_has_comes_from_there(cluster, upstream, own):
    a = cluster.nodes_up("a", upstream=upstream.url)[0]
    path, _ = own()
    warm(a, path)
    wait_warmed(a, 1)
    cluster.tier.wait_idle(a)
    a.stop()
    b = cluster.nodes_up("b", upstream=upstream.url)[0]
    warm(b, path)
    assert wait_warmed(b, 1)[0]["mirror"] == "restored"
    assert len(packs_asked(upstream)) == 1
