"""The disk never fills: room is made before it is needed, and not from under anybody."""
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from support import pktline, repos
from support.gitclient import Git, Reader, same_objects
from support.wait import until

MEGABYTE = 1 << 20
# What a fill gathers before it claims room and writes; and what a file system takes for folders.
PIECE = MEGABYTE
SLACK = 128 * 1024
PEOPLE = 3
BACKGROUND = 2


@pytest.fixture
def several(origin):
    """several(4, 3): so many repositories of so many megabytes; shared by all tests."""
    return lambda count, size: [
        (f"public/space-{size}-{n}", origin.make(f"public/space-{size}-{n}", repos.big, files=size))
        for n in range(count)
    ]


class Watch(threading.Thread):
    """Looks all the time, and keeps the largest that it has seen."""

    def __init__(self, look):
        super().__init__()
        self.look = look
        self.most = 0
        self.looks = 0
        self.over = threading.Event()

    def run(self):
        while not self.over.is_set():
            self.most = max(self.most, self.look())
            self.looks += 1

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join()


def clone_all(pannier, made, home):
    """Several people at once; each gets what upstream has."""

    def clone(job):
        number, (path, repo) = job
        git = Git(home / str(number))
        same_objects(git.clone(pannier.url_of(path), "--mirror"), repo.path, same_refs=False)

    with ThreadPoolExecutor(PEOPLE) as pool:
        list(pool.map(clone, enumerate(made)))


@pytest.mark.parametrize("policy", ["s3fifo", "lru", "size"])
def test_the_data_folder_keeps_to_its_limit_while_many_are_cloned(start, origin, several, tmp_path, policy):
    limit = 20 * MEGABYTE
    pannier = start(config={"cache": {"local_size": "20M", "min_free": "0", "policy": policy}}, origin=origin.url)
    with Watch(pannier.usage) as watch:
        clone_all(pannier, several(8, 3), tmp_path / "people")
    assert watch.looks > 20
    assert watch.most <= limit + (PEOPLE + BACKGROUND) * PIECE + SLACK
    assert pannier.space()["evicted"] > 0
    assert pannier.warnings() == []
    until(lambda: pannier.usage() <= limit, "it is within its limit at rest")


def test_what_is_larger_than_the_whole_cache_streams_through(start, origin, several, git):
    [(large, repo)], [(small, _)] = several(1, 9), several(1, 1)
    pannier = start(config={"cache": {"local_size": "4M", "min_free": "0"}}, origin=origin.url)
    with Watch(pannier.usage) as watch:
        for _ in range(2):
            same_objects(git.clone(pannier.url_of(large), "--mirror"), repo.path, same_refs=False)
            until(lambda: pannier.incoming() == [], "nothing of it is left")
            assert pannier.answers() == []
    assert watch.most <= 4 * MEGABYTE + 2 * PIECE + SLACK
    git.clone(pannier.url_of(small))
    pannier.wait_answers()
    assert "degraded" not in pannier.health()[1]
    assert pannier.warnings() == []


@pytest.mark.parametrize("kept", [False, True], ids=["that made it", "that came later"])
def test_an_answer_is_not_removed_under_its_reader(start, origin, several, git, tmp_path, kept):
    (path, repo), *others = several(6, 3)
    pannier = start(config={"cache": {"local_size": "8M", "min_free": "0", "mirrors": False, "policy": "lru"}},
                    origin=origin.url)
    question = pktline.fetch([repo.oid()])
    if kept:
        Reader(pannier.port).post(f"/origin/{path}.git/git-upload-pack", question).read_response()
    slow = Reader(pannier.port, receive_buffer=4096)
    slow.post(f"/origin/{path}.git/git-upload-pack", question).read_until(b"PACK")
    [answer] = pannier.wait_answers()
    clone_all(pannier, others, tmp_path / "people")
    assert pannier.space()["evicted"] > 0
    assert answer.exists()
    status, said = slow.read_response()
    assert status == 200 and pktline.pack_is_whole(said)
    slow.leave()


def test_some_of_the_disk_stays_free(start, origin, several, small_disk, tmp_path):
    disk = small_disk("32m")
    pannier = start(config={"cache": {"local_size": "100%", "min_free": "16M"}}, origin=origin.url,
                    data=disk / "data")

    def taken():
        space = os.statvfs(disk)
        return (space.f_blocks - space.f_bavail) * space.f_frsize

    with Watch(taken) as watch:
        clone_all(pannier, several(8, 3), tmp_path / "people")
    assert watch.most <= 16 * MEGABYTE + (PEOPLE + BACKGROUND) * PIECE + SLACK
    assert pannier.space()["evicted"] > 0
    assert pannier.warnings() == []
    # Others fill it: what is kept here makes way, and clones go on.
    (disk / "ballast").write_bytes(b"x" * (14 * MEGABYTE))
    until(lambda: taken() <= 16 * MEGABYTE, "room was made for others")
    clone_all(pannier, several(4, 3), tmp_path / "others")
    until(lambda: taken() <= 16 * MEGABYTE, "nothing was kept that has no room")


def test_what_grew_before_a_kill_is_measured_anew(pannier, simple, git):
    git.clone(pannier.url_of("public/simple"))
    mirror = pannier.wait_mirror("public/simple")
    pannier.wait_answers()
    pannier.stop()
    (mirror / "objects" / "info" / "grown").write_bytes(b"x" * MEGABYTE)
    pannier.start()
    until(lambda: abs(pannier.space()["total"] - pannier.usage()) <= 16384, "what it counts is what is there")
