"""The API at its work: what it says is so, and what it says is gone is gone."""
import json
import threading
import time

import pytest

from support import pktline, repos
from support.admin import Admin, tokens_file
from support.faulty import Gate, cut
from support.faulty_s3 import refused
from support.gitclient import Reader, ask, same_objects
from support.origin import PASSWORDS
from support.wait import until

PUBLIC = "origin/public/simple"


def kept(admin):
    return {r["repo"]: r for r in admin.get("/repositories?limit=1000")["repositories"]}


def fill(pannier, git, *paths):
    """An answer and a mirror of each."""
    clones = [git.clone(pannier.url_of(path), "--mirror") for path in paths]
    admin = Admin(pannier)
    until(lambda: len([r for r in kept(admin).values() if r["mirror"] and r["answers"]]) == len(paths),
          "answers and mirrors are known")
    return clones


@pytest.fixture(scope="module")
def big(origin):
    return origin.make("public/big", repos.big, settings=repos.NO_DELTAS)


@pytest.fixture
def admin(pannier):
    return Admin(pannier)


# Lists ---------------------------------------------------------------------------------------------


def test_repositories_are_listed_with_what_is_known_of_them(admin, git, simple):
    fill(admin.pannier, git, "public/simple")
    git.clone(admin.pannier.url_of("public/simple"), "--mirror")
    admin.pannier.packs(2)
    listed = kept(admin)[PUBLIC]
    assert listed["id"] == admin.repository(PUBLIC)
    assert listed["answers"] == 1 and listed["mirror"] is True and listed["pinned"] is False
    assert listed["stored_size"] == listed["answers_size"] + listed["mirror_size"]
    assert listed["traffic"]["hits"] == 1 and listed["traffic"]["misses"] == 1
    assert listed["traffic"]["hit_ratio"] == 0.5

    shown = admin.get(f"/repositories/{listed['id']}")
    assert {name: shown[name] for name in listed} == listed
    assert shown["mirror_entry"]["path"] == "mirrors/origin/public/simple.git"
    (answer,) = shown["answer_entries"]
    assert answer["kind"] == "answer" and answer["commit"] and shown["errors"] == []

    (alone,) = admin.get(f"/answers?repository={listed['id']}")["answers"]
    assert alone["path"] == answer["path"] == f"answers/{alone['key'][:2]}/{alone['key']}"


def walk(admin, path, name):
    """All pages' entries; no page is longer than it may be."""
    found, cursor = [], ""
    while True:
        page = admin.get(path + (f"&cursor={cursor}" if cursor else ""))
        assert len(page[name]) <= 2 and page["complete"] is True
        found += page[name]
        cursor = page["next"]
        if cursor is None:
            return found


def test_lists_have_pages_an_order_and_filters(admin, git, own):
    paths = [own(repos.simple, commits=n + 2)[0] for n in range(5)]
    fill(admin.pannier, git, *paths)
    names = sorted(f"origin/{path}" for path in paths)
    assert [r["repo"] for r in walk(admin, "/repositories?limit=2", "repositories")] == names
    for sort in ("size", "-size", "stored_size", "-accessed", "accesses"):
        walked = walk(admin, f"/repositories?limit=2&sort={sort}", "repositories")
        numbers = [r[sort.lstrip("-")] for r in walked]
        assert numbers == sorted(numbers, reverse=sort[0] == "-") and len(walked) == 5
    # Each was asked for once; now two of them are hit, as often as no other, and one passes on.
    for path, clones in ((paths[1], 3), (paths[3], 1)):
        for _ in range(clones):
            git.clone(admin.pannier.url_of(path), "--mirror")
    total = {paths[1]: 4, paths[3]: 2}
    until(lambda: [t["hits"] + t["misses"] + t["passes"] for t in
                   (kept(admin)[f"origin/{path}"]["traffic"] for path in paths)] == [total.get(p, 1) for p in paths],
          "all are counted")
    for sort, number in (("hit_ratio", lambda t: t["hit_ratio"]), ("byte_hit_ratio", lambda t: t["byte_hit_ratio"]),
                         ("hit_bytes", lambda t: t["hit_bytes"]),
                         ("requests", lambda t: t["hits"] + t["misses"] + t["passes"])):
        for turned in ("", "-"):
            walked = walk(admin, f"/repositories?limit=2&sort={turned}{sort}", "repositories")
            numbers = [number(r["traffic"]) for r in walked]
            assert numbers == sorted(numbers, reverse=turned == "-") and len({r["id"] for r in walked}) == 5
            assert max(numbers) > min(numbers), sort
    assert admin.get("/repositories?limit=1&sort=-hit_ratio")["repositories"][0]["repo"] == f"origin/{paths[1]}"
    last = paths[-1].rpartition("/")[2]
    assert [r["repo"] for r in admin.get(f"/repositories?q={last}")["repositories"]] == [names[-1]]
    assert admin.get("/repositories?upstream=other")["repositories"] == []
    assert len(admin.get("/repositories?upstream=origin")["repositories"]) == 5
    answers = walk(admin, "/answers?limit=2&sort=-created", "answers")
    assert len(answers) == 5 and {a["repo"] for a in answers} == set(names)


