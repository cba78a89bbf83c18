#!/usr/bin/python3
"""OpenStack Swift with s3api on loopback: a second opinion on how requests are signed.

It takes signatures to the letter, region included, and knows no conditional PUT.  Not part of
tests/run; a person starts it:

    apt-get install swift-proxy swift-account swift-container swift-object memcached
    tests/support/swift.py build/asan/tests/test_object_store

(Debian starts nothing of it by itself where /usr/sbin/policy-rc.d says 101, as tests/run has it.)
The command runs with PANNIER_TEST_S3 set.  Files are in /dev/shm: Swift wants extended attributes,
which few file systems give to everybody."""
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.net import HOST, accepts, free_port  # noqa: E402
from support.rgw import Daemon, main  # noqa: E402
from support.s3client import S3  # noqa: E402
from support.wait import until  # noqa: E402

PROGRAMS = ("swift-ring-builder", "swift-proxy-server", "swift-account-server",
            "swift-container-server", "swift-object-server", "memcached")
MEMORY = "/dev/shm"
ACCESS_KEY = "test:tester"  # account and user of tempauth
SECRET_KEY = "testsecretkey00000000000000000000000001"
REGION = "north-1"  # not what a client takes by default: it is checked
BUCKET = "pannier"
KINDS = ("account", "container", "object")
START = 60

COMMON = """\
[DEFAULT]
bind_ip = {host}
bind_port = {port}
workers = 0
user = {user}
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
log_level = WARNING
"""

BACKEND = COMMON + """\
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""

# s3api stands before the one who knows the users, and slo behind it makes one object of parts.
PROXY = COMMON + """\
[pipeline:main]
pipeline = catch_errors cache s3api tempauth copy slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:cache]
use = egg:swift#memcache
memcache_servers = {host}:{memcached}
[filter:s3api]
use = egg:swift#s3api
location = {region}
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = {secret} .admin
[filter:copy]
use = egg:swift#copy
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
"""


def missing():
    """Programs that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


class Swift:
    def __init__(self):
        if missing():
            raise AssertionError(f"not installed: {', '.join(missing())}")
        self.folder = Path(tempfile.mkdtemp(prefix="swift-", dir=MEMORY))
        self.ports = {kind: free_port() for kind in (*KINDS, "proxy", "memcached")}
        self.endpoint = f"http://{HOST}:{self.ports['proxy']}"
        self.daemons = []
        try:
            self.configure()
            self.start()
        except BaseException:
            self.stop()
            raise

    @property
    def words(self):
        """As in PANNIER_TEST_S3."""
        return (f"endpoint={self.endpoint} bucket={BUCKET} region={REGION} access_key={ACCESS_KEY} "
                f"secret_key={SECRET_KEY}")

    def ring(self, kind):
        """One partition, one copy, one disk."""
        def builder(*arguments):
            done = subprocess.run(["swift-ring-builder", f"{kind}.builder", *map(str, arguments)],
                                  cwd=self.folder, capture_output=True, text=True)
            if done.returncode not in (0, 1):  # 1: warnings
                raise AssertionError(f"swift-ring-builder failed: {done.stdout}{done.stderr}")
        builder("create", 1, 1, 0)
        builder("add", f"r1z1-{HOST}:{self.ports[kind]}/disk", 1)
        builder("rebalance")

    def configure(self):
        (self.folder / "devices" / "disk").mkdir(parents=True)
        (self.folder / "swift.conf").write_text(
            "[swift-hash]\nswift_hash_path_prefix = tests\nswift_hash_path_suffix = tests\n"
            "[storage-policy:0]\nname = one\ndefault = yes\n")
        for kind in (*KINDS, "proxy"):
            if kind != "proxy":
                self.ring(kind)
            user = subprocess.run(["id", "-un"], capture_output=True, text=True).stdout.strip()
            (self.folder / f"{kind}.conf").write_text((PROXY if kind == "proxy" else BACKEND).format(
                host=HOST, port=self.ports[kind], user=user, folder=self.folder, kind=kind,
                memcached=self.ports["memcached"], region=REGION, secret=SECRET_KEY))

    def daemon(self, name, *command):
        made = Daemon([str(c) for c in command], self.folder / f"{name}.out", dict(os.environ))
        self.daemons.append(made)
        made.start()

        def listens():
            made.check()
            return accepts(self.ports[name])
        until(listens, f"{name} listens", START)

    def start(self):
        self.daemon("memcached", "memcached", "-l", HOST, "-p", self.ports["memcached"], "-U", 0,
                    *(("-u", "root") if os.geteuid() == 0 else ()))
        for kind in (*KINDS, "proxy"):
            self.daemon(kind, f"swift-{kind}-server", self.folder / f"{kind}.conf")
        self.s3 = S3(self.endpoint, BUCKET, ACCESS_KEY, SECRET_KEY, REGION)
        self.s3.make_bucket()

    def stop(self):
        for daemon in reversed(self.daemons):
            daemon.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(Swift, __doc__))
