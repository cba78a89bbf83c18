"""Webhooks of git hosts, and refs that are kept until one comes."""
import json
import urllib.parse

import pytest

from support import forges, repos
from support.admin import Admin
from support.faulty import Gate
from support.gitclient import call
from support.wait import until

SECRET = "whsec_dGhpcyBpcyBhIHNlY3JldCBvZiAzMiBieXRlcyBhbGw="  # base64, as GitLab wants it; others take any


def upstream_with(tmp_path, url, secret=SECRET, refs="webhook", refs_floor="1h", **other):
    file = tmp_path / "webhook-secret"
    file.write_text(secret + "\n")
    entry = {"name": "origin", "url": url, "webhook_secret_file": str(file), "refs": refs,
             **({"refs_floor": refs_floor} if refs == "webhook" else {}), **other}
    return {"upstreams": [entry], "log": {"level": "debug"}}


@pytest.fixture
def hooked(start, origin, tmp_path):
    """A pannier that keeps refs until a hook comes: hooked() or hooked(refs_floor="1s")."""
    return lambda url=None, **settings: start(config=upstream_with(tmp_path, url or origin.url, **settings))


def hook_of(origin, path, repo, how=forges.github, secret=SECRET, before=forges.ZEROS):
    return how(secret, f"{origin.url}/{path}.git", path, "refs/heads/main", before, repo.oid())


def seen(git, pannier, path):
    return git.run("ls-remote", pannier.url_of(path), "refs/heads/main").split()[0]


def hooks_counted(pannier):
    """{result: how many}"""
    start = 'pannier_webhooks_total{upstream="origin",result="'
    said = Admin(pannier).metrics()
    return {series[len(start):-2]: n for series, n in said.items() if series.startswith(start) and n > 0}


# What a hook does -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", forges.ALL.values(), ids=forges.ALL)
def test_refs_are_kept_until_the_hook_comes(hooked, origin, own, git, how):
    path, repo = own()
    pannier = hooked()
    before = repo.oid()
    assert seen(git, pannier, path) == before
    new = repo.commit()
    since = origin.mark()
    assert seen(git, pannier, path) == before
    assert [s for s in origin.requests(since) if s.kind == "ls-refs"] == []
    # Who has another secret has nothing to say.
    other = hook_of(origin, path, repo, how, "whsec_YW5vdGhlciBzZWNyZXQ=", before).send(pannier)
    assert other.status == 401 and other.header("Content-Type") == "application/problem+json"
    assert seen(git, pannier, path) == before
    answer = hook_of(origin, path, repo, how, before=before).send(pannier)
    assert answer.status == 202, answer.body
    assert json.loads(answer.body) == {"repository": f"origin/{path}", "refs": 1}
    clone = git.clone(pannier.url_of(path))
    assert git.run("rev-parse", "HEAD", cwd=clone).strip() == new
    line = pannier.wait_event("webhook", repository=f"origin/{path}")
    assert (line["ref"], line["refs"]) == ("refs/heads/main", 1)
    assert SECRET not in pannier.output()


def test_protocol_0_sees_it_too(hooked, origin, own, git):
    git.set("protocol.version", "0")
    path, repo = own()
    pannier = hooked()
    before = seen(git, pannier, path)
    new = repo.commit()
    assert seen(git, pannier, path) == before
    assert hook_of(origin, path, repo).send(pannier).status == 202
    assert seen(git, pannier, path) == new


def test_a_missed_hook_is_found_within_the_floor(hooked, own, git):
    path, repo = own()
    pannier = hooked(refs_floor="2s")
    before = seen(git, pannier, path)
    new = repo.commit()
    assert before != new
    # No hook comes.  (That refs are kept at all is shown above, with a floor that no test waits for.)
    until(lambda: seen(git, pannier, path) == new, "the push is seen")


def test_capitals_make_no_other_repository(hooked, origin, own, git):
    """Hosts take both for the same, and say the one that its owner once wrote."""
    path, repo = own()
    pannier = hooked()
    before = seen(git, pannier, path)
    new = repo.commit()
    assert seen(git, pannier, path) == before
    hook = forges.github(SECRET, f"{origin.url}/{path.upper()}.git", path.upper(), "refs/heads/main")
    assert hook.send(pannier).status == 202
    assert seen(git, pannier, path) == new