def test_what_was_not_asked_for_has_no_ratio_and_comes_last(admin, git, own):
    paths = [own()[0] for _ in range(3)]
    fill(admin.pannier, git, *paths)
    admin.pannier.stop()
    admin.pannier.start()
    git.clone(admin.pannier.url_of(paths[1]), "--mirror")
    admin.pannier.packs(1)
    until(lambda: kept(admin)[f"origin/{paths[1]}"]["traffic"]["hits"] == 1, "it is counted")
    for sort in ("hit_ratio", "-hit_ratio"):
        ratios = [r["traffic"]["hit_ratio"] for r in walk(admin, f"/repositories?limit=2&sort={sort}", "repositories")]
        assert ratios == [1.0, None, None]


def refs_of(admin, name, query=""):
    page = admin.get(f"/repositories/{admin.repository(name)}/refs{query}")
    return {r["name"]: r["object"] for r in page["refs"]}, page


def all_refs(repo):
    refs = dict(reversed(line.split(" ", 1)) for line in
                repo.git("for-each-ref", "--format=%(objectname) %(refname)").splitlines())
    return {"HEAD": repo.oid(), **refs}


def test_refs_that_upstream_has_shown_are_seen(admin, git, own):
    path, repo = own()
    name = f"origin/{path}"
    repository = admin.repository(name)
    admin.refused(404, "GET", f"/repositories/{repository}/refs")
    git.run("ls-remote", admin.pannier.url_of(path))
    before, page = refs_of(admin, name)
    assert before == all_refs(repo) and list(before) == sorted(before)
    assert page["seen"]["count"] == len(before) and page["seen"]["complete"] is True and page["next"] is None
    assert {r["shown_to"] for r in page["refs"]} == {page["seen"]["shown_to"]} == {"anonymous"}
    admin.refused(404, "GET", f"/repositories/{repository}")  # nothing is kept of it

    repo.git("branch", "newer")
    new = repo.commit(text="more")
    assert ask(admin.pannier.url_of(path), pktline.ls_refs(prefixes=["refs/heads/main"])).status == 200
    # Only that one was asked for.
    assert refs_of(admin, name)[0] == {**before, "refs/heads/main": new}
    repo.git("tag", "-d", "light")
    git.run("ls-remote", admin.pannier.url_of(path))
    after = refs_of(admin, name)[0]
    assert after == all_refs(repo) and "refs/heads/newer" in after and "refs/tags/light" not in after

    assert list(refs_of(admin, name, "?limit=1&q=newer")[0]) == ["refs/heads/newer"]
    git.clone(admin.pannier.url_of(path))
    until(lambda: name in kept(admin), "something is kept")
    assert admin.get(f"/repositories/{repository}")["refs_seen"] == refs_of(admin, name)[1]["seen"]
    pages, cursor = [], ""
    while cursor is not None:
        page = refs_of(admin, name, f"?limit=2&sort=-seen{cursor and '&cursor=' + cursor}")[1]
        pages.append([r["name"] for r in page["refs"]])
        cursor = page["next"]
    assert sorted(sum(pages, [])) == sorted(after) and max(map(len, pages)) == 2
    # What is invalidated was never seen.
    admin.post(f"/repositories/{repository}/invalidate", {"refs": True})
    assert refs_of(admin, name)[1] == {"refs": [], "next": None, "seen": None}


