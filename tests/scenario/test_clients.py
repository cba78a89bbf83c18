"""Clients that pannier knows, where upstream is shown a credential of its own."""
import subprocess

import pytest

from support import pktline
from support.admin import Admin
from support.gitclient import advertisement, ask, call
from support.own import Guarded, login, token_hash
from support.pannier import binary
from support.wait import until

OWN = "pannier-s3cret-token"
TOKENS = {"ci": "ci-s3cret-8fa1", "deploy": "deploy-s3cret-77b0"}
REALM = 'Basic realm="pannier"'


@pytest.fixture
def host(upstream):
    guarded = Guarded(upstream)
    guarded.let_in("x-access-token", OWN)
    return guarded


@pytest.fixture
def known(start, host, tmp_path):
    """known({"name": "ci", "repositories": [...]}, ...) -> pannier; each has its token unless it has something else."""

    def make(*clients, launch=True, **more):
        (tmp_path / "token").write_text(OWN)
        listed = [dict(c) if {"network", "tls_subject"} & set(c) else {"token_hash": token_hash(TOKENS[c["name"]]), **c}
                  for c in clients]
        upstream = {"name": "origin", "url": host.url, "auth": "token", "token_file": str(tmp_path / "token")}
        config = {"upstreams": [upstream], "log": {"level": "debug"}, **more}
        if listed:
            config["clients"] = listed
        return start(config=config, launch=launch)

    return make


def show(name, scheme="Basic"):
    value = login("whoever", TOKENS[name]) if scheme == "Basic" else f"{scheme} {TOKENS[name]}"
    return {"Authorization": value}


def unknown(answer):
    return answer.status == 401 and answer.header("WWW-Authenticate") == REALM and b"PACK" not in answer.body


def closed(answer, words="no right to this repository"):
    return answer.status == 403 and words in answer.text


def no_secret_was_told(pannier):
    for secret in (OWN, *TOKENS.values()):
        assert secret not in pannier.output() and pannier.holds(secret.encode()) == []
        assert login("x-access-token", secret).split()[1] not in pannier.output()
        assert login("whoever", secret).split()[1] not in pannier.output()


def log_in(git, name):
    helper = git.home / "helper"
    helper.write_text(f'#!/bin/sh\ntest "$1" = get && echo username=any && echo password={TOKENS[name]}\nexit 0\n')
    helper.chmod(0o755)
    git.set("credential.helper", str(helper))
    return git


def test_a_client_s_token_opens_its_repositories_and_no_other(known, host, private, git, origin):
    (mine, _), (other, hidden) = private(), private()
    pannier = known({"name": "ci", "repositories": [f"origin/{mine}"]})
    log_in(git, "ci")
    git.clone(pannier.url_of(mine))
    assert "403" in git.fails("clone", pannier.url_of(other), git.place())
    for answer in (advertisement(pannier.url_of(other), headers=show("ci")),
                   ask(pannier.url_of(other), pktline.ls_refs(), headers=show("ci")),
                   ask(pannier.url_of(other), pktline.fetch([hidden.oid()]), headers=show("ci")),
                   call(f"{pannier.url_of(other)}/HEAD", headers=show("ci"))):
        assert closed(answer)
    assert set(host.seen()) == {login("x-access-token", OWN)}
    assert pannier.requests(1, **{"as": "ci", "status": 200})
    no_secret_was_told(pannier)


def test_refs_of_a_private_repository_are_seen_as_shown_to_pannier(known, private):
    path, repo = private()
    pannier = known({"name": "ci", "repositories": [f"origin/{path}"]})
    assert ask(pannier.url_of(path), pktline.ls_refs(), headers=show("ci")).status == 200
    admin = Admin(pannier)
    page = admin.get(f"/repositories/{admin.repository(f'origin/{path}')}/refs")
    assert {r["shown_to"] for r in page["refs"]} == {page["seen"]["shown_to"]} == {"own"}
    assert {"name": "refs/heads/main", "object": repo.oid()}.items() <= [r for r in page["refs"] if r["name"] == "refs/heads/main"][0].items()
    no_secret_was_told(pannier)


