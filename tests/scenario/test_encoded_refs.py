"""Long lists of refs go compressed to clients that take them so."""
import concurrent.futures
import gzip
import subprocess
import urllib.parse
import zlib

import pytest

from support import pktline, repos
from support.faulty import Gate, cut
from support.gitclient import Reader, advertisement, ask, call, dechunked
from support.net import Tap
from support.wait import until

MANY = 100_000
SOME = 1000  # 67 kB of refs
PLAIN = {"Accept-Encoding": "identity"}
ALL = pktline.ls_refs(prefixes=())


@pytest.fixture(scope="session")
def many(origin):
    origin.make("public/hundred-thousand", repos.many_refs, count=MANY)
    return "public/hundred-thousand"


@pytest.fixture(scope="session")
def some(origin):
    origin.make("public/some", repos.many_refs, count=SOME)
    return "public/some"


@pytest.fixture
def tap():
    taps = []

    def tap(url):
        parts = urllib.parse.urlsplit(url)
        taps.append(Tap(parts.port))
        return taps[-1], taps[-1].url + parts.path

    yield tap
    for each in taps:
        each.close()


def decoded(answer):
    coding = answer.header("Content-Encoding")
    if coding == "gzip":
        return gzip.decompress(answer.body)
    if coding == "zstd":
        return subprocess.run(["zstd", "-dc"], input=answer.body, capture_output=True, check=True).stdout
    assert coding is None
    return answer.body


def refs_in(answer):
    assert answer.status == 200 and answer.whole
    assert "Accept-Encoding" in answer.header("Vary")
    return decoded(answer)


def encoded(url, coding):
    return ask(url, ALL, headers={"Accept-Encoding": coding})


def test_a_hundred_thousand_refs_cost_a_git_a_third_of_the_bytes(pannier, origin, many, git, tap):
    """Each ref names a commit of its own: half of what is left are object ids."""
    direct, direct_url = tap(origin.url_of(many))
    through, through_url = tap(pannier.url_of(many))
    expected = git.run("ls-remote", direct_url)
    assert expected.count("\n") == MANY
    assert git.run("ls-remote", through_url) == expected
    print(f"{direct.bytes} and {through.bytes} bytes")
    assert 3 * through.bytes <= direct.bytes


def test_protocol_0_and_gzip_shrink_refs_too(pannier, origin, many):
    url = pannier.url_of(many)
    theirs = advertisement(origin.url_of(many), protocol=0).body
    for coding, times in (("gzip", 2.5), ("zstd", 2.9)):
        answer = advertisement(url, protocol=0, headers={"Accept-Encoding": coding})
        assert answer.header("Content-Encoding") == coding
        assert refs_in(answer) == theirs
        assert len(answer.body) * times < len(theirs)


def test_a_client_that_says_nothing_gets_refs_plain(pannier, origin, some):
    url, theirs = pannier.url_of(some), ask(origin.url_of(some), ALL).body
    for said in ("identity", "br", "gzip;q=0, zstd;q=0", "*;q=0", ""):
        answer = encoded(url, said)
        assert answer.header("Content-Encoding") is None
        assert refs_in(answer) == theirs


def test_few_refs_stay_plain(pannier, origin, simple):
    url, theirs = pannier.url_of("public/simple"), ask(origin.url_of("public/simple"), ALL).body
    answer = encoded(url, "gzip, zstd")
    assert answer.header("Content-Encoding") is None
    assert refs_in(answer) == theirs


def test_refs_that_upstream_sends_compressed_are_not_compressed_twice(behind, upstream, some):
    def zipped(x):
        response = x.ask_origin()
        x.reply(200, gzip.compress(response.read()), [
            ("Content-Type", response.getheader("Content-Type")), ("Content-Encoding", "gzip")])

    upstream.on("ls-refs", zipped)
    url = behind.url_of(some)
    plain = ask(url, ALL, headers=PLAIN).body
    assert plain.endswith(pktline.FLUSH)
    for coding in ("gzip", "zstd"):
        answer = encoded(url, coding)
        assert answer.header("Content-Encoding") == coding
        assert refs_in(answer) == plain


