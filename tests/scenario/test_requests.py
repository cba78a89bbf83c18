"""Requests made by hand: what HTTP and the protocol allow, and what they do not."""
import gzip
import http.client

import pytest

from support import pktline
from support.faulty import Blackhole
from support.gitclient import Reader, advertisement, ask, ask_gzipped, call
from support.net import HOST

REFS = "info/refs?service=git-upload-pack"


@pytest.fixture
def url(pannier, simple):
    return pannier.url_of("public/simple")


def header_says(answer, name, *words):
    value = (answer.header(name) or "").lower()
    assert all(word in value for word in words), f"{name}: {value}"


# What must work -------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip"])
def test_bodies_may_come_gzipped(url, simple, encoding):
    plain = ask(url, pktline.ls_refs())
    assert simple.oid().encode() in plain.body
    assert ask_gzipped(url, pktline.ls_refs(), encoding).body == plain.body
    assert pktline.pack_is_whole(ask_gzipped(url, pktline.fetch([simple.oid()]), encoding).body)


def test_bodies_may_come_chunked(url, simple):
    for body in (pktline.ls_refs(), pktline.fetch([simple.oid()])):
        pieces = [body[i : i + 11] for i in range(0, len(body), 11)]
        answer = ask(url, None, chunks=pieces)
        assert answer.status == 200 and answer.body.endswith(pktline.FLUSH)


def test_content_types_and_caching_are_what_git_expects(url, simple, origin):
    for make in (
        lambda base: advertisement(base),
        lambda base: advertisement(base, protocol=0),
        lambda base: advertisement(base, "git-receive-pack", protocol=0),
        lambda base: ask(base, pktline.ls_refs()),
        lambda base: ask(base, pktline.fetch([simple.oid()])),
        lambda base: ask(base, pktline.fetch([simple.oid()])),
        lambda base: ask(base, pktline.fetch_v0([simple.oid()]), protocol=0),
    ):
        mine, theirs = make(url), make(origin.url_of("public/simple"))
        assert mine.status == theirs.status == 200
        assert mine.header("Content-Type") == theirs.header("Content-Type")
        header_says(mine, "Cache-Control", "no-cache")


def test_the_advertisement_is_upstreams(url, origin):
    """git's own agent line aside, byte for byte."""
    for protocol in (0, 1, 2):
        for service in ("git-upload-pack", "git-receive-pack"):
            mine = advertisement(url, service, protocol=protocol)
            theirs = advertisement(origin.url_of("public/simple"), service, protocol=protocol)
            if service == "git-receive-pack":
                assert mine.body == theirs.body
            else:
                said, expected = (
                    {p for p in pktline.split(a.body) if isinstance(p, bytes)} for a in (mine, theirs)
                )
                refs = {p for p in expected if p[40:46] == b" refs/"}
                assert refs <= said
                assert {p.split(b"=")[0].split(b"\0")[0] for p in said} <= {
                    p.split(b"=")[0].split(b"\0")[0] for p in expected}


def test_cache_status_and_request_id_are_in_the_response_and_in_the_log(url, pannier, simple):
    for expected, result in (("fwd", "miss, upstream"), ("hit", "hit, local")):
        answer = ask(url, pktline.fetch([simple.oid()]))
        header_says(answer, "Cache-Status", "pannier", expected)
        [line] = pannier.requests(1, id=answer.header("X-Request-Id"))
        assert line["result"] == result and line["status"] == 200
        assert line["service"] == "upload-pack" and line["repository"] == "origin/public/simple"
        pannier.wait_answers()


def test_a_whole_answer_is_sent_with_its_length(url, pannier, simple):
    ask(url, pktline.fetch([simple.oid()]))
    pannier.wait_answers()
    warm = ask(url, pktline.fetch([simple.oid()]))
    assert int(warm.header("Content-Length")) == len(warm.body)
    assert warm.header("Transfer-Encoding") is None


@pytest.mark.parametrize("value", ["version=2", "version=2:unknown=1", "unknown=1:version=2", "version=1:version=2"])
def test_git_protocol_may_hold_more_fields(url, value):
    answer = advertisement(url, protocol=None, headers={"Git-Protocol": value})
    assert b"version 2" in answer.body


