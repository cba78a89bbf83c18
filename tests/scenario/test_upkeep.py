"""Mirrors are maintained while they are cloned from and fetched into."""
import json

from support.wait import until

CONFIG = {"cache": {"maintenance_interval": "100ms"}}


def packs(mirror):
    """(listed, on the disk)"""
    listed = (mirror / "pannier-packs").read_text().splitlines()
    on_disk = list((mirror / "objects" / "pack").glob("pack-*.pack"))
    return len([line for line in listed if line.startswith("pack-")]), len(on_disk)


def damaged(pannier):
    return json.loads(pannier.health()[1])["mirrors"]["damaged"]


def fetch_often(pannier, path, repo, git, count):
    """Each commit upstream is fetched at once; yields after each."""
    mine = git.clone(pannier.url_of(path))
    pannier.wait_mirror(path)
    for n in range(count):
        repo.commit(text=f"change {n}")
        git.run("pull", "-q", "--ff-only", pannier.url_of(path), "main", cwd=mine)
        yield n


def test_a_mirror_that_is_fetched_into_often_keeps_few_packs(start, origin, own, git):
    path, repo = own()
    pannier = start(CONFIG, origin=origin.url)
    for _ in fetch_often(pannier, path, repo, git, 24):
        pass
    pannier.wait_event("mirror maintained")

    def few():
        listed, on_disk = packs(pannier.mirror(path))
        return listed < 12 and listed == on_disk

    until(few, "few packs are left, and no old ones")
    git.clone_alike(pannier.url_of(path), origin.url_of(path))
    assert damaged(pannier) == 0


def test_kill_9_amid_upkeep_leaves_whole_mirrors(start, origin, own, git):
    path, repo = own()
    pannier = start(CONFIG, origin=origin.url)
    for n in fetch_often(pannier, path, repo, git, 40):
        if n % 4 == 3:
            assert damaged(pannier) == 0
            pannier.kill()
            pannier.start()
    git.clone_alike(pannier.url_of(path), origin.url_of(path))
    assert damaged(pannier) == 0
