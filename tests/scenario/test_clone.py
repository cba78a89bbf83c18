"""Clones: cold and warm, of every shape, always equal to a direct clone."""
import os
import re

import pytest

from support import repos
from support.gitclient import boundary, objects, same_objects

SHAPES = {
    "full": (),
    "mirror": ("--mirror",),
    "shallow": ("--depth=1",),
    "shallow, all branches": ("--depth=3", "--no-single-branch"),
    "since": ("--shallow-since=1600020000",),
    "single branch": ("--single-branch", "--branch=topic"),
    "tag": ("--depth=1", "--branch=v1.0"),
    "no tags": ("--no-tags",),
}


@pytest.mark.parametrize("protocol", [0, 1, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_clone_is_a_direct_clone_and_the_second_costs_upstream_no_pack(
    pannier, origin, simple, git, shape, protocol
):
    url, direct = pannier.url_of("public/simple"), origin.url_of("public/simple")
    options = (*SHAPES[shape], "-c", f"protocol.version={protocol}")
    expected = git.clone(direct, *options)
    since = origin.mark()
    same_objects(git.clone(url, *options), expected)
    assert len(origin.packs(since)) == 1
    pannier.wait_answers()
    since = origin.mark()
    same_objects(git.clone(url, *options), expected)
    assert origin.packs(since) == []
    assert pannier.requests(1, result="refs")[0]["protocol"] == protocol


def test_the_log_tells_a_cold_clone_from_a_warm_one(pannier, simple, git):
    git.clone(pannier.url_of("public/simple"))
    pannier.wait_answers()
    git.clone(pannier.url_of("public/simple"))
    assert pannier.packs(2) == ["miss, upstream", "hit, local"]
    cold, warm = pannier.requests(2, service="upload-pack", repository="origin/public/simple", status=200)[-3::2]
    for line in (cold, warm):
        assert line["client"].startswith("127.0.0.1")
        assert line["protocol"] == 2
        assert line["total_ms"] >= line["first_byte_ms"] >= 0
    assert abs(cold["bytes"] - warm["bytes"]) < 100  # nothing but our own line may differ
    ids = [line["id"] for line in pannier.requests()]
    assert len(set(ids)) == len(ids)


def test_dot_git_may_be_left_out(pannier, origin, simple, git):
    git.clone(pannier.url_of("public/simple"))
    pannier.wait_answers()
    since = origin.mark()
    git.clone(pannier.url_of("public/simple").removesuffix(".git"))
    assert origin.packs(since) == []


def test_a_clone_without_what_a_ref_reaches_is_left_to_upstream(pannier, origin, simple, git):
    """Where that ref points may change from one day to the next, so nothing is kept."""
    url, direct = pannier.url_of("public/simple"), origin.url_of("public/simple")
    for _ in range(2):
        git.clone_alike(url, direct, "--shallow-exclude=v1.0")
    assert pannier.packs(2) == ["pass"] * 2


def test_another_question_is_answered_from_the_mirror(pannier, origin, simple, git):
    git.clone(pannier.url_of("public/simple"))
    pannier.wait_mirror("public/simple")
    since = origin.mark()
    for options in (("--depth=1",), ("--single-branch", "--branch=topic"), ("--depth=2", "--branch=topic")):
        git.clone_alike(pannier.url_of("public/simple"), origin.url_of("public/simple"), *options)
    through_pannier = [s for s in origin.packs(since) if "pannier" in s.agent]
    assert through_pannier == []
    assert pannier.packs(4)[1:] == ["miss, mirror"] * 3


def test_a_cold_full_clone_makes_a_sound_mirror(pannier, origin, simple, git):
    git.clone(pannier.url_of("public/simple"), "--mirror")
    mirror = pannier.wait_mirror("public/simple")
    missing = set(simple.objects()) - set(objects(mirror))
    assert missing == set()


def test_a_repository_asked_for_twice_in_shallow_ways_gets_a_mirror(pannier, origin, simple, git):
    git.clone(pannier.url_of("public/simple"), "--depth=1")
    assert not pannier.mirror("public/simple").exists()
    git.clone(pannier.url_of("public/simple"), "--depth=2")
    pannier.wait_mirror("public/simple")
    since = origin.mark()
    git.clone(pannier.url_of("public/simple"), "--depth=3")
    assert origin.packs(since) == []
    assert pannier.packs(3)[2] == "miss, mirror"


def test_what_has_a_name_that_no_record_can_hold_is_passed_on(pannier, origin, own, git):
    """Records are JSON, so UTF-8; a path may be any bytes."""
    path, repo = own()
    folder = os.path.dirname(path)
    os.rename(os.fsencode(repo.path), os.fsencode(repo.path.parent) + b"/caf\xe9.git")
    for _ in range(2):
        git.clone_alike(pannier.url_of(f"{folder}/caf%E9"), origin.url_of(f"{folder}/caf%E9"))
    assert pannier.packs(2) == ["pass"] * 2


def test_without_mirrors_answers_are_kept_and_nothing_else(start, origin, simple, git):
    pannier = start(origin=origin.url, config={"cache": {"mirrors": False}})
    for _ in range(2):
        git.clone_alike(pannier.url_of("public/simple"), origin.url_of("public/simple"))
        pannier.wait_answers()
    assert pannier.packs(2) == ["miss, upstream", "hit, local"]
    assert pannier.files("mirrors") == []


@pytest.mark.parametrize("protocol", [0, 2])
def test_a_filtered_clone_gets_its_blobs_at_checkout(pannier, origin, simple, git, protocol):
    options = ("--filter=blob:none", "--no-checkout", "-c", f"protocol.version={protocol}")
    for _ in range(2):
        through = git.clone(pannier.url_of("public/simple"), *options)
        direct = git.clone(origin.url_of("public/simple"), *options)
        same_objects(through, direct)
        assert not any(" blob " in line for line in objects(through))
        for clone in (through, direct):
            git.run("checkout", "-q", "topic", cwd=clone)
        same_objects(through, direct)
    assert git.run("status", "--porcelain", cwd=through) == ""


def test_a_filter_that_upstream_does_not_know_gets_everything(pannier, origin, own, git):
    path, _ = own(settings={"uploadpack.allowFilter": "false"})
    through = git.clone_alike(pannier.url_of(path), origin.url_of(path), "--filter=blob:none")
    assert any(" blob " in line for line in objects(through))


@pytest.mark.parametrize("protocol", [0, 2])
def test_a_sha256_repository_is_cloned_cold_warm_and_shallow(pannier, origin, git, protocol):
    origin.make("public/sha256", object_format="sha256")
    url, direct = pannier.url_of("public/sha256"), origin.url_of("public/sha256")
    option = ("-c", f"protocol.version={protocol}")
    git.clone_alike(url, direct, *option)
    pannier.wait_answers()
    since = origin.mark()
    git.clone(url, *option)
    assert origin.packs(since) == []
    git.clone_alike(url, direct, "--depth=1", *option)


@pytest.mark.parametrize("protocol", [0, 2])
@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
def test_an_empty_repository_is_cloned_empty(pannier, origin, git, protocol, object_format):
    path = f"public/empty-{object_format}"
    origin.make(path, repos.empty, object_format=object_format)
    option = ("-c", f"protocol.version={protocol}")
    git.clone_alike(pannier.url_of(path), origin.url_of(path), *option)


def test_a_repository_that_was_empty_is_seen_once_it_is_not(pannier, origin, own, git):
    path, repo = own(repos.empty)
    clone = git.clone(pannier.url_of(path))
    pusher = git.clone(origin.url_of(path))
    oid = git.commit(pusher, "first")
    git.run("push", "-q", "origin", "HEAD:main", cwd=pusher)
    git.run("pull", "-q", "origin", "main", cwd=clone)
    assert git.run("rev-parse", "HEAD", cwd=clone) == oid


@pytest.fixture(scope="module")
def many(origin):
    return origin.make("public/many", repos.many_refs)


@pytest.mark.parametrize("protocol", [0, 2])
def test_ten_thousand_refs_are_cloned_with_a_body_that_comes_chunked(
    behind, upstream, many, git, protocol
):
    """The body is over postBuffer: a probe comes first, then a chunked body without gzip."""
    options = ("--mirror", "-c", f"protocol.version={protocol}", "-c", "http.postBuffer=65536")
    for _ in range(2):
        clone = git.clone(behind.url_of("public/many"), *options)
        same_objects(clone, many.path, same_refs=False)
        behind.wait_answers()
    probes = 4 if protocol == 2 else 2  # v2's ls-refs is preceded by one, too
    assert len(behind.requests(probes, result="probe")) == probes
    assert behind.packs(2) == ["miss, upstream", "hit, local"]
    assert len(upstream.requests("fetch")) == 1


def test_a_server_without_protocol_2_is_cloned_from_by_clients_that_want_it(pannier, origin, simple, git):
    git.clone_alike(f"{pannier.url}/origin/v0/public/simple.git", f"{origin.url}/v0/public/simple.git")


def test_submodules_come_through_insteadof(pannier, origin, simple, git):
    url = "https://git.example.com/public/simple.git"
    origin.make("public/super", submodules=[("lib", url, simple.oid()),
                                            ("relative", "../simple.git", simple.oid("topic"))])
    git.set(f"url.{pannier.url}/origin/.insteadOf", "https://git.example.com/")
    clone = git.clone("https://git.example.com/public/super.git", "--recurse-submodules")
    assert git.run("rev-parse", "HEAD", cwd=clone / "lib") == simple.oid()
    assert git.run("rev-parse", "HEAD", cwd=clone / "relative") == simple.oid("topic")
    same_objects(clone / "lib", git.clone(origin.url_of("public/simple"), "--no-checkout"), same_refs=False)


def test_nested_groups_are_different_repositories(pannier, origin, git):
    for path in ("public/g/a/r", "public/g/b/r"):
        origin.make(path).commit(text=path)
    for _ in range(2):
        for path in ("public/g/a/r", "public/g/b/r"):
            clone = git.clone_alike(pannier.url_of(path), origin.url_of(path))
            assert git.run("log", "-1", "--format=%s", cwd=clone) == path


def test_a_pattern_names_many_upstreams(start, origin, simple, git):
    pannier = start(arguments=["--upstream", "127.0.0.1:*=http://127.0.0.1:*"])
    name = f"127.0.0.1:{origin.port}"
    git.clone_alike(pannier.url_of("public/simple", name), origin.url_of("public/simple"))


def test_a_person_sees_in_one_line_how_it_was_answered(pannier, simple, git):
    url = pannier.url_of("public/simple")
    git.run("clone", url, git.place())  # no terminal, no progress
    assert "pannier" not in git.stderr.replace(str(git.home), "").replace(url, "")
    pannier.wait_answers()
    shown = git.on_terminal("clone", url, git.place())
    assert re.findall(r"remote: pannier: ([^\r\n]*?)\s*[\r\n]", shown) == ["hit, local"]
    assert "pannier:" not in git.on_terminal("clone", "-q", url, git.place())


@pytest.mark.parametrize("protocol", [0, 2])
def test_the_line_for_the_person_breaks_nothing(pannier, origin, simple, git, protocol):
    url, option = pannier.url_of("public/simple"), f"protocol.version={protocol}"
    expected = git.clone(origin.url_of("public/simple"))
    for options in ((), ("--depth=1",)):
        for result in ("miss", "hit"):
            to = git.place()
            shown = git.on_terminal("-c", option, "clone", *options, url, to)
            assert len(re.findall(rf"remote: pannier: {result}", shown)) == 1
            if not options:
                same_objects(to, expected)
            else:
                assert len(boundary(to)) == 1
            pannier.wait_answers(2 if options else 1)
