"""kill -9, restarts and damage: clients see nothing but time."""
import os
import shutil

import pytest

from support import pktline, repos
from support.faulty import Gate
from support.gitclient import Reader, ask, same_objects
from support.wait import until


@pytest.fixture(scope="module")
def medium(origin):
    return origin.make("public/medium", repos.big, files=3)


def held_clone(pannier, upstream, repo, after=1 << 20):
    """A clone that upstream holds in the middle."""
    gate = upstream.on("fetch", Gate(after=after), times=1)
    reader = Reader(pannier.port)
    reader.post("/origin/public/medium.git/git-upload-pack", pktline.fetch([repo.oid()]))
    gate.wait_held()
    if after:
        reader.read_until(b"packfile")
    return gate, reader


@pytest.mark.parametrize("after", [0, 1 << 20], ids=["before the first byte", "in the middle"])
def test_kill_9_in_a_fill_leaves_nothing_broken(behind, upstream, origin, medium, git, after):
    gate, _ = held_clone(behind, upstream, medium, after)
    if after:
        until(lambda: any(f.stat().st_size for f in behind.incoming()), "bytes lie in incoming/")
    behind.kill()
    assert behind.answers() == []
    behind.start()
    assert behind.incoming() == []
    assert behind.answers() == [] and behind.files("mirrors") == []
    gate.open()
    git.clone_alike(behind.url_of("public/medium"), origin.url_of("public/medium"))


def test_kill_9_at_the_end_of_a_clone_loses_no_published_answer(pannier, origin, simple, git):
    """Killed at once each time: whatever was published by then must be whole."""
    expected = git.clone(origin.url_of("public/simple"))
    for _ in range(5):
        same_objects(git.clone(pannier.url_of("public/simple")), expected)
        kept = pannier.answers()
        pannier.kill()
        assert set(kept) <= set(pannier.answers())
        pannier.start()
        assert pannier.incoming() == []
        if kept:
            same_objects(git.clone(pannier.url_of("public/simple")), expected)
            assert pannier.packs(1) == ["hit, local"]


def test_git_programs_do_not_outlive_pannier(behind, upstream, medium):
    gate, _ = held_clone(behind, upstream, medium)
    until(lambda: behind.children(), "index-pack runs")
    children = list(behind.children())
    behind.kill()
    def gone(pid):
        try:
            return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] in "ZX"
        except OSError:
            return not os.path.exists(f"/proc/{pid}")

    until(lambda: all(map(gone, children)), "the git programs are gone")
    gate.open()


def test_answers_and_mirrors_are_found_again_after_a_restart(pannier, origin, simple, git):
    git.clone(pannier.url_of("public/simple"))
    pannier.wait_answers()
    pannier.wait_mirror("public/simple")
    pannier.stop()
    pannier.start()
    since = origin.mark()
    git.clone(pannier.url_of("public/simple"))
    git.clone(pannier.url_of("public/simple"), "--depth=2")
    assert origin.packs(since) == []
    assert pannier.packs(2) == ["hit, local", "miss, mirror"]


def test_the_index_may_be_lost(pannier, origin, simple, git):
    git.clone(pannier.url_of("public/simple"))
    pannier.wait_answers()
    pannier.stop()
    for file in pannier.data.glob("index.db*"):
        file.unlink()
    pannier.start()
    since = origin.mark()
    git.clone(pannier.url_of("public/simple"))
    assert origin.packs(since) == []


# Damage ---------------------------------------------------------------------------------------------


