"""How upstream is treated when it has had enough, and what clients get while it is down."""
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from support import pktline
from support.faulty import Faulty, Gate, err, never, reply
from support.gitclient import advertisement, ask, same_objects
from support.wait import until

READS = ("refs", "ls-refs", "fetch")
STALE = {"stale_if_error": "1h", "stale_access_ttl": "1h"}


@pytest.fixture
def over(start, upstream):
    """over(rate="10/h"): a pannier whose upstream is the lying one, with these settings for it."""

    def over(**settings):
        return start(config={"upstreams": [{"name": "origin", "url": upstream.url, **settings}]})

    return over


def refs_of(pannier, path, **options):
    return ask(pannier.url_of(path), pktline.ls_refs(), **options)


def health(pannier):
    return json.loads(pannier.health()[1])["upstream"]


# Throttling -----------------------------------------------------------------------------------------


THROTTLES = {
    "429 with Retry-After": (reply(429, b"enough", Retry_After="1"), 429),
    "503 with Retry-After": (reply(503, b"enough", Retry_After="1"), 503),
    "403 with Retry-After": (reply(403, b"enough", Retry_After="1"), 403),
}


@pytest.mark.parametrize("what", THROTTLES)
def test_who_is_throttled_is_kept_from_upstream_until_it_is_over(over, upstream, simple, git, what):
    script, status = THROTTLES[what]
    pannier = over()
    upstream.on("ls-refs", script, times=1)
    assert refs_of(pannier, "public/simple").status == status
    asked = len(upstream.requests())
    answer = refs_of(pannier, "public/simple")
    if len(upstream.requests()) == asked:  # else that second was over already
        assert answer.status == 429 and int(answer.header("Retry-After")) >= 1
        assert "left alone" in answer.text
        pannier.requests(1, result="throttled", status=429)
        assert health(pannier)["refused"] >= 1
    until(lambda: refs_of(pannier, "public/simple").status == 200, "upstream is asked again")
    git.clone(pannier.url_of("public/simple"))
    assert health(pannier)["throttled"] == 1


LONG = {
    "Retry-After": reply(429, b"enough", Retry_After="600"),
    "429 alone": reply(429, b"enough"),
    "nothing left": reply(403, b"no", X_RateLimit_Remaining="0", X_RateLimit_Reset="600"),
    "secondary limit": reply(429, b'{"message": "You have exceeded a secondary rate limit."}'),
    "ERR of GitLab": err("GitLab is currently unable to handle this request due to load (ID 01J)."),
}


@pytest.mark.parametrize("what", LONG)
@pytest.mark.parametrize("where", ["refs", "ls-refs", "fetch"])
def test_all_ways_of_throttling_are_heard_wherever_they_come(over, upstream, simple, what, where):
    pannier = over()
    upstream.on(where, LONG[what], times=1)
    url, body = pannier.url_of("public/simple"), pktline.fetch([simple.oid()])
    (advertisement(url) if where == "refs" else ask(url, pktline.ls_refs() if where == "ls-refs" else body))
    asked = len(upstream.requests())
    until(lambda: health(pannier)["throttled"] == 1, "it was heard")
    assert refs_of(pannier, "public/simple").status == 429
    assert len(upstream.requests()) == asked


def test_what_is_here_is_still_answered(over, upstream, simple, git):
    pannier = over()
    git.clone(pannier.url_of("public/simple"))
    pannier.wait_answers()
    body = pktline.fetch([simple.oid()])
    assert ask(pannier.url_of("public/simple"), body).status == 200
    pannier.wait_answers(2)
    upstream.on("ls-refs", LONG["Retry-After"], times=1)
    refs_of(pannier, "public/simple")
    asked = len(upstream.requests())
    answer = ask(pannier.url_of("public/simple"), body)
    assert answer.status == 200 and pktline.pack_is_whole(answer.body)
    # The list of capabilities too; refs are upstream's.
    assert advertisement(pannier.url_of("public/simple")).status == 200
    assert refs_of(pannier, "public/simple").status == 429
    assert len(upstream.requests()) == asked


