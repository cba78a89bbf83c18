"""The shared tier: what one node has, the others need not fetch; and who may have what stays as it is."""
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from support import pktline, repos
from support.faulty import err
from support.faulty_s3 import Gate, asks, refused
from support.gitclient import Git, advertisement, ask, same_objects
from support.pannier import SANITIZER, binary
from support.rgw import ACCESS_KEY, SECRET_KEY
from support.wait import DEADLINE, until

MEGABYTE = 1 << 20
STRICT = {"uploadpack.allowAnySHA1InWant": "false", "uploadpack.allowReachableSHA1InWant": "false"}
RESTORED = "mirror restored"
KEYS = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}


def refs_then(url, body, protocol=2, **options):
    """As git does it: the refs first, then the question."""
    advertisement(url, protocol=protocol, **options)
    if protocol == 2:
        ask(url, pktline.ls_refs(), **options)
    return ask(url, body, protocol=protocol, **options)


def no_pack(answer):
    return b"PACK" not in answer.body


@pytest.fixture
def expected(origin, simple, git):
    """What a clone from upstream is."""
    return git.clone(origin.url_of("public/simple"))


@pytest.fixture
def stocked(tier, simple, git):
    """A node whose answer and mirror of public/simple are in the bucket."""
    one = tier.node("one")
    git.clone(one.url_of("public/simple"))
    tier.wait_up(one)
    tier.front.forget()
    return one


# Answers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [0, 2])
def test_a_second_node_has_the_answer_and_asks_upstream_for_no_pack(tier, origin, simple, expected, tmp_path, protocol):
    git = Git(tmp_path / "person", protocol=protocol)
    one = tier.node("one")
    git.clone(one.url_of("public/simple"))
    tier.wait_up(one)
    two, since = tier.node("two"), origin.mark()
    same_objects(git.clone(two.url_of("public/simple")), expected)
    assert two.packs(1) == ["hit, shared"]
    assert origin.packs(since) == []
    assert two.shared()["hits"] == 1 and two.shared()["status"] == "ok"
    # It is here now.
    two.wait_answers()
    tier.front.forget()
    same_objects(git.clone(two.url_of("public/simple")), expected)
    assert two.packs(2)[1] == "hit, local"
    assert tier.front.count("get", "answers/") == 0


def test_cache_status_says_where_it_came_from(tier, simple):
    body = pktline.fetch([simple.oid()])
    one = tier.node("one")
    refs_then(one.url_of("public/simple"), body)
    tier.wait_up(one)
    answer = refs_then(tier.node("two").url_of("public/simple"), body)
    assert answer.header("Cache-Status") == "pannier; hit; detail=shared"
    assert pktline.pack_is_whole(answer.body)


@pytest.mark.parametrize("driver", ["libs3", "file"])
def test_the_other_drivers_share_as_well(tier, origin, simple, expected, git, tmp_path, driver):
    (tmp_path / "store").mkdir()
    where = {"driver": driver, "credentials_file": None, "env": KEYS}
    if driver == "file":
        where.update(endpoint=str(tmp_path / "store"), bucket=None, env=None)
    one = tier.node("one", launch=False, **where)
    try:
        one.start()
    except AssertionError:
        if "was built without libs3" not in one.output():
            raise
        pytest.skip("there is no libs3 in this build")
    git.clone(one.url_of("public/simple"))
    one.wait_mirror("public/simple")
    until(lambda: one.shared()["uploads"]["sent"] >= 2, "answer and mirror are up")
    two, since = tier.node("two", **where), origin.mark()
    same_objects(git.clone(two.url_of("public/simple")), expected)
    assert two.packs(1) == ["hit, shared"] and origin.packs(since) == []


def test_keys_may_come_from_the_environment(tier, simple, git):
    one = tier.node("one", credentials_file=None, env=KEYS)
    git.clone(one.url_of("public/simple"))
    tier.wait_up(one)