def test_header_names_ignore_case(url, simple):
    answer = advertisement(url, protocol=None, headers={"gIT-pROTOCOL": "version=2"})
    assert b"version 2" in answer.body
    body = gzip.compress(pktline.ls_refs())
    answer = ask(url, body, protocol=None,
                 headers={"GIT-PROTOCOL": "version=2", "cOnTeNt-EnCoDiNg": "gzip"})
    assert simple.oid().encode() in answer.body


def test_without_git_protocol_it_is_protocol_0(url, simple):
    answer = advertisement(url, protocol=None)
    assert simple.oid().encode() in answer.body and b"version" not in answer.body.split(b"\n")[1][:20]


def test_the_probe_is_answered_and_leaves_nothing(url, pannier, upstream):
    answer = ask(url, pktline.FLUSH, protocol=0)
    assert answer.status == 200
    header_says(answer, "Content-Type", "application/x-git-upload-pack-result")
    pannier.requests(1, result="probe")
    assert pannier.answers() == []


def test_the_probe_of_a_private_repository_tells_who_may(pannier, private):
    path, _ = private(read=["alice"])
    answer = ask(pannier.url_of(path), pktline.FLUSH, protocol=0)
    assert answer.status == 401 and answer.header("WWW-Authenticate") == 'Basic realm="origin"'
    assert ask(pannier.url_of(path), pktline.FLUSH, user="alice", protocol=0).status == 200
    assert ask(pannier.url_of(path), pktline.FLUSH, user="bob", protocol=0).status == 401