def test_refs_say_what_kind_of_asker_they_were_shown_to(pannier, private, person):
    path, repo = private(read=["alice"])
    admin = Admin(pannier)
    person("alice").run("ls-remote", pannier.url_of(path))
    names, page = refs_of(admin, f"origin/{path}")
    assert names["refs/heads/main"] == repo.oid() and page["seen"]["shown_to"] == "client"
    assert PASSWORDS["alice"] not in json.dumps(page) and "alice" not in json.dumps(page)
    # Who is refused is shown nothing, and changes nothing.
    person("bob").fails("ls-remote", pannier.url_of(path))
    assert refs_of(admin, f"origin/{path}")[1] == page


def test_all_is_invalidated_where_that_is_said(admin, git, simple, own):
    path, _ = own()
    fill(admin.pannier, git, "public/simple", path)
    admin.refused(400, "POST", "/invalidate", {})
    said = admin.post("/invalidate", {"everything": True, "dry_run": True})
    assert said["nodes"][0]["entries"] == 4 and len(kept(admin)) == 2
    said = admin.post("/invalidate", {"everything": True, "reason": "a test"})
    assert said["acknowledged"] is True and said["nodes"][0]["entries"] == 4
    assert kept(admin) == {} and admin.pannier.answers() == []
    line = admin.pannier.wait_event("invalidated")
    assert line["scope"] == "everything" and line["reason"] == "a test"


def test_a_node_that_is_alive_is_not_forgotten(admin):
    (node,) = admin.get("/nodes")["nodes"]
    assert "is alive" in admin.refused(409, "DELETE", f"/nodes/{node['name']}")["detail"]
    assert "no node" in admin.refused(404, "DELETE", "/nodes/other")["detail"]


def test_errors_of_a_repository_are_shown(behind, upstream, git, simple):
    admin = Admin(behind)
    fill(behind, git, "public/simple")
    behind.mirror("public/simple").rename(behind.folder / "away")  # or it would answer
    upstream.on("fetch", cut(60), times=1)
    git.fails("clone", "--depth=2", behind.url_of("public/simple"))
    error = admin.get(f"/repositories/{admin.repository(PUBLIC)}")["errors"][0]
    assert error["event"] in ("upstream broke off", "answer not whole") and error["text"]
    assert error["kind"] in ("upstream", "down") and error["time"] > 1_700_000_000


# Going ---------------------------------------------------------------------------------------------


def test_what_was_removed_is_gone_and_the_rest_stays(admin, git, simple, own, origin):
    path, _ = own()
    fill(admin.pannier, git, "public/simple", path)
    repository = admin.repository(f"origin/{path}")
    said = admin.done("DELETE", f"/repositories/{repository}")
    (node,) = said["nodes"]
    assert said["acknowledged"] is True and said["late"] == []
    assert node["entries"] == 2 and node["mirror"] is True and said["dry_run"] is False
    assert not admin.pannier.mirror(path).exists() and len(admin.pannier.answers()) == 1
    assert list(kept(admin)) == [PUBLIC]
    admin.refused(404, "GET", f"/repositories/{repository}")
    assert admin.pannier.wait_event("invalidated")["scope"] == "repository"
    git.clone_alike(admin.pannier.url_of(path), origin.url_of(path))


def test_a_dry_run_removes_nothing(admin, git, simple):
    fill(admin.pannier, git, "public/simple")
    repository = admin.repository(PUBLIC)
    before = kept(admin)
    for what in ({"everything": True}, {"object": simple.oid()}, {"refs": True}):
        said = admin.post(f"/repositories/{repository}/invalidate", {**what, "dry_run": True})
        assert said["dry_run"] is True
        assert said["nodes"][0]["entries"] == (0 if "refs" in what else 2)
    assert kept(admin) == before


