"""What all nodes know in common: who has what, and how new the mirrors are.  It saves requests to
upstream and to the shared tier, may be lost, and never brings back what was invalidated."""
import hashlib
import hmac
import http.client
import subprocess
import time

import pytest

from support import pktline
from support.admin import Admin
from support.cluster import SECRET, folder_command
from support.faulty import Gate as UpstreamGate
from support.faulty import packs_asked
from support.faulty_s3 import Gate, asks, refused
from support.gitclient import Reader, ask
from support.net import HOST
from support.pannier import binary
from support.wait import DEADLINE, until

NAME = "origin/public/simple"


@pytest.fixture
def two(cluster, upstream):
    """Two nodes behind the lying upstream, without a shared tier."""
    return cluster.nodes_up("a", "b", upstream=upstream.url, shared=False)


class Index:
    """The records as they lie in Redis."""

    def __init__(self, cluster):
        self.redis, self.prefix = cluster.redis, cluster.prefix

    def records(self, kind="answer"):
        return [self.redis.hash(key) for key in self.redis.keys(f"{self.prefix}entry:{kind}:*")]

    def where(self):
        return sorted((r["tier"], r["node"]) for r in self.records())

    def wait_where(self, *where):
        until(lambda: self.where() == sorted(where), f"the index says {where}, and not {self.where()}")

    def keys(self):
        return [key.rpartition(":")[2] for key in self.redis.keys(self.prefix + "entry:answer:*")]

    def forget_who_fills(self):
        """As a minute after it was filled."""
        for key in self.redis.keys(self.prefix + "filling:*"):
            self.redis.ask("DEL", key)

    def generations(self):
        return [int(self.redis.hash(key)["generation"]) for key in self.redis.keys(self.prefix + "repo:*")
                if "generation" in self.redis.hash(key)]


@pytest.fixture
def index(cluster):
    return Index(cluster)


def get(node, oid, refs=True, path="public/simple"):
    """A clone by hand, its bytes looked at; how it was answered."""
    before = len(node.packs(0))
    if refs:
        assert ask(node.url_of(path), pktline.ls_refs()).status == 200
    reader = Reader(node.port).post(f"/origin/{path}.git/git-upload-pack", pktline.fetch([oid]))
    status, body = reader.read_response()
    reader.leave()
    assert status == 200 and pktline.pack_is_whole(body)
    return node.packs(before + 1)[before]


# On another node's disk -------------------------------------------------------------------------------


@pytest.mark.parametrize("refs", [True, False], ids=["by ref", "by id"])
def test_what_lies_on_another_nodes_disk_is_taken_from_there(two, upstream, simple, index, refs):
    a, b = two
    assert get(a, simple.oid()) == "miss, upstream"
    a.wait_answers()
    index.wait_where(("local", "a"))
    [record] = index.records()
    assert record["repo"] == NAME and record["path"].startswith("answers/") and int(record["size"]) > 0
    index.forget_who_fills()
    assert get(b, simple.oid(), refs) == "hit, peer"
    assert len(packs_asked(upstream)) == 1
    # It is b's now, too, and who comes next may take it from there.
    b.wait_answers()
    index.wait_where(("local", "b"))
    assert get(b, simple.oid()) == "hit, local"


def test_a_private_repository_on_another_nodes_disk_is_for_those_who_may_see_it(cluster, private, git, index):
    path, _ = private(read=["alice"])
    a, b = cluster.nodes_up("a", "b", shared=False)
    git.log_in("alice")
    git.clone(a.url_of(path))
    a.wait_answers()
    index.wait_where(("local", "a"))
    index.forget_who_fills()
    git.log_in("bob")
    git.fails("clone", b.url_of(path), "x")
    git.log_in("alice")
    git.clone(b.url_of(path))
    assert b.packs(1) == ["hit, peer"]


def test_a_record_of_what_is_gone_costs_one_refused_request_and_is_taken_back(two, upstream, simple, index):
    a, b = two
    get(a, simple.oid())
    a.wait_answers()
    index.wait_where(("local", "a"))
    index.forget_who_fills()
    for file in a.data.glob("answers/*/*"):
        file.unlink()  # behind its back
    assert get(b, simple.oid()) == "miss, upstream"
    assert b.wait_event("another node can't be followed")["node"] == "a"
    index.wait_where(("local", "b"))
    assert len(packs_asked(upstream)) == 2


def test_who_lets_go_of_an_answer_takes_its_record_back(two, simple, index):
    a, _ = two
    get(a, simple.oid())
    a.wait_answers()
    index.wait_where(("local", "a"))
    assert folder_command(a, "rm", NAME).status == 0
    index.wait_where()


def test_a_node_that_is_away_is_not_asked_for_what_it_has(two, upstream, simple, index, cluster):
    a, b = two
    get(a, simple.oid())
    a.wait_answers()
    index.wait_where(("local", "a"))
    a.stop()
    assert get(b, simple.oid()) == "miss, upstream"
    index.wait_where(("local", "b"))
    # It is back, and what it tells again doesn't displace what b says.
    a.start()
    cluster.wait_met(a, b)
    assert index.where() == [("local", "b")]