def test_large_answers_go_up_in_parts_and_stream_down(tier, origin, own, tmp_path):
    path, repo = own(repos.big, files=70, settings=repos.NO_DELTAS)
    git = Git(tmp_path / "person")
    one = tier.node("one")
    git.clone(one.url_of(path), "--mirror")
    tier.wait_up(one)
    assert tier.front.count("begin", "answers/") == 1 and tier.front.count("part", "answers/") >= 4
    two, since = tier.node("two"), origin.mark()
    same_objects(git.clone(two.url_of(path), "--mirror"), repo.path)
    assert two.packs(1) == ["hit, shared"] and origin.packs(since) == []


def test_many_who_ask_at_once_cost_one_download(tier, stocked, expected, origin, tmp_path):
    two, since = tier.node("two"), origin.mark()
    gate = tier.front.on(asks("get", "answers/"), Gate(after=100))
    people = [Git(tmp_path / f"person{n}") for n in range(5)]
    with ThreadPoolExecutor(5) as pool:
        clones = [pool.submit(p.clone, two.url_of("public/simple")) for p in people]
        gate.wait_held()
        until(lambda: len([r for r in origin.requests(since) if r.kind in ("ls-refs", "refs")]) >= 2, "they ask")
        gate.open()
        for clone in clones:
            same_objects(clone.result(), expected)
    assert tier.front.count("get", "answers/") == 1
    assert origin.packs(since) == []


def test_an_answer_that_lies_there_is_not_sent_again(tier, stocked, expected, origin, git):
    """Both nodes had to make it: the bucket was away from one."""
    one_by_itself = tier.node("two", driver="off")
    git.clone(one_by_itself.url_of("public/simple"))
    one_by_itself.wait_answers()
    one_by_itself.wait_mirror("public/simple")
    data = one_by_itself.data
    one_by_itself.stop()
    tier.front.forget()
    two = tier.node("two-again", data=data)
    tier.wait_status(two, "ok")
    git.clone(two.url_of("public/simple"))
    tier.wait_idle(two)
    until(lambda: tier.front.count("head get", "mirrors/") > 0, "it has looked")
    tier.wait_idle(two)
    assert tier.front.bytes_up("put part", "answers/") == 0
    assert tier.front.bytes_up("put part", "/files/") == 0


def test_an_endpoint_without_conditional_puts_shares_as_well(tier, own, origin, git):
    """As Swift does it."""
    tier.front.on(lambda a: a.method == "PUT" and (a.header("if-match") or a.header("if-none-match")),
                  refused(501, "NotImplemented"))
    path, repo = own()
    one = tier.node("one")
    clone = git.clone(one.url_of(path), "--mirror")
    tier.wait_up(one)
    [manifest] = tier.manifests()
    repo.commit(text="one more")
    git.run("fetch", "-q", "origin", cwd=clone)
    until(lambda: tier.manifest(manifest)["generation"] > 1, "the mirror went up again")
    tier.wait_idle(one)
    two, since = tier.node("two"), origin.mark()
    same_objects(git.clone(two.url_of(path), "--depth=1"), git.clone(f"file://{repo.path}", "--depth=1"))
    assert two.packs(1) == ["miss, mirror"] and origin.packs(since) == []
    assert one.shared()["status"] == two.shared()["status"] == "ok"


def test_no_more_wait_than_the_queue_may_hold(tier, own, git):
    one = tier.node("one", uploads=1, upload_queue=1)
    gate = tier.front.on(asks("put", "answers/"), Gate(after=100))
    for _ in range(3):
        path, _ = own()
        git.clone(one.url_of(path))
        one.wait_mirror(path)
    gate.wait_held()
    until(lambda: one.shared()["uploads"]["dropped"] > 0, "some are dropped")
    assert one.shared()["uploads"]["waiting"] <= 1
    gate.open()
    tier.wait_idle(one)
    assert one.warnings() == []


