"""Repositories that are fetched before anybody asks: by whom, when, and what it is good for."""
import re
import signal
import time

import pytest

from support import forges, repos
from support.admin import Admin, begin_warmup, ended_warmup, warm
from support.cli import Cli, Imposter
from support.faulty import Gate, for_a_pack, packs_asked
from support.gitclient import Failed
from support.own import Guarded, token_hash
from support.wait import until

YEAR = 366 * 24 * 3600


def logged(event, nodes, count):
    """All such log lines of all the nodes; waits for count of them, as they come behind what they tell."""
    def found():
        return [line for node in nodes for line in list(node.lines) if line.get("event") == event]
    until(lambda: len(found()) >= count, f"{count} lines with event {event!r}")
    return found()


def warmed(*nodes, count):
    return logged("warmed up", nodes, count)


def begun(*nodes, count):
    return logged("warm-up begins", nodes, count)


# What it is good for ------------------------------------------------------------------------------------


def test_what_jobs_ask_for_is_there(behind, upstream, origin, own, git):
    path, repo = own()
    said = warm(behind, path)
    assert (said["total"], said["done"], said["failed"], said["waiting"]) == (1, 1, 0, 0)
    (item,) = said["repositories"]
    assert item == {"repository": f"origin/{path}", "state": "done", "detail": "mirror made, 3 answers",
                    "error": None}
    git.clone_alike(behind.url_of(path), origin.url_of(path), "--depth", "1")
    git.clone_alike(behind.url_of(path), origin.url_of(path))
    git.fetch_commit(behind.url_of(path), repo.oid())
    assert behind.packs(3) == ["hit, local"] * 3
    # All that upstream was asked for is the mirror; no pack was made for these three.
    assert len(packs_asked(upstream)) == 1
    assert len(behind.answers()) == 3


def test_upstream_is_asked_for_no_more_than_it_takes(behind, upstream, own):
    """May we, which refs are there, and their pack; the second time there is nothing to fetch."""
    path, repo = own()
    warm(behind, path)
    assert [asked.kind for asked in upstream.requests()] == ["refs", "ls-refs", "fetch"]
    repo.commit()
    for more in (["ls-refs", "fetch"], ["ls-refs"]):
        before = len(upstream.requests())
        warm(behind, path)
        assert [asked.kind for asked in upstream.requests()[before:]] == more


def test_refs_that_are_old_by_the_time_the_mirror_is_made_are_asked_for_again(start, upstream, origin, own, git, tmp_path):
    path, repo = own()
    (tmp_path / "secret").write_text("made-up\n")
    pannier = start(config={"upstreams": [{"name": "origin", "url": upstream.url,
                                           "webhook_secret_file": str(tmp_path / "secret")}]})
    gate = upstream.on(for_a_pack, Gate(after=None), times=1)
    warmup = begin_warmup(pannier, f"origin/{path}")
    gate.wait_held()
    new = repo.commit()
    hook = forges.github("made-up", f"{upstream.url}/{path}.git", path, "refs/heads/main")
    assert hook.send(pannier).status == 202
    gate.open()
    assert ended_warmup(pannier, warmup)["repositories"][0]["detail"] == "mirror made, 3 answers"
    clone = git.clone_alike(pannier.url_of(path), origin.url_of(path), "--depth", "1")
    assert git.run("rev-parse", "HEAD", cwd=clone).strip() == new
    assert pannier.packs(1) == ["hit, local"]


def test_branches_and_depth_are_those_that_are_named(behind, origin, own, git):
    path, repo = own()
    said = ended_warmup(behind, begin_warmup(behind, {"repository": f"origin/{path}", "branches": ["topic", "side"], "depth": 3,
                                        "priority": "high"}))
    assert said["repositories"][0]["detail"] == "mirror made, 5 answers"
    for branch in ("topic", "side"):
        git.clone_alike(behind.url_of(path), origin.url_of(path), "--depth", "3", "--branch", branch)
        git.fetch_commit(behind.url_of(path), repo.oid(f"refs/heads/{branch}"), "--depth=3")
    assert behind.packs(4) == ["hit, local"] * 4