def test_an_object_goes_with_all_that_may_contain_it(admin, git, own):
    path, repo = own()
    fill(admin.pannier, git, path)
    repository = admin.repository(f"origin/{path}")
    secret = repo.commit(text="hunter2")
    git.clone(admin.pannier.url_of(path), "--mirror")
    admin.pannier.wait_answers(2)
    assert admin.pannier.mirror(path).exists()
    said = admin.post(f"/repositories/{repository}/invalidate", {"object": secret, "reason": "leaked"})
    assert said["nodes"][0]["entries"] == 3 and said["nodes"][0]["mirror"] is True
    assert admin.pannier.answers() == [] and not admin.pannier.mirror(path).exists()
    assert admin.pannier.wait_event("invalidated")["reason"] == "leaked"


def test_a_mirror_without_the_object_stays(admin, git, simple):
    fill(admin.pannier, git, "public/simple")
    said = admin.post(f"/repositories/{admin.repository(PUBLIC)}/invalidate", {"object": "ab" * 20})
    assert said["nodes"][0] == {**said["nodes"][0], "entries": 1, "mirror": False}
    assert admin.pannier.mirror("public/simple").exists() and admin.pannier.answers() == []


def test_invalidated_refs_are_asked_for_anew(start, origin, git, own):
    config = {"upstreams": [{"name": "origin", "url": origin.url, "refs_ttl": "1h", "access_ttl": "1h"}]}
    pannier = start(config=config)
    admin = Admin(pannier)
    path, repo = own()
    old = repo.oid()
    git.clone(pannier.url_of(path))
    assert git.run("ls-remote", pannier.url_of(path), "refs/heads/main").startswith(old)
    new = repo.commit(text="new")
    assert git.run("ls-remote", pannier.url_of(path), "refs/heads/main").startswith(old)
    until(lambda: kept(admin), "the answer is known")
    said = admin.post(f"/repositories/{admin.repository(f'origin/{path}')}/invalidate", {"refs": True})
    assert said["refs"] is True and said["nodes"][0]["entries"] == 0
    assert git.run("ls-remote", pannier.url_of(path), "refs/heads/main").startswith(new)


def test_what_is_being_made_meanwhile_is_not_kept(behind, upstream, git, simple):
    """A clone that began before the invalidation gets its bytes, and leaves nothing behind."""
    admin = Admin(behind)
    gate = upstream.on("fetch", Gate(after=40), times=1)
    reader = Reader(behind.port).post("/origin/public/simple.git/git-upload-pack", pktline.fetch([simple.oid()]))
    reader.read_until(b"packfile")
    gate.wait_held()
    repository = admin.repository(PUBLIC)
    admin.refused(404, "DELETE", f"/repositories/{'0' * 64}")
    git.run("ls-remote", behind.url_of("public/simple"))
    upstream.on("fetch", Gate(after=40), times=0)
    shallow = git.clone(behind.url_of("public/simple"), "--depth=1")
    assert shallow
    until(lambda: kept(admin), "something of it is kept")
    admin.post(f"/repositories/{repository}/invalidate", {"everything": True})
    gate.open()
    status, body = reader.read_response()
    assert status == 200 and pktline.pack_is_whole(body)
    behind.requests(1, result="miss, upstream", bytes=len(body))
    git.clone(behind.url_of("public/simple"), "--mirror")
    results = behind.packs(3)
    assert results[-1] in ("miss, upstream", "miss, refresh", "miss, mirror")
    assert "hit, local" not in results


def test_it_is_gone_in_the_shared_tier_too(tier, git, simple):
    one = tier.node("one")
    git.clone(one.url_of("public/simple"), "--mirror")
    tier.wait_up(one)
    admin = Admin(one)
    said = admin.done("DELETE", f"/repositories/{admin.repository(PUBLIC)}")
    assert said["shared"]["objects"] >= 3 and said["shared"]["bytes"] > 0
    assert not tier.answers() and not tier.manifests() and not tier.files()