# Access ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [0, 2])
def test_who_may_not_read_gets_nothing_although_it_lies_there(tier, private, person, git, protocol):
    path, repo = private(read=["alice"])
    one = tier.node("one")
    person("alice").clone(one.url_of(path))
    body = pktline.fetch([repo.oid()]) if protocol else pktline.fetch_v0([repo.oid()])
    assert pktline.pack_is_whole(refs_then(one.url_of(path), body, protocol, user="alice").body)
    tier.wait_up(one, answers=2)
    two = tier.node("two")
    tier.wait_status(two, "ok")
    tier.front.forget()
    assert "Authentication failed" in person("bob").fails("clone", two.url_of(path))
    assert "could not read Username" in git.fails("clone", two.url_of(path))
    shallow = pktline.fetch([repo.oid()], extra=["deepen 1"])
    for user in (None, "bob"):
        for question in (body, shallow) if protocol else (body,):
            answer = ask(two.url_of(path), question, user=user, protocol=protocol)
            assert answer.status == 401 and no_pack(answer)
    # Not even asked for.
    assert tier.front.count("get head") == 0
    answer = refs_then(two.url_of(path), body, protocol, user="alice")
    assert pktline.pack_is_whole(answer.body)
    assert two.packs(1)[-1] == "hit, shared"
    # And here it lies now.
    answer = ask(two.url_of(path), body, user="bob", protocol=protocol)
    assert answer.status == 401 and no_pack(answer)


@pytest.fixture
def secret(own, tier, upstream, git):
    """A commit that is in the bucket, in an answer and in a mirror, and that upstream has hidden since.
    git's own v2 upload-pack hands out anything by id; hosts do not, so it is made to refuse."""
    path, repo = own(hidden=True, settings=STRICT)
    one = tier.node("one", upstream=upstream.url)
    git.clone(one.url_of(path))
    refs_then(one.url_of(path), pktline.fetch([repo.hidden]))
    tier.wait_up(one, answers=2)
    repos.hide(repo)
    upstream.on(lambda a: a.kind == "fetch" and repo.hidden.encode() in a.body,
                err(f"upload-pack: not our ref {repo.hidden}"))
    return path, repo


@pytest.mark.parametrize("part", ["answers/", "mirrors/"])
def test_a_hidden_commit_stays_hidden_although_it_lies_there(tier, secret, upstream, part):
    path, repo = secret
    tier.objects.clear("mirrors/" if part == "answers/" else "answers/")
    two = tier.node("two", upstream=upstream.url)
    url = two.url_of(path)
    body = pktline.fetch([repo.hidden])
    shallow = pktline.fetch([repo.hidden], extra=["deepen 1"])
    for question in (body, shallow, body):
        answer = refs_then(url, question)
        assert no_pack(answer) and b"not our ref" in answer.body
    # By somebody who has not asked for refs.
    answer = ask(two.url_of(path), body)
    assert no_pack(answer)
    # What is shown is handed out from there.
    assert pktline.pack_is_whole(refs_then(url, pktline.fetch([repo.oid()])).body)


def test_a_private_object_is_refused_through_a_public_repository(tier, private, simple, person):
    path, repo = private()
    one = tier.node("one")
    person("alice").clone(one.url_of(path))
    body = pktline.fetch([repo.oid()])
    refs_then(one.url_of(path), body, user="alice")
    tier.wait_up(one, answers=2)
    two = tier.node("two")
    for user in (None, "alice"):
        assert no_pack(refs_then(two.url_of("public/simple"), body, user=user))


# Mirrors --------------------------------------------------------------------------------------------


def test_an_empty_node_makes_new_answers_from_the_mirror_that_lies_there(tier, stocked, origin, git):
    shallow = git.clone(origin.url_of("public/simple"), "--depth=2")
    two, since = tier.node("two"), origin.mark()
    same_objects(git.clone(two.url_of("public/simple"), "--depth=2"), shallow)
    assert origin.packs(since) == []
    assert two.packs(1) == ["miss, mirror"]
    line = two.wait_event(RESTORED)
    assert line["repository"] == "origin/public/simple" and line["files"] > 0 and line["bytes"] > 0
    assert two.shared()["restored"] == 1
    mirror = two.wait_mirror("public/simple")
    same_objects(mirror, stocked.mirror("public/simple"), same_refs=False)


