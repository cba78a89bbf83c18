"""Access first, always: upstream decides for this credential and this repository."""
import pytest

from support import pktline
from support.faulty import Gate, reply
from support.gitclient import Reader, advertisement, ask, basic, call
from support.wait import until

BASIC = 'Basic realm="origin"'


def refused(answer):
    return answer.status == 401 and answer.header("WWW-Authenticate") == BASIC and b"PACK" not in answer.body


def short_lived(url, **settings):
    """A configuration in which decisions are soon asked for again."""
    return {"upstreams": [{"name": "origin", "url": url, "access_ttl": "1s", "denied_ttl": "1s", **settings}]}


def test_a_credential_helper_is_asked_and_used(pannier, private, person, origin):
    path, _ = private()
    alice = person("alice")
    for _ in range(2):
        alice.clone_alike(pannier.url_of(path), origin.url_of(path))
    assert alice.helper_was_asked()


def test_an_extra_header_for_pannier_is_a_credential(pannier, private, git, origin):
    path, _ = private()
    git.set(f"http.{pannier.url}/.extraHeader", f"Authorization: {basic('alice')}")
    git.clone(pannier.url_of(path))


def test_without_a_credential_nothing_is_told(pannier, private, git):
    path, _ = private()
    url = pannier.url_of(path)
    assert refused(advertisement(url))
    assert refused(advertisement(url, protocol=0))
    assert refused(ask(url, pktline.ls_refs()))
    assert "could not read Username" in git.fails("clone", url, git.place())


@pytest.mark.parametrize("protocol", [0, 2])
def test_what_is_warm_for_alice_is_closed_to_bob_and_to_nobody(pannier, private, person, git, protocol):
    path, repo = private(read=["alice"])
    url = pannier.url_of(path)
    body = pktline.fetch([repo.oid()]) if protocol else pktline.fetch_v0([repo.oid()])
    person("alice").clone(url)
    assert pktline.pack_is_whole(ask(url, body, user="alice", protocol=protocol).body)
    pannier.wait_answers(2)
    pannier.wait_mirror(path)
    for user in ("bob", None):
        assert refused(ask(url, body, user=user, protocol=protocol))
        assert refused(ask(url, pktline.ls_refs(), user=user))
        assert refused(advertisement(url, user=user, protocol=protocol))
    assert "Authentication failed" in person("bob").fails("clone", url)
    assert pktline.pack_is_whole(ask(url, body, user="alice", protocol=protocol).body)


def test_bob_gets_what_bob_may_read(pannier, private, person, origin):
    both, _ = private(read=["alice", "bob"])
    mine, _ = private(read=["alice"])
    person("alice").clone(pannier.url_of(both))
    pannier.wait_answers()
    since = origin.mark()
    person("bob").clone(pannier.url_of(both))
    assert origin.packs(since) == []  # alice's answer, with upstream's leave
    assert [s for s in origin.requests(since) if s.user == "bob" and s.status == 200]
    assert "Authentication failed" in person("bob").fails("clone", pannier.url_of(mine))


@pytest.mark.parametrize("protocol", [0, 2])
def test_a_fetch_sent_without_asking_for_refs_first_is_decided_by_upstream(pannier, private, origin, protocol):
    path, repo = private()
    body = pktline.fetch([repo.oid()]) if protocol else pktline.fetch_v0([repo.oid()])
    url = pannier.url_of(path)
    assert refused(ask(url, body, protocol=protocol))
    assert refused(ask(url, body, user="bob", protocol=protocol))
    assert pktline.pack_is_whole(ask(url, body, user="alice", protocol=protocol).body)


def test_the_right_user_with_a_wrong_password_is_refused(pannier, private, person):
    path, repo = private()
    person("alice").clone(pannier.url_of(path))
    wrong = {"Authorization": "Basic YWxpY2U6d3Jvbmc="}
    assert refused(ask(pannier.url_of(path), pktline.fetch([repo.oid()]), headers=wrong))


def test_access_to_one_repository_is_none_to_another(pannier, private):
    (mine, _), (other, hidden) = private(read=["bob"]), private(read=["alice"])
    assert ask(pannier.url_of(mine), pktline.ls_refs(), user="bob").status == 200
    assert refused(ask(pannier.url_of(other), pktline.ls_refs(), user="bob"))
    assert refused(ask(pannier.url_of(other), pktline.fetch([hidden.oid()]), user="bob"))


def test_a_token_revoked_upstream_is_refused_after_access_ttl(start, origin, private):
    path, repo = private()
    pannier = start(config=short_lived(origin.url))
    url, body = pannier.url_of(path), pktline.fetch([repo.oid()])
    assert pktline.pack_is_whole(ask(url, body, user="alice").body)
    origin.allow(path, read=[])
    assert refused(until(lambda: (a := ask(url, body, user="alice")).status != 200 and a,
                         "the revoked token is refused", deadline=10))
    assert refused(ask(url, body, user="alice"))


def test_refs_are_refused_at_once_to_a_revoked_token(pannier, origin, private):
    """They are asked for each time, so no memory of an earlier yes can matter."""
    path, _ = private()
    url = pannier.url_of(path)
    assert ask(url, pktline.ls_refs(), user="alice").status == 200
    origin.allow(path, read=[])
    assert refused(ask(url, pktline.ls_refs(), user="alice"))
    assert refused(advertisement(url, user="alice"))


def test_upstreams_no_to_refs_ends_an_earlier_yes(pannier, origin, private):
    path, repo = private()
    url, body = pannier.url_of(path), pktline.fetch([repo.oid()])
    assert pktline.pack_is_whole(ask(url, body, user="alice").body)
    origin.allow(path, read=[])
    ask(url, pktline.ls_refs(), user="alice")
    assert refused(ask(url, body, user="alice"))


