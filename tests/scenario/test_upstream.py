"""How upstream is reached: TLS, redirects, and nowhere else."""
from urllib.parse import unquote

import pytest

from support import pktline
from support.faulty import Faulty, changed
from support.gitclient import advertisement, ask
from support.origin import make_authority


def over_tls(origin, **settings):
    return {"upstreams": [{"name": "origin", "url": origin.tls_url, **settings}]}


def test_tls_under_an_own_authority_works_with_its_ca_file(start, origin, simple, git):
    pannier = start(config=over_tls(origin, ca_file=str(origin.ca_file)))
    since = origin.mark()
    for _ in range(2):
        git.clone(pannier.url_of("public/simple"))
    assert {s.scheme for s in origin.requests(since)} == {"https"}


@pytest.mark.parametrize("which", ["none", "another"])
def test_tls_that_cannot_be_trusted_is_502(start, origin, simple, tmp_path, which):
    settings = {} if which == "none" else {"ca_file": str(make_authority(tmp_path / "other", "another"))}
    pannier = start(config=over_tls(origin, **settings))
    since = origin.mark()
    for answer in (advertisement(pannier.url_of("public/simple")), ask(pannier.url_of("public/simple"), pktline.ls_refs())):
        assert answer.status == 502
        assert 10 < len(answer.text.strip()) < 300 and "\n" not in answer.text.strip()
    assert origin.requests(since) == []


def test_tls_to_a_name_that_the_certificate_does_not_have_is_502(start, origin, simple):
    config = over_tls(origin, ca_file=str(origin.ca_file))
    config["upstreams"][0]["url"] = f"https://127.0.0.2:{origin.tls_port}"
    assert advertisement(start(config=config).url_of("public/simple")).status == 502


def test_tls_to_what_speaks_plain_http_is_502(start, origin, simple):
    config = {"upstreams": [{"name": "origin", "url": f"https://127.0.0.1:{origin.port}"}]}
    assert advertisement(start(config=config).url_of("public/simple")).status == 502


# Redirects ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [0, 2])
def test_a_renamed_repository_is_followed_inside(pannier, origin, git, protocol):
    origin.make("public/new/moved")
    url = pannier.url_of("public/old/moved")
    answer = advertisement(url, protocol=protocol)
    assert answer.status == 200 and answer.header("Location") is None
    option = ("-c", f"protocol.version={protocol}")
    for _ in range(2):
        git.clone_alike(url, origin.url_of("public/new/moved"), *option)
        assert pannier.wait_answers()
    assert set(pannier.packs(2)) == {"miss, upstream", "hit, local"}


def test_a_push_to_a_renamed_repository_gets_there(pannier, origin, git):
    repo = origin.make("public/new/pushed")
    clone = git.clone(pannier.url_of("public/old/pushed"))
    oid = git.commit(clone, "pushed")
    git.run("push", "-q", "origin", "main", cwd=clone)
    assert repo.oid() == oid


def test_a_post_is_redirected_inside_without_info_refs_first(pannier, origin):
    repo = origin.make("public/new/direct")
    answer = ask(pannier.url_of("public/old/direct"), pktline.fetch([repo.oid()]))
    assert answer.status == 200 and pktline.pack_is_whole(answer.body)


@pytest.mark.parametrize("user", [None, "alice"])
def test_a_redirect_to_another_host_is_refused(pannier, origin, simple, git, user):
    since = origin.mark()
    answer = advertisement(pannier.url_of("public/away/simple"), user=user)
    assert answer.status in (403, 502)
    assert answer.header("Location") is None
    assert 10 < len(answer.text.strip()) < 300
    assert not [s for s in origin.requests(since) if s.host.startswith("localhost")]
    git.fails("clone", pannier.url_of("public/away/simple"), git.place())


@pytest.mark.parametrize("code", [301, 302, 307, 308])
def test_no_credential_follows_a_redirect_elsewhere(behind, upstream, code):
    elsewhere = Faulty()
    upstream.on("refs", lambda x: x.reply(code, b"", [("Location", f"{elsewhere.url}{x.asked.target}")]))
    answer = advertisement(behind.url_of("a/b"), user="alice")
    assert answer.status in (403, 502) and answer.header("Location") is None
    assert elsewhere.requests() == []
    elsewhere.close()


def test_a_redirect_to_another_scheme_is_refused(behind, upstream, tmp_path):
    for location in (f"file://{tmp_path}/x", "ftp://127.0.0.1/x", "gopher://127.0.0.1/x"):
        upstream.on("refs", lambda x: x.reply(302, b"", [("Location", location)]), times=1)
        assert advertisement(behind.url_of("a/b")).status in (403, 502)


def test_redirects_in_a_circle_come_to_an_end(behind, upstream):
    upstream.on("refs", lambda x: x.reply(302, b"", [("Location", x.asked.target)]))
    assert advertisement(behind.url_of("a/b")).status == 502
    assert len(upstream.requests()) <= 10


def test_what_upstream_advertises_and_pannier_does_not_know_is_forwarded(behind, upstream, own, git):
    """A server must honour what it advertised; for the unknown that is upstream."""
    upstream.on("refs", changed(lambda body: body.replace(
        b"000eversion 2\n", b"000eversion 2\n" + pktline.pkt("bundle-uri") + pktline.pkt("object-info"))))
    path, _ = own()
    assert b"bundle-uri" in advertisement(behind.url_of(path)).body
    git.clone(behind.url_of(path))
    since = len(upstream.requests())
    ask(behind.url_of(path), pktline.pkt("command=bundle-uri") + b"0000")
    assert upstream.requests()[since:][-1].body == pktline.pkt("command=bundle-uri") + b"0000"


@pytest.mark.parametrize("wire", ["UPPER/Case.git", "~user/repo.git", "with%20space/r.git", "a%2Bb/c+d.git",
                                  "%C3%A4/%E2%82%AC.git", "no-suffix", "a.b/c.git.d", "0/_-.git"])
def test_a_path_means_upstream_what_it_meant_here(behind, upstream, wire):
    advertisement(f"{behind.url}/origin/{wire}")
    assert unquote(upstream.requests("refs")[-1].path) == unquote(f"/{wire}/info/refs")