def test_what_can_not_be_removed_everywhere_is_not_said_to_be_gone(tier, git, rgw, simple):
    one = tier.node("one")
    git.clone(one.url_of("public/simple"), "--mirror")
    tier.wait_up(one)
    admin = Admin(one)
    tier.front.on(lambda asked: True, refused(500, "InternalError"))
    admin.refused(503, "DELETE", f"/repositories/{admin.repository(PUBLIC)}")


# Staying -------------------------------------------------------------------------------------------


def test_what_is_pinned_stays_and_that_survives_a_restart(admin, git, simple, own):
    path, _ = own()
    fill(admin.pannier, git, "public/simple", path)
    repository = admin.repository(PUBLIC)
    assert admin.post(f"/repositories/{repository}/pin")["pinned"] is True
    admin.pannier.stop()
    admin.pannier.start()
    assert kept(admin)[PUBLIC]["pinned"] is True and admin.get("/stats")["local"]["pinned"] == 2
    said = admin.post("/evict", {"to_bytes": 0})
    assert said["entries"] == 2
    assert list(kept(admin)) == [PUBLIC]
    assert [r["repo"] for r in admin.get("/repositories?pinned=true")["repositories"]] == [PUBLIC]
    git.clone(admin.pannier.url_of("public/simple"), "--mirror")
    assert admin.pannier.packs(1) == ["hit, local"]

    assert admin.done("DELETE", f"/repositories/{repository}/pin") == {"pinned": False, "since": None}
    assert admin.post("/evict", {"to_bytes": 0})["entries"] == 2
    assert kept(admin) == {}
    admin.refused(404, "DELETE", f"/repositories/{repository}/pin")


def test_removing_takes_the_pin_along(admin, git, simple):
    fill(admin.pannier, git, "public/simple")
    repository = admin.repository(PUBLIC)
    admin.post(f"/repositories/{repository}/pin")
    admin.done("DELETE", f"/repositories/{repository}")
    assert (admin.pannier.data / "pins").read_text() == ""


# Bringing forward ----------------------------------------------------------------------------------


def test_a_refreshed_mirror_has_what_was_pushed(admin, git, own):
    path, repo = own()
    fill(admin.pannier, git, path)
    repository = admin.repository(f"origin/{path}")
    assert admin.post(f"/repositories/{repository}/refresh")["missing"] == 0
    repo.commit(text="pushed")
    said = admin.post(f"/repositories/{repository}/refresh")
    assert said["made"] is False and said["missing"] == 1
    same_objects(git.clone(admin.pannier.url_of(path), "--mirror"), repo.path)
    assert admin.pannier.packs(2)[-1] == "miss, mirror"


def test_a_mirror_that_is_not_there_is_made(start, origin, git, own):
    pannier = start(origin=origin.url, config={"cache": {"mirror_after": 0}})
    path, repo = own()
    git.clone(pannier.url_of(path), "--depth=1")
    admin = Admin(pannier)
    until(lambda: kept(admin), "the answer is known")
    said = admin.post(f"/repositories/{admin.repository(f'origin/{path}')}/refresh")
    assert said["made"] is True and said["missing"] == said["tips"] > 0
    pannier.wait_mirror(path)


def test_what_needs_a_credential_is_not_refreshed(pannier, private, person):
    path, _ = private()
    alice = person("alice")
    alice.clone(pannier.url_of(path))
    admin = Admin(pannier)
    until(lambda: kept(admin), "the answer is known")
    problem = admin.refused(502, "POST", f"/repositories/{admin.repository(f'origin/{path}')}/refresh")
    assert "refuses" in problem["detail"]


# Now -----------------------------------------------------------------------------------------------


def under_way(admin):
    return admin.get("/requests")["requests"]