def test_a_denial_is_remembered_and_forgotten_soon(start, upstream, origin, private):
    path, repo = private(read=[])
    pannier = start(config=short_lived(upstream.url))
    url, body = pannier.url_of(path), pktline.fetch([repo.oid()])
    assert refused(ask(url, body, user="alice"))
    assert len(upstream.requests()) == 1
    origin.allow(path, read=["alice"])
    until(lambda: pktline.pack_is_whole(a.body) if (a := ask(url, body, user="alice")).status == 200 else False,
          "the denial is forgotten", deadline=10)


def test_a_denial_within_its_time_costs_upstream_nothing(behind, upstream, private):
    path, repo = private(read=[])
    for _ in range(5):
        assert refused(ask(behind.url_of(path), pktline.fetch([repo.oid()]), user="alice"))
    assert len(upstream.requests()) == 1


def test_many_who_ask_at_once_cost_one_question(behind, upstream, private):
    path, repo = private()
    gate = upstream.on(lambda a: a.kind in ("refs", "ls-refs"), Gate())
    body = pktline.fetch([repo.oid()])
    readers = [Reader(behind.port).post(f"/origin/{path}.git/git-upload-pack", body, "alice") for _ in range(8)]
    gate.wait_held()
    gate.open()
    for reader in readers:
        status, said = reader.read_response()
        assert status == 200 and pktline.pack_is_whole(said)
    questions = [a.kind for a in upstream.requests() if a.kind != "fetch"]
    assert len(questions) <= 2 and len(set(questions)) == len(questions)
    assert len(upstream.requests("fetch")) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
@pytest.mark.parametrize("what", ["refs", "ls-refs"])
def test_a_refusal_passes_unchanged(behind, upstream, status, what):
    script = reply(status, b"Repository access blocked, says upstream", Content_Type="text/plain",
                   WWW_Authenticate='Basic realm="Odd, \\"quoted\\""')
    upstream.on(what, script)
    url = behind.url_of("public/simple")
    answer = advertisement(url) if what == "refs" else ask(url, pktline.ls_refs())
    assert answer.status == status
    assert answer.header("WWW-Authenticate") == 'Basic realm="Odd, \\"quoted\\""'
    if what == "refs":
        assert answer.body == b"Repository access blocked, says upstream"


def test_every_challenge_passes(behind, upstream):
    challenges = [("WWW-Authenticate", "Bearer authorize_uri=x"), ("WWW-Authenticate", "Basic realm=y")]
    upstream.on("refs", lambda x: x.reply(401, b"", challenges))
    answer = advertisement(behind.url_of("public/simple"))
    assert answer.headers.get_all("WWW-Authenticate") == [v for _, v in challenges]


def test_a_401_without_a_challenge_stays_a_401(behind, upstream):
    upstream.on("refs", reply(401))
    answer = advertisement(behind.url_of("public/simple"))
    assert answer.status == 401 and answer.header("WWW-Authenticate") is None


def test_a_refusal_of_the_fetch_itself_passes(behind, upstream, simple):
    upstream.on("fetch", reply(401, WWW_Authenticate="Basic realm=late"), times=1)
    answer = ask(behind.url_of("public/simple"), pktline.fetch([simple.oid()]), user="alice")
    assert answer.status == 401 and answer.header("WWW-Authenticate") == "Basic realm=late"
    assert behind.answers() == []


@pytest.mark.parametrize("status", [500, 502, 503])
def test_an_upstream_error_is_no_decision(behind, upstream, private, status):
    path, repo = private()
    url, body = behind.url_of(path), pktline.fetch([repo.oid()])
    upstream.on(lambda a: a.kind in ("refs", "ls-refs"), reply(status), times=1)
    assert ask(url, body, user="alice").status in (status, 502)
    assert pktline.pack_is_whole(ask(url, body, user="alice").body)
    assert refused(ask(url, body))


def test_upstream_never_gets_two_credentials(behind, upstream, private, person):
    path, repo = private()
    alice = person("alice")
    alice.set(f"http.{behind.url}/.extraHeader", f"Authorization: {basic('alice')}")
    alice.clone(behind.url_of(path))
    reader = Reader(behind.port).send(
        f"GET /origin/{path}.git/info/refs?service=git-upload-pack HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: {basic('alice')}\r\nAuthorization: {basic('bob')}\r\nConnection: close\r\n\r\n".encode())
    reader.read_all()
    assert upstream.requests()
    assert all(len(a.all("Authorization")) <= 1 for a in upstream.requests())


def test_a_credential_goes_to_upstream_as_it_came(behind, upstream):
    """Of whatever scheme: it is upstream's to judge."""
    upstream.on("refs", reply(403))
    for value in ("Bearer abc.def-ghi", "token 0123", "Basic Og=="):
        advertisement(behind.url_of("x/y"), headers={"Authorization": value})
        assert upstream.requests("refs")[-1].all("Authorization") == [value]


def test_pannier_sends_no_credential_of_anybodys_to_the_next(behind, upstream, private):
    """Connections upstream are used again; credentials must not be."""
    path, _ = private(read=["alice"])
    for user in ("alice", None, "bob", None):
        advertisement(behind.url_of(path), user=user)
    # The denial of the one without a credential is remembered.
    assert [a.user for a in upstream.requests("refs")] == ["alice", "", "bob"]
    assert call(f"{behind.url_of(path)}/HEAD").status == 401
    assert upstream.requests("other")[-1].user == ""