def test_one_credentials_limit_is_no_other_ones_but_twos_are_all(over, upstream, private, own):
    path, _ = private(read=["alice", "bob"])
    public, _ = own()
    pannier = over()
    upstream.on(lambda a: a.kind == "ls-refs" and a.user == "alice", LONG["Retry-After"])
    assert refs_of(pannier, path, user="alice").status == 429
    assert refs_of(pannier, path, user="bob").status == 200
    assert refs_of(pannier, public).status == 200
    upstream.on(lambda a: a.kind == "ls-refs" and a.user == "bob", LONG["Retry-After"])
    assert refs_of(pannier, path, user="bob").status == 429
    asked = len(upstream.requests())
    assert refs_of(pannier, public).status == 429
    assert len(upstream.requests()) == asked


def test_a_push_goes_through_while_reading_is_throttled(over, upstream, private, person):
    path, repo = private()
    pannier, alice = over(), person("alice")
    clone = alice.clone(pannier.url_of(path))
    oid = alice.commit(clone, "pushed")
    upstream.on("ls-refs", LONG["Retry-After"], times=1)
    assert refs_of(pannier, path, user="alice").status == 429
    alice.run("push", "-q", "origin", "main", cwd=clone)
    assert repo.oid() == oid


# The budget -----------------------------------------------------------------------------------------


def test_fifty_clients_at_once_cost_no_more_than_the_budget(over, upstream, simple):
    """They ask different questions, so none can share another one's answer."""
    pannier = over(rate="10/h", burst=10)
    barrier = threading.Barrier(50)

    def client(n):
        barrier.wait()
        return ask(pannier.url_of("public/simple"), pktline.ls_refs(prefixes=[f"refs/heads/{n}"]))

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(client, range(50)))
    statuses = [a.status for a in answers]
    assert sorted(statuses) == [200] * 10 + [429] * 40
    assert len(upstream.requests()) == 10
    for answer in answers:
        if answer.status == 429:
            assert 1 <= int(answer.header("Retry-After")) <= 3600
            assert "budget" in answer.text


def test_a_budget_that_is_used_up_comes_back(over, upstream, simple, git):
    pannier = over(rate="5/s", burst=1)
    until(lambda: refs_of(pannier, "public/simple").status == 429, "the budget is used up")
    until(lambda: refs_of(pannier, "public/simple").status == 200, "and comes back")


def test_equal_questions_cost_the_budget_once(over, upstream, simple):
    pannier = over(rate="4/h", burst=4)
    body = pktline.fetch([simple.oid()])
    answers = [ask(pannier.url_of("public/simple"), body) for _ in range(30)]
    assert {a.status for a in answers} == {200}


def test_a_rate_that_makes_no_sense_is_refused(start):
    for rate in ("5", "many", "5/d", "-1/s", "0/s", "9999999/s", "5 /s"):
        config = {"upstreams": [{"name": "x", "url": "http://127.0.0.1:1", "rate": rate}]}
        code, text = start(config=config, launch=False).run_to_end()
        assert code == 2 and "rate" in text


# Upstream is down -----------------------------------------------------------------------------------


class Outage:
    def __init__(self, upstream, how):
        self.on = False
        upstream.on(lambda a: self.on, how)


DOWN = {
    "cut": lambda x: x.close(reset=True),
    "500": reply(500, b"trouble"),
    "503": reply(503, b"trouble"),
    "429": reply(429, b"enough", Retry_After="1"),
    "hangs": never,
}


@pytest.mark.parametrize("protocol", [0, 2])
@pytest.mark.parametrize("how", DOWN)
def test_without_the_setting_there_is_an_error(over, upstream, simple, git, how, protocol):
    pannier = over(response_timeout="300ms", access_ttl="0s")
    option = ("-c", f"protocol.version={protocol}")
    git.clone(pannier.url_of("public/simple"), *option)
    pannier.wait_answers()
    outage = Outage(upstream, DOWN[how])
    outage.on = True
    git.fails("clone", *option, pannier.url_of("public/simple"), git.place())
    assert health(pannier)["stale"] == 0


@pytest.mark.parametrize("protocol", [0, 1, 2])
@pytest.mark.parametrize("how", DOWN)
def test_with_it_a_clone_is_what_it_was_and_says_so(over, upstream, simple, git, how, protocol):
    pannier = over(response_timeout="300ms", access_ttl="0s", **STALE)
    option = ("-c", f"protocol.version={protocol}")
    first = git.clone(pannier.url_of("public/simple"), *option)
    pannier.wait_answers()
    outage = Outage(upstream, DOWN[how])
    outage.on = True
    to = git.place()
    git.run("clone", "--progress", *option, pannier.url_of("public/simple"), to)
    said = git.stderr
    assert "pannier: hit, local; upstream can't be asked, refs as of " in said
    same_objects(to, first)
    lines = pannier.requests(2, service="upload-pack")
    assert lines[-1]["result"] == "hit, local" and lines[-1]["stale"].endswith(" s")
    assert [l for l in pannier.requests(1, result="refs, stale") if l["stale"]]
    assert health(pannier)["stale"] >= 2