def test_what_could_not_be_told_is_told_when_redis_is_back(cluster, two, simple, index):
    a, b = two
    get(a, simple.oid())
    a.wait_answers()
    index.wait_where(("local", "a"))
    for key in cluster.redis.keys(cluster.prefix + "entry:*"):
        cluster.redis.ask("DEL", key)
    cluster.link(a).cut()
    cluster.wait_status(a, "degraded")
    cluster.link(a).heal()
    cluster.wait_met(a, b)
    index.wait_where(("local", "a"))
    index.forget_who_fills()
    assert get(b, simple.oid()) == "hit, peer"


# Invalidations ----------------------------------------------------------------------------------------


def test_after_an_invalidation_no_record_leads_to_what_it_was_about(two, upstream, cluster, simple, index):
    a, b = two
    get(a, simple.oid())
    a.wait_answers()
    index.wait_where(("local", "a"))
    index.forget_who_fills()
    assert cluster.invalidate(b, NAME).status == 0
    assert get(b, simple.oid()) == "miss, upstream"
    assert len(packs_asked(upstream)) == 2
    index.wait_where(("local", "b"))


def test_people_are_told_which_generation_of_a_mirror_the_bucket_has(cluster, own, git, index):
    path, _ = own()
    a, b = cluster.nodes_up("a", "b")
    git.clone(a.url_of(path))
    cluster.tier.wait_up(a)
    git.clone(b.url_of(path))
    until(lambda: index.generations() and index.records("mirror"), "the mirror is known of")
    admin = Admin(b)
    shown = admin.get(f"/repositories/{admin.repository(f'origin/{path}')}")["shared_mirror"]
    [manifest] = cluster.tier.manifests()
    # It names who has put it there, or has found it there.
    assert shown == {"path": manifest, "node": shown["node"], "generation": index.generations()[0]}
    assert shown["node"] in ("a", "b")
    said = subprocess.run([binary(), "repo", "show", f"origin/{path}", "--admin", f"http://{HOST}:{b.admin_port}"],
                          capture_output=True, text=True)
    assert said.returncode == 0 and f"generation {shown['generation']}, by " in said.stdout, said


def test_with_a_bucket_the_records_go_with_what_an_invalidation_removes(cluster, own, git, index):
    path, _ = own()
    a, b = cluster.nodes_up("a", "b")
    git.clone(a.url_of(path))
    cluster.tier.wait_up(a)
    index.wait_where(("shared", "a"))
    until(index.generations, "the generation is known")
    assert cluster.invalidate(b, f"origin/{path}").status == 0
    index.wait_where()
    until(lambda: not index.records("mirror") and not index.generations(), "nothing is known of the mirror")


