#!/usr/bin/python3
"""Ceph's RADOS gateway on loopback: a real S3 server, from Debian's packages, in some seconds.

    rgw = Rgw()                  a whole cluster of one monitor, one disk and one gateway
    rgw.s3                       an S3 client with the right keys and a bucket
    rgw.osd.kill(); rgw.osd.start(); rgw.wait_usable()      the disk dies, and comes back with all it had
    rgw.gateway.kill()                   connections are refused; what the disk has stays
    rgw.revive()                         starts again what was killed, and waits
    rgw.stop()

While the disk is away the gateway takes requests and answers none; they go on when it is back.

As a command it runs another one with PANNIER_TEST_S3 set, as unit tests and benches read it:

    tests/support/rgw.py build/asan/tests/test_object_store
"""
import atexit
import http.client
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.net import HOST, accepts, free_port  # noqa: E402
from support.s3client import S3  # noqa: E402
from support.wait import until  # noqa: E402

PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "radosgw", "radosgw-admin")
ACCESS_KEY = "TESTACCESSKEY0000001"
SECRET_KEY = "testsecretkey00000000000000000000000001"
BUCKET = "pannier"
DNS_NAME = "s3.localhost"  # bucket.s3.localhost is the virtual host
SIZE = 20 << 30  # of the disk; a sparse file
START = 120  # seconds that a daemon may take to be usable

# What is not the default, and why it must not be:
#   crc, none       no keys between the daemons, hence no encryption of what they say
#   paxos_, tick    the monitor waits for others that do not exist
#   chooseleaf 0    one disk is enough for a copy
#   tcp_nodelay     without it each small answer waits 40 ms for an acknowledgement
#   ops_log, usage  nobody reads them
CONFIG = """\
[global]
fsid = {fsid}
mon_host = [v2:127.0.0.1:{mon_v2}/0,v1:127.0.0.1:{mon_v1}/0]
ms_bind_ipv4 = true
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
ms_mon_client_mode = crc
mon_warn_on_insecure_global_id_reclaim_allowed = false
keyring = {folder}/keyring
run_dir = {folder}/run
admin_socket = {folder}/run/$name.asok
log_file = {folder}/log/$name.log
pid_file = {folder}/run/$name.pid
setuser_match_path =
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 4
osd_pool_default_pgp_num = 4
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_warn_on_pool_no_redundancy = false
mon_max_pg_per_osd = 1000
mon_data_avail_crit = 1
mon_data_avail_warn = 2
mon_compact_on_start = false
paxos_propose_interval = 0.02
paxos_min_wait = 0.01
mon_tick_interval = 1
[mon]
mon_data = {folder}/mon
mon_cluster_log_file = {folder}/log/cluster.log
mon_osd_report_timeout = 900
[osd]
osd_data = {folder}/osd
osd_objectstore = bluestore
osd_class_dir = {classes}
bluestore_block_size = {size}
bluestore_block_wal_size = 0
bluestore_block_db_size = 0
bluestore_fsck_on_mount = false
osd_memory_target = 939524096
[client.rgw.a]
rgw_data = {folder}/rgw
rgw_frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw_dns_name = {dns_name}
debug_rgw = 0/0
rgw_enable_usage_log = false
rgw_enable_ops_log = false
rgw_thread_pool_size = 64
rgw_gc_obj_min_wait = 60
rgw_lc_debug_interval = -1
"""