def test_tags_of_both_kinds_come_with_a_shallow_clone(behind, origin, own, git):
    """Which tags there are belongs to the question of a clone of depth 1."""
    path, repo = own()
    repo.git("tag", "-a", "-m", "at the tip", "tip", "main")
    warm(behind, path)
    clone = git.clone_alike(behind.url_of(path), origin.url_of(path), "--depth", "1")
    assert git.run("tag", cwd=clone).split() == ["tip", "v2.0"]
    assert behind.packs(1) == ["hit, local"]


def test_what_is_there_is_brought_forward(behind, upstream, own):
    path, repo = own()
    details = [warm(behind, path)["repositories"][0]["detail"] for _ in range(2)]
    repo.commit()
    details.append(warm(behind, path)["repositories"][0]["detail"])
    assert details == ["mirror made, 3 answers", "mirror unchanged, 3 answers (3 there before)",
                       "mirror refreshed, 3 answers"]
    assert [line["mirror"] for line in warmed(behind, count=3)] == ["made", "unchanged", "refreshed"]
    assert repos.git(behind.mirror(path), "cat-file", "-t", repo.oid()).strip() == "commit"


@pytest.mark.parametrize("how", ["without mirrors", "sha256"])
def test_answers_are_made_without_a_mirror_as_well(start, upstream, own, git, origin, how):
    path, _ = own(**({"object_format": "sha256"} if how == "sha256" else {}))
    config = {"upstreams": [{"name": "origin", "url": upstream.url}], "cache": {"mirrors": how == "sha256"}}
    pannier = start(config=config)
    (item,) = warm(pannier, path)["repositories"]
    assert (item["detail"], item["error"]) == ("no mirror, 3 answers", None)
    git.clone_alike(pannier.url_of(path), origin.url_of(path), "--depth", "1")
    git.clone_alike(pannier.url_of(path), origin.url_of(path))
    assert pannier.packs(2) == ["hit, local"] * 2


def test_those_that_are_asked_for_most_are_known(pannier, own, git):
    often, seldom, never = (own() for _ in range(3))
    for (path, _), times in ((often, 4), (seldom, 2), (never, 1)):
        for _ in range(times):
            git.clone(pannier.url_of(path))
    admin = Admin(pannier)
    until(lambda: sorted(a["accesses"] for a in admin.get("/answers")["answers"]) == [0, 1, 3], "uses are counted")
    said = ended_warmup(pannier, begin_warmup(pannier, most_used=1))
    assert [r["repository"] for r in said["repositories"]] == [f"origin/{often[0]}"]
    # One that is named besides is one, and what was never used again doesn't count as used.
    said = ended_warmup(pannier, begin_warmup(pannier, f"origin/{seldom[0]}", most_used=5))
    assert sorted(r["repository"] for r in said["repositories"]) == sorted(f"origin/{p}" for p, _ in (often, seldom))
    # Fetching ahead isn't use.
    assert sorted({a["accesses"] for a in admin.get("/answers")["answers"]}) == [0, 1, 3]


# Credentials --------------------------------------------------------------------------------------------


def test_what_needs_a_credential_stays_out(behind, upstream, private, own):
    path, _ = private()
    public, _ = own()
    said = warm(behind, path, public)
    assert (said["done"], said["failed"]) == (1, 1)
    bad, good = said["repositories"]
    assert bad["state"] == "failed" and "401" in bad["error"] and good["state"] == "done"
    assert behind.wait_event("not warmed up")["again"] == "no"
    assert not behind.mirror(path).exists() and behind.mirror(public).exists()


def test_a_credential_of_panniers_own_is_used(start, upstream, private, origin, tmp_path, git, person):
    host = Guarded(upstream)
    host.let_in("x-access-token", "s3cret-of-our-own")
    (tmp_path / "token").write_text("s3cret-of-our-own\n")
    path, _ = private()
    pannier = start(config={"upstreams": [{"name": "origin", "url": host.url, "auth": "token",
                                           "token_file": str(tmp_path / "token")}]})
    assert warm(pannier, path)["repositories"][0]["detail"] == "mirror made, 3 answers"
    assert set(host.seen()) != {None}
    # No clients are listed, so whoever is on this machine may.
    git.clone(pannier.url_of(path), "--depth", "1")
    assert pannier.packs(1) == ["hit, local"]