def test_other_repositories_keep_theirs(hooked, origin, own, git):
    (path, repo), (other, other_repo) = own(), own()
    pannier = hooked()
    for each in (path, other):
        seen(git, pannier, each)
    repo.commit(), other_repo.commit()
    assert hook_of(origin, path, repo).send(pannier).status == 202
    assert seen(git, pannier, path) == repo.oid()
    assert seen(git, pannier, other) != other_repo.oid()


def test_kept_refs_are_only_for_whom_upstream_has_let_in(hooked, origin, private, person):
    path, _ = private(read=["alice"])
    pannier = hooked()
    person("alice").run("ls-remote", pannier.url_of(path))
    assert "Authentication failed" in person("bob").fails("ls-remote", pannier.url_of(path))
    since = origin.mark()
    person("alice").run("ls-remote", pannier.url_of(path))
    assert [s for s in origin.requests(since) if s.kind == "ls-refs"] == []


def test_refs_that_were_asked_for_before_the_hook_are_not_kept(hooked, upstream, origin, own, git):
    path, repo = own()
    pannier = hooked(upstream.url)
    old = seen(git, pannier, path)
    # A hook ends what is kept, so that the next one asks; upstream has said the old refs already.
    assert forges.github(SECRET, f"{upstream.url}/{path}.git", path, "refs/heads/main").send(pannier).status == 202
    gate = upstream.on("ls-refs", Gate(after=10), times=1)
    slow = git.start("ls-remote", pannier.url_of(path), "refs/heads/main")
    gate.wait_held()
    new = repo.commit()
    assert forges.github(SECRET, f"{upstream.url}/{path}.git", path, "refs/heads/main").send(pannier).status == 202
    gate.open()
    out, _ = slow.communicate()
    assert slow.returncode == 0 and out.split()[0] == old
    assert seen(git, pannier, path) == new


def test_nodes_hear_of_a_hook_that_another_one_got(cluster, origin, own, git, tmp_path):
    path, repo = own()
    entry = upstream_with(tmp_path, "")["upstreams"][0]
    settings = {name: value for name, value in entry.items() if name not in ("name", "url")}
    a, b = cluster.nodes_up("a", "b", upstreams=settings)
    before = repo.oid()
    assert seen(git, a, path) == seen(git, b, path) == before
    new = repo.commit()
    assert seen(git, b, path) == before
    hook = forges.github(SECRET, f"{cluster.tier.upstream}/{path.upper()}.git", path.upper(), "refs/heads/main")
    assert hook.send(a).status == 202
    until(lambda: seen(git, b, path) == new, "the other node sees it")
    assert seen(git, a, path) == new


# Mirrors ----------------------------------------------------------------------------------------------


def test_a_hook_brings_the_mirror_forward(hooked, origin, own, git):
    path, repo = own()
    pannier = hooked()
    git.clone(pannier.url_of(path))
    mirror = pannier.wait_mirror(path)
    pannier.wait_event("mirror made")
    new = repo.commit()
    assert hook_of(origin, path, repo).send(pannier).status == 202
    line = pannier.wait_event("refreshed", repository=f"origin/{path}")
    assert (line["mirror"], line["missing"]) == ("refreshed", 1)
    assert repos.git(mirror, "cat-file", "-t", new).strip() == "commit"
    # The next clone costs upstream no pack.
    git.clone(pannier.url_of(path))
    assert pannier.packs(2)[-1] == "miss, mirror"
    # Again: there is nothing to do.
    assert hook_of(origin, path, repo).send(pannier).status == 202
    lines = pannier.wait_lines(lambda l: l.get("event") == "refreshed", 2)
    assert lines[-1]["mirror"] == "unchanged"


@pytest.mark.parametrize("how", ["hook", "push"])
def test_without_a_bucket_each_node_brings_its_own_mirror_forward(cluster, own, git, tmp_path, how):
    path, repo = own()
    entry = upstream_with(tmp_path, "")["upstreams"][0]
    settings = {name: value for name, value in entry.items() if name not in ("name", "url")}
    a, b, c = cluster.nodes_up("a", "b", "c", upstreams=settings, shared=False)
    for node in (a, c):
        clone = git.clone(node.url_of(path))
        node.wait_answers()
        Admin(node).post(f"/repositories/{Admin(node).repository(f'origin/{path}')}/refresh")
        assert node.mirror(path).exists()
    if how == "hook":
        new = repo.commit()
        hook = forges.github(SECRET, f"{cluster.tier.upstream}/{path}.git", path, "refs/heads/main")
        assert hook.send(b).status == 202
    else:
        new = git.commit(clone, "pushed")
        git.run("push", "-q", b.url_of(path), "main", cwd=clone)
    for node in (a, c):
        assert node.wait_event("refreshed", repository=f"origin/{path}")["mirror"] == "refreshed"
        assert repos.git(node.mirror(path), "cat-file", "-t", new).strip() == "commit"
    assert "no mirror" in b.wait_event("not refreshed")["reason"]
    assert not b.mirror(path).exists()


