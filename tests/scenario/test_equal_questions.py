"""Equal questions have one answer, whoever asks and however it is written down."""
import random

import pytest

from support import pktline
from support.gitclient import ask, ask_gzipped


@pytest.fixture
def url(behind):
    return behind.url_of("public/simple")


def one_pack(behind, upstream, hits):
    assert behind.packs(1 + hits) == ["miss, upstream"] + ["hit, local"] * hits
    assert len(upstream.requests("fetch")) == 1
    assert len(behind.answers()) == 1


def test_agent_session_and_terminal_make_no_difference(behind, upstream, simple, git, url):
    git.clone(url)
    behind.wait_answers()
    git.clone(url, GIT_USER_AGENT="git/1.9.1-odd")
    git.clone(url, "-c", "transfer.advertiseSID=true")
    git.on_terminal("clone", url, git.place())
    git.clone(url, "-c", "http.extraHeader=X-Trace: 1", "-c", "http.userAgent=other")
    one_pack(behind, upstream, hits=4)


def test_order_duplicates_and_compression_make_no_difference(behind, upstream, simple, url):
    wants = [simple.oid(n) for n in ("main", "topic", "v1.0", "v2.0", "light")]
    assert pktline.pack_is_whole(ask(url, pktline.fetch(wants)).body)
    behind.wait_answers()
    shuffled = random.Random(1).sample(wants, len(wants)) + [wants[0]] * 2
    for answer in (
        ask(url, pktline.fetch(shuffled)),
        ask_gzipped(url, pktline.fetch(wants)),
        ask_gzipped(url, pktline.fetch(wants), encoding="x-gzip"),
        ask(url, None, chunks=[pktline.fetch(shuffled)[i : i + 7] for i in range(0, 2000, 7)]),
        ask(url, pktline.fetch(wants).replace(b"0011no-progress\n", b"").replace(b"000fno-progress", b"")),
    ):
        assert answer.status == 200 and pktline.pack_is_whole(answer.body)
    one_pack(behind, upstream, hits=5)


def test_wants_one_below_the_other_in_protocol_0_too(behind, upstream, simple, url):
    wants = [simple.oid(n) for n in ("main", "topic")]
    answer = ask(url, pktline.fetch_v0(wants), protocol=0)
    assert pktline.pack_is_whole(answer.body)
    behind.wait_answers()
    quiet = "ofs-delta side-band-64k agent=x session-id=y"
    for body in (pktline.fetch_v0(wants[::-1]), pktline.fetch_v0([*wants, wants[0]], quiet)):
        assert pktline.pack_is_whole(ask(url, body, protocol=0).body)
    one_pack(behind, upstream, hits=2)


@pytest.mark.parametrize("other", [
    {"extra": ["deepen 1"]}, {"extra": ["filter blob:none"]}, {"extra": ["include-tag"]},
    {"haves": ["1" * 40]},
], ids=lambda o: str(*o.values()))
def test_what_changes_the_pack_makes_another_question(behind, upstream, simple, url, other):
    wants = [simple.oid()]
    for question in ({}, other):
        assert pktline.pack_is_whole(ask(url, pktline.fetch(wants, **question)).body)
    behind.wait_answers(2)


def test_the_same_question_to_another_repository_is_another(behind, origin, own, simple, url):
    path, repo = own()
    oid = simple.oid()
    assert repo.oid() != oid
    assert pktline.pack_is_whole(ask(url, pktline.fetch([oid])).body)
    behind.wait_answers()
    assert b"PACK" not in ask(behind.url_of(path), pktline.fetch([oid])).body


def test_nothing_of_one_client_reaches_upstream_with_a_shared_question(behind, upstream, simple, url):
    ask(url, pktline.fetch([simple.oid()], agent="git/marker-77"), headers={"X-Marker": "77", "Cookie": "marker-77"})
    [asked] = upstream.requests("fetch")
    assert b"marker-77" not in asked.body
    assert asked.all("X-Marker") == [] and asked.all("Cookie") == []


def test_a_capability_nobody_knows_is_forwarded_and_nothing_kept(behind, upstream, simple, url):
    body = pktline.fetch([simple.oid()], extra=["sideband-all-over the-place"])
    upstream.on("fetch", lambda x: x.reply(200, b"0008NAK\n" + pktline.FLUSH,
                                           [("Content-Type", "application/x-git-upload-pack-result")]))
    for _ in range(2):
        assert ask(url, body).body == b"0008NAK\n" + pktline.FLUSH
    assert [a.body for a in upstream.requests("fetch")] == [body, body]
    assert behind.packs(2) == ["pass", "pass"]
    assert behind.answers() == []


def test_negotiation_without_done_is_answered_and_not_kept(behind, simple, url):
    body = pktline.fetch([simple.oid()], haves=[simple.oid("main~3"), "2" * 40], done=False)
    for _ in range(2):
        answer = ask(url, body)
        assert answer.status == 200
        assert f"ACK {simple.oid('main~3')}".encode() in answer.body
    assert behind.answers() == []


@pytest.mark.parametrize("protocol", [0, 2])
def test_an_unknown_command_is_left_to_upstream(behind, upstream, simple, url, protocol):
    body = pktline.pkt("command=object-info") + pktline.DELIM + pktline.pkt("size") + pktline.pkt(
        f"oid {simple.oid()}") + pktline.FLUSH
    if protocol == 2:
        upstream.on("fetch", lambda x: x.reply(200, b"0008hey\n0000"))
        assert ask(url, body).body == b"0008hey\n0000"
        assert upstream.requests("fetch")[0].body == body
    else:
        assert ask(url, body, protocol=0).status in (200, 400)
    assert behind.answers() == []