def test_who_is_not_known_is_told_so(known, host, private, git):
    path, repo = private()
    pannier = known({"name": "ci", "repositories": ["**"]})
    url = pannier.url_of(path)
    wrong = [{}, {"Authorization": login("ci", "wrong")}, {"Authorization": "Bearer wrong"},
             {"Authorization": f"Basic {TOKENS['ci']}"}, {"Authorization": "Basic !"}, {"Authorization": "Basic"},
             {"Authorization": f"token {TOKENS['ci']}"}, {"Authorization": login("x-access-token", OWN)},
             {"Authorization": login(TOKENS["ci"], "")}]
    for headers in wrong:
        for protocol in (0, 2):
            assert unknown(advertisement(url, headers=headers, protocol=protocol))
        assert unknown(ask(url, pktline.ls_refs(), headers=headers))
        assert unknown(ask(url, pktline.fetch([repo.oid()]), headers=headers))
        assert unknown(advertisement(url, "git-receive-pack", headers=headers))
        assert unknown(call(f"{url}/info/lfs/objects/batch", "POST", b"{}", headers=headers))
    assert "could not read Username" in git.fails("clone", url, git.place())
    assert host.seen() == []
    no_secret_was_told(pannier)


def test_a_token_may_come_as_bearer(known, private):
    path, _ = private()
    pannier = known({"name": "ci", "repositories": ["origin/**"]})
    assert advertisement(pannier.url_of(path), headers=show("ci", "Bearer")).status == 200
    assert advertisement(pannier.url_of(path), headers=show("ci", "bearer")).status == 200


def test_what_is_warm_for_one_client_is_closed_to_another(known, private, origin):
    (shared, repo), (mine, own) = private(), private()
    pannier = known({"name": "ci", "repositories": ["origin/**"]},
                    {"name": "deploy", "repositories": [f"origin/{shared}"]})
    for path, there in ((shared, repo), (mine, own)):
        body = pktline.fetch([there.oid()])
        assert pktline.pack_is_whole(ask(pannier.url_of(path), body, headers=show("ci")).body)
    pannier.wait_answers(2)
    since = origin.mark()
    answer = ask(pannier.url_of(shared), pktline.fetch([repo.oid()]), headers=show("deploy"))
    assert pktline.pack_is_whole(answer.body) and origin.packs(since) == []
    assert origin.requests(since)  # ci's yes is not deploy's
    assert closed(ask(pannier.url_of(mine), pktline.fetch([own.oid()]), headers=show("deploy")))


def test_a_client_needs_upstream_s_yes_as_well(known, host, private, origin):
    path, _ = private()
    pannier = known({"name": "ci", "repositories": ["**"]})
    origin.allow(path, read=[])
    answer = advertisement(pannier.url_of(path), headers=show("ci"))
    assert answer.status == 502  # this host says 401 to its own guard's alice


def test_a_client_is_known_by_its_network(known, private, git):
    path, _ = private()
    pannier = known({"name": "runners", "network": ["10.0.0.0/8", "127.0.0.0/8"], "repositories": ["origin/private/**"]})
    git.clone(pannier.url_of(path))
    assert pannier.requests(1, **{"as": "runners"})


def test_another_network_is_unknown(known, private):
    path, _ = private()
    pannier = known({"name": "runners", "network": ["10.0.0.0/8", "::1"], "repositories": ["**"]})
    assert unknown(advertisement(pannier.url_of(path)))


def test_a_token_wins_over_a_network(known, private):
    (mine, _), (other, _) = private(), private()
    pannier = known({"name": "runners", "network": ["127.0.0.1"], "repositories": [f"origin/{other}"]},
                    {"name": "ci", "repositories": [f"origin/{mine}"]})
    assert advertisement(pannier.url_of(mine), headers=show("ci")).status == 200
    assert closed(advertisement(pannier.url_of(other), headers=show("ci")))
    assert advertisement(pannier.url_of(other)).status == 200


def test_without_the_right_a_push_is_refused(known, host, private, git):
    path, repo = private()
    pannier = known({"name": "ci", "repositories": ["**"]})
    log_in(git, "ci")
    clone, before = git.clone(pannier.url_of(path)), repo.oid()
    since = len(host.seen())
    git.commit(clone, "mine")
    assert "403" in git.fails("push", "-q", "origin", "main", cwd=clone)
    assert closed(call(f"{pannier.url_of(path)}/git-receive-pack", "POST", b"0000", headers=show("ci")), "to push")
    assert host.seen()[since:] == [] and repo.oid() == before