def test_headers_say_that_refs_are_stale(over, upstream, simple):
    pannier = over(access_ttl="0s", **STALE)
    fresh = refs_of(pannier, "public/simple")
    Outage(upstream, DOWN["503"]).on = True
    answer = refs_of(pannier, "public/simple")
    assert answer.status == 200 and answer.body == fresh.body
    assert answer.header("Cache-Status").startswith("pannier; hit; detail=stale; ttl=-")
    assert answer.header("Content-Type") == fresh.header("Content-Type")


def test_an_upstream_that_is_gone_is_an_outage_too(start, origin, simple, git):
    own = Faulty(origin)
    pannier = start(config={"upstreams": [{"name": "origin", "url": own.url, "access_ttl": "0s", **STALE}]})
    git.clone(pannier.url_of("public/simple"))
    pannier.wait_answers()
    own.close()
    git.clone(pannier.url_of("public/simple"))


def test_what_was_not_asked_before_is_an_error(over, upstream, simple, own, git):
    pannier = over(**STALE)
    path, _ = own()
    git.clone(pannier.url_of("public/simple"))
    Outage(upstream, DOWN["503"]).on = True
    assert refs_of(pannier, path).status in (502, 503)
    # Nor is another question about the same repository, such as a narrower list.
    assert ask(pannier.url_of("public/simple"), pktline.ls_refs(prefixes=["refs/pull/"])).status in (502, 503)


def test_who_was_never_allowed_gets_nothing(over, upstream, private, person):
    path, repo = private(read=["alice"])
    pannier = over(access_ttl="0s", denied_ttl="0s", **STALE)
    person("alice").clone(pannier.url_of(path))
    assert refs_of(pannier, path, user="alice").status == 200
    pannier.wait_answers()
    body = pktline.fetch([repo.oid()])
    assert refs_of(pannier, path, user="bob").status in (401, 403, 404)
    outage = Outage(upstream, DOWN["503"])
    outage.on = True
    for user in ("bob", None):
        for answer in (refs_of(pannier, path, user=user), ask(pannier.url_of(path), body, user=user),
                       advertisement(pannier.url_of(path), user=user)):
            assert answer.status in (401, 403, 502, 503), answer.body
            assert repo.oid().encode() not in answer.body and b"PACK" not in answer.body
    assert repo.oid().encode() in refs_of(pannier, path, user="alice").body
    # The way of typing the path is part of what was allowed.
    bare = pannier.url_of(path).removesuffix(".git")
    assert ask(bare, pktline.ls_refs(), user="alice").status in (502, 503)


@pytest.mark.parametrize("status", [401, 403, 404])
@pytest.mark.parametrize("where", READS)
def test_who_was_refused_since_gets_nothing(over, upstream, private, person, status, where):
    path, repo = private(read=["alice", "bob"])
    pannier = over(access_ttl="0s", denied_ttl="0s", **STALE)
    body = pktline.fetch([repo.oid()])
    for user in ("alice", "bob"):
        person(user).clone(pannier.url_of(path))
        assert refs_of(pannier, path, user=user).status == 200
    upstream.on(lambda a: a.kind in READS and a.user == "alice", reply(status, b"", WWW_Authenticate="Basic"))
    url = pannier.url_of(path)
    said = {"refs": lambda: advertisement(url, user="alice"), "ls-refs": lambda: refs_of(pannier, path, user="alice"),
            "fetch": lambda: ask(url, body, user="alice")}[where]()
    assert said.status == status
    Outage(upstream, DOWN["503"]).on = True
    for answer in (refs_of(pannier, path, user="alice"), ask(url, body, user="alice"), advertisement(url, user="alice")):
        assert answer.status in (401, 403, 502, 503) and repo.oid().encode() not in answer.body
    assert refs_of(pannier, path, user="bob").status == 200


