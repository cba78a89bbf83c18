"""Fixtures.  One origin serves a whole run (one per process with pytest-xdist); pannier and the
clients are new for every test."""
import functools
import os
import re
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support import repos  # noqa: E402
from support.cluster import Cluster  # noqa: E402
from support.faulty import Faulty  # noqa: E402
from support.faulty_s3 import FaultyS3  # noqa: E402
from support.gitclient import Git  # noqa: E402
from support.origin import Origin  # noqa: E402
from support.pannier import Pannier, binary  # noqa: E402
from support.redis_server import RedisServer  # noqa: E402
from support.rgw import Rgw  # noqa: E402
from support.tier import Tier  # noqa: E402


@pytest.fixture(scope="session")
def origin():
    origin = Origin()
    yield origin
    origin.stop()


@pytest.fixture(scope="session")
def simple(origin):
    """The repository that most tests clone."""
    return origin.make("public/simple")


@pytest.fixture
def own(origin, request):
    """A repository that this test may change: own() -> (path, Repo)."""
    name = re.sub(r"\W+", "-", request.node.name)
    made = []

    def make(how=repos.simple, folder="public", **options):
        made.append(f"{folder}/own/{name}-{len(made)}")
        return made[-1], origin.make(made[-1], how, **options)

    return make


@pytest.fixture
def private(origin, own):
    """A new private repository: private(read=[...], push=[...]) -> (path, Repo)."""

    def make(read=("alice",), push=("alice",), **options):
        path, repo = own(folder="private", **options)
        origin.allow(path, read, push)
        return path, repo

    return make


@pytest.fixture
def upstream(origin):
    """A lying upstream in front of the origin."""
    faulty = Faulty(origin)
    yield faulty
    faulty.close()


@pytest.fixture(scope="session")
def a_rgw():
    """A real S3 server, started by the first test of each process that wants it (8 s)."""
    rgw = Rgw()
    yield rgw
    rgw.stop()


@pytest.fixture
def rgw(a_rgw):
    """The same; what a test kills of it is started again after the test."""
    yield a_rgw
    a_rgw.revive()


@pytest.fixture
def own_s3(rgw):
    """An S3 client below a prefix that is this test's own."""
    s3 = rgw.s3.below(f"{uuid.uuid4().hex[:12]}-own/")
    yield s3
    rgw.revive()
    s3.clear()


@pytest.fixture
def odd_s3(rgw):
    """A misbehaving S3 server in front of the real one."""
    faulty = FaultyS3(rgw)
    yield faulty
    faulty.close()


@pytest.fixture(scope="session")
def a_redis():
    server = RedisServer()
    yield server
    server.stop()


@pytest.fixture
def redis(a_redis):
    """A real Redis; what a test kills or freezes of it goes on after the test, with nothing in it."""
    yield a_redis
    a_redis.revive()
    a_redis.ask("FLUSHALL")


@pytest.fixture
def git(tmp_path):
    return Git(tmp_path / "home")


@pytest.fixture
def person(tmp_path):
    """A git with somebody's credentials: person("alice"), the same one each time."""
    return functools.cache(lambda user: Git(tmp_path / f"home-{user}", user))


@pytest.fixture
def start(tmp_path):
    """Start pannier; at the end it must stop cleanly: start(origin=url, config={...})."""
    if not Path(binary()).exists():
        pytest.fail(f"there is no {binary()}: build it, or say where it is in PANNIER_BIN")
    running = []

    def start(config=None, data=None, arguments=(), launch=True, env=None, **upstreams):
        folder = tmp_path / f"pannier{len(running)}"
        running.append(Pannier(folder, upstreams, config, data, arguments, env))
        return running[-1].start() if launch else running[-1]

    yield start
    problems = []
    for pannier in running:
        try:
            pannier.stop()
        except Exception as problem:  # stop the others first
            problems.append(problem)
            if pannier.process.poll() is None:
                pannier.kill()
    if problems:
        raise problems[0]


@pytest.fixture
def tier(start, own_s3, odd_s3, tmp_path, origin):
    """The shared tier, and nodes that share it."""
    tier = Tier(start, own_s3, odd_s3, tmp_path, origin.url)
    yield tier
    tier.no_secret_was_told()


@pytest.fixture
def cluster(tier, redis, tmp_path):
    """Nodes that share the tier and a Redis."""
    cluster = Cluster(tier, redis, tmp_path)
    yield cluster
    cluster.close()


@pytest.fixture
def small_disk(tmp_path):
    """small_disk("1m", "ro"): a file system of its own."""
    mounted = []

    def mount(size, *options):
        if os.geteuid() != 0:
            pytest.skip("only root can mount a small file system")
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}", *options]), "tmpfs", folder]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def pannier(start, origin):
    return start(origin=origin.url)


@pytest.fixture
def behind(start, upstream):
    """A pannier whose upstream is the lying one."""
    return start(origin=upstream.url)


def nodes_of(fixtures):
    for name, fixture in fixtures.items():
        if isinstance(fixture, Pannier):
            yield name, fixture
        elif isinstance(fixture, Tier):
            yield from ((f"{name}, node {n}", node) for n, node in enumerate(fixture.nodes, 1))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failing test shows what pannier logged."""
    report = (yield).get_result()
    if report.failed and call.when in ("call", "teardown"):
        for name, running in nodes_of(item.funcargs):
            if running.process:
                report.sections.append((f"{name}'s log", running.output()[-20000:]))
