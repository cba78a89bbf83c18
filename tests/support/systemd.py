"""Plays systemd: passes sockets that listen, and hears when the service is ready."""
import ctypes
import os
import socket
import sys
import threading

from .net import HOST
from .wait import DEADLINE

CLONE_NEWNET = 0x40000000


def in_an_own_network(make):
    """What make() returns, called by a thread with a network namespace that nobody else has: a socket of it
    may be bound to any address and is reached by nobody."""
    made = []

    def run():
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        made.append(make())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return made[0]


# What execs the service: the sockets have to be 3, 4, ... and LISTEN_PID its own.
LAUNCH = """
import fcntl, os, sys
fds = [int(fd) for fd in os.environ.pop("PASS_FDS").split(",") if fd]
aside = [fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in fds]
for i, fd in enumerate(aside):
    os.dup2(fd, 3 + i, inheritable=True)
os.environ["LISTEN_PID"] = os.environ.pop("OTHER_PID", str(os.getpid()))
os.environ["LISTEN_FDS"] = os.environ.pop("SAY_FDS", str(len(fds)))
os.closerange(3 + len(fds), 128)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Systemd:
    def __init__(self, folder, abstract=False):
        self.told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.told.settimeout(DEADLINE)
        if abstract:
            self.told.bind(f"\0pannier-test-{os.getpid()}")
            self.address = "@" + self.told.getsockname()[1:].decode()
        else:
            self.address = str(folder / "notify")
            self.told.bind(self.address)
        self.sockets = []

    def listen(self, kind=socket.SOCK_STREAM, wide=False):
        """A socket as a .socket unit opens it; its port.  wide: on all addresses, of a network of its own."""
        opened = in_an_own_network(lambda: socket.socket(socket.AF_INET, kind)) if wide else \
            socket.socket(socket.AF_INET, kind)
        opened.bind(("" if wide else HOST, 0))
        if kind == socket.SOCK_STREAM:
            opened.listen(128)
        self.sockets.append(opened)
        return opened.getsockname()[1]

    def hear(self):
        """The next message, as a dict."""
        return dict(line.split("=", 1) for line in self.told.recv(4096).decode().splitlines())

    def silent(self):
        self.told.setblocking(False)
        try:
            return self.told.recv(4096) is None
        except BlockingIOError:
            return True
        finally:
            self.told.settimeout(DEADLINE)

    def environment(self, names=None, **more):
        out = {"NOTIFY_SOCKET": self.address, "PASS_FDS": ",".join(str(s.fileno()) for s in self.sockets), **more}
        if names:
            out["LISTEN_FDNAMES"] = ":".join(names)
        return out

    def wrap(self, pannier, names=None, **more):
        """Have it started by us, with the sockets."""
        pannier.env.update(self.environment(names, **more))
        pannier.wrapper = [sys.executable, "-c", LAUNCH]
        pannier.pass_fds = [s.fileno() for s in self.sockets]
        return pannier

    def close(self):
        self.told.close()
        for opened in self.sockets:
            opened.close()