@pytest.mark.parametrize("setting", ["stale_if_error", "stale_access_ttl"])
def test_nothing_is_shown_beyond_the_limits(over, upstream, simple, setting):
    pannier = over(access_ttl="0s", **{**STALE, setting: "1s"})
    assert refs_of(pannier, "public/simple").status == 200
    Outage(upstream, DOWN["503"]).on = True
    until(lambda: refs_of(pannier, "public/simple").status in (502, 503), "its time is over")
    stale = [l for l in pannier.requests() if l.get("result") == "refs, stale"]
    assert all(float(l["stale"].split()[0]) <= 1.1 for l in stale)


def test_upstream_is_asked_again_and_new_refs_are_seen(over, upstream, own, git):
    path, repo = own()
    pannier = over(access_ttl="0s", **STALE)
    old = repo.oid()
    refs_of(pannier, path)
    outage = Outage(upstream, DOWN["503"])
    outage.on = True
    assert old.encode() in refs_of(pannier, path).body
    repo.commit()
    new = repo.oid()
    assert new != old
    outage.on = False
    until(lambda: new.encode() in refs_of(pannier, path).body, "the new refs are shown")
    answer = refs_of(pannier, path)
    assert "stale" not in answer.header("Cache-Status")


def test_a_push_during_an_outage_fails_and_one_after_it_ends_what_was_remembered(over, upstream, private, person):
    path, repo = private()
    pannier, alice = over(access_ttl="0s", **STALE), person("alice")
    clone = alice.clone(pannier.url_of(path))
    old = repo.oid()
    refs_of(pannier, path, user="alice")
    outage = Outage(upstream, DOWN["503"])
    outage.on = True
    assert old.encode() in refs_of(pannier, path, user="alice").body
    oid = alice.commit(clone, "pushed")
    alice.fails("push", "origin", "main", cwd=clone)
    assert repo.oid() == old
    outage.on = False
    alice.run("push", "-q", "origin", "main", cwd=clone)
    assert repo.oid() == oid
    outage.on = True
    for _ in range(3):
        answer = refs_of(pannier, path, user="alice")
        assert old.encode() not in answer.body
    alice.fails("fetch", "origin", cwd=clone)


def test_an_answer_to_a_question_from_before_a_push_is_not_remembered(over, upstream, private, person):
    path, repo = private()
    pannier, alice = over(access_ttl="0s", **STALE), person("alice")
    clone = alice.clone(pannier.url_of(path))
    old = repo.oid()
    gate = upstream.on("ls-refs", Gate(after=20), times=1)
    asking = threading.Thread(target=lambda: refs_of(pannier, path, user="alice"))
    asking.start()
    gate.wait_held()
    alice.commit(clone, "pushed")
    alice.run("push", "-q", "origin", "main", cwd=clone)
    gate.open()
    asking.join()
    Outage(upstream, DOWN["503"]).on = True
    assert old.encode() not in refs_of(pannier, path, user="alice").body


def test_a_shallow_fetch_of_a_commit_goes_on_during_an_outage(over, upstream, origin, simple, git):
    """As actions/checkout does it."""
    pannier = over(access_ttl="0s", **STALE)
    git.fetch_commit(pannier.url_of("public/simple"), simple.oid())
    refs_of(pannier, "public/simple")
    pannier.wait_answers()
    Outage(upstream, DOWN["cut"]).on = True
    git.fetch_commit(pannier.url_of("public/simple"), simple.oid())


def test_a_question_of_another_shape_is_answered_from_the_mirror(over, upstream, simple, git):
    pannier = over(access_ttl="0s", **STALE)
    git.clone(pannier.url_of("public/simple"))
    pannier.wait_mirror("public/simple")
    Outage(upstream, DOWN["503"]).on = True
    body = pktline.fetch([simple.oid()], extra=["deepen 1"]).replace(pktline.pkt("no-progress"), b"")
    answer = ask(pannier.url_of("public/simple"), body)
    assert answer.status == 200 and pktline.pack_is_whole(answer.body)
    assert answer.header("Cache-Status").startswith("pannier; fwd=miss; detail=mirror; ttl=-")
    assert b"upstream can't be asked" in pktline.bands(answer.body)[2]
    # What only upstream has is not to be had.
    assert ask(pannier.url_of("public/simple"), pktline.fetch(["1" * 40])).status in (502, 503)