def test_what_nobody_has_asked_for_gets_no_mirror(hooked, origin, own):
    path, repo = own()
    pannier = hooked()
    since = origin.mark()
    assert hook_of(origin, path, repo).send(pannier).status == 202
    line = pannier.wait_event("not refreshed")
    assert (line["level"], line["again"]) == ("debug", "no") and "no mirror" in line["reason"]
    assert not pannier.mirror(path).exists() and origin.requests(since) == []


def test_a_push_through_pannier_brings_the_mirror_forward(pannier, own, git):
    path, repo = own()
    clone = git.clone(pannier.url_of(path))
    pannier.wait_event("mirror made")
    pushed = git.commit(clone, "pushed")
    git.run("push", "-q", "origin", "main", cwd=clone)
    pannier.wait_event("refreshed", mirror="refreshed")
    assert repo.oid() == pushed
    assert repos.git(pannier.mirror(path), "cat-file", "-t", pushed).strip() == "commit"


def test_the_bucket_has_the_mirror_that_a_hook_brings_forward(cluster, own, git, tmp_path):
    path, repo = own()
    entry = upstream_with(tmp_path, "")["upstreams"][0]
    settings = {name: value for name, value in entry.items() if name not in ("name", "url")}
    a = cluster.nodes_up("a", upstreams=settings)[0]
    git.clone(a.url_of(path))
    a.wait_event("mirror made")
    cluster.tier.wait_idle(a)
    a.stop()
    b = cluster.nodes_up("b", upstreams=settings)[0]
    repo.commit()
    hook = forges.github(SECRET, f"{cluster.tier.upstream}/{path}.git", path, "refs/heads/main")
    assert hook.send(b).status == 202
    assert b.wait_event("refreshed")["mirror"] == "restored"
    assert repos.git(b.mirror(path), "cat-file", "-t", repo.oid()).strip() == "commit"


# What is no push, and no hook -------------------------------------------------------------------------


def test_pings_and_other_events_do_nothing(hooked, origin, own, git):
    path, repo = own()
    pannier = hooked()
    old = seen(git, pannier, path)
    repo.commit()
    push = hook_of(origin, path, repo)
    assert push.but(**{"X-GitHub-Event": "ping"}).send(pannier).status == 200
    other = push.but(**{"X-GitHub-Event": "issues"}).send(pannier)
    assert other.status == 202 and "ignored" in json.loads(other.body)
    # Bitbucket Data Center signs no trial of a URL.
    assert forges.Hook({"X-Event-Key": "diagnostics:ping"}, b'{"test": true}').send(pannier).status == 200
    assert seen(git, pannier, path) == old
    assert hooks_counted(pannier) == {"ping": 2, "ignored": 1}


def test_what_is_wrong_with_a_hook_is_said_by_its_status(hooked, origin, own, git):
    path, repo = own()
    pannier = hooked()
    old = seen(git, pannier, path)
    repo.commit()
    push = hook_of(origin, path, repo)
    garbage = forges.Hook({**push.headers, "X-Hub-Signature-256": "sha256=" + forges.mac(SECRET, b"{")}, b"{")
    for hook, status in (
        (push.but(body=push.body + b" "), 401),
        (push.but(**{"X-Hub-Signature-256": None}), 401),
        (push.but(**{"X-Hub-Signature-256": "sha256="}), 401),
        (push.but(**{"X-GitHub-Event": None}), 400),
        (garbage, 400),
    ):
        answer = hook.send(pannier)
        assert answer.status == status and json.loads(answer.body)["status"] == status, answer.body
    assert push.send(pannier, "elsewhere").status == 404
    assert push.send(pannier, "origin/x").status == 404
    assert push.send(pannier, "").status == 404
    answer = push.send(pannier, method="PUT")
    assert (answer.status, answer.header("Allow")) == (405, "POST")
    assert seen(git, pannier, path) == old
    assert hooks_counted(pannier) == {"forged": 3, "malformed": 2}
    assert len(pannier.wait_lines(lambda l: l.get("event") == "webhook refused", 5)) == 5