def test_with_the_right_a_push_goes_with_pannier_s_credential(known, host, private, git):
    path, repo = private(push=["alice"])
    pannier = known({"name": "ci", "repositories": ["**"], "push": True})
    log_in(git, "ci")
    clone = git.clone(pannier.url_of(path))
    oid = git.commit(clone, "mine")
    git.run("push", "-q", "origin", "main", cwd=clone)
    assert repo.oid() == oid
    assert git.run("ls-remote", pannier.url_of(path), "refs/heads/main").split()[0] == oid
    assert set(host.seen()) == {login("x-access-token", OWN)}
    no_secret_was_told(pannier)


def test_a_push_with_a_credential_that_upstream_refuses_is_a_502(known, host, private):
    path, _ = private()
    pannier = known({"name": "ci", "repositories": ["**"], "push": True})
    host.let_in("x-access-token", "another")
    answer = advertisement(pannier.url_of(path), "git-receive-pack", headers=show("ci"))
    assert answer.status == 502 and "refuses the credential that pannier has" in answer.text
    answer = call(f"{pannier.url_of(path)}/git-receive-pack", "POST", b"0000", headers=show("ci"))
    assert answer.status == 502 and answer.header("WWW-Authenticate") is None


def test_lfs_would_tell_the_credential_so_it_is_refused(known, host, private):
    path, _ = private()
    pannier = known({"name": "ci", "repositories": ["**"], "push": True})
    url = f"{pannier.url_of(path)}/info/lfs/objects/batch"
    assert closed(call(url, "POST", b'{"operation":"download"}', headers=show("ci")), "LFS does not pass")
    assert host.seen() == []


@pytest.mark.parametrize("rest", ["HEAD", "info/refs", "objects/info/packs"])
def test_the_dumb_protocol_does_not_get_it(known, host, private, rest):
    path, _ = private()
    pannier = known({"name": "ci", "repositories": ["**"]})
    assert closed(call(f"{pannier.url_of(path)}/{rest}", headers=show("ci")), "only git's smart protocol")
    assert host.seen() == []


def test_a_client_that_a_reload_removes_is_unknown_at_once(known, private):
    path, repo = private()
    pannier = known({"name": "ci", "repositories": ["**"]}, {"name": "deploy", "repositories": ["**"]})
    body = pktline.fetch([repo.oid()])
    assert pktline.pack_is_whole(ask(pannier.url_of(path), body, headers=show("ci")).body)
    text = pannier.config_file.read_text()
    pannier.write_config(text.replace(token_hash(TOKENS["ci"]), token_hash("another")))
    pannier.signal(1)
    pannier.wait_event("configuration reloaded")
    assert until(lambda: unknown(ask(pannier.url_of(path), body, headers=show("ci"))), "ci is gone")
    assert pktline.pack_is_whole(ask(pannier.url_of(path), body, headers=show("deploy")).body)


def test_an_upstream_without_own_credentials_asks_nobody_who_they_are(start, host, origin, private, tmp_path, person):
    path, _ = private()
    (tmp_path / "token").write_text(OWN)
    pannier = start(config={
        "upstreams": [{"name": "own", "url": host.url, "auth": "token", "token_file": str(tmp_path / "token")},
                      {"name": "origin", "url": origin.url}],
        "clients": [{"name": "ci", "token_hash": token_hash(TOKENS["ci"]), "repositories": ["own/**"]}]})
    person("alice").clone(pannier.url_of(path))
    answer = advertisement(pannier.url_of(path))
    assert answer.status == 401 and answer.header("WWW-Authenticate") == 'Basic realm="origin"'


@pytest.mark.parametrize("clients", [False, True])
def test_beyond_loopback_clients_have_to_be_listed(start, host, tmp_path, clients):
    config = {"listen": "0.0.0.0:0",
              "upstreams": [{"name": "own", "url": host.url, "auth": "token", "token_file": "/nowhere"}]}
    if clients:
        config["clients"] = [{"name": "ci", "network": ["127.0.0.1"], "repositories": ["own/**"]}]
    pannier = start(config=config, launch=False)
    done = subprocess.run([binary(), "config", "check", pannier.config_file], capture_output=True, text=True)
    if clients:
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 2 and ": clients: are missing, as own has 'auth: token'" in done.stderr