def test_many_who_ask_an_empty_node_at_once_cost_one_restore(tier, stocked, origin, tmp_path):
    two, since = tier.node("two"), origin.mark()
    gate = tier.front.on(asks("get", "manifest.json"), Gate(), times=1)
    depths = range(1, 6)
    people = [Git(tmp_path / f"person{n}") for n in depths]
    with ThreadPoolExecutor(5) as pool:
        clones = [pool.submit(p.clone, two.url_of("public/simple"), f"--depth={n}", "--single-branch")
                  for n, p in zip(depths, people)]
        gate.wait_held()
        until(lambda: len([r for r in origin.requests(since) if r.kind == "refs"]) >= 1, "they ask")
        gate.open()
        for clone in clones:
            clone.result()
    assert origin.packs(since) == []
    assert set(two.packs(5)) == {"miss, mirror"}
    assert len(two.wait_lines(lambda l: l.get("event") == RESTORED)) == 1
    # Once more by whoever looks whether the new mirror has to go up.
    assert tier.front.count("get", "manifest.json") <= 2
    for file in tier.files():
        assert tier.front.count("get", file) == 1


def test_a_restored_mirror_is_brought_forward(tier, own, origin, git):
    path, repo = own()
    one = tier.node("one")
    git.clone(one.url_of(path))
    tier.wait_up(one)
    repo.commit(text="after the upload", size=5000)
    two, since = tier.node("two"), origin.mark()
    clone = git.clone(two.url_of(path))
    assert two.packs(1) == ["miss, refresh"]
    same_objects(clone, git.clone(repo.path, "--no-local"), same_refs=False)
    [pulled] = [s for s in origin.packs(since) if s.path.startswith(f"/{path}")]
    assert pulled.bytes < 20000


def test_only_what_is_new_of_a_mirror_goes_up(tier, own, git):
    path, repo = own(repos.big, files=3)
    one = tier.node("one")
    clone = git.clone(one.url_of(path))
    tier.wait_up(one)
    [manifest] = tier.manifests()
    before = tier.manifest(manifest)
    first = sum(tier.files().values())
    assert first > 3 * MEGABYTE
    repo.commit(text="one more", size=100_000)
    tier.front.forget()
    git.run("fetch", "-q", "origin", cwd=clone)
    until(lambda: tier.manifest(manifest)["generation"] > before["generation"], "it went up")
    tier.wait_idle(one)
    assert 100_000 < tier.front.bytes_up("put part", "mirrors/") < 300_000
    two = tier.node("two")
    git.clone(two.url_of(path), "--depth=1")
    assert two.packs(1) == ["miss, mirror"]


def test_two_nodes_that_put_the_same_mirror_at_once_lose_nothing(tier, own, origin, git):
    path, repo = own()
    gate = tier.front.on(asks("put", "manifest.json"), Gate(), times=2)
    one = tier.node("one")
    git.clone(one.url_of(path))
    gate.wait_held(1)
    old = repo.oid()
    new = repo.commit(text="seen by the second only", size=5000)
    # In the bucket there is no mirror yet, and this answer is new.
    two = tier.node("two")
    git.clone(two.url_of(path))
    gate.wait_held(2)
    assert tier.manifests() == []
    gate.open()
    tier.wait_up(one, answers=2)
    tier.wait_idle(two)
    three, since = tier.node("three"), origin.mark()
    for depth, tip in enumerate((old, new), 1):
        git.fetch_commit(three.url_of(path), tip, f"--depth={depth}")
    assert three.packs(2) == ["miss, mirror"] * 2
    assert origin.packs(since) == []
    assert one.warnings() == two.warnings() == []


# Room -----------------------------------------------------------------------------------------------


def test_a_mirror_for_which_there_is_no_room_is_looked_at_once(tier, own, origin, git):
    path, _ = own(repos.big, files=3)
    one = tier.node("one")
    git.clone(one.url_of(path), "--mirror")
    one.wait_mirror(path)
    tier.wait_up(one)
    two = tier.node("two", cache={"local_size": "1M", "min_free": "0"})
    tier.front.forget()
    for depth in (1, 2):
        git.clone(two.url_of(path), f"--depth={depth}")
    assert two.packs(2) == ["miss, upstream"] * 2
    assert tier.front.count("get", "manifest.json") == 1