def test_head_says_how_get_would_answer_and_sends_nothing(pannier, some):
    url = f"{pannier.url_of(some)}/info/refs?service=git-upload-pack"
    for protocol in (0, 2):
        answer = call(url, "HEAD", protocol=protocol, headers={"Accept-Encoding": "gzip"})
        assert answer.status == 200 and answer.body == b""
        assert answer.header("Content-Encoding") == ("gzip" if protocol == 0 else None)


def test_a_push_is_told_the_refs_compressed_too(behind, own, git):
    path, repo = own(repos.many_refs, count=SOME)
    repo.git("config", "http.receivepack", "true")
    url = behind.url_of(path)
    plain = advertisement(url, "git-receive-pack", protocol=0, headers=PLAIN)
    assert plain.header("Content-Encoding") is None
    for coding in ("gzip", "zstd"):
        answer = advertisement(url, "git-receive-pack", protocol=0, headers={"Accept-Encoding": coding})
        assert answer.header("Content-Encoding") == coding
        assert refs_in(answer) == plain.body
    folder = git.clone(url)
    oid = git.commit(folder, "new")
    git.run("push", "-q", url, "HEAD:refs/heads/new", cwd=folder)
    assert repo.oid("refs/heads/new") == oid


def test_equal_questions_share_one_answer_in_whatever_form_they_take_it(behind, upstream, some):
    gate = upstream.on("ls-refs", Gate())
    url = behind.url_of(some)
    codings = ["gzip", "zstd", "identity", "gzip, zstd"] * 8
    with concurrent.futures.ThreadPoolExecutor(2 + len(codings)) as pool:
        waiting = [pool.submit(encoded, url, "zstd") for _ in range(2)]
        gate.wait_held(2)
        waiting += [pool.submit(encoded, url, coding) for coding in codings]
        # Behind all of the above in the workers' queue.
        assert advertisement(behind.url_of("public/none")).status == 404
        gate.open()
        answers = [each.result() for each in waiting]
    assert len({refs_in(answer) for answer in answers}) == 1
    assert len(upstream.requests("ls-refs")) < len(codings) / 3


def test_kept_refs_are_given_in_every_form(start, upstream, some):
    pannier = start(config={"upstreams": [{"name": "origin", "url": upstream.url, "refs_ttl": "1h"}]})
    url = pannier.url_of(some)
    plain = ask(url, ALL, headers=PLAIN).body
    for coding in ("gzip", "zstd", "identity", "gzip", "zstd"):
        answer = encoded(url, coding)
        assert answer.header("Content-Encoding") == (None if coding == "identity" else coding)
        assert refs_in(answer) == plain
    assert len(upstream.requests("ls-refs")) <= 2  # the second may have come before the first landed


def test_refs_that_came_do_not_wait_for_those_that_do_not(behind, upstream, some):
    gate = upstream.on("ls-refs", Gate(after=20000))
    reader = Reader(behind.port)
    reader.send(f"POST /origin/{some}/git-upload-pack HTTP/1.1\r\nHost: x\r\nGit-Protocol: version=2\r\n"
                f"Accept-Encoding: gzip\r\nContent-Length: {len(ALL)}\r\n"
                "Content-Type: application/x-git-upload-pack-request\r\n\r\n".encode() + ALL)
    reader.read_until(b"\r\n\r\n")

    def plain():
        reader.got += reader.socket.recv(65536)
        body = reader.got.partition(b"\r\n\r\n")[2]
        return zlib.decompressobj(31).decompress(dechunked(body))

    until(lambda: len(plain()) > 19000, "what upstream has sent is here")
    gate.open()
    status, body = reader.read_response()
    assert status == 200 and gzip.decompress(body).endswith(pktline.FLUSH)


def test_git_is_told_when_a_long_list_breaks_off(behind, upstream, some, git):
    upstream.on("ls-refs", cut(after=30000))
    assert "pannier: " in git.fails("ls-remote", behind.url_of(some))
    for coding in ("gzip", "identity"):
        answer = encoded(behind.url_of(some), coding)
        assert answer.status == 200 and not answer.whole
        assert answer.header("Content-Encoding") == (None if coding == "identity" else coding)
