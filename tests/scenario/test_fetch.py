"""Fetches: by sha, after a push, deeper, with tags; and ls-remote."""
import re

import pytest

from support import repos
from support.gitclient import objects, same_objects

PROTOCOLS = pytest.mark.parametrize("protocol", [0, 1, 2])


def ours(seen):
    return [s for s in seen if "pannier" in s.agent]


def pull_both(git, clones, *fetch):
    for clone in clones:
        git.run("fetch", "-q", *fetch, cwd=clone)
    same_objects(*clones)


@PROTOCOLS
def test_a_commit_is_fetched_by_sha_as_actions_checkout_does(pannier, origin, simple, git, protocol):
    git.set("protocol.version", str(protocol))
    oid = simple.oid()
    expected = git.fetch_commit(origin.url_of("public/simple"), oid)
    for packs in (1, 0):
        since = origin.mark()
        same_objects(git.fetch_commit(pannier.url_of("public/simple"), oid), expected)
        assert len(origin.packs(since)) == packs
        pannier.wait_answers()


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "beside a mirror"])
def test_the_commit_of_a_pull_request_is_fetched_by_sha(pannier, origin, simple, git, warm):
    if warm:
        git.clone(pannier.url_of("public/simple"))
        pannier.wait_mirror("public/simple")
    oid = simple.oid("refs/pull/1/head")
    same_objects(
        git.fetch_commit(pannier.url_of("public/simple"), oid),
        git.fetch_commit(origin.url_of("public/simple"), oid),
    )


def test_a_commit_below_a_branch_is_fetched_by_sha(pannier, origin, simple, git):
    oid = simple.oid("main~4")
    for _ in range(2):
        same_objects(
            git.fetch_commit(pannier.url_of("public/simple"), oid),
            git.fetch_commit(origin.url_of("public/simple"), oid),
        )


def test_a_commit_asked_for_just_before_its_push_is_found_after_it(pannier, origin, own, git, person):
    """An error must not stay."""
    path, repo = own()
    pusher = git.clone(origin.url_of(path))
    oid = git.commit(pusher, "soon")
    assert "not our ref" in person("alice").fails("fetch", "-q", pannier.url_of(path), oid, cwd=repo.path)
    git.run("push", "-q", "origin", "HEAD:refs/heads/soon", cwd=pusher)
    git.fetch_commit(pannier.url_of(path), oid)


@PROTOCOLS
def test_a_push_is_seen_by_the_next_fetch_and_the_next_clone(pannier, origin, own, git, protocol):
    path, repo = own()
    git.set("protocol.version", str(protocol))
    clones = git.clone(pannier.url_of(path)), git.clone(origin.url_of(path))
    pannier.wait_mirror(path)
    for text in ("one", "two"):
        oid = repo.commit(text=text)
        pull_both(git, clones)
        assert git.run("rev-parse", "origin/main", cwd=clones[0]) == oid
        git.clone_alike(pannier.url_of(path), origin.url_of(path))


def test_after_a_push_only_the_difference_is_fetched(pannier, origin, own, git):
    path, repo = own(blob=20000)
    git.clone(pannier.url_of(path))
    pannier.wait_mirror(path)
    repo.commit(size=2000)
    since = origin.mark()
    git.clone(pannier.url_of(path))
    assert sum(s.bytes for s in origin.fetches(since)) < 10000
    assert pannier.packs(2)[-1] == "miss, refresh"


def test_a_forced_push_is_followed(pannier, origin, own, git):
    path, repo = own()
    git.clone(pannier.url_of(path))
    repo.git("update-ref", "refs/heads/main", repo.oid("main~5"))
    repo.commit(text="rewritten")
    git.clone_alike(pannier.url_of(path), origin.url_of(path))


def test_a_deleted_branch_and_a_new_head_are_seen(pannier, origin, own, git):
    path, repo = own()
    clones = git.clone(pannier.url_of(path)), git.clone(origin.url_of(path))
    repo.git("symbolic-ref", "HEAD", "refs/heads/topic")
    repo.git("branch", "-D", "main")
    for clone in clones:
        git.run("fetch", "-q", "--prune", cwd=clone)
        git.run("remote", "set-head", "origin", "--auto", cwd=clone)
    same_objects(*clones)
    git.clone_alike(pannier.url_of(path), origin.url_of(path))


@PROTOCOLS
def test_a_shallow_clone_is_deepened_step_by_step_and_unshallowed(pannier, origin, simple, git, protocol):
    git.set("protocol.version", str(protocol))
    clones = [git.clone(u, "--depth=1") for u in (pannier.url_of("public/simple"), origin.url_of("public/simple"))]
    pull_both(git, clones, "--depth=3")
    pull_both(git, clones, "--deepen=2")
    pull_both(git, clones, "--shallow-since=1600010000")
    pull_both(git, clones, "--unshallow")
    same_objects(clones[0], git.clone(origin.url_of("public/simple"), "--single-branch"), same_refs=False)


