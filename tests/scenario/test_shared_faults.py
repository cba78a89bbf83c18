"""The shared tier away, slow, lying, or cut off: clones are served; nothing half is seen; it heals."""
import re
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from support import pktline, repos
from support.faulty_s3 import (Gate, asks, bucket_missing, cut, flipped, never, refused, slow_down, stall,
                               wrong_clock)
from support.gitclient import Reader, ask, fsck, same_objects
from support.rgw import ACCESS_KEY
from support.wait import DEADLINE, until

TROUBLE = "the shared tier can't be used; serving without it"
WORKS = "the shared tier works"
DAMAGE = "damage found in the shared tier; removed, to be made again"
# What a node asks a store for when it is not merely looking whether it works again.
WORK = "get head put begin part complete remove"


@pytest.fixture
def expected(origin, simple, git):
    return git.clone(origin.url_of("public/simple"))


@pytest.fixture(scope="module")
def medium(origin):
    """Its answer has several pieces, and is not packed."""
    return origin.make("public/medium-shared", repos.big, files=3)


MEDIUM = "public/medium-shared"


@pytest.fixture
def stocked(tier, simple, git):
    """A node whose answer and mirror of public/simple are in the bucket."""
    one = tier.node("one")
    git.clone(one.url_of("public/simple"))
    tier.wait_up(one)
    tier.front.forget()
    return one


@pytest.fixture
def stocked_medium(tier, medium, git):
    one = tier.node("one")
    git.clone(one.url_of(MEDIUM), "--mirror")
    tier.wait_up(one)
    one.stop()  # it puts nothing again
    tier.front.forget()
    return one


def troubles(node):
    return [l for l in node.warnings() if l.get("event") == TROUBLE]


# Killed amid an upload ------------------------------------------------------------------------------


@pytest.mark.parametrize("what, after, files", [
    ("answers/", 10_000, 3), ("answers/", 1 << 20, 70), ("/files/", 10_000, 3), ("manifest.json", 100, 3),
], ids=["an answer", "an answer in parts", "a file of a mirror", "a manifest"])
def test_kill_9_amid_an_upload_shows_nothing_half_and_the_next_one_succeeds(tier, own, git, what, after, files):
    path, repo = own(repos.big, files=files, settings=repos.NO_DELTAS)
    kinds = "part" if files > 64 else "put"
    gate = tier.front.on(lambda a: a.is_(kinds, what) and a.length > after,
                         Gate(after, breaks=True))
    one = tier.node("one")
    git.clone(one.url_of(path), "--mirror")
    one.wait_mirror(path)
    gate.wait_held()
    one.kill()
    held = {a.key.removeprefix(tier.objects.prefix) for a in tier.front.requests(kinds, what) if not a.status}
    tier.front.behave()
    gate.open()
    until(lambda: not tier.front.under_way(), "the connections are gone")
    assert not held & set(tier.objects.keys())
    one.start()
    tier.wait_up(one)
    assert len(tier.answers()) == len(tier.manifests()) == 1
    # Another node takes it as good, both of it.
    two = tier.node("two")
    same_objects(git.clone(two.url_of(path), "--mirror"), repo.path)
    assert two.packs(1) == ["hit, shared"]
    two.wait_event("mirror restored")
    assert two.warnings() == [] and two.shared()["damaged"] == 0


def test_sigterm_amid_an_upload_ends_promptly(tier, medium, git):
    gate = tier.front.on(asks("put"), Gate(after=1000))
    one = tier.node("one", deadline="5m", stall_timeout="5m")
    git.clone(one.url_of(MEDIUM))
    gate.wait_held()
    one.signal(signal.SIGTERM)
    assert one.wait(DEADLINE) == 0  # far less than its patience
    one.check_sane()
    assert not gate.opened.is_set()
    gate.open()
    assert tier.answers() == []


def test_sigterm_amid_a_download_ends_promptly(tier, stocked_medium, git):
    tier.front.on(asks("get", "answers/"), stall(after=200_000))
    two = tier.node("two", deadline="5m", stall_timeout="5m", grace="1s")
    clone = git.start("clone", "-q", two.url_of(MEDIUM), "held")
    until(lambda: tier.front.bytes_down("get", "answers/") >= 200_000, "it comes down")
    two.signal(signal.SIGTERM)
    clone.communicate(timeout=2 * DEADLINE)
    assert two.wait(2 * DEADLINE) == 0
    two.check_sane()


# Damaged --------------------------------------------------------------------------------------------


def is_made_again(tier, key, good):
    until(lambda: tier.objects.get(key).body == good, f"{key} is made again", 2 * DEADLINE)