def test_what_is_large_and_cold_leaves_the_disk_and_comes_back(tier, own, origin, git):
    path, repo = own(repos.big, files=3)
    one = tier.node("one", hot="1s", cache={"local_size": "16M", "min_free": "0"})
    git.clone(one.url_of(path), "--mirror")
    one.wait_mirror(path)
    tier.wait_up(one)
    until(lambda: one.answers() == [] and not one.mirror(path).exists(), "it has left the disk", 60)
    until(lambda: one.shared()["demoted"] == 2, "it is counted")
    since = origin.mark()
    same_objects(git.clone(one.url_of(path), "--mirror"), repo.path)
    assert one.packs(2)[1] == "hit, shared"
    assert origin.packs(since) == []


def test_what_the_store_refuses_is_not_sent_again_and_again(tier, own, git):
    path, _ = own(repos.big, files=3)
    tier.front.on(asks("put", "answers/"), refused(403, "QuotaExceeded"))
    one = tier.node("one", hot="1s", cache={"local_size": "16M", "min_free": "0"})
    git.clone(one.url_of(path), "--mirror")
    until(lambda: tier.front.count("put", "answers/") == 1, "it is tried")
    tier.front.forget()
    # Each look at what is large and cold asks for it.
    until(lambda: tier.front.count("head", "answers/") >= 2, "it is cold", 60)
    assert tier.front.count("put", "answers/") == 0
    assert one.shared()["status"] == "ok" and len(one.answers()) == 1


def test_what_is_small_stays_however_cold(tier, stocked, own, git):
    path, _ = own(repos.big, files=3)
    two = tier.node("two", hot="1s", cache={"local_size": "16M", "min_free": "0"})
    git.clone(two.url_of("public/simple"))
    git.clone(two.url_of(path))
    until(lambda: two.shared()["demoted"] == 2, "what is large has left the disk", 60)
    assert len(two.answers()) == 1 and two.mirror("public/simple").exists()


def test_rm_removes_it_from_the_bucket_too(tier, stocked, own, origin, git):
    path, _ = own()
    git.clone(stocked.url_of(path))
    tier.wait_up(stocked, answers=2, mirrors=2)
    done = subprocess.run([binary(), "rm", "origin/public/simple", "--data", str(stocked.data)],
                          capture_output=True, text=True, timeout=4 * DEADLINE)
    assert done.returncode == 0 and not SANITIZER.search(done.stderr), done.stderr
    assert "shared tier" in done.stdout
    # The other one stays.
    assert len(tier.answers()) == len(tier.manifests()) == 1
    assert len({k.split("/")[1] for k in tier.objects.keys() if "/" in k}) == 1
    two, since = tier.node("two"), origin.mark()
    git.clone(two.url_of("public/simple"))
    assert two.packs(1) == ["miss, upstream"] and len(origin.packs(since)) == 1


def test_rm_reaches_what_is_only_in_the_bucket(tier, stocked, git):
    two = tier.node("two")
    tier.wait_status(two, "ok")
    done = subprocess.run([binary(), "rm", "origin/public/simple", "--data", str(two.data)],
                          capture_output=True, text=True, timeout=4 * DEADLINE)
    assert done.returncode == 0, done.stderr
    assert tier.answers() == tier.manifests() == [] and tier.files() == {}


@pytest.mark.parametrize("what", ["answers/", "manifest.json"])
def test_rm_takes_back_what_was_on_its_way_up(tier, own, git, what):
    path, _ = own()
    gate = tier.front.on(asks("put", what), Gate())
    one = tier.node("one")
    git.clone(one.url_of(path))
    one.wait_mirror(path)
    gate.wait_held()
    done = subprocess.run([binary(), "rm", f"origin/{path}", "--data", str(one.data)],
                          capture_output=True, text=True, timeout=4 * DEADLINE)
    assert done.returncode == 0, done.stderr
    gate.open()
    tier.wait_idle(one)
    assert tier.answers() == tier.manifests() == [] and tier.files() == {}
