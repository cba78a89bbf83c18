"""How nodes get to their Redis: through TLS, as a user with few rights, and past a master that dies."""
import pytest

from support.admin import warm
from support.authority import Authority
from support.net import HOST, free_port
from support.redis_server import RedisServer, Watched
from support.wait import DEADLINE, until

# As docs/cluster.md has it, but for the prefix.
RIGHTS = ["+@read", "+@write", "+@stream", "+@pubsub", "+@scripting", "+@connection", "+time", "+info", "+role"]


# TLS --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority") / "ours", "ours")


@pytest.fixture
def tls(authority):
    """A Redis that speaks TLS: tls(certificate, key, "yes") -> its URL."""
    servers = []

    def make(certificate, key, clients="no"):
        port = free_port()
        servers.append(RedisServer("--tls-port", port, "--tls-cert-file", certificate, "--tls-key-file", key,
                                   "--tls-ca-cert-file", authority.file, "--tls-auth-clients", clients))
        return f"rediss://{HOST}:{port}"

    yield make
    for server in servers:
        server.stop()


def joins(cluster, *names, **redis):
    nodes = [cluster.node(name, redis=redis, shared=False) for name in names]
    cluster.wait_met(*nodes)
    return nodes


def wait_reason(cluster, node, *words):
    """It serves alone, and says why."""
    def said():
        now = cluster.health(node)
        return now["status"] == "degraded" and all(word in now["reason"] for word in words)
    until(said, f"{node.name} says {words}, and not {cluster.health(node)}", 2 * DEADLINE)


def stays_out(cluster, *words, **redis):
    wait_reason(cluster, cluster.node("alone", redis=redis, shared=False, when_away="serve"), *words)


def test_nodes_meet_and_share_through_tls(cluster, authority, tls, own, origin, git):
    path, _ = own()
    a, b = joins(cluster, "a", "b", url=tls(*authority.issue("/CN=redis")), ca_file=str(authority.file))
    assert sorted(cluster.who(a)) == ["a", "b"]
    git.clone(a.url_of(path))
    a.wait_answers()
    git.clone_alike(b.url_of(path), origin.url_of(path))
    assert b.packs(1) == ["hit, peer"]
    assert cluster.invalidate(a, f"origin/{path}").status == 0
    assert a.answers() == b.answers() == []


def test_a_certificate_for_a_name_is_good_for_that_name(cluster, authority, tls):
    url = tls(*authority.issue("/CN=redis", "subjectAltName=DNS:localhost")).replace(HOST, "localhost")
    joins(cluster, "a", url=url, ca_file=str(authority.file))


def test_a_certificate_of_another_authority_is_refused(cluster, authority, tls, tmp_path):
    url = tls(*authority.issue("/CN=redis"))
    other = Authority(tmp_path / "other", "another one")
    stays_out(cluster, "is not trusted", "redis.ca_file", url=url, ca_file=str(other.file))


def test_a_certificate_that_the_system_does_not_know_is_refused(cluster, authority, tls):
    stays_out(cluster, "is not trusted", "redis.ca_file", url=tls(*authority.issue("/CN=redis")))


@pytest.mark.parametrize("names", ["DNS:redis.example", "IP:127.0.0.9", f"DNS:{HOST}"])
def test_a_certificate_for_another_name_is_refused(cluster, authority, tls, names):
    url = tls(*authority.issue(f"/CN={HOST}", f"subjectAltName={names}"))
    stays_out(cluster, f"is not for {HOST}", url=url, ca_file=str(authority.file))


def test_a_certificate_that_has_run_out_is_refused(cluster, authority, tls):
    stays_out(cluster, "expired", url=tls(*authority.issue("/CN=redis", days=-1)), ca_file=str(authority.file))


def test_a_redis_without_tls_is_refused(cluster):
    stays_out(cluster, "TLS", url=f"rediss://{HOST}:{cluster.redis.port}")


def test_a_redis_that_wants_a_certificate_of_ours_is_shown_one(cluster, authority, tls):
    url = tls(*authority.issue("/CN=redis"), "yes")
    stays_out(cluster, "certificate required", url=url, ca_file=str(authority.file))
    certificate, key = authority.issue_client("/CN=a node")
    joins(cluster, "a", url=url, ca_file=str(authority.file), certificate=str(certificate), key=str(key))


def test_files_for_tls_that_are_not_there_end_the_start(cluster, authority):
    certificate, _ = authority.issue_client("/CN=a node")
    for says, files in (("redis.ca_file", {"ca_file": "/nowhere/ca.pem"}),
                        ("need each other", {"certificate": str(certificate)})):
        node = cluster.node("a", launch=False, redis={"url": f"rediss://{HOST}:1", **files})
        status, said = node.run_to_end()
        assert status == 1 and says in said, said


# Who we are -------------------------------------------------------------------------------------------