def test_an_upstream_without_a_secret_has_no_webhook(pannier, origin, own):
    path, repo = own()
    assert hook_of(origin, path, repo, secret="").send(pannier).status == 404


def test_a_body_that_no_host_sends_is_refused_unread(start, origin, own, tmp_path):
    path, repo = own()
    config = upstream_with(tmp_path, origin.url)
    config["limits"] = {"body": "100M"}
    pannier = start(config=config)
    push = hook_of(origin, path, repo)
    assert push.but(body=bytes(26 << 20)).send(pannier).status == 413
    # Nor when its size is told by its end only.
    pieces = [bytes(1 << 20)] * 26
    answer = call(f"{pannier.url}/hooks/origin", "POST", headers=push.headers, chunks=pieces)
    assert answer.status == 413
    assert hooks_counted(pannier) == {"malformed": 2}
    # Up to there it is taken.
    large = json.dumps({**json.loads(push.body), "commits": ["x" * 1000] * 20000}).encode()
    signed = push.but(body=large, **{"X-Hub-Signature-256": "sha256=" + forges.mac(SECRET, large)})
    assert signed.send(pannier).status == 202


def test_a_form_is_taken_as_well(hooked, origin, own):
    path, repo = own()
    pannier = hooked()
    push = hook_of(origin, path, repo)
    body = urllib.parse.urlencode({"payload": push.body}).encode()
    form = push.but(body=body, **{"Content-Type": "application/x-www-form-urlencoded",
                                  "X-Hub-Signature-256": "sha256=" + forges.mac(SECRET, body)})
    assert json.loads(form.send(pannier).body)["repository"] == f"origin/{path}"


def test_a_new_secret_holds_at_once_and_the_old_one_beside_it(hooked, origin, own, tmp_path):
    path, repo = own()
    pannier = hooked()
    file = tmp_path / "webhook-secret"
    old, new = hook_of(origin, path, repo), hook_of(origin, path, repo, secret="the newer one")
    assert [old.send(pannier).status, new.send(pannier).status] == [202, 401]
    file.write_text(f"{SECRET}\nthe newer one\n")
    assert [old.send(pannier).status, new.send(pannier).status] == [202, 202]
    file.write_text("the newer one\n")
    assert [old.send(pannier).status, new.send(pannier).status] == [401, 202]
    file.unlink()
    gone = new.send(pannier)
    assert gone.status == 503 and "webhook_secret_file" in gone.body.decode()
    assert "the newer one" not in pannier.output()


def test_where_the_operator_names_the_host_no_other_ones_signature_counts(hooked, origin, own):
    path, repo = own()
    pannier = hooked(webhook_forge="gitea")
    assert hook_of(origin, path, repo, forges.gitea).send(pannier).status == 202
    assert hook_of(origin, path, repo, forges.gitlab).send(pannier).status == 401
    assert hook_of(origin, path, repo, forges.bitbucket_cloud).send(pannier).status == 401


def test_a_repository_elsewhere_is_none_of_this_upstreams(start, origin, own, tmp_path):
    path, repo = own()
    pannier = start(config=upstream_with(tmp_path, f"{origin.url}/private"))
    answer = hook_of(origin, path, repo).send(pannier)
    assert answer.status == 202 and "not below" in json.loads(answer.body)["ignored"]
    assert hooks_counted(pannier) == {"ignored": 1}


def test_a_pattern_of_upstreams_has_a_webhook_for_each(start, origin, own, git, tmp_path):
    path, repo = own()
    config = upstream_with(tmp_path, origin.url)
    port = urllib.parse.urlsplit(origin.url).port
    config["upstreams"][0].update(name="127.0.0.1:*", url="http://127.0.0.1:*")
    pannier = start(config=config)
    url = pannier.url_of(path, f"127.0.0.1:{port}")
    old = git.run("ls-remote", url, "refs/heads/main").split()[0]
    repo.commit()
    assert git.run("ls-remote", url, "refs/heads/main").split()[0] == old
    answer = hook_of(origin, path, repo).send(pannier, f"127.0.0.1%3A{port}")
    assert json.loads(answer.body)["repository"] == f"127.0.0.1:{port}/{path}"
    assert git.run("ls-remote", url, "refs/heads/main").split()[0] == repo.oid()
