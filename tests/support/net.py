"""Loopback ports, and counting what passes them."""
import fcntl
import os
import random
import socket
import tempfile
import threading
from pathlib import Path

from .wait import until

HOST = "127.0.0.1"


class Ports:
    """A range of ports from which no other process takes any while this one lives: whoever asks for one
    listens there only after a while, and of some thousand such whiles two would meet."""

    FIRST, LAST, SIZE = 10000, 32000, 500  # outgoing connections are given 32768 and more

    def __init__(self):
        self.owner = os.getpid()
        self.lock = threading.Lock()
        folder = Path(tempfile.gettempdir()) / f"pannier-test-ports-{os.getuid()}"
        folder.mkdir(exist_ok=True)
        firsts = list(range(self.FIRST, self.LAST, self.SIZE))
        random.shuffle(firsts)
        for self.first in firsts:
            self.file = open(folder / str(self.first), "w")  # the lock goes with the process
            try:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                self.file.close()
        else:
            raise AssertionError("other processes have taken all ranges of ports")
        self.next = 0

    def take(self):
        with self.lock:
            for _ in range(self.SIZE):
                port = self.first + self.next
                self.next = (self.next + 1) % self.SIZE
                with socket.socket() as s:
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    try:
                        s.bind((HOST, port))
                    except OSError:
                        continue
                return port
        raise AssertionError("no port is free")


_ports = None


def free_port():
    global _ports
    if _ports is None or _ports.owner != os.getpid():
        _ports = Ports()
    return _ports.take()


def accepts(port, host=HOST):
    try:
        socket.create_connection((host, port), timeout=1).close()
        return True
    except OSError:
        return False


def wait_for_port(port, process=None):
    def ready():
        if process is not None and process.poll() is not None:
            raise AssertionError(f"{process.args[0]} ended with {process.returncode} at start")
        return accepts(port)

    until(ready, f"port {port} accepts connections")


class Tap:
    """A relay to a port of loopback that counts the bytes that come back, and those that go there."""

    def __init__(self, port):
        self.to = port
        self.bytes = self.bytes_there = 0
        self.lock = threading.Lock()
        self.listener = socket.create_server((HOST, 0))
        self.url = f"http://{HOST}:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def accept(self):
        try:
            while True:
                client = self.listener.accept()[0]
                server = socket.create_connection((HOST, self.to))
                for pair in ((client, server, "bytes_there"), (server, client, "bytes")):
                    threading.Thread(target=self.pump, args=pair, daemon=True).start()
        except OSError:
            return  # closed

    def pump(self, source, target, counter):
        try:
            while data := source.recv(65536):
                with self.lock:
                    setattr(self, counter, getattr(self, counter) + len(data))
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass
