"""kill -9 at any instant, while many work: whoever asks afterwards gets what upstream has."""
import os
import random
import shutil
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from support import repos
from support.faults import Faults
from support.gitclient import Failed, Git, fsck, refs
from support.net import accepts
from support.wait import until

KILLS = 10
PEOPLE = 3
REPOSITORIES = 5
# Little enough for evictions, often enough for repacks.
CONFIG = {"cache": {"local_size": "8M", "min_free": "0", "maintenance_interval": "100ms"}}
# What it is killed at: one of so many operations on files whose path has this in it.
AIMS = {"": 250, ".answer": 60, "/answers/": 20, ".git/": 150, "/mirrors/": 60, ".upkeep": 80, "/index.db": 40}
PATIENCE = 3  # seconds until any operation will do
SEED = int(os.environ.get("PANNIER_TEST_SEED", random.SystemRandom().randrange(1 << 32)))
CLONES = (("--mirror",), (), ("--depth=2",), ("--single-branch", "--branch=topic"), ("--filter=blob:none", "--no-checkout"))


class Person(threading.Thread):
    """Clones, fetches and pushes, until pannier is dead; what it gets must be sound."""

    def __init__(self, crowd, number):
        super().__init__()
        self.crowd = crowd
        self.rng = random.Random(crowd.rng.random())
        self.name = f"{crowd.rounds}-{number}"
        self.git = Git(crowd.home / self.name)
        self.work = {}
        self.problem = None

    def run(self):
        try:
            while not self.crowd.dead():
                self.rng.choice((self.clone, self.clone, self.fetch, self.push, self.push))(self.rng.choice(self.crowd.paths))
        except Exception as problem:  # looked at by whoever waits for this thread
            self.problem = problem

    def try_git(self, *args, **options):
        """False when pannier was killed meanwhile, which is the one reason there may be to fail."""
        try:
            self.git.run(*args, **options)
            return True
        except Failed:
            until(self.crowd.dead, "pannier is dead; but it lives, and git failed", 3)
            return False

    def clone(self, path):
        to = self.git.place()
        if self.try_git("clone", "-q", *self.rng.choice(CLONES), self.crowd.pannier.url_of(path), to):
            fsck(to)
        shutil.rmtree(to, ignore_errors=True)

    def fetch(self, path):
        folder = self.work.get(path)
        if folder:
            self.try_git("fetch", "-q", "--prune", cwd=folder) and fsck(folder)
            return
        folder = self.git.place()
        if self.try_git("clone", "-q", self.crowd.pannier.url_of(path), folder):
            self.work[path] = folder

    def push(self, path):
        self.fetch(path)
        folder = self.work.get(path)
        if not folder or self.crowd.dead():
            return
        oid = self.git.commit(folder, f"{self.name}-{self.rng.randrange(1 << 30)}")
        if self.try_git("push", "-q", "origin", f"HEAD:refs/heads/{oid}", cwd=folder):
            self.fetch(path)


class Crowd:
    def __init__(self, pannier, origin, paths, rng, home):
        self.pannier = pannier
        self.origin = origin
        self.paths = paths
        self.rng = rng
        self.home = home
        self.rounds = 0

    def dead(self):
        return self.pannier.process.poll() is not None

    def work_until_killed(self):
        self.rounds += 1
        aim = self.rng.choice(list(AIMS))
        self.pannier.faults.kill(self.rng.randint(1, AIMS[aim]), part=aim)
        impatience = threading.Timer(PATIENCE, self.pannier.faults.kill, (1,))
        impatience.start()
        people = [Person(self, number) for number in range(PEOPLE)]
        for person in people:
            person.start()
        for person in people:
            person.join()
            impatience.cancel()
            shutil.rmtree(person.git.home)
        for person in people:
            if person.problem:
                raise person.problem

    def check(self, path):
        """A clone of it has upstream's refs, and all that is behind them."""
        repo = self.origin.made[path]
        git = Git(self.home / f"check-{path.replace('/', '-')}")
        while True:
            before = refs(repo.path)
            clone = git.clone(self.pannier.url_of(path), "--mirror")
            if refs(repo.path) == before:  # else a push came late
                break
        fsck(clone)
        assert refs(clone) == before
        shutil.rmtree(git.home)

    def check_all(self):
        with ThreadPoolExecutor(PEOPLE) as pool:
            list(pool.map(self.check, self.paths))


def start_or_die(pannier, faults, rng):
    """Now and then it is killed while it starts, too."""
    if rng.random() < 0.3:
        faults.kill(rng.randrange(1, 30))
        pannier.spawn()
        until(lambda: pannier.process.poll() is not None or accepts(pannier.port), "it listens, or is dead")
        faults.off()
        pannier.kill()
    pannier.start()


def counts_right(pannier):
    """It says what `du` says, but for a few blocks, and keeps to the limit."""
    differences = []

    def agrees():
        space, usage = pannier.space(), pannier.usage()
        differences[:] = [space, usage]
        exact = abs(space["total"] - usage) <= max(usage // 100, 16384)
        return exact and space["filling"] == 0 and usage <= space["limit"]

    try:
        until(agrees, "what it counts is what is there")
    except AssertionError:
        raise AssertionError(f"it counts otherwise than du: {differences}") from None


def sound_mirrors(pannier):
    for head in (pannier.data / "mirrors").rglob("*.git/HEAD"):
        fsck(head.parent)


@pytest.fixture
def mortal(start, origin, tmp_path):
    data = tmp_path / "data"
    faults = Faults(tmp_path / "control", data)
    pannier = start(config=CONFIG, origin=origin.url, data=data, env=faults.env)
    pannier.faults = faults
    return pannier


@pytest.mark.parametrize("part", range(1, 6))
def test_kill_9_at_ten_instants_leaves_nothing_broken(mortal, origin, own, tmp_path, part):
    print(f"PANNIER_TEST_SEED={SEED}")
    rng = random.Random(f"{SEED}/{part}")
    pannier, faults = mortal, mortal.faults
    paths = [own(repos.simple, blob=50000)[0] for _ in range(REPOSITORIES)]
    crowd = Crowd(pannier, origin, paths, rng, tmp_path / "people")
    seen = Counter()
    for _ in range(KILLS):
        crowd.work_until_killed()
        assert pannier.wait() == -9
        faults.off()
        seen.update(line["event"] for line in pannier.lines)
        begun = pannier.incoming()
        start_or_die(pannier, faults, rng)
        assert not set(begun) & set(pannier.incoming())
        sound_mirrors(pannier)
        crowd.check_all()
        counts_right(pannier)
        seen["evicted"] += pannier.space()["evicted"]
        assert pannier.warnings() == []
    # It was a mixed load indeed.
    print(seen)
    assert seen["mirror refreshed"] and seen["evicted"]