def test_a_user_with_few_rights_and_a_password_that_changes(cluster, own, origin, git, tmp_path):
    path, _ = own()
    user = f"node-{cluster.prefix[:-1]}"
    acl = [user, "reset", "on", f"~{cluster.prefix}*", f"&{cluster.prefix}*", *RIGHTS]
    cluster.redis.ask("ACL", "SETUSER", *acl, ">made-up-1")
    file = tmp_path / "password"
    file.write_text(f"{user}\nmade-up-0\n")
    a, b = (cluster.node(name, redis={"password_file": str(file)}, shared=False) for name in "ab")
    wait_reason(cluster, a, "WRONGPASS")
    # The file is read at each try.
    file.write_text(f"{user}\nmade-up-1\n")
    cluster.wait_met(a, b)
    git.clone(a.url_of(path))
    a.wait_answers()
    git.clone_alike(b.url_of(path), origin.url_of(path))
    assert b.packs(1) == ["hit, peer"]
    assert warm(a, path)["done"] == 1
    assert cluster.invalidate(b, f"origin/{path}").status == 0
    for node in (a, b):
        assert "NOPERM" not in node.output() and "made-up" not in node.output()
    cluster.redis.ask("ACL", "DELUSER", user)


# Sentinel ---------------------------------------------------------------------------------------------


@pytest.fixture
def watched():
    watched = Watched()
    yield watched
    watched.stop()


@pytest.fixture
def watched_by_tls(authority):
    certificate, key = authority.issue("/CN=redis")
    watched = Watched(tls=["--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file",
                           authority.file, "--tls-auth-clients", "no"])
    yield watched
    watched.stop()


def sharing(cluster, watched, mode):
    nodes = [cluster.node(name, redis={"url": watched.url}, shared=False, when_away=mode) for name in "abc"]
    cluster.wait_met(*nodes)
    return nodes


def is_old(result):
    return result.startswith("hit") or result in ("miss, mirror", "miss, refresh")


def test_sentinels_and_their_masters_are_reached_through_tls(cluster, authority, watched_by_tls):
    a, b = joins(cluster, "a", "b", url=watched_by_tls.url, ca_file=str(authority.file))
    assert cluster.invalidate(a, "origin/public/nothing").status == 0
    watched_by_tls.master.kill()
    watched_by_tls.wait_failed_over()
    for node in (a, b):
        until(lambda: cluster.health(node)["status"] == "ok", f"{node.name} has found the new master", 2 * DEADLINE)
    cluster.wait_met(a, b)
    assert cluster.invalidate(b, "origin/public/nothing").status == 0


def test_a_sentinel_whose_certificate_is_not_trusted_is_not_asked(cluster, authority, watched_by_tls, tmp_path):
    other = Authority(tmp_path / "other", "another one")
    stays_out(cluster, "sentinel", "is not trusted", url=watched_by_tls.url, ca_file=str(other.file))


@pytest.mark.parametrize("mode", ["serve", "pass"])
def test_when_the_master_dies_nodes_go_on_with_the_next_one(cluster, watched, own, origin, git, mode):
    kept, gone, cold = (own()[0] for _ in range(3))
    a, b, c = nodes = sharing(cluster, watched, mode)
    for path in (kept, gone):
        for node in nodes:
            git.clone(node.url_of(path))
            node.wait_answers()
    # Acknowledged before: it holds whatever becomes of the master.
    assert cluster.invalidate(b, f"origin/{gone}").status == 0
    watched.master.kill()
    for node in nodes:
        before = len(node.packs(0))
        git.clone_alike(node.url_of(gone), origin.url_of(gone))
        assert node is not a or not is_old(node.packs(before + 1)[before])
    watched.wait_failed_over()
    for node in nodes:
        until(lambda: cluster.health(node)["status"] == "ok", f"{node.name} has found the new master", 2 * DEADLINE)
    cluster.wait_met(*nodes)
    for node in nodes:
        until(lambda: sorted(cluster.who(node)) == ["a", "b", "c"], "all are seen", 2 * DEADLINE)
    # Claims, the index, leases, jobs and events go on.
    git.clone_alike(a.url_of(cold), origin.url_of(cold))
    a.wait_answers()
    git.clone_alike(b.url_of(cold), origin.url_of(cold))
    assert b.packs(0)[-1] == "hit, peer"
    assert warm(c, cold)["done"] == 1
    for path in (cold, kept):
        assert cluster.invalidate(c, f"origin/{path}").status == 0
    for node in nodes:
        before = len(node.packs(0))
        git.clone_alike(node.url_of(kept), origin.url_of(kept))
        assert node is not a or not is_old(node.packs(before + 1)[before])


@pytest.mark.parametrize("mode", ["serve", "pass"])
def test_with_the_sentinels_away_nodes_stay_with_the_master_and_serve_alone_when_it_goes(
        cluster, watched, own, origin, git, mode):
    path, _ = own()
    nodes = sharing(cluster, watched, mode)
    for node in nodes:
        git.clone(node.url_of(path))
        node.wait_answers()
    watched.kill_sentinels()
    # Nobody needs to be asked who is master as long as that is there.
    assert cluster.invalidate(nodes[0], "origin/public/nothing").status == 0
    assert {cluster.health(node)["status"] for node in nodes} == {"ok"}
    watched.master.kill()
    for node in nodes:
        wait_reason(cluster, node, "sentinel")
        until(lambda: not cluster.health(node)["caught_up"], "it knows that it may miss something")
        git.clone_alike(node.url_of(path), origin.url_of(path))
        assert (node.packs(2)[1] == "hit, local") == (mode == "serve")
    watched.master.start()
    for sentinel in watched.sentinels:
        sentinel.start()
    for node in nodes:
        cluster.wait_status(node, "ok")
    cluster.wait_met(*nodes)
    for node in nodes:
        until(lambda: sorted(cluster.who(node)) == ["a", "b", "c"], "all are seen", 2 * DEADLINE)