def flip(file, at=None):
    data = bytearray(file.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 0x40
    file.chmod(0o600)
    file.write_bytes(data)


def truncate(file):
    with open(file, "r+b") as f:
        f.truncate(file.stat().st_size // 2)


def empty(file):
    file.write_bytes(b"")


def swap_for_rubbish(file):
    file.unlink()
    file.write_bytes(b"rubbish" * 100)


def lose(file):
    file.unlink()


DAMAGE = {"flipped byte": flip, "flipped last byte": lambda f: flip(f, -1), "truncated": truncate,
          "emptied": empty, "rubbish": swap_for_rubbish, "lost": lose}


@pytest.mark.parametrize("when", ["while it runs", "while it is stopped"])
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("mirrors", [True, False], ids=["mirror", "no mirror"])
def test_a_damaged_answer_is_made_again(start, origin, simple, git, damage, when, mirrors):
    pannier = start(origin=origin.url, config={"cache": {"mirrors": mirrors}})
    expected = git.clone(origin.url_of("public/simple"))
    git.clone(pannier.url_of("public/simple"))
    [file] = pannier.wait_answers()
    if when == "while it is stopped":
        pannier.stop()
    DAMAGE[damage](file)
    if when == "while it is stopped":
        pannier.start()
    for _ in range(2):
        same_objects(git.clone(pannier.url_of("public/simple")), expected)
    until(lambda: pannier.answers() == [file] and file.stat().st_size > 1000, "the answer is kept again")
    if damage != "lost":
        until(pannier.warnings, "the damage is logged")


def test_an_answer_under_anothers_name_is_not_served(pannier, origin, simple, git):
    git.clone(pannier.url_of("public/simple"))
    [full] = pannier.wait_answers()
    git.clone(pannier.url_of("public/simple"), "--depth=1")
    [shallow] = set(pannier.wait_answers(2)) - {full}
    pannier.stop()
    shallow.write_bytes(full.read_bytes())
    pannier.start()
    git.clone_alike(pannier.url_of("public/simple"), origin.url_of("public/simple"), "--depth=1")


def warm_mirror(pannier, path, git):
    git.clone(pannier.url_of(path))
    return pannier.wait_mirror(path)


def clone_two_ways(pannier, origin, path, git):
    for options in (("--depth=3",), ("--single-branch", "--branch=topic"), ("--mirror",)):
        git.clone_alike(pannier.url_of(path), origin.url_of(path), *options)


def lose_packs(mirror):
    for file in (mirror / "objects" / "pack").glob("pack-*"):
        file.unlink()


def lose_indexes(mirror):
    for file in (mirror / "objects" / "pack").glob("*.idx"):
        file.unlink()


def flip_pack(mirror):
    for file in (mirror / "objects" / "pack").glob("*.pack"):
        flip(file)


def truncate_pack(mirror):
    for file in (mirror / "objects" / "pack").glob("*.pack"):
        file.chmod(0o600)
        truncate(file)


def lose_an_object(mirror, kind=" blob "):
    """The pack is replaced by loose objects, one of which is missing."""
    packs = [f.rename(mirror / f.name) for f in (mirror / "objects" / "pack").glob("*.pack")]
    for file in (mirror / "objects" / "pack").glob("pack-*"):
        file.unlink()
    for pack in packs:
        repos.git(mirror, "unpack-objects", "-q", data=pack.read_bytes())
        pack.unlink()
    listing = repos.git(mirror, "cat-file", "--batch-all-objects", "--batch-check").splitlines()
    oid = next(line.split()[0] for line in listing if kind in line)
    (mirror / "objects" / oid[:2] / oid[2:]).unlink()


def lose_an_object_from_the_pack(mirror):
    """A sound pack in which one blob is missing."""
    folder = mirror / "objects" / "pack"
    listing = repos.git(mirror, "cat-file", "--batch-all-objects", "--batch-check").splitlines()
    blobs = [line.split()[0] for line in listing if " blob " in line]
    kept = [line.split()[0] for line in listing if line.split()[0] != blobs[len(blobs) // 2]]
    old = list(folder.glob("pack-*"))
    repos.git(mirror, "pack-objects", "-q", folder / "pack", data="\n".join(kept).encode() + b"\n")
    for file in old:
        file.unlink()


def lose_head(mirror):
    (mirror / "HEAD").unlink()


def break_config(mirror):
    (mirror / "config").write_text("[core\nrubbish")


def lose_everything(mirror):
    shutil.rmtree(mirror)


MIRROR_DAMAGE = {
    f.__name__.replace("_", " "): f
    for f in (lose_packs, lose_indexes, flip_pack, truncate_pack, lose_an_object, lose_an_object_from_the_pack,
              lose_head, break_config, lose_everything)
}


@pytest.mark.parametrize("when", ["while it runs", "while it is stopped"])
@pytest.mark.parametrize("damage", MIRROR_DAMAGE)
def test_a_damaged_mirror_costs_time_and_nothing_else(pannier, origin, own, git, damage, when):
    path, repo = own()
    mirror = warm_mirror(pannier, path, git)
    if when == "while it is stopped":
        pannier.stop()
    MIRROR_DAMAGE[damage](mirror)
    if when == "while it is stopped":
        pannier.start()
    clone_two_ways(pannier, origin, path, git)
    repo.commit(text="afterwards")
    clone_two_ways(pannier, origin, path, git)


def test_locks_left_by_a_crash_stop_nothing(pannier, origin, own, git):
    path, repo = own()
    mirror = warm_mirror(pannier, path, git)
    pannier.kill()
    for name in ("HEAD", "config", "packed-refs", "shallow", "gc.pid", "refs/heads/main"):
        lock = mirror / f"{name}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.write_text("")
    pannier.start()
    for text in ("one", "two"):
        repo.commit(text=text)
        clone_two_ways(pannier, origin, path, git)


def test_rubbish_in_the_data_folder_is_no_harm(pannier, origin, simple, git):
    git.clone(pannier.url_of("public/simple"))
    pannier.wait_answers()
    pannier.stop()
    for place in ("answers/zz", "incoming/deep/er", "mirrors/origin/odd.git", "answers/ab"):
        (pannier.data / place).mkdir(parents=True, exist_ok=True)
        (pannier.data / place / "rubbish").write_text("rubbish")
    pannier.start()
    assert pannier.incoming() == []
    git.clone_alike(pannier.url_of("public/simple"), origin.url_of("public/simple"))
    assert ask(pannier.url_of("odd"), pktline.ls_refs()).status == 404
