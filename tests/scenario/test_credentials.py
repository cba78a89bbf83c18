"""Credentials of pannier's own: where they come from, how they change, and where they never go."""
import base64
import threading
import time

import pytest

from support import pktline
from support.faulty import Faulty, Gate, reply
from support.gitclient import advertisement, ask, basic, call
from support.own import ALICE, GitHub, Guarded, Helper, login
from support.wait import until

FIRST, SECOND = "first-s3cret-token", "second-s3cret-token"
NAME = "x-access-token"


@pytest.fixture
def host(upstream):
    guarded = Guarded(upstream)
    guarded.let_in(NAME, FIRST)
    return guarded


@pytest.fixture
def helper(tmp_path):
    helper = Helper(tmp_path / "helper")
    helper.give(username=NAME, password=FIRST)
    return helper


@pytest.fixture
def github(tmp_path):
    folder = tmp_path / "github"
    folder.mkdir()
    github = GitHub(folder)
    yield github
    github.close()


def own(host, auth, **settings):
    """No clients are listed: it listens on loopback alone."""
    return {"upstreams": [{"name": "origin", "url": host.url, "auth": auth, **settings}], "log": {"level": "debug"}}


def write(file, text):
    new = file.with_suffix(".new")
    new.write_text(text)
    new.rename(file)


def leaves_no_trace(pannier, *secrets):
    for secret in secrets:
        coded = base64.b64encode(secret.encode()).decode().rstrip("=")
        value = login(NAME, secret).split()[1].rstrip("=")
        for trace in (secret, coded, value):
            assert trace not in pannier.output()
            assert pannier.holds(trace.encode()) == []


def app(host, github, **more):
    return own(host, "github_app", app_id="4711", private_key_file=str(github.key), api_url=github.url, **more)


# From a file ----------------------------------------------------------------------------------------


def test_a_token_file_opens_what_the_client_could_not(start, host, private, git, origin, tmp_path):
    path, repo = private()
    write(tmp_path / "token", f"{FIRST}\n")
    pannier = start(config=own(host, "token", token_file=str(tmp_path / "token")))
    for _ in range(2):
        git.clone(pannier.url_of(path))
    assert set(host.seen()) == {login(NAME, FIRST)}
    assert pannier.packs(2)[1] == "hit, local"
    assert pktline.pack_is_whole(ask(pannier.url_of(path), pktline.fetch([repo.oid()])).body)
    leaves_no_trace(pannier, FIRST)


def test_mirrors_are_made_and_brought_forward_with_it(start, host, private, git, tmp_path):
    path, repo = private()
    write(tmp_path / "token", FIRST)
    pannier = start(config=own(host, "token", token_file=str(tmp_path / "token")))
    git.clone(pannier.url_of(path))
    mirror = pannier.wait_mirror(path)
    repo.commit(text="newer")
    git.clone(pannier.url_of(path))
    assert pannier.packs(2)[1] == "miss, refresh"
    assert NAME not in (mirror / "config").read_text()
    leaves_no_trace(pannier, FIRST)


def test_a_changed_token_file_is_read_again(start, host, private, git, tmp_path):
    path, _ = private()
    write(tmp_path / "token", FIRST)
    pannier = start(config=own(host, "token", token_file=str(tmp_path / "token"), username="deploy"))
    host.let_in("deploy", FIRST)
    git.clone(pannier.url_of(path))
    host.let_in("deploy", SECOND)
    write(tmp_path / "token", SECOND)
    git.clone(pannier.url_of(path))
    # Whether it was seen by looking or by upstream's 401: no client heard of it.
    assert not pannier.requests(status=401) and not pannier.requests(status=502)
    assert host.seen()[-1] == login("deploy", SECOND)
    leaves_no_trace(pannier, FIRST, SECOND)


def test_the_same_path_with_a_newer_token_is_not_decided_by_the_older_one_s_yes(start, host, private, tmp_path):
    path, repo = private()
    body = pktline.fetch([repo.oid()])
    write(tmp_path / "token", FIRST)
    pannier = start(config=own(host, "token", token_file=str(tmp_path / "token")))
    assert pktline.pack_is_whole(ask(pannier.url_of(path), body).body)
    write(tmp_path / "token", SECOND)  # which has no rights
    until(lambda: ask(pannier.url_of(path), body).status == 502, "the newer token counts")