def test_requests_under_way_are_told_with_how_far_they_are(behind, upstream, simple):
    admin = Admin(behind)
    asked = upstream.on("fetch", Gate(), times=1)
    begun = int(time.time())
    held = Reader(behind.port).post("/origin/public/simple.git/git-upload-pack", pktline.fetch([simple.oid()]))
    asked.wait_held()
    (request,) = until(lambda: [r for r in under_way(admin) if r["state"] == "waiting"], "it waits for upstream")
    assert request["repo"] == PUBLIC and request["repository"] == admin.repository(PUBLIC)
    assert request["service"] == "upload-pack" and request["method"] == "POST" and request["client"] == "127.0.0.1"
    assert request["result"] is None and request["bytes"] == 0 and request["as"] is None
    assert begun <= request["started"] <= time.time() and request["age_ms"] >= 0
    asked.open()
    assert held.read_response()[0] == 200
    sent = upstream.on("fetch", Gate(after=4000), times=1)
    other = Reader(behind.port).post("/origin/public/simple.git/git-upload-pack",
                                     pktline.fetch([simple.oid()], extra=["deepen 3"]))
    other.read_until(b"packfile")
    sent.wait_held()
    (request,) = until(lambda: [r for r in under_way(admin) if r["bytes"] > 0], "bytes go out")
    assert request["state"] == "sending" and request["result"] == "miss, upstream" and request["bytes"] < 5000
    sent.open()
    assert other.read_response()[0] == 200
    until(lambda: under_way(admin) == [], "nothing is under way")
    for reader in (held, other):
        reader.leave()


def test_what_goes_out_by_sendfile_is_told_too(pannier, big):
    question = pktline.fetch([big.oid()])
    first = Reader(pannier.port).post("/origin/public/big.git/git-upload-pack", question)
    size = len(first.read_response()[1])
    pannier.wait_answers(1)
    admin = Admin(pannier)
    slow = Reader(pannier.port, receive_buffer=16384).post("/origin/public/big.git/git-upload-pack", question)
    slow.read_until(b"packfile")
    (request,) = until(lambda: [r for r in under_way(admin) if r["bytes"] > 0], "bytes go out")
    assert request["result"] == "hit, local" and 0 < request["bytes"] < size
    assert slow.read_response()[0] == 200
    until(lambda: under_way(admin) == [], "nothing is under way")
    for reader in (first, slow):
        reader.leave()


def test_no_more_requests_are_told_than_may(behind, upstream, simple):
    gate = upstream.on("fetch", Gate())
    body = pktline.fetch([simple.oid()])
    readers = [Reader(behind.port).post("/origin/public/simple.git/git-upload-pack", body) for _ in range(1010)]
    admin = Admin(behind)
    said = until(lambda: (said := admin.get("/requests"))["complete"] is False and said, "there are more")
    ages = [r["age_ms"] for r in said["requests"]]
    assert len(ages) == 1000 and len({r["id"] for r in said["requests"]}) == 1000
    assert all(old >= new - 5 for old, new in zip(ages, ages[1:]))
    gate.open()
    for reader in readers:
        reader.leave()
    until(lambda: admin.get("/requests") == {"requests": [], "complete": True}, "nothing is under way")


def test_history_tells_what_was_counted_when(admin, git, simple):
    begun = int(time.time())
    fill(admin.pannier, git, "public/simple")
    git.clone(admin.pannier.url_of("public/simple"), "--mirror")
    admin.pannier.packs(2)

    def samples():
        return admin.get("/history?step=5")["samples"]

    until(lambda: sum(s["hits"]["local"] for s in samples()) == 1, "the hit is in it")
    told, traffic = samples(), admin.get("/stats")["traffic"]
    for name in ("client_bytes", "upstream_bytes", "saved_bytes"):
        assert sum(s[name] for s in told) == traffic[name] > 0
    assert sum(s["misses"]["upstream"] for s in told) == 1
    assert sum(s["requests"] for s in told) == len(admin.pannier.requests())
    assert [s["time"] for s in told] == sorted(s["time"] for s in told) and told[0]["time"] > begun
    assert admin.get(f"/history?step=5&since={told[-1]['time'] + 60}")["samples"] == []
    assert admin.get("/history") == {"step": 60, "samples": []}  # no minute is over yet