@pytest.mark.parametrize("place", ["magic", "record", "first piece", "cut in the head", "cut later", "empty"])
def test_a_damaged_beginning_costs_nothing_but_time(tier, stocked_medium, medium, git, place):
    [key] = tier.answers()
    good = tier.objects.read(key)
    body = good.index(b"PACK\0\0\0\2")
    if place == "empty":
        tier.objects.write(key, b"")
    elif place == "cut in the head":
        tier.objects.shorten(key, 60)
    elif place == "cut later":
        tier.objects.shorten(key, 2 << 20)
    else:
        tier.objects.damage(key, {"magic": 0, "record": 140, "first piece": body + 1000}[place])
    two = tier.node("two")
    same_objects(git.clone(two.url_of(MEDIUM), "--mirror"), medium.path)
    assert two.packs(1)[0] in ("miss, mirror", "miss, upstream")
    line = two.wait_event(DAMAGE)
    assert line["what"].startswith("answers/")
    assert two.shared()["damaged"] == 1
    until(lambda: tier.answers() == [key] and tier.objects.read(key) != b"", "it is made again", 2 * DEADLINE)
    tier.wait_idle(two)
    three = tier.node("three")
    same_objects(git.clone(three.url_of(MEDIUM), "--mirror"), medium.path)
    assert three.packs(1) == ["hit, shared"] and three.warnings() == []


def test_a_damaged_later_piece_breaks_off_and_the_next_try_succeeds(tier, stocked_medium, medium, git):
    [key] = tier.answers()
    tier.objects.damage(key, -100)
    two = tier.node("two")
    said = git.fails("clone", two.url_of(MEDIUM), git.place())
    assert "fatal: " in said and "pannier: " in said, said
    two.wait_event(DAMAGE)
    assert two.answers() == []
    same_objects(git.clone(two.url_of(MEDIUM), "--mirror"), medium.path)
    assert two.shared()["damaged"] == 1
    until(lambda: tier.answers() == [key], "it is made again", 2 * DEADLINE)
    tier.wait_idle(two)
    three = tier.node("three")
    same_objects(git.clone(three.url_of(MEDIUM), "--mirror"), medium.path)
    assert three.packs(1) == ["hit, shared"]


def test_who_was_told_a_length_gets_it_or_sees_that_it_broke_off(tier, medium):
    body, target = pktline.fetch([medium.oid()]), f"/origin/{MEDIUM}.git/git-upload-pack"
    one = tier.node("one")
    ask(one.url_of(MEDIUM), body)
    tier.wait_up(one)
    one.stop()
    [key] = tier.answers()
    gate = tier.front.on(asks("get", "answers/"), Gate(after=1 << 20))
    reader = Reader(tier.node("two").port).post(target, body)
    head = reader.read_until(b"PACK").partition(b"\r\n\r\n")[0]
    length = int(re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)[1])
    gate.wait_held()  # it is known before it has come
    gate.open()
    status, got = reader.read_response()
    assert status == 200 and len(got) == length and pktline.pack_is_whole(got)
    tier.front.behave()
    tier.objects.damage(key, -100)
    head, _, got = Reader(tier.node("three").port).post(target, body).read_all().partition(b"\r\n\r\n")
    assert b"\r\nContent-Length: %d" % length in head
    assert len(got) < length and b"pannier: " in got[-1000:]


def test_another_ones_answer_under_this_key_is_not_served(tier, own, simple, git):
    """Keys are swapped: both are whole, and neither is what was asked for."""
    one = tier.node("one")
    paths = [own(commits=3 + n)[0] for n in range(2)]
    for path in paths:
        git.clone(one.url_of(path))
    tier.wait_up(one, answers=2, mirrors=2)
    one.stop()
    first, second = tier.answers()
    a, b = tier.objects.read(first), tier.objects.read(second)
    tier.objects.write(first, b)
    tier.objects.write(second, a)
    two = tier.node("two")
    for path in paths:
        git.clone_alike(two.url_of(path), f"{tier.upstream}/{path}.git")
    assert not [r for r in two.packs(2) if "shared" in r]
    assert two.shared()["damaged"] == 2


