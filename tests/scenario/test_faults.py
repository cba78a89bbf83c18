"""The disk fails, for a while, in every way it can: nobody's clone does, and it is said once."""
import errno
import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest

from support import faults as f
from support.faults import Faults
from support.gitclient import Git, fsck
from support.wait import until

TROUBLE = "the disk fails; clones pass through and nothing is kept"
OPERATIONS = {"create": f.CREATE, "write": f.WRITE, "sync": f.SYNC, "rename": f.RENAME, "link": f.LINK,
              "truncate": f.TRUNCATE, "mkdir": f.MKDIR, "unlink": f.UNLINK, "everything": f.ALL}
# git renames where it can't link; what can't be removed goes at the next start.
HARMLESS = ("link", "unlink", "truncate")


@pytest.fixture
def faulty(start, origin, tmp_path):
    """A pannier on a disk that can be told to fail."""
    data = tmp_path / "data"
    faults = Faults(tmp_path / "control", data)
    pannier = start(origin=origin.url, data=data, env=faults.env)
    pannier.faults = faults
    return pannier


def said(pannier, event):
    return [line for line in pannier.lines if line.get("event") == event]


def degraded(pannier):
    return '"degraded"' in pannier.health()[1]


class Load:
    """People at work on some repositories; each clone must be what upstream has."""

    def __init__(self, pannier, origin, own, home):
        self.pannier = pannier
        self.origin = origin
        self.own = own
        self.home = home
        self.rounds = 0
        self.people = itertools.count()
        self.known = [own(blob=3000) for _ in range(2)]
        self.followed = []

    def warm_up(self):
        for path, _ in self.known:
            git = Git(self.home / path.replace("/", "-"))
            self.followed.append((git, path, git.clone(self.pannier.url_of(path))))
            self.pannier.wait_mirror(path)
        self.pannier.wait_answers(2)

    def alike(self, path, *options):
        git = Git(self.home / f"person-{next(self.people)}")
        git.clone_alike(self.pannier.url_of(path), self.origin.url_of(path), *options)

    def follow(self, git, path, folder):
        git.run("remote", "set-url", "origin", self.pannier.url_of(path), cwd=folder)  # it may have moved
        git.run("pull", "-q", "--ff-only", cwd=folder)
        fsck(folder)
        assert git.run("rev-parse", "HEAD", cwd=folder) == self.repo(path).oid()

    def repo(self, path):
        return self.origin.made[path]

    def push(self, git, path, folder):
        self.follow(git, path, folder)
        git.commit(folder, f"file-{self.rounds}")
        git.run("push", "-q", "origin", "HEAD:main", cwd=folder)
        assert git.run("rev-parse", "HEAD", cwd=folder) == self.repo(path).oid()

    def run(self):
        """Answers that are kept, answers from mirrors, mirrors that are behind, what nobody had yet."""
        self.rounds += 1
        new, _ = self.own(blob=3000)
        for git, path, folder in self.followed:
            self.push(git, path, folder)
        with ThreadPoolExecutor(3) as pool:
            jobs = [pool.submit(self.alike, new)]
            for git, path, folder in self.followed:
                self.repo(path).commit(text=f"round {self.rounds}")
                jobs += [
                    pool.submit(self.alike, path),
                    pool.submit(self.alike, path, "--depth=2"),
                    pool.submit(self.alike, path, "--single-branch", "--branch=topic"),
                    pool.submit(self.follow, git, path, folder),
                ]
            for job in jobs:
                job.result()
        return new


@pytest.fixture
def load(faulty, origin, own, tmp_path):
    load = Load(faulty, origin, own, tmp_path / "people")
    load.warm_up()
    return load


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_disk_that_fails_costs_no_clone_and_one_warning(faulty, load, operation):
    for spell, error in enumerate((errno.ENOSPC, errno.EIO), 1):
        told = 0 if operation in HARMLESS else spell
        faulty.faults.on(OPERATIONS[operation], error)
        missed = load.run()
        assert faulty.faults.hits > 0 or operation == "truncate"
        assert [line["event"] for line in faulty.warnings()] == [TROUBLE] * told
        assert degraded(faulty) == (told > 0)
        faulty.faults.off()
        load.run()
        load.alike(missed)
        faulty.wait_mirror(missed)
        until(lambda: not degraded(faulty), "all parts have been written again")  # the index each second
        assert [line["event"] for line in faulty.warnings()] == [TROUBLE] * told
        assert len(said(faulty, "the disk works again")) == told
    since = load.origin.mark()
    load.alike(missed)
    assert len(load.origin.packs(since)) == 1  # the direct one
    faulty.stop()
    faulty.start()
    load.run()


@pytest.mark.parametrize("part", ["/index.db", "/mirrors/", "/answers/", "/incoming/"])
def test_a_part_of_the_disk_that_fails_is_told_once(faulty, load, part):
    """Success elsewhere doesn't end the spell, so it isn't told anew with each request."""
    faulty.faults.on(f.CREATE | f.WRITE | f.SYNC | f.RENAME | f.TRUNCATE, errno.EIO, part=part)
    missed = load.run()
    load.run()
    until(lambda: said(faulty, TROUBLE), "it is told")
    until(lambda: not faulty.children(), "no git is left that has met the failure and will tell of it later")
    faulty.faults.off()
    load.run()
    for depth in (2, 3):  # its answer may be kept; a mirror comes when something else is asked for again
        load.alike(missed, f"--depth={depth}")
    faulty.wait_mirror(missed)
    until(lambda: not degraded(faulty), "it has recovered")
    assert [line["event"] for line in faulty.warnings()] == [TROUBLE]
    assert len(said(faulty, "the disk works again")) == 1


def test_a_disk_that_fails_at_the_start_is_told(start, origin, tmp_path):
    data = tmp_path / "data"
    faults = Faults(tmp_path / "control", data)
    faults.on(f.ALL, errno.ENOSPC)
    pannier = start(origin=origin.url, data=data, env=faults.env, launch=False)
    code, text = pannier.run_to_end()
    assert code == 1 and "No space left on device" in text


def test_a_disk_that_fails_from_the_start_on_passes_things_through(faulty, origin, simple, git):
    faulty.stop()
    faulty.faults.on(f.ALL, errno.ENOSPC)
    faulty.start()
    git.clone_alike(faulty.url_of("public/simple"), origin.url_of("public/simple"))
    until(lambda: degraded(faulty), "it is told")
    faulty.faults.off()
    git.clone_alike(faulty.url_of("public/simple"), origin.url_of("public/simple"))
    faulty.wait_answers()
    faulty.wait_mirror("public/simple")
    until(lambda: not degraded(faulty), "it has recovered")
    assert [line["event"] for line in faulty.warnings()] == [TROUBLE]