@pytest.mark.parametrize("what", ["refs", "fetch", "ls-refs"])
def test_a_credential_that_upstream_refuses_is_our_trouble_not_the_client_s(start, host, private, tmp_path, what):
    path, repo = private()
    write(tmp_path / "token", SECOND)
    pannier = start(config=own(host, "token", token_file=str(tmp_path / "token")))
    url = pannier.url_of(path)
    asks = {"refs": lambda: advertisement(url), "fetch": lambda: ask(url, pktline.fetch([repo.oid()])),
            "ls-refs": lambda: ask(url, pktline.ls_refs())}
    for _ in range(3):
        answer = asks[what]()
        assert answer.status == 502 and "refuses the credential that pannier has" in answer.text
        assert answer.header("WWW-Authenticate") is None
    # It wasn't tried again and again: hosts lock who does that.
    assert len(host.seen()) == 1
    leaves_no_trace(pannier, SECOND)


def test_a_token_file_that_is_missing_is_said_and_found_when_it_comes(start, host, private, git, tmp_path):
    path, _ = private()
    pannier = start(config=own(host, "token", token_file=str(tmp_path / "token")))
    answer = advertisement(pannier.url_of(path))
    assert answer.status == 502 and "token_file can't be read" in answer.text and str(tmp_path) not in answer.text
    assert host.seen() == []
    write(tmp_path / "token", FIRST)
    until(lambda: advertisement(pannier.url_of(path)).status == 200, "the file is found")


def test_upstream_s_no_to_pannier_is_a_no_to_its_client(start, host, private, tmp_path):
    path, _ = private()
    write(tmp_path / "token", FIRST)
    pannier = start(config=own(host, "token", token_file=str(tmp_path / "token")))
    host.upstream.on(lambda asked: True, reply(404, b"not found"))
    assert advertisement(pannier.url_of(path)).status == 404


def test_a_netrc_file_has_the_host_s_entry(start, host, private, git, tmp_path):
    path, _ = private()
    write(tmp_path / "netrc", f"machine elsewhere login a password b\nmachine 127.0.0.1\n  login ci\n  password {FIRST}\n")
    host.let_in("ci", FIRST)
    pannier = start(config=own(host, "netrc", netrc_file=str(tmp_path / "netrc")))
    git.clone(pannier.url_of(path))
    write(tmp_path / "netrc", f"default login ci password {SECOND}\n")
    host.let_in("ci", SECOND)
    git.clone(pannier.url_of(path))
    leaves_no_trace(pannier, FIRST, SECOND)


# From a helper --------------------------------------------------------------------------------------


def test_a_helper_is_asked_once_and_told_that_it_was_right(start, host, helper, private, git):
    path, _ = private()
    pannier = start(config=own(host, "helper", credential_helper=helper.value))
    for _ in range(2):
        git.clone(pannier.url_of(path))
    where = host.url.partition("://")[2]
    assert helper.calls("get") == [{"protocol": "http", "host": where}]
    assert helper.calls("store") == [{"protocol": "http", "host": where, "username": NAME, "password": FIRST}]
    assert helper.calls("erase") == []
    leaves_no_trace(pannier, FIRST)


def test_a_helper_is_told_of_a_401_and_asked_again(start, host, helper, private, git):
    path, _ = private()
    pannier = start(config=own(host, "helper", credential_helper=helper.value))
    git.clone(pannier.url_of(path))
    host.let_in(NAME, SECOND)
    helper.give(username=NAME, password=SECOND)
    git.clone(pannier.url_of(path))
    assert [call["password"] for call in helper.calls("erase")] == [FIRST]
    assert [call["password"] for call in helper.calls("store")] == [FIRST, SECOND]
    assert not pannier.requests(status=401) and not pannier.requests(status=502)
    leaves_no_trace(pannier, FIRST, SECOND)