def test_upstream_is_asked_for_each_client_nevertheless(start, upstream, private, tmp_path, git):
    """What was fetched ahead is here, and is shown only when upstream says yes to this client."""
    host = Guarded(upstream)
    host.let_in("x-access-token", "s3cret-of-our-own")
    (tmp_path / "token").write_text("s3cret-of-our-own\n")
    path, _ = private()
    pannier = start(config={"upstreams": [{"name": "origin", "url": host.url, "auth": "token",
                                           "token_file": str(tmp_path / "token")}],
                            "clients": [{"name": name, "token_hash": token_hash(f"of-{name}"),
                                         "repositories": ["origin/**"]} for name in ("one", "two")]})
    assert warm(pannier, path)["done"] == 1
    git.set("http.extraHeader", "Authorization: Bearer of-one")
    git.clone(pannier.url_of(path))
    assert pannier.packs(1) == ["hit, local"]
    host.let_in("x-access-token", "another-one")
    git.set("http.extraHeader", "Authorization: Bearer of-two")
    with pytest.raises(Failed):
        git.clone(pannier.url_of(path))
    assert len(pannier.packs(1)) == 1


# Failures -----------------------------------------------------------------------------------------------


def test_one_that_fails_stops_no_other(behind, own):
    first, second = own()[0], own()[0]
    said = warm(behind, first, "public/no/such", second)
    assert [r["state"] for r in said["repositories"]] == ["done", "failed", "done"]
    assert (said["total"], said["done"], said["failed"]) == (3, 2, 1)
    assert "404" in said["repositories"][1]["error"]
    metrics = Admin(behind).metrics()
    assert metrics['pannier_warmups_total{result="done"}'] == 2
    assert metrics['pannier_warmups_total{result="failed"}'] == 1


def test_a_branch_that_is_not_there_is_told_and_the_rest_is_made(behind, own):
    path, _ = own()
    said = ended_warmup(behind, begin_warmup(behind, {"repository": f"origin/{path}", "branches": ["nowhere", "main"]}))
    (item,) = said["repositories"]
    assert item["state"] == "failed" and item["error"] == "it has no branch nowhere"
    assert item["detail"] == "mirror made, 3 answers"


def test_an_upstream_that_is_away_is_tried_again(behind, upstream, own):
    path, _ = own()
    upstream.on("refs", lambda x: x.reply(503), times=1)
    warmup = begin_warmup(behind, f"origin/{path}")
    assert behind.wait_event("not warmed up")["again"] == "yes"
    assert ended_warmup(behind, warmup)["repositories"][0]["error"] is None


# Order, and nodes ---------------------------------------------------------------------------------------


def test_the_urgent_ones_go_first(behind, upstream, own):
    paths = [own()[0] for _ in range(4)]
    gate = upstream.on(for_a_pack, Gate(after=None), times=1)
    held = begin_warmup(behind, f"origin/{paths[0]}")
    gate.wait_held()
    others = begin_warmup(behind, *({"repository": f"origin/{path}", "priority": priority}
                                    for path, priority in zip(paths[1:], ("low", "normal", "high"))))
    assert Admin(behind).get(f"/warmups/{held}")["repositories"][0]["state"] == "running"
    assert {r["state"] for r in Admin(behind).get(f"/warmups/{others}")["repositories"]} == {"waiting"}
    gate.open()
    ended_warmup(behind, others)
    order = [line["repository"] for line in warmed(behind, count=4)]
    assert order == [f"origin/{paths[n]}" for n in (0, 3, 2, 1)]


def test_as_many_as_may_are_done_at_once(start, upstream, own):
    pannier = start(config={"upstreams": [{"name": "origin", "url": upstream.url}], "warm": {"parallelism": 3}})
    gate = upstream.on(for_a_pack, Gate(after=None))
    warmup = begin_warmup(pannier, *(f"origin/{own()[0]}" for _ in range(4)))
    gate.wait_held(3)
    states = [r["state"] for r in Admin(pannier).get(f"/warmups/{warmup}")["repositories"]]
    assert sorted(states) == ["running"] * 3 + ["waiting"]
    gate.open()
    assert ended_warmup(pannier, warmup)["done"] == 4