def peer_get(node, target):
    """As another node asks, signed by the secret."""
    until_s = int(time.time()) + 60
    mac = hmac.new(SECRET.encode(), f"GET\n{target}\n{until_s}".encode(), hashlib.sha256).hexdigest()
    host, _, port = node.listens.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    try:
        connection.request("GET", target, headers={"Authorization": f"Pannier {until_s}.{mac}"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_who_has_yet_to_hear_of_an_invalidation_hands_nothing_to_who_has(two, cluster, simple, index):
    a, _ = two
    a.listens = cluster.redis.hash(cluster.prefix + "node:a")["address"]
    assert a.listens.startswith(HOST)
    get(a, simple.oid())
    a.wait_answers()
    index.wait_where(("local", "a"))
    [key] = index.keys()
    target = f"/peer/answers/{key}"
    assert peer_get(a, target)[0] == 200
    assert peer_get(a, f"{target}/after/0-1")[0] == 200
    applied = cluster.redis.hash(cluster.prefix + "node:a")["applied"].split()[0]
    assert peer_get(a, f"{target}/after/{applied}")[0] == 200
    ms, _, number = applied.partition("-")
    assert peer_get(a, f"{target}/after/{ms}-{int(number) + 1}")[0] == 409
    assert peer_get(a, f"{target}/after/{int(ms) + 60_000}-0")[0] == 409
    assert [peer_get(a, t)[0] for t in (f"{target}/before/1-1", "/peer/answers/xyz")] == [404, 404]


# The shared tier --------------------------------------------------------------------------------------


def test_what_is_not_up_yet_is_taken_from_the_node_that_has_it_and_the_bucket_is_not_asked(
        cluster, upstream, simple, index):
    a, b = cluster.nodes_up("a", "b", upstream=upstream.url, shared={"deadline": "1m", "stall_timeout": "1m"})
    front = cluster.tier.front
    gate = front.on(asks("put begin part", "answers/"), Gate(), times=1)
    get(a, simple.oid())
    gate.wait_held()
    index.wait_where(("local", "a"))
    index.forget_who_fills()
    front.forget()
    assert get(b, simple.oid()) == "hit, peer"
    assert front.count("get", "answers/") == front.count("head", "answers/") == 0
    gate.open()
    for node in (a, b):
        cluster.tier.wait_idle(node)
    until(lambda: [tier for tier, _ in index.where()] == ["shared"], "one of them has told of it")


def test_what_the_bucket_refused_is_taken_from_the_node_that_has_it(cluster, upstream, simple, index):
    a, b = cluster.nodes_up("a", "b", upstream=upstream.url)
    cluster.tier.front.on(asks("put begin", "answers/"), refused(413, "EntityTooLarge"))
    get(a, simple.oid())
    a.wait_answers()
    cluster.tier.wait_idle(a)
    index.wait_where(("local", "a"))
    index.forget_who_fills()
    assert get(b, simple.oid()) == "hit, peer"


def test_what_only_a_disk_has_is_known_again_when_redis_has_lost_it(cluster, upstream, simple, index):
    """The bucket refused it, so nobody would find it there."""
    a, b = cluster.nodes_up("a", "b", upstream=upstream.url)
    cluster.tier.front.on(asks("put begin", "answers/"), refused(413, "EntityTooLarge"))
    get(a, simple.oid())
    a.wait_answers()
    cluster.tier.wait_idle(a)
    index.wait_where(("local", "a"))
    cluster.redis.restart_empty()
    cluster.wait_met(a, b)
    index.wait_where(("local", "a"))
    assert get(b, simple.oid()) == "hit, peer"
    assert len(packs_asked(upstream)) == 1


def test_with_the_bucket_away_what_went_up_is_taken_from_who_put_it(cluster, upstream, simple, index):
    a, b = cluster.nodes_up("a", "b", upstream=upstream.url)
    get(a, simple.oid())
    cluster.tier.wait_up(a, mirrors=0)
    index.wait_where(("shared", "a"))
    index.forget_who_fills()
    cluster.tier.front.on(asks(), refused(503, "ServiceUnavailable"))
    assert get(b, simple.oid()) == "hit, peer"


def test_a_record_of_what_the_bucket_lost_is_taken_back(cluster, upstream, simple, index):
    a, b = cluster.nodes_up("a", "b", upstream=upstream.url)
    get(a, simple.oid())
    cluster.tier.wait_up(a, mirrors=0)
    index.wait_where(("shared", "a"))
    cluster.tier.objects.clear("")
    index.forget_who_fills()
    a.stop()
    assert get(b, simple.oid()) == "miss, upstream"
    cluster.tier.wait_idle(b)
    index.wait_where(("shared", "b"))


def test_what_redis_has_lost_is_rebuilt_from_the_bucket_as_it_is_used(cluster, own, origin, git, index):
    path, _ = own()
    a = cluster.node("a")
    cluster.wait_met(a)
    git.clone(a.url_of(path))
    cluster.tier.wait_up(a)
    index.wait_where(("shared", "a"))
    until(index.generations, "the generation is known")
    a.stop()
    generations = index.generations()
    cluster.redis.restart_empty()
    assert index.where() == index.generations() == []
    b = cluster.node("b")
    cluster.wait_met(b)
    git.clone_alike(b.url_of(path), origin.url_of(path))
    assert b.packs(1) == ["hit, shared"]
    index.wait_where(("shared", "b"))
    b.wait_event("mirror restored")
    until(lambda: index.generations() == generations, "the generation is known again")


# Generations of mirrors -------------------------------------------------------------------------------


def depth(git, n, node, path):
    """A question that nobody has asked before; how it was answered."""
    before = len(node.packs(0))
    git.run("clone", "-q", f"--depth={n}", node.url_of(path), f"depth{n}")
    return node.packs(before + 1)[before]


def test_a_mirror_that_is_older_than_the_newest_catches_up_and_one_that_is_not_asks_upstream_at_once(
        cluster, upstream, own, git, index):
    path, repo = own()
    a, b = cluster.nodes_up("a", "b", upstream=upstream.url)
    front = cluster.tier.front
    git.clone(a.url_of(path))
    cluster.tier.wait_up(a)
    git.clone(b.url_of(path))
    b.wait_event("mirror restored")
    cluster.tier.wait_idle(b)
    # A push past them, which a fetches and brings up.
    before = index.generations()
    repo.commit(text="more")
    assert depth(git, 1, a, path) == "miss, refresh"
    cluster.tier.wait_idle(a)
    until(lambda: index.generations() > before, "another generation")
    # b's is older: what it lacks it has from the bucket.
    asked = len(upstream.requests("fetch"))
    assert depth(git, 2, b, path) == "miss, mirror"
    assert b.wait_event("mirror caught up")["files"] > 0
    assert len(upstream.requests("fetch")) == asked
    cluster.tier.wait_idle(b)
    # Now it isn't: what it lacks only upstream has, and the bucket isn't asked for it.
    repo.commit(text="and more")
    front.forget()
    gate = upstream.on("fetch", UpstreamGate(after=None), times=1)
    clone = git.start("clone", "-q", "--depth=3", b.url_of(path), "more")
    gate.wait_held()
    assert front.count("get head", "manifest.json") == 0
    gate.open()
    _, said = clone.communicate(timeout=4 * DEADLINE)
    assert clone.returncode == 0, said
    assert b.packs(3)[-1] == "miss, refresh"