def test_what_a_helper_gives_until_soon_is_asked_for_anew(start, host, helper, private, git):
    path, _ = private()
    helper.give(username=NAME, password=FIRST, password_expiry_utc=int(time.time()) + 25)
    pannier = start(config=own(host, "helper", credential_helper=helper.value))
    git.clone(pannier.url_of(path))
    helper.give(username=NAME, password=SECOND, password_expiry_utc=int(time.time()) + 3600)
    host.valid.add(login(NAME, SECOND))
    git.clone(pannier.url_of(path))
    assert host.seen()[-1] == login(NAME, SECOND)
    assert helper.calls("erase") == []
    asked = len(helper.calls("get"))
    git.clone(pannier.url_of(path))
    assert len(helper.calls("get")) == asked


@pytest.mark.parametrize("fields", [{}, {"username": NAME}, {"quit": 1, "username": NAME, "password": FIRST}])
def test_a_helper_that_knows_nothing_is_said(start, host, helper, private, fields):
    path, _ = private()
    helper.give(**fields)
    pannier = start(config=own(host, "helper", credential_helper=helper.value))
    answer = advertisement(pannier.url_of(path))
    assert answer.status == 502 and "credential_helper: it has no password for this host" in answer.text
    assert host.seen() == []


def test_a_helper_s_last_words_are_not_told(start, host, helper, private):
    path, _ = private()
    helper.program.write_text(f"#!/bin/sh\necho oops {FIRST} >&2\nexit 3\n")
    pannier = start(config=own(host, "helper", credential_helper=helper.value))
    answer = advertisement(pannier.url_of(path))
    assert answer.status == 502 and "failed; run it by hand" in answer.text and FIRST not in answer.text
    leaves_no_trace(pannier, FIRST)


def test_a_helper_of_git_s_is_called_by_its_name(start, host, private, git, tmp_path):
    path, _ = private()
    file = tmp_path / "store"
    file.write_text(f"http://{NAME}:{FIRST}@{host.url.partition('://')[2].replace(':', '%3a')}\n")
    pannier = start(config=own(host, "helper", credential_helper=f"store --file {file}"))
    git.clone(pannier.url_of(path))


def test_a_helper_gets_no_shell(start, host, helper, private, tmp_path):
    path, _ = private()
    pannier = start(config=own(host, "helper", credential_helper=f"{helper.value}; touch {tmp_path}/owned; "))
    advertisement(pannier.url_of(path))
    assert not (tmp_path / "owned").exists()