def test_nodes_share_the_work_and_know_how_far_it_is(cluster, upstream, own):
    three = cluster.nodes_up("a", "b", "c", upstream=upstream.url)
    gate = upstream.on(for_a_pack, Gate(after=None))
    paths = [own()[0] for _ in three]
    warmup = begin_warmup(three[0], *(f"origin/{path}" for path in paths))
    # All at once: each node has one of them.
    gate.wait_held(3)
    for node in three:
        assert {r["state"] for r in Admin(node).get(f"/warmups/{warmup}")["repositories"]} == {"running"}
    gate.open()
    for node in three:
        assert ended_warmup(node, warmup)["done"] == 3
        assert [w["id"] for w in Admin(node).get("/warmups")["warmups"]] == [warmup]
        assert len(warmed(node, count=1)) == 1
    assert sorted(line["repository"] for line in warmed(*three, count=3)) == sorted(f"origin/{p}" for p in paths)


def test_what_a_stopping_node_has_taken_another_one_does(cluster, upstream, own):
    a = cluster.nodes_up("a", upstream=upstream.url)[0]
    gate = upstream.on(for_a_pack, Gate(after=None), times=1)
    path, _ = own()
    warmup = begin_warmup(a, f"origin/{path}")
    gate.wait_held()
    b = cluster.nodes_up("b", upstream=upstream.url)[0]
    a.stop()
    assert ended_warmup(b, warmup)["done"] == 1
    assert warmed(a, count=0) == []
    gate.open()


def test_what_the_bucket_has_comes_from_there(cluster, upstream, own):
    a = cluster.nodes_up("a", upstream=upstream.url)[0]
    path, _ = own()
    warm(a, path)
    cluster.tier.wait_idle(a)
    asked = len(packs_asked(upstream))
    a.stop()
    b = cluster.nodes_up("b", upstream=upstream.url)[0]
    assert warm(b, path)["repositories"][0]["detail"] == "mirror restored, 3 answers"
    assert len(packs_asked(upstream)) == asked


def test_without_redis_none_begins_and_it_is_said(cluster, upstream, own):
    a = cluster.nodes_up("a", upstream=upstream.url)[0]
    path, _ = own()
    cluster.link(a).cut()
    cluster.wait_status(a, "degraded")
    answer = Admin(a).call("POST", "/api/v1/warmups", {"repositories": [f"origin/{path}"]})
    assert answer.status == 503 and answer.headers["Retry-After"]
    assert Admin(a).call("GET", "/api/v1/warmups").status == 503
    cluster.link(a).heal()
    cluster.wait_met(a)
    assert warm(a, path)["done"] == 1


def test_of_one_that_redis_has_lost_it_is_said(cluster, upstream, own):
    """On any node; then it can be begun again."""
    a, b = cluster.nodes_up("a", "b", upstream=upstream.url)
    path, _ = own()
    gate = upstream.on(for_a_pack, Gate(after=None), times=1)
    warmup = begin_warmup(a, f"origin/{path}")
    gate.wait_held()
    cluster.redis.restart_empty()
    cluster.wait_met(a, b)
    for node in (a, b):
        problem = Admin(node).refused(404, "GET", f"/warmups/{warmup}")
        assert "Redis has lost" in problem["detail"] and "begin it again" in problem["detail"]
    gate.open()
    assert warm(a, path)["done"] == 1


# By schedule --------------------------------------------------------------------------------------------


def scheduled(url, path, **more):
    """Once a year, so that no test meets it by chance."""
    return {"upstreams": [{"name": "origin", "url": url}],
            "warm": {"schedule": "0 0 1 1 *", "time_zone": "Europe/Berlin",
                     "repositories": [{"url": f"origin/{path}"}], **more}}


def made(node):
    """When the last one was made that is known."""
    words = (node.data / "warmed").read_text().split()
    return int(words[0]), " ".join(words[1:])


def miss(node, years=3):
    """As if it had been down for so long."""
    (node.data / "warmed").write_text(f"{int(time.time()) - years * YEAR} Europe/Berlin 0 0 1 1 *\n")