def missing():
    """Programs that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


class Daemon:
    """Ends with the thread that started it, however that ends."""

    def __init__(self, command, log, env):
        self.command, self.log, self.env = ["setpriv", "--pdeathsig", "KILL", *command], log, env
        self.process = None

    def start(self):
        assert not self.runs(), f"{self.command[3]} runs"
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, env=self.env, start_new_session=True)

    def runs(self):
        return self.process is not None and self.process.poll() is None

    def check(self):
        """It should run."""
        if not self.runs():
            said = self.log.read_text(errors="replace").strip()[-2000:]
            raise AssertionError(f"{self.command[3]} ended: {said}")

    def kill(self):
        """As a power failure does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class Rgw:
    def __init__(self):
        if missing():
            raise AssertionError(f"not installed: {', '.join(missing())} (tests/run installs them)")
        # Not below pytest's folders: the path of a unix socket has at most 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="rgw-"))
        self.port = free_port()
        self.endpoint = f"http://{HOST}:{self.port}"
        self.env = dict(os.environ, CEPH_CONF=str(self.folder / "ceph.conf"))
        self.daemons = []
        atexit.register(self.stop)
        try:
            self.configure()
            self.start()
        except BaseException:
            self.stop()
            raise

    @property
    def words(self):
        """As in PANNIER_TEST_S3."""
        return (f"endpoint={self.endpoint} bucket={BUCKET} access_key={ACCESS_KEY} "
                f"secret_key={SECRET_KEY}")

    def run(self, *command, timeout=120):
        done = subprocess.run([str(c) for c in command], env=self.env, capture_output=True,
                              text=True, timeout=timeout)
        if done.returncode != 0:
            raise AssertionError(f"{command[0]} failed: {done.stderr.strip()[-2000:]}")
        return done.stdout

    def daemon(self, name, *command):
        made = Daemon([str(c) for c in command], self.folder / "log" / f"{name}.out", self.env)
        self.daemons.append(made)
        made.start()
        return made

    def configure(self):
        for name in ("mon", "osd", "run", "log", "rgw"):
            (self.folder / name).mkdir()
        self.fsid = uuid.uuid4()
        self.mon_v2, self.mon_v1 = free_port(), free_port()
        classes = next(iter(Path("/usr/lib").glob("*/rados-classes")), "/usr/lib/rados-classes")
        (self.folder / "ceph.conf").write_text(CONFIG.format(
            folder=self.folder, fsid=self.fsid, mon_v2=self.mon_v2, mon_v1=self.mon_v1,
            port=self.port, dns_name=DNS_NAME, classes=classes, size=SIZE))

    def start(self):
        folder = self.folder
        keyring = folder / "keyring"
        self.run("ceph-authtool", "-C", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        self.run("ceph-authtool", keyring, "--gen-key", "-n", "client.admin", "--cap", "mon",
                 "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *")
        self.run("monmaptool", "--create", "--fsid", self.fsid, "--addv", "a",
                 f"[v2:{HOST}:{self.mon_v2},v1:{HOST}:{self.mon_v1}]",
                 "--set-min-mon-release", "pacific", folder / "monmap")
        self.run("ceph-mon", "--mkfs", "-i", "a", "--monmap", folder / "monmap", "--keyring", keyring)
        self.mon = self.daemon("mon", "ceph-mon", "-i", "a", "-f")
        osd = uuid.uuid4()
        self.run("ceph", "osd", "new", osd)
        self.run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self.osd = self.daemon("osd", "ceph-osd", "-i", "0", "-f")
        self.gateway = self.daemon("rgw", "radosgw", "-n", "client.rgw.a", "-f")
        self.wait()
        self.run("radosgw-admin", "-n", "client.rgw.a", "user", "create", "--uid=tests",
                 "--display-name=tests", f"--access-key={ACCESS_KEY}", f"--secret-key={SECRET_KEY}")
        self.s3 = S3(self.endpoint, BUCKET, ACCESS_KEY, SECRET_KEY)
        self.s3.make_bucket()

    def wait(self):
        """Until the gateway listens; it does not before the disk is there."""
        def listens():
            for daemon in self.daemons:
                daemon.check()
            return accepts(self.port)
        until(listens, "the gateway listens", START)

    def wait_usable(self):
        """Until an object can be put: after a daemon was started again."""
        def put():
            for daemon in self.daemons:
                daemon.check()
            try:
                return self.s3.put("wait-usable", b"x").status == 200
            except (OSError, http.client.HTTPException):
                return False
        until(put, "the gateway takes an object", START)
        self.s3.remove("wait-usable")

    def revive(self):
        """For the end of a test: all runs and works again, whatever was done to it."""
        dead = [daemon for daemon in self.daemons if not daemon.runs()]
        for daemon in dead:
            daemon.start()
        if dead:
            self.wait_usable()

    def stop(self):
        atexit.unregister(self.stop)
        for daemon in reversed(self.daemons):
            daemon.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def main(make=Rgw, usage=__doc__):
    """Run the command of our arguments with such a server."""
    if len(sys.argv) < 2:
        sys.exit(usage)
    # A timeout(1) around it must not leave the daemons behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    server = make()
    try:
        return subprocess.run(sys.argv[1:], env=dict(os.environ, PANNIER_TEST_S3=server.words)).returncode
    finally:
        server.stop()


if __name__ == "__main__":
    sys.exit(main())