def test_a_shallow_clone_is_brought_forward(pannier, origin, own, git):
    path, repo = own()
    clones = [git.clone(u, "--depth=2") for u in (pannier.url_of(path), origin.url_of(path))]
    repo.commit()
    pull_both(git, clones)
    repo.commit(text="again")
    pull_both(git, clones, "--depth=1")


@PROTOCOLS
def test_tags_come_with_what_they_point_at(pannier, origin, own, git, protocol):
    git.set("protocol.version", str(protocol))
    path, repo = own()
    clones = git.clone(pannier.url_of(path)), git.clone(origin.url_of(path))
    repo.commit()
    repo.git("tag", "-a", "-m", "new", "v3.0", "main")
    pull_both(git, clones)
    assert "v3.0" in git.run("tag", cwd=clones[0])
    repo.git("tag", "elsewhere", "refs/pull/1/head")
    pull_both(git, clones, "--tags")
    assert "elsewhere" in git.run("tag", cwd=clones[0])


def test_a_tag_that_went_upstream_is_not_handed_out_any_more(pannier, origin, own, git):
    path, repo = own()
    git.clone(pannier.url_of(path))
    pannier.wait_mirror(path)
    tag = repo.oid("v2.0")
    repo.git("tag", "-d", "v2.0")
    clone = git.clone_alike(pannier.url_of(path), origin.url_of(path))
    assert not any(line.startswith(tag) for line in objects(clone))


def test_refs_outside_of_branches_are_fetched(pannier, origin, simple, git):
    clones = git.clone(pannier.url_of("public/simple")), git.clone(origin.url_of("public/simple"))
    pull_both(git, clones, "origin", "+refs/pull/*:refs/remotes/pull/*")
    assert git.run("rev-parse", "refs/remotes/pull/1/head", cwd=clones[0]) == simple.oid("refs/pull/1/head")


def test_a_fetch_of_nothing_new_asks_for_no_pack(pannier, origin, simple, git):
    clone = git.clone(pannier.url_of("public/simple"))
    since = origin.mark()
    git.run("fetch", "-q", cwd=clone)
    assert origin.fetches(since) == []


@pytest.mark.parametrize("behind_by", [1, 300])
def test_a_client_with_own_commits_negotiates(pannier, origin, own, git, behind_by):
    """Many haves that upstream does not know make several rounds."""
    path, repo = own()
    clones = git.clone(pannier.url_of(path)), git.clone(origin.url_of(path))
    s = repos.Stream("local")
    s.line("reset refs/heads/main\nfrom refs/remotes/origin/main^0\n")
    parent = None
    for n in range(behind_by):
        parent = s.commit("refs/heads/main", f"local {n}", [("local", b"%d" % n)], [parent] if parent else [])
    for clone in clones:
        git.run("reset", "-q", "--soft", "origin/main", cwd=clone)
        repos.git(clone, "fast-import", "--quiet", "--force", data=b"".join(s.out))
    repo.commit()
    pull_both(git, clones)


@PROTOCOLS
@pytest.mark.parametrize("options", [(), ("--tags",), ("--heads",), ("--symref",), ("--refs", "origin", "topic")],
                         ids=lambda o: " ".join(o) or "all")
def test_ls_remote_says_what_upstream_says(pannier, origin, simple, git, protocol, options):
    git.set("protocol.version", str(protocol))
    said = []
    for url in (pannier.url_of("public/simple"), origin.url_of("public/simple")):
        args = [url if o == "origin" else o for o in options]
        said.append(git.run("ls-remote", *(args if url in args else [*args, url])))
    assert said[0] == said[1] and said[0]


@pytest.mark.parametrize("protocol", [0, 2])
def test_ls_remote_of_ten_thousand_refs_says_what_upstream_says(pannier, origin, git, protocol):
    origin.make("public/many", repos.many_refs)
    git.set("protocol.version", str(protocol))
    said = git.run("ls-remote", pannier.url_of("public/many"))
    assert said == git.run("ls-remote", origin.url_of("public/many"))
    assert len(said.splitlines()) == 10001


def test_refs_are_asked_for_each_time(pannier, origin, own, git):
    path, repo = own()
    for text in ("a", "b", "c"):
        oid = repo.commit(text=text)
        assert git.run("ls-remote", pannier.url_of(path), "refs/heads/main").split()[0] == oid


def test_refs_are_remembered_only_where_the_operator_says_so(start, origin, own, git):
    path, repo = own()
    before = repo.oid()
    pannier = start(config={"upstreams": [{"name": "origin", "url": origin.url, "refs_ttl": "1h"}]})
    assert git.run("ls-remote", pannier.url_of(path), "refs/heads/main").split()[0] == before
    repo.commit()
    since = origin.mark()
    assert git.run("ls-remote", pannier.url_of(path), "refs/heads/main").split()[0] == before
    assert [s for s in origin.requests(since) if s.kind == "ls-refs"] == []
    git.clone(pannier.url_of(path))
    shown = git.on_terminal("clone", pannier.url_of(path), git.place())
    assert re.search(r"remote: pannier: hit, local; refs as of \d+\.\d s ago", shown)