def test_one_that_was_missed_is_made_up_for_once(start, upstream, own):
    (path, _), (later, _) = own(), own()
    pannier = start(config=scheduled(upstream.url, path))
    admin = Admin(pannier)
    listed = admin.get("/warmups")
    assert listed["warmups"] == [] and re.fullmatch(r"\d{4}-12-31T23:00:00Z", listed["next"])
    assert time.time() - made(pannier)[0] < 600  # what was before its first start was not missed
    pannier.stop()
    miss(pannier)
    pannier.start()
    (line,) = pannier.wait_lines(lambda line: line.get("event") == "warm-up begins")
    assert line["by"] == "schedule" and line["repositories"] == 1
    assert ended_warmup(pannier, line["warmup"])["by"] == "schedule"
    until(lambda: made(pannier)[0] > time.time() - YEAR, "it is noted")
    pannier.stop()
    assert len(begun(pannier, count=1)) == 1
    pannier.start()
    warm(pannier, later)
    assert [line["by"] for line in begun(pannier, count=1)] == ["api"]


def test_another_schedule_makes_up_for_nothing(start, upstream, own):
    path, _ = own()
    pannier = start(config=scheduled(upstream.url, path))
    pannier.stop()
    miss(pannier)
    config = scheduled(upstream.url, path)
    config["warm"]["schedule"] = "0 0 2 1 *"
    pannier.write_config(config)
    pannier.start()
    until(lambda: made(pannier)[1] == "Europe/Berlin 0 0 2 1 *", "it is noted")
    warm(pannier, path)
    assert [line["by"] for line in begun(pannier, count=1)] == ["api"]


def test_one_of_the_nodes_makes_it(cluster, upstream, own):
    path, _ = own()
    settings = {"upstream": upstream.url, "warm": scheduled(upstream.url, path)["warm"]}
    nodes = [cluster.node(name, launch=False, **settings) for name in "ab"]
    for node in nodes:
        node.data.mkdir(parents=True)
        miss(node)
        node.start()
    for node in nodes:
        until(lambda: made(node)[0] > time.time() - YEAR, "it is made, here or there")
    (line,) = begun(*nodes, count=1)
    assert ended_warmup(nodes[0], line["warmup"])["done"] == 1


def test_one_whose_node_dies_before_it_has_begun_is_another_nodes(cluster, upstream, own):
    """It was that node's to make, and no job of it was in the queue yet."""
    path, _ = own()
    settings = {"upstream": upstream.url, "warm": scheduled(upstream.url, path)["warm"]}
    a, b = (cluster.node(name, launch=False, **settings) for name in "ab")
    for node in (a, b):
        node.data.mkdir(parents=True)
        miss(node)
    cluster.link(a).hold(b"progress:")
    a.start()
    cluster.link(a).wait_held()
    a.kill()
    b.start()
    (line,) = begun(b, count=1)
    assert ended_warmup(b, line["warmup"])["done"] == 1
    until(lambda: made(b)[0] > time.time() - YEAR, "it is noted")
    assert begun(a, count=0) == [] and made(a)[0] < time.time() - YEAR


def test_one_that_redis_goes_away_from_while_it_begins_begins_again(cluster, upstream, own):
    """It has a record, and no job of it got into the queue."""
    path, _ = own()
    a = cluster.node("a", launch=False, upstream=upstream.url, warm=scheduled(upstream.url, path)["warm"])
    a.data.mkdir(parents=True)
    miss(a)
    cluster.link(a).hold(b"warmup:")
    a.start()
    cluster.link(a).wait_held()
    cluster.link(a).cut()
    assert "Redis" in a.wait_event("not warmed up")["reason"]
    cluster.link(a).heal()
    last = begun(a, count=2)[-1]
    assert ended_warmup(a, last["warmup"])["done"] == 1
    until(lambda: made(a)[0] > time.time() - YEAR, "it is noted")


