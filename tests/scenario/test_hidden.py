"""Hidden things stay hidden: what a mirror or an answer holds is handed out only where upstream
would hand it out, to this client."""
import pytest

from support import pktline, repos
from support.faulty import changed, err
from support.gitclient import advertisement, ask

STRICT = {"uploadpack.allowAnySHA1InWant": "false", "uploadpack.allowReachableSHA1InWant": "false"}


def no_pack(answer):
    return answer.status != 200 or (b"PACK" not in answer.body and b"ERR " in answer.body)


def refs_then(url, body, protocol, **options):
    """As git does it: the refs first, then the question."""
    advertisement(url, protocol=protocol, **options)
    if protocol == 2:
        ask(url, pktline.ls_refs(), **options)
    return ask(url, body, protocol=protocol, **options)


@pytest.fixture
def secret(own, start, upstream, git):
    """(url, oid): a commit that pannier has seen while a branch named it, and that upstream has
    hidden since.  git's v2 upload-pack hands out anything by id; hosts do not, so upstream is made
    to refuse it as they do."""
    path, repo = own(hidden=True, settings=STRICT)
    pannier = start(origin=upstream.url)
    url = pannier.url_of(path)

    def hide():
        repos.hide(repo)
        upstream.on(lambda a: a.kind == "fetch" and repo.hidden.encode() in a.body,
                    err(f"upload-pack: not our ref {repo.hidden}"))

    return pannier, path, url, repo, hide


@pytest.mark.parametrize("protocol", [0, 2])
def test_a_hidden_commit_in_the_mirror_is_refused(secret, git, protocol):
    pannier, path, url, repo, hide = secret
    git.clone(url)
    mirror = pannier.wait_mirror(path)
    assert repos.git(mirror, "cat-file", "-t", repo.hidden) == "commit"
    hide()
    body = pktline.fetch([repo.hidden]) if protocol else pktline.fetch_v0([repo.hidden])
    answer = refs_then(url, body, protocol)
    assert no_pack(answer)
    assert b"not our ref" in answer.body
    shallow = pktline.fetch([repo.hidden], extra=["deepen 1"])
    assert protocol == 0 or no_pack(refs_then(url, shallow, 2))


@pytest.mark.parametrize("protocol", [0, 2])
def test_a_hidden_commit_in_a_kept_answer_is_refused(secret, protocol):
    pannier, _, url, repo, hide = secret
    body = pktline.fetch([repo.hidden]) if protocol else pktline.fetch_v0([repo.hidden])
    assert pktline.pack_is_whole(refs_then(url, body, protocol).body)
    pannier.wait_answers()
    hide()
    assert no_pack(refs_then(url, body, protocol))


def test_the_tree_and_blobs_of_a_hidden_commit_are_refused(secret, git, upstream):
    pannier, path, url, repo, hide = secret
    git.clone(url)
    pannier.wait_mirror(path)
    blob = repo.oid(f"{repo.hidden}:secret")
    tree = repo.oid(f"{repo.hidden}^{{tree}}")
    hide()
    upstream.on(lambda a: a.kind == "fetch" and (blob.encode() in a.body or tree.encode() in a.body),
                err("upload-pack: not our ref"))
    for oid in (blob, tree):
        assert no_pack(refs_then(url, pktline.fetch([oid]), 2))


def test_what_is_reachable_from_advertised_refs_is_handed_out_by_the_mirror(pannier, origin, simple, git):
    git.clone(pannier.url_of("public/simple"))
    pannier.wait_mirror("public/simple")
    since = origin.mark()
    answer = refs_then(pannier.url_of("public/simple"), pktline.fetch([simple.oid("main~3")]), 2)
    assert pktline.pack_is_whole(answer.body)
    assert origin.packs(since) == []


@pytest.mark.parametrize("protocol", [0, 2])
def test_a_private_object_is_refused_through_a_public_repository(pannier, private, simple, person, origin, protocol):
    path, repo = private()
    person("alice").clone(pannier.url_of(path))
    person("alice").fetch_commit(pannier.url_of(path), repo.oid())
    pannier.wait_mirror(path)
    body = pktline.fetch([repo.oid()]) if protocol else pktline.fetch_v0([repo.oid()])
    assert no_pack(ask(origin.url_of("public/simple"), body, protocol=protocol))
    for user in (None, "alice"):
        assert no_pack(refs_then(pannier.url_of("public/simple"), body, protocol, user=user))


def test_a_branch_that_upstream_shows_to_alice_only_is_refused_to_bob(behind, upstream, private):
    """Same repository, both may read it; the question is the same, the right is not."""
    path, repo = private(read=["alice", "bob"])
    topic = repo.oid("topic").encode()
    upstream.on(lambda a: a.kind in ("refs", "ls-refs") and a.user == "bob",
                changed(lambda body: pktline.join(
                    p for p in pktline.split(body) if not (isinstance(p, bytes) and topic in p))))
    upstream.on(lambda a: a.kind == "fetch" and a.user == "bob" and topic in a.body, err("not our ref"))
    url, body = behind.url_of(path), pktline.fetch([repo.oid("topic")])
    assert pktline.pack_is_whole(refs_then(url, body, 2, user="alice").body)
    behind.wait_answers()
    assert no_pack(refs_then(url, body, 2, user="bob"))
    assert pktline.pack_is_whole(refs_then(url, body, 2, user="alice").body)


def test_a_deleted_repository_is_gone(pannier, own, git):
    path, repo = own()
    url = pannier.url_of(path)
    git.clone(url)
    pannier.wait_mirror(path)
    repo.path.rename(repo.path.with_suffix(".gone"))
    said = git.fails("clone", url, git.place())
    assert "not found" in said or "404" in said
    answer = advertisement(url)
    assert answer.status == 404