def test_many_who_ask_at_once_make_one_call(start, host, helper, private):
    path, _ = private()
    pannier = start(config=own(host, "helper", credential_helper=helper.value))
    threads = [threading.Thread(target=advertisement, args=(pannier.url_of(path),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(helper.calls("get")) == 1 and len(helper.calls("store")) == 1


# From a GitHub App ------------------------------------------------------------------------------------


@pytest.fixture
def opened(host, github):
    """The host takes each token that the API has given out."""

    class Tokens:
        def __contains__(self, value):
            return value in {login(NAME, token) for token in github.tokens}

    host.valid = Tokens()
    return host


@pytest.mark.parametrize("folder", ["orgs", "users"])
def test_an_app_s_token_is_made_once_for_an_owner_and_only_to_read(start, opened, github, private, git, folder):
    path, _ = private()
    github.installations = {"private": (folder, 17)}
    pannier = start(config=app(opened, github))
    for _ in range(2):
        git.clone(pannier.url_of(path))
    assert github.tokens == ["ghs-private-read-0-s3cret"]
    leaves_no_trace(pannier, *github.tokens)
    for asked in github.requests():
        assert asked.header("Authorization").split()[1] not in pannier.output()


def test_each_owner_has_a_token_of_its_own(start, opened, github, private, own, git):
    mine, _ = private()
    other, _ = own(folder="public")
    github.installations = {"private": ("orgs", 17), "public": ("users", 18)}
    pannier = start(config=app(opened, github))
    git.clone(pannier.url_of(mine))
    git.clone(pannier.url_of(other))
    assert github.tokens == ["ghs-private-read-0-s3cret", "ghs-public-read-1-s3cret"]


def test_an_app_s_token_is_renewed_before_it_ends(start, opened, github, private, git):
    path, _ = private()
    github.installations = {"private": ("orgs", 17)}
    github.life_s = 250  # within the last five minutes already
    pannier = start(config=app(opened, github))
    git.clone(pannier.url_of(path))
    first = len(github.tokens)
    git.clone(pannier.url_of(path))
    assert len(github.tokens) > first


def test_while_a_token_is_good_an_api_that_fails_harms_nobody(start, opened, github, private, git):
    path, _ = private()
    github.installations = {"private": ("orgs", 17)}
    github.life_s = 250
    pannier = start(config=app(opened, github))
    git.clone(pannier.url_of(path))
    github.refuses = reply(500)
    git.clone(pannier.url_of(path))


def test_an_owner_without_the_app_is_not_found(start, opened, github, private):
    path, _ = private()
    pannier = start(config=app(opened, github))
    for _ in range(3):
        answer = advertisement(pannier.url_of(path))
        assert answer.status == 404 and "not installed at this owner" in answer.text
    assert len(github.requests()) == 2 and opened.seen() == []


def test_an_api_that_refuses_the_app_is_said(start, opened, github, private):
    path, _ = private()
    github.refuses = reply(401, b'{"message":"Bad credentials"}')
    pannier = start(config=app(opened, github))
    answer = advertisement(pannier.url_of(path))
    assert answer.status == 502 and "GitHub's API answers with HTTP status 401" in answer.text


def test_many_who_wait_for_a_token_cost_one(start, opened, github, private):
    path, _ = private()
    github.installations = {"private": ("orgs", 17)}
    gate = github.on(lambda asked: asked.method == "POST", Gate(then=github.serve))
    pannier = start(config=app(opened, github))
    threads = [threading.Thread(target=advertisement, args=(pannier.url_of(path),)) for _ in range(6)]
    for thread in threads:
        thread.start()
    gate.wait_held()
    gate.open()
    for thread in threads:
        thread.join()
    assert len(github.tokens) == 1


# Where they never go ----------------------------------------------------------------------------------


def test_a_redirect_to_another_host_gets_no_credential(start, host, private, tmp_path):
    path, _ = private()
    elsewhere = Faulty()
    try:
        write(tmp_path / "token", FIRST)
        pannier = start(config=own(host, "token", token_file=str(tmp_path / "token")))
        host.upstream.on("refs", lambda x: x.reply(302, b"", [("Location", elsewhere.url + x.asked.target)]))
        assert advertisement(pannier.url_of(path)).status == 502
        assert elsewhere.requests() == []
    finally:
        elsewhere.close()


def test_on_one_machine_a_push_goes_with_the_pusher_s_own(start, host, private, git, person, tmp_path):
    path, repo = private(read=["alice"], push=["alice"])
    write(tmp_path / "token", FIRST)
    pannier = start(config=own(host, "token", token_file=str(tmp_path / "token")))
    clone = git.clone(pannier.url_of(path))
    before, since = repo.oid(), len(host.seen())
    git.commit(clone, "mine")
    assert "could not read Username" in git.fails("push", "-q", "origin", "main", cwd=clone)
    assert set(host.seen()[since:]) == {None} and repo.oid() == before
    host.valid.add(ALICE)
    alice = person("alice")
    alice.run("push", "-q", "origin", "main", cwd=clone)
    assert repo.oid() != before
    assert {a.header("Authorization") for a in host.upstream.requests("push")} <= {ALICE, None}


@pytest.mark.parametrize("rest", ["HEAD", "info/lfs/locks"])
def test_what_is_not_the_smart_protocol_goes_with_the_client_s_own(start, host, private, tmp_path, rest):
    path, _ = private()
    write(tmp_path / "token", FIRST)
    pannier = start(config=own(host, "token", token_file=str(tmp_path / "token")))
    answer = call(f"{pannier.url_of(path)}/{rest}", user="bob")
    assert answer.status == 401 and answer.header("WWW-Authenticate") == 'Basic realm="host"'
    assert host.seen() == [basic("bob")]


def test_helpers_show_nothing_on_command_lines(start, host, helper, private, git):
    path, _ = private()
    seen = set()
    enough = threading.Event()
    pannier = start(config=own(host, "helper", credential_helper=helper.value))

    def watch():
        while not enough.wait(0.002):
            seen.update(pannier.children().values())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    git.clone(pannier.url_of(path))
    enough.set()
    thread.join()
    assert all(FIRST.encode() not in line for line in seen)