def test_one_of_whose_jobs_some_are_lost_begins_again(cluster, upstream, own):
    """Redis takes the record, the other jobs and the note that it was made."""
    (path, _), (lost, _) = own(), own()
    warm = scheduled(upstream.url, path)["warm"]
    warm["repositories"].append({"url": f"origin/{lost}", "priority": "high"})
    queue = cluster.prefix + "queue:high"
    cluster.redis.ask("SET", queue, "no list")
    a = cluster.node("a", launch=False, upstream=upstream.url, warm=warm)
    a.data.mkdir(parents=True)
    miss(a)
    a.start()
    first = a.wait_event("not warmed up", repository=f"origin/{lost}")["warmup"]
    begun(a, count=2)
    cluster.redis.ask("DEL", queue)
    until(lambda: made(a)[0] > time.time() - YEAR, "it is noted")
    last = begun(a, count=2)[-1]["warmup"]
    assert last != first
    assert ended_warmup(a, last)["done"] == 2
    # Who looks at the first one isn't left waiting.
    assert {r["repository"]: r["state"] for r in ended_warmup(a, first)["repositories"]} == {
        f"origin/{path}": "done", f"origin/{lost}": "failed"}


def test_one_of_whose_jobs_some_are_lost_is_refused(cluster, upstream, own):
    """What is begun again does no harm."""
    a = cluster.nodes_up("a", upstream=upstream.url)[0]
    (path, _), (other, _) = own(), own()
    queue = cluster.prefix + "queue:high"
    cluster.redis.ask("SET", queue, "no list")
    body = {"repositories": [{"repository": f"origin/{path}", "priority": "high"}, f"origin/{other}"]}
    answer = Admin(a).call("POST", "/api/v1/warmups", body)
    assert answer.status == 503 and answer.headers["Retry-After"]
    (task,) = Admin(a).get("/warmups")["warmups"]
    assert (task["failed"], task["ended"] is None) == (2, False)
    cluster.redis.ask("DEL", queue)
    assert ended_warmup(a, begin_warmup(a, *body["repositories"]))["done"] == 2


def test_a_reload_takes_another_schedule_over(start, upstream, own):
    path, _ = own()
    pannier = start(config={"upstreams": [{"name": "origin", "url": upstream.url}]})
    assert Admin(pannier).get("/warmups")["next"] is None
    assert not (pannier.data / "warmed").exists()
    pannier.write_config(scheduled(upstream.url, path))
    pannier.signal(signal.SIGHUP)
    pannier.wait_event("configuration reloaded")
    assert Admin(pannier).get("/warmups")["next"]
    assert begun(pannier, count=0) == []


@pytest.mark.parametrize("warm, words", [
    ({"schedule": "0 25 * * *"}, ":6: warm.schedule: has no hour as its second field"),
    ({"schedule": "@daily"}, "warm.schedule: has nothing to warm up"),
    ({"schedule": "@daily", "most_used": 3, "time_zone": "Europe/Nowhere"}, "warm.time_zone: is not to be found"),
    ({"repositories": [{"url": "elsewhere.example/a/b"}]}, ":8: warm.repositories[0].url: has a host that is not"),
    ({"repositories": [{"url": "origin"}]}, "warm.repositories[0].url: is no repository"),
    ({"repositories": [{"branches": ["main"]}]}, "warm.repositories[0].url: is missing"),
    ({"repositories": [{"url": "origin/a", "branches": ["a..b"]}]},
     "warm.repositories[0].branches: has no branch's name as item 1"),
    ({"repositories": [{"url": "origin/a", "depth": 0}]}, "warm.repositories[0].depth: is too small"),
    ({"repositories": [{"url": "origin/a", "priority": "urgent"}]}, "warm.repositories[0].priority: "),
    ({"repositories": [{"url": "origin/a", "brunches": ["main"]}]},
     "warm.repositories[0].brunches: is not a setting; did you mean 'branches'?"),
    ({"repositories": "origin/a"}, "warm.repositories: is not a list"),
    ({"repositories": [{"url": "origin/a", "branches": [f"b{n}" for n in range(17)]}]}, "has more than 16 branches"),
    ({"repositories": [{"url": "origin/a"}] * 1001}, "warm.repositories: has more than 1000 entries"),
])
def test_what_is_wrong_with_the_configuration_is_said(start, origin, warm, words):
    pannier = start(config={"upstreams": [{"name": "origin", "url": origin.url}], "warm": warm}, launch=False)
    code, said = pannier.run_to_end()
    assert code == 2 and words in said, said


@pytest.mark.parametrize("text, words", [
    ("warm:\n  repositories: []\n  most_used: 1\n  repositories: []\n",
     ":4: warm.repositories: stands here a second time; keep this or line 2"),
    ("warm.repositories:\n  - url: origin/a\n", ":1: this key: holds a key that is no setting"),
    ("warm:\n  repositories:\n    - origin/a\n", ":3: warm.repositories[0]: is not a mapping"),
    ("warm:\n  repositories:\n", ":2: warm.repositories: is not a list"),
    ("repositories: []\n", ":1: repositories: "),
])
def test_a_list_within_a_mapping_has_to_be_one(start, text, words):
    pannier = start(config=text, launch=False)
    code, said = pannier.run_to_end()
    assert code == 2 and words in said, said


# The command line ---------------------------------------------------------------------------------------


def test_the_command_waits_and_tells(behind, own):
    path, _ = own()
    cli = Cli(behind)
    said = cli.done("warm", f"origin/{path}", "--branch", "main", "--branch", "side", "--wait")
    assert said.startswith(f"origin/{path}: mirror made, 5 answers\nwarm-up ")
    assert said.endswith(": 1 of 1 done, 0 failed\n")
    document = cli.document("warm", f"https://origin/{path}.git", "--depth", "2", "--wait")
    assert (document["by"], document["done"], document["ended"] is None) == ("command", 1, False)
    assert document["repositories"][0]["detail"] == "mirror unchanged, 3 answers (1 there before)"


def test_the_command_does_not_wait_unasked(behind, upstream, own):
    path, _ = own()
    gate = upstream.on(for_a_pack, Gate(after=None), times=1)
    assert "0 of 1 done" in Cli(behind).done("warm", f"origin/{path}")
    gate.wait_held()
    gate.open()


def test_the_command_fails_when_something_failed(behind, own):
    path, _ = own()
    result = Cli(behind).run("warm", f"origin/{path}", "origin/public/no/such", "--wait")
    assert result.returncode == 1 and "1 of 2 done, 1 failed" in result.stdout
    assert result.stderr.startswith("origin/public/no/such: ") and "\033" not in result.stderr
    shown = Cli(behind).on_terminal("warm", f"origin/{path}", "origin/public/no/such", "--wait")
    assert "[##############################] 2 of 2, \033[31m1 failed\033[0m" in shown


def test_the_command_refuses_what_makes_no_sense(behind):
    cli = Cli(behind)
    for words in ((), ("a/b", "--depth", "0"), ("a/b", "--depth", "x"), ("--most-used", "0"),
                  ("--most-used", "1001")):
        result = cli.run("warm", *words)
        assert result.returncode == 2 and result.stderr.startswith("pannier warm: "), result
    assert "repositories[0].repository: " in cli.fails("warm", "elsewhere.example/a/b", status=2)
    assert "nothing has been used yet" in cli.fails("warm", "--most-used", "3")


def away(seconds):
    return (503, {"status": 503, "title": "Service Unavailable", "detail": "Redis is away: it was killed"},
            {"Retry-After": seconds})


def test_the_command_waits_where_redis_is_away_for_a_moment():
    task = {"id": "w", "total": 1, "done": 0, "failed": 0, "ended": None, "repositories": []}
    ended = {**task, "done": 1, "ended": "2026-01-01T00:00:00Z"}
    with Imposter((202, task, {}), (200, task, {}), away(1), (200, task, {}), away(1), (200, ended, {})) as other:
        assert Cli(other).done("warm", "origin/a", "--wait") == "warm-up w: 1 of 1 done, 0 failed\n"
    assert other.asked == [("POST", "/api/v1/warmups")] + [("GET", "/api/v1/warmups/w")] * 5


def test_the_command_does_not_wait_for_longer_than_anybody_would():
    with Imposter((202, {"id": "w", "total": 1, "ended": None}, {}), away(3600)) as other:
        said = Cli(other).fails("warm", "origin/a", "--wait")
    assert said == "warm-up w goes on, and how far it is can't be asked: Redis is away: it was killed"
