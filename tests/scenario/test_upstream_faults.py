"""Upstreams that are cut, slow or lying: git says why, nothing is kept, the next one is served."""
import re

import pytest

from support import pktline
from support.faulty import (Blackhole, Gate, changed, changed_pack, cut, drip, err, never, reply, stall)
from support.gitclient import Reader, advertisement, ask
from support.net import free_port

HTML = b"<html>\n<body>\nDown for maintenance\n</body>\n</html>\n"
WHY = re.compile(r"remote: |remote error: |HTTP 50[24]")  # a status, before the first byte


def html(x):
    x.reply(200, HTML, [("Content-Type", "text/html")])


def throttled_midway(body):
    at = body.index(b"PACK") - 5
    return body[:at] + pktline.pkt(b"\3slow down, please") + pktline.FLUSH


def quick(url, **settings):
    timeouts = {"connect_timeout": "1s", "response_timeout": "1s", "stall_timeout": "1s"}
    return {"upstreams": [{"name": "origin", "url": url, **timeouts, **settings}]}


@pytest.fixture
def hasty(start, upstream):
    """A pannier that gives upstream a second for everything."""
    return start(config=quick(upstream.url))


# What git shows when its fetch goes wrong; None: whatever it finds itself.
FETCH_FAULTS = {
    "cut": (cut(after=3000), WHY),
    "reset": (cut(after=3000, reset=True), WHY),
    "cut before the pack": (cut(after=6), WHY),
    "empty": (cut(after=0, clean=True), WHY),
    "half a pack that ends well": (cut(after=3000, clean=True), WHY),
    "no flush": (changed(lambda body: body[:-4]), None),
    "bytes behind the end": (changed(lambda body: body + b"0008more"), None),
    "wrong checksum": (changed_pack(pktline.wrong_checksum), None),
    "lying count": (changed_pack(pktline.lying_count), None),
    "html": (html, None),
    "err": (err("internal trouble"), re.compile("remote error: internal trouble")),
    "throttled": (err("Too many requests, retry in 7 s"), re.compile("remote error: Too many requests")),
    "throttled midway": (changed(throttled_midway), re.compile("remote: slow down, please")),
    "never answers": (never, None),
    "head, then nothing": (stall(0), WHY),
    "a part, then nothing": (stall(3000), WHY),
    **{f"status {s}": (reply(s, b"trouble", Retry_After="0"), None) for s in (429, 500, 502, 503)},
}


@pytest.mark.parametrize("fault", FETCH_FAULTS)
def test_git_is_told_why_and_the_next_clone_is_right(hasty, upstream, origin, simple, git, fault):
    script, says = FETCH_FAULTS[fault]
    upstream.on("fetch", script, times=1)
    url = hasty.url_of("public/simple")
    said = git.fails("clone", url, git.place())
    if says:
        assert says.search(said), said
    assert hasty.answers() == []
    git.clone_alike(url, origin.url_of("public/simple"))
    assert len(upstream.requests("fetch")) == 2


@pytest.mark.parametrize("fault", ["cut", "half a pack that ends well", "wrong checksum", "err", "a part, then nothing"])
@pytest.mark.parametrize("options", [("-c", "protocol.version=0"), ("--depth=1",), ("--filter=blob:none",)],
                         ids=["protocol 0", "shallow", "filtered"])
def test_other_shapes_of_clones_are_no_different(hasty, upstream, origin, simple, git, fault, options):
    upstream.on("fetch", FETCH_FAULTS[fault][0] if fault != "a part, then nothing" else stall(700), times=1)
    url = hasty.url_of("public/simple")
    git.fails("clone", *options, url, git.place())
    assert hasty.answers() == [] and hasty.files("mirrors") == []
    git.clone_alike(url, origin.url_of("public/simple"), *options)


def test_a_lie_is_not_kept_even_where_the_client_does_not_notice(behind, upstream, simple):
    for script in (changed_pack(pktline.wrong_checksum), changed_pack(pktline.lying_count), cut(3000, clean=True),
                   changed(lambda body: body[:-4]), changed(lambda body: body + b"0008more")):
        upstream.on("fetch", script, times=1)
        ask(behind.url_of("public/simple"), pktline.fetch([simple.oid()]))
    behind.requests(5, service="upload-pack")
    assert behind.answers() == []
    assert behind.files("mirrors") == []
    assert pktline.pack_is_whole(ask(behind.url_of("public/simple"), pktline.fetch([simple.oid()])).body)


def test_a_pack_of_something_else_is_not_kept_as_the_answer(behind, upstream, origin, simple, git):
    """Right in form, wrong in content: git finds objects missing, and so would all who follow."""
    other = origin.make("public/other", commits=3)
    wrong = ask(origin.url_of("public/other"), pktline.fetch([other.oid()])).body
    upstream.on("fetch", changed(lambda _: wrong), times=1)
    git.fails("clone", behind.url_of("public/simple"), git.place())
    assert behind.files("mirrors") == []


def test_a_slow_upstream_is_waited_for(hasty, upstream, origin, simple, git):
    upstream.on("fetch", drip(size=499))
    git.clone_alike(hasty.url_of("public/simple"), origin.url_of("public/simple"))


def test_a_client_gets_bytes_while_upstream_thinks(behind, upstream, simple):
    """Clients cut a connection that is silent for 10 s: keepalives are due once the sideband is open."""
    gate = upstream.on("fetch", Gate(after=len(b"000dpackfile\n")))
    reader = Reader(behind.port)
    reader.post("/origin/public/simple.git/git-upload-pack", pktline.fetch([simple.oid()]))
    reader.socket.settimeout(10)
    reader.read_until(b"0005\2")
    gate.open()
    status, body = reader.read_response()
    assert status == 200 and pktline.pack_is_whole(body)


# Refs and access ------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["refs", "ls-refs"])
@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_trouble_upstream_is_passed_on_and_not_remembered(behind, upstream, simple, git, what, status):
    upstream.on(what, reply(status, b"trouble", Retry_After="7"), times=1)
    url = behind.url_of("public/simple")
    answer = advertisement(url) if what == "refs" else ask(url, pktline.ls_refs())
    assert answer.status in (status, 502)
    if status in (429, 503):  # what follows from it: test_manners.py
        assert answer.status == status and answer.header("Retry-After") == "7"
    else:
        git.clone(url)


@pytest.mark.parametrize("what", ["refs", "ls-refs"])
def test_an_err_instead_of_refs_is_passed_on(behind, upstream, simple, git, what):
    upstream.on(what, err("Your account is suspended"), times=1)
    assert "Your account is suspended" in git.fails("clone", behind.url_of("public/simple"), git.place())
    git.clone(behind.url_of("public/simple"))


@pytest.mark.parametrize("script", [html, cut(after=40), cut(after=40, reset=True), cut(after=0)],
                         ids=["html", "cut", "reset", "nothing"])
@pytest.mark.parametrize("what", ["refs", "ls-refs"])
def test_refs_that_are_none_fail_one_clone_only(behind, upstream, origin, simple, git, what, script):
    upstream.on(what, script, times=1)
    git.fails("clone", behind.url_of("public/simple"), git.place())
    git.clone_alike(behind.url_of("public/simple"), origin.url_of("public/simple"))


def test_an_unreachable_upstream_is_502(start, git):
    pannier = start(config=quick(f"http://127.0.0.1:{free_port()}"))
    for answer in (advertisement(pannier.url_of("a/b")), ask(pannier.url_of("a/b"), pktline.ls_refs()),
                   ask(pannier.url_of("a/b"), pktline.fetch(["1" * 40]))):
        assert answer.status == 502
        assert 10 < len(answer.text.strip()) < 300 and "\n" not in answer.text.strip()


def test_a_name_that_does_not_resolve_is_502(start):
    pannier = start(config=quick("http://no-such-host.invalid"))
    assert advertisement(pannier.url_of("a/b")).status == 502


def test_an_upstream_that_never_answers_is_504(start):
    blackhole = Blackhole()
    pannier = start(config=quick(blackhole.url))
    for answer in (advertisement(pannier.url_of("a/b")), ask(pannier.url_of("a/b"), pktline.ls_refs())):
        assert answer.status == 504
        assert 10 < len(answer.text.strip()) < 300
    assert pannier.health()[0] == 200
    blackhole.close()


def test_one_hanging_upstream_does_not_stop_another(start, origin, simple, git):
    blackhole = Blackhole()
    pannier = start(dead=blackhole.url, origin=origin.url)
    hanging = [Reader(pannier.port).send(b"GET /dead/a/b.git/info/refs?service=git-upload-pack HTTP/1.1\r\nHost: x\r\n\r\n")
               for _ in range(8)]
    git.clone(pannier.url_of("public/simple"))
    for reader in hanging:
        reader.leave()
    blackhole.close()


def test_upstream_may_close_kept_connections_at_any_time(behind, upstream, simple, git):
    """A connection that upstream has closed meanwhile is no reason to fail."""
    for _ in range(3):
        git.run("ls-remote", behind.url_of("public/simple"))
        for kind in ("refs", "ls-refs"):
            upstream.on(kind, lambda x: (x.reply(200, x.ask_origin().read(), [
                ("Content-Type", "application/x-git-upload-pack-" + ("advertisement" if x.asked.method == "GET" else "result"))]),
                x.close()), times=1)
    git.clone(behind.url_of("public/simple"))


def test_a_refresh_that_upstream_cuts_breaks_no_mirror(behind, upstream, origin, own, git):
    path, repo = own()
    git.clone(behind.url_of(path))
    behind.wait_mirror(path)
    repo.commit(size=9000)
    upstream.on("fetch", cut(after=3000), times=1)
    try:
        git.clone(behind.url_of(path))
    except AssertionError as failure:  # it may fail, with a reason, or have been asked for again
        assert WHY.search(str(failure)) or "50" in str(failure)
    clone = git.clone_alike(behind.url_of(path), origin.url_of(path))
    assert git.run("rev-parse", "HEAD", cwd=clone) == repo.oid()