@pytest.mark.parametrize("what", ["pack", "index", "manifest", "manifest cut", "pack gone"])
def test_a_damaged_mirror_is_not_restored_and_made_again(tier, stocked_medium, medium, git, what):
    [manifest] = tier.manifests()
    tier.objects.clear("answers/")
    pack = tier.pack_of(manifest)
    if what == "pack":
        tier.objects.damage(pack, 1_500_000)
    elif what == "pack gone":
        tier.objects.remove(pack)
    elif what == "index":
        others = tier.files()
        tier.objects.damage(min(others, key=others.get), 0)
    elif what == "manifest":
        tier.objects.damage(manifest, 200)
    else:
        tier.objects.shorten(manifest, 200)
    two = tier.node("two")
    clone = git.clone(two.url_of(MEDIUM), "--depth=1")
    fsck(clone)
    assert two.packs(1) == ["miss, upstream"]
    assert two.shared()["damaged"] >= 1 and two.shared()["restored"] == 0
    assert not two.mirror(MEDIUM).exists() or not any(two.mirror(MEDIUM).glob("objects/pack/*.pack"))
    same_objects(git.clone(two.url_of(MEDIUM), "--mirror"), medium.path)
    tier.wait_up(two)
    three = tier.node("three")
    git.clone(three.url_of(MEDIUM), "--depth=1")
    three.wait_event("mirror restored")
    assert three.shared()["damaged"] == 0


def test_bytes_that_are_damaged_on_their_way_are_not_served(tier, stocked_medium, medium, git):
    tier.front.on(asks("get", "answers/"), flipped(2000), times=1)
    two = tier.node("two")
    same_objects(git.clone(two.url_of(MEDIUM), "--mirror"), medium.path)
    assert two.packs(1)[0] in ("miss, mirror", "miss, upstream")
    assert two.shared()["damaged"] == 1


# Away -----------------------------------------------------------------------------------------------


def test_a_disk_that_dies_amid_an_upload_delays_it(tier, medium, rgw, git):
    gate = tier.front.on(asks("put", "answers/"), Gate(after=10_000), times=1)
    one = tier.node("one", deadline="1s", stall_timeout="1s")
    git.clone(one.url_of(MEDIUM), "--mirror")
    gate.wait_held()
    rgw.osd.kill()
    gate.open()
    tier.wait_status(one, "degraded")
    same_objects(git.clone(one.url_of(MEDIUM), "--mirror"), medium.path)
    assert one.packs(2)[1] == "hit, local"
    rgw.revive()
    tier.wait_status(one, "ok")
    tier.wait_up(one)
    two = tier.node("two")
    same_objects(git.clone(two.url_of(MEDIUM), "--mirror"), medium.path)
    assert two.packs(1) == ["hit, shared"]


def breaker_cycle(tier, node, own, git, heal):
    """It is away and known to be: clones are served, and it is asked nothing but whether it works."""
    tier.wait_status(node, "degraded")
    tier.wait_paused(node)
    asked = tier.front.count(WORK)
    for _ in range(2):
        path, repo = own()
        for _ in range(2):
            same_objects(git.clone(node.url_of(path), "--mirror"), repo.path)
        node.wait_answers()
    assert node.packs(4)[-4:] == ["miss, upstream", "hit, local"] * 2
    assert tier.front.count(WORK) == asked
    assert len(troubles(node)) == 1 and node.shared()["opened"] == 1
    heal()
    tier.wait_status(node, "ok")
    node.wait_event(WORKS)
    # What waited goes up.
    tier.wait_up(node, answers=2, mirrors=2)


def test_the_gateway_dies_and_clones_go_on_from_here_and_upstream(tier, stocked, rgw, own, git):
    two = tier.node("two")
    tier.wait_status(two, "ok")
    rgw.gateway.kill()
    path, repo = own()
    same_objects(git.clone(two.url_of(path), "--mirror"), repo.path)
    breaker_cycle(tier, two, own, git, rgw.revive)


@pytest.mark.parametrize("script", [
    never, stall(after=10), slow_down(), refused(403, "AccessDenied"), refused(500, "InternalError"),
    cut(after=0), bucket_missing(), wrong_clock(),
], ids=["hangs", "stalls", "slow down", "denied", "fails", "cut", "no bucket", "wrong clock"])
def test_a_store_that_fails_later_costs_one_request_its_time(tier, stocked, own, git, script):
    two = tier.node("two", deadline="1s", stall_timeout="1s")
    tier.wait_status(two, "ok")
    tier.front.on(asks(), script)
    path, repo = own()
    same_objects(git.clone(two.url_of(path), "--mirror"), repo.path)
    breaker_cycle(tier, two, own, git, tier.front.behave)


def test_it_is_asked_to_slow_down_and_comes_back(tier, stocked, expected, git):
    tier.front.on(asks("get", "answers/"), slow_down(), times=3)
    two = tier.node("two")
    same_objects(git.clone(two.url_of("public/simple")), expected)
    assert two.packs(1) == ["hit, shared"]
    assert two.shared()["status"] == "ok" and two.warnings() == []
    assert tier.front.count("get", "answers/") == 4