def test_expect_100_continue_is_answered_before_the_body(pannier, simple):
    body = pktline.ls_refs()
    reader = Reader(pannier.port)
    reader.send(b"POST /origin/public/simple.git/git-upload-pack HTTP/1.1\r\nHost: x\r\n"
                b"Git-Protocol: version=2\r\nContent-Type: application/x-git-upload-pack-request\r\n"
                b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
    assert b" 100 " in reader.read_until(b"\r\n\r\n")
    reader.got = b""
    reader.send(body)
    status, said = reader.read_response()
    assert status == 200 and simple.oid().encode() in said


def test_one_connection_serves_many_requests(pannier, simple, url):
    connection = http.client.HTTPConnection(HOST, pannier.port, timeout=30)
    connection.connect()
    socket = connection.sock
    for _ in range(3):
        assert advertisement(url, connection=connection).status == 200
        assert ask(url, pktline.ls_refs(), connection=connection).status == 200
        assert ask(url, pktline.fetch([simple.oid()]), connection=connection).whole
        assert call(f"{pannier.url}/nothing", connection=connection).status == 404
    assert connection.sock is socket
    connection.close()


def test_head_is_get_without_a_body(url, pannier):
    get, head = (call(f"{url}/{REFS}", method) for method in ("GET", "HEAD"))
    assert (head.status, head.body) == (200, b"")
    assert head.header("Content-Type") == get.header("Content-Type")
    assert call(f"{pannier.url}/healthz", "HEAD").status == 200
    assert call(f"{pannier.url}/nothing", "HEAD").status == 404


# What must not --------------------------------------------------------------------------------------


@pytest.mark.parametrize("target, statuses", [
    (f"/unlisted.example.com/a/b.git/{REFS}", {403}),
    (f"/origin.evil.com/a/b.git/{REFS}", {403}),
    (f"/ORIGINS/a/b.git/{REFS}", {403}),
    (f"/127.0.0.1:22/a/b.git/{REFS}", {403}),
    (f"/user:s3cr3t-pw@origin/a/b.git/{REFS}", {400, 403}),
    (f"/user:s3cr3t-pw%40origin/a/b.git/{REFS}", {400, 403}),
    (f"/origin/../a/b.git/{REFS}", {400}),
    (f"/origin/a/../../b.git/{REFS}", {400}),
    (f"/origin/a/./b.git/{REFS}", {400}),
    (f"/origin/%2e%2e/a/b.git/{REFS}", {400}),
    (f"/origin/a/%2E%2e/b.git/{REFS}", {400}),
    (f"/origin/a/.%2e/b.git/{REFS}", {400}),
    (f"/origin/a%2fb.git/{REFS}", {400}),
    (f"/origin/a%2Fb.git/{REFS}", {400}),
    (f"/origin/a%5cb.git/{REFS}", {400}),
    (f"/origin%2fa/b.git/{REFS}", {400, 403}),
    (f"/origin/a%00b.git/{REFS}", {400}),
    (f"/origin/a%0ab.git/{REFS}", {400}),
    (f"/origin/a%0d%0aX-Evil:1/b.git/{REFS}", {400}),
    (f"/origin/a%zzb.git/{REFS}", {400}),
    (f"/origin/a%2/{REFS}", {400}),
    (f"/origin/.git/{REFS}", {400, 404}),
    (f"/origin/{REFS}", {400, 404}),
    (f"//origin//{REFS}", {400, 403, 404}),
    (f"/origin/{'a/' * 4000}b.git/{REFS}", {400, 413, 414, 431}),
    ("/origin/a/b.git/info/refs?service=git-evil-pack", {400, 403}),
    ("/origin/a/b.git/config", {404}),
    ("/origin/a/b.git", {404}),
    ("/origin", {404}),
    ("/", {404}),
    ("/favicon.ico", {404}),
    ("/healthz/more", {404}),
], ids=lambda v: v[:40] if isinstance(v, str) else "")
def test_a_target_that_is_none_is_refused_in_one_sentence_without_asking_anybody(start, target, statuses):
    blackhole = Blackhole()
    pannier = start(origin=blackhole.url)
    answer = call(pannier.url, raw_target=target)
    assert answer.status in statuses
    text = answer.text.strip()
    assert 10 < len(text) < 300 and "\n" not in text
    assert "s3cr3t-pw" not in text
    assert answer.header("Location") is None
    assert blackhole.untouched()
    blackhole.close()
    pannier.requests(1)
    assert "s3cr3t-pw" not in pannier.output()


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW"])
def test_methods_that_git_does_not_use_are_refused(start, method):
    blackhole = Blackhole()
    pannier = start(origin=blackhole.url)
    assert call(f"{pannier.url_of('a/b')}/{REFS}", method).status in (400, 404, 405, 501)
    assert call(f"{pannier.url_of('a/b')}/git-upload-pack", "GET").status in (400, 404, 405)
    assert blackhole.untouched()
    blackhole.close()


WANT = pktline.pkt("want " + "1" * 40)
BROKEN_BODIES = {
    "text": b"hello, world",
    "empty": b"",
    "half a length": b"00",
    "length beyond the end": b"fff0command=fetch",
    "length of 1": b"0001command=fetch0003",
    "no hex": b"zzzzcommand=fetch",
    "cut in the middle": pktline.fetch(["1" * 40])[:-9],
    "bytes behind the end": pktline.fetch(["1" * 40]) + b"more",
    "no wants": pktline.fetch([]),
    "a want that is none": pktline.fetch(["xyz"]),
    "a short want": pktline.fetch(["1" * 39]),
    "no command": pktline.pkt("agent=git/2") + pktline.DELIM + WANT + pktline.FLUSH,
    "two filters": pktline.fetch(["1" * 40], extra=["filter blob:none", "filter tree:0"]),
    "depth without sense": pktline.fetch(["1" * 40], extra=["deepen minus-one"]),
}


@pytest.mark.parametrize("kind", BROKEN_BODIES)
def test_a_body_that_is_no_request_is_refused_in_one_sentence(behind, upstream, simple, kind):
    answer = ask(behind.url_of("public/simple"), BROKEN_BODIES[kind])
    assert answer.status == 400, answer.text
    assert 10 < len(answer.text.strip()) < 300 and "\n" not in answer.text.strip()
    assert upstream.requests("fetch") == []
    assert behind.answers() == [] and behind.incoming() == []


@pytest.mark.parametrize("kind", ["text", "length beyond the end", "a want that is none"])
def test_in_protocol_0_too(behind, upstream, simple, kind):
    body = {"a want that is none": pktline.pkt("want xyz") + pktline.FLUSH}.get(kind, BROKEN_BODIES[kind])
    assert ask(behind.url_of("public/simple"), body, protocol=0).status == 400
    assert upstream.requests("fetch") == []


def bomb():
    return gzip.compress(pktline.pkt(b"x" * 60000) * 2000)


@pytest.mark.parametrize("body, headers, statuses", [
    (bomb(), {"Content-Encoding": "gzip"}, {413}),
    (b"0" * 70000, {}, {413}),
    (gzip.compress(pktline.ls_refs())[:-12], {"Content-Encoding": "gzip"}, {400}),
    (b"\x1f\x8bnot at all", {"Content-Encoding": "gzip"}, {400}),
    (gzip.compress(pktline.ls_refs()) + b"more", {"Content-Encoding": "gzip"}, {400}),
    (pktline.ls_refs(), {"Content-Encoding": "br"}, {400, 415}),
], ids=["bomb", "too long", "cut gzip", "no gzip", "bytes behind gzip", "brotli"])
def test_a_body_beyond_the_limit_or_not_inflating_is_refused(start, upstream, simple, body, headers, statuses):
    pannier = start(origin=upstream.url, config={"limits": {"body": "64K"}})
    answer = ask(pannier.url_of("public/simple"), body, headers=headers)
    assert answer.status in statuses
    assert 10 < len(answer.text.strip()) < 300
    assert [a for a in upstream.requests() if a.method == "POST" and a.kind != "ls-refs"] == []
    assert pannier.rss(peak=True) < 1 << 30


def test_a_chunked_body_is_held_to_the_limit_as_it_comes(start, upstream, simple):
    pannier = start(origin=upstream.url, config={"limits": {"body": "64K"}})
    reader = Reader(pannier.port)
    reader.send(b"POST /origin/public/simple.git/git-upload-pack HTTP/1.1\r\nHost: x\r\n"
                b"Git-Protocol: version=2\r\nTransfer-Encoding: chunked\r\n\r\n")
    try:
        for _ in range(100):
            reader.send(b"1000\r\n" + b"0" * 4096 + b"\r\n")
    except ConnectionError:
        pass  # refused before we were done
    assert b" 413 " in reader.read_all().partition(b"\r\n")[0] or reader.got == b""
    assert upstream.requests("fetch") == []


# Deadlines ------------------------------------------------------------------------------------------


def feed_until_closed(reader, byte):
    """Keep sending a byte at a time, as slowloris does; the connection must not live on that."""
    reader.socket.settimeout(0.05)
    for _ in range(600):
        try:
            reader.socket.sendall(byte)
            data = reader.socket.recv(4096)
            if not data:
                return reader.got
            reader.got += data
        except TimeoutError:
            continue
        except ConnectionError:
            return reader.got
    raise AssertionError("the connection lives on one byte at a time")


def test_headers_that_never_end_are_cut_off(start, origin):
    pannier = start(origin=origin.url, config={"limits": {"header_timeout": "500ms"}})
    reader = Reader(pannier.port).send(b"GET /healthz HTTP/1.1\r\nX: ")
    assert b" 200 " not in feed_until_closed(reader, b"a")
    assert pannier.health()[0] == 200


def test_a_body_that_never_ends_is_cut_off(start, upstream, simple):
    pannier = start(origin=upstream.url, config={"limits": {"body_timeout": "500ms"}})
    reader = Reader(pannier.port).send(
        b"POST /origin/public/simple.git/git-upload-pack HTTP/1.1\r\nHost: x\r\n"
        b"Git-Protocol: version=2\r\nContent-Length: 5000\r\n\r\n0014command=ls-refs\n")
    said = feed_until_closed(reader, b"0")
    assert said == b"" or b" 408 " in said or b" 400 " in said
    assert upstream.requests("fetch") == []


def test_an_idle_connection_is_closed(start, origin):
    pannier = start(origin=origin.url, config={"limits": {"idle_timeout": "300ms"}})
    reader = Reader(pannier.port).send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b" 200 " in reader.read_all()  # ends when the other side closes
    assert Reader(pannier.port).read_all() == b""