def test_who_asks_is_told_what_may_be(start, origin, tmp_path):
    file = tokens_file(tmp_path / "tokens", scraper=("read", "reads"), oncall=("operate", "operates"))
    pannier = start(origin=origin.url, config={"admin": {"tokens_file": str(file)}})
    assert Admin(pannier, "reads").get("/whoami") == {"name": "scraper", "scopes": ["read"]}
    assert Admin(pannier, "operates").get("/whoami") == {"name": "oncall", "scopes": ["read", "operate"]}
    Admin(pannier).refused(401, "GET", "/whoami")
    # The page itself holds nothing and is everybody's.
    for path, status in (("/", 200), ("/page/page.js", 200), ("/page/style.css", 200), ("/page/none.js", 404),
                         ("/page/..%2findex.html", 404), ("/?no_such=1", 400), ("/page/", 404)):
        answer = Admin(pannier).call("GET", path)
        assert answer.status == status, path
        assert status != 200 or "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert Admin(pannier).call("POST", "/").status == 405


# The rest ------------------------------------------------------------------------------------------


def test_room_is_made(admin, git, simple):
    fill(admin.pannier, git, "public/simple")
    preview = admin.post("/evict", {"dry_run": True, "to_bytes": 0})
    assert preview["entries"] == 2 and {e["repo"] for e in preview["preview"]} == {PUBLIC}
    said = admin.post("/evict", {"to_bytes": 0})
    assert said["entries"] == 2 and said["stored_bytes"] > 0 and said["preview"] == []
    assert kept(admin) == {} and admin.get("/stats")["local"]["evicted"] == 2


def test_the_level_of_the_log_changes_at_once(admin, git, simple):
    assert admin.done("PUT", "/log/level", {"level": "error"}) == {"level": "error"}
    assert admin.get("/log/level") == {"level": "error"}
    git.clone(admin.pannier.url_of("public/simple"))
    assert admin.pannier.requests() == []
    admin.done("PUT", "/log/level", {"level": "debug"})
    git.clone(admin.pannier.url_of("public/simple"))
    admin.pannier.requests(2)


def test_events_tell_what_happens(admin, git, simple):
    events = admin.events()
    admin.done("PUT", "/log/level", {"level": "error"})  # who listens hears it all the same
    git.clone(admin.pannier.url_of("public/simple"))
    request = events.wait("request")
    assert request["repository"] == PUBLIC and request["level"] == "info"
    assert events.wait("mirror made")["repository"] == PUBLIC
    until(lambda: admin.metrics()["pannier_event_clients"] == 1, "one listens")
    events.close()
    git.clone(admin.pannier.url_of("public/simple"))
    until(lambda: admin.metrics()["pannier_event_clients"] == 0, "nobody listens")


def test_not_everybody_may_listen(admin):
    listening = [admin.events() for _ in range(16)]
    admin.refused(503, "GET", "/events")
    for one in listening:
        one.close()


def test_who_listens_slowly_harms_nobody_and_is_told_what_was_missed(admin, git, simple):
    slow = admin.events()
    for _ in range(1500):
        admin.done("PUT", "/log/level", {"level": "error"})
    fast = admin.events()
    admin.done("PUT", "/log/level", {"level": "info"})
    assert fast.wait("log level set")["now"] == "info"
    fast.close()
    while (event := slow.next()).get("now") != "info":
        assert event
    slow.close()


def test_nodes_are_this_one(admin):
    until(lambda: admin.call("GET", "/readyz").status == 200, "it serves")
    (node,) = admin.get("/nodes")["nodes"]
    assert node["self"] is True and node["state"] == "ready"
    assert node["address"].endswith(f":{admin.pannier.port}")
    assert node["requests"] == 0 and node["silent_ms"] == 0 and node["disk_limit"] > 0
    assert node["admin"].endswith(f":{admin.pannier.admin_port}")


def test_many_at_once_are_served(admin, git, simple):
    fill(admin.pannier, git, "public/simple")
    failures = []

    def ask():
        for path in ("/stats", "/repositories", "/answers", "/nodes"):
            answer = admin.call("GET", f"/api/v1{path}")
            if answer.status not in (200, 503):
                failures.append((path, answer.status, answer.body))

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