def test_a_download_that_is_cut_goes_on_where_it_ended(tier, stocked_medium, medium, git):
    tier.front.on(asks("get", "answers/"), cut(after=1_000_000), times=1)
    tier.front.on(asks("get", "answers/"), cut(after=500_000, reset=True), times=1)
    two = tier.node("two")
    same_objects(git.clone(two.url_of(MEDIUM), "--mirror"), medium.path)
    assert two.packs(1) == ["hit, shared"]
    assert two.shared()["status"] == "ok"


def test_it_hangs_amid_an_answer_and_the_next_try_is_served_without_it(tier, stocked_medium, medium, git):
    two = tier.node("two", deadline="1s", stall_timeout="1s")
    tier.wait_status(two, "ok")
    tier.front.on(asks(), never)
    tier.front.on(asks("get", "answers/"), stall(after=1_500_000), times=1)
    said = git.fails("clone", two.url_of(MEDIUM), git.place())
    assert "fatal: " in said, said
    tier.wait_status(two, "degraded")
    same_objects(git.clone(two.url_of(MEDIUM), "--mirror"), medium.path)
    assert two.packs(2)[1] in ("miss, mirror", "miss, upstream")


def test_a_reader_that_follows_a_hanging_answer_hears_of_its_end(tier, stocked_medium, medium, own, git):
    two = tier.node("two", deadline="1s", stall_timeout="1s")
    body = pktline.fetch([medium.oid()])
    assert pktline.pack_is_whole(ask(two.url_of(MEDIUM), body).body)
    tier.wait_up(two)
    three = tier.node("three", deadline="1s", stall_timeout="1s")
    ask(three.url_of(MEDIUM), pktline.ls_refs())
    tier.front.on(asks("get", "answers/"), never)
    tier.front.on(asks("get", "answers/"), stall(after=1_500_000), times=1)
    with ThreadPoolExecutor(2) as pool:
        answers = [f.result() for f in [pool.submit(ask, three.url_of(MEDIUM), body) for _ in range(2)]]
    for answer in answers:
        said = pktline.bands(answer.body)
        assert said[3] and b"pannier: " in said[3]
        assert not answer.body.endswith(pktline.FLUSH)


# At the start ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault, says", [
    ("no bucket", "there is no such bucket"),
    ("wrong key", "the secret key is not the access key's"),
    ("unknown key", "it does not know the access key"),
    ("wrong clock", "the clocks differ: this machine's is 7"),
    ("nobody there", "connect"),
])
def test_a_store_that_can_not_be_used_is_one_clear_sentence_and_it_serves(tier, expected, git, rgw, fault, says):
    settings = {"no bucket": {"bucket": "no-such-bucket"}}.get(fault, {})
    if fault == "wrong key":
        tier.write_keys(ACCESS_KEY, "not-the-right-one")
    elif fault == "unknown key":
        tier.write_keys("NOBODYHASTHISKEY", "not-the-right-one")
    elif fault == "wrong clock":
        tier.front.on(asks(), wrong_clock(ahead=7210))
    elif fault == "nobody there":
        tier.front.close()
        settings = {"connect_timeout": "500ms", "deadline": "500ms"}
    one = tier.node("one", **settings)
    now = tier.wait_status(one, "degraded")
    assert says in now["reason"], now["reason"]
    for _ in range(2):
        same_objects(git.clone(one.url_of("public/simple")), expected)
        one.wait_answers()
    assert one.packs(2) == ["miss, upstream", "hit, local"]
    [line] = troubles(one)
    assert says in line["reason"] and "\n" not in line["reason"]
    assert one.warnings() == [line]
    assert "not-the-right-one" not in one.output()


def test_without_keys_it_says_so(tier, expected, git):
    one = tier.node("one", credentials_file=None, env={"AWS_EC2_METADATA_DISABLED": "true",
                                                     "AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:9"})
    now = tier.wait_status(one, "degraded")
    assert "AWS_ACCESS_KEY_ID" in now["reason"] or "keys" in now["reason"]
    same_objects(git.clone(one.url_of("public/simple")), expected)


def test_it_is_down_at_the_start_and_comes_later(tier, rgw, expected, git):
    rgw.gateway.kill()
    one = tier.node("one", deadline="500ms")
    tier.wait_status(one, "degraded")
    same_objects(git.clone(one.url_of("public/simple")), expected)
    rgw.revive()
    tier.wait_status(one, "ok")
    tier.wait_up(one)
