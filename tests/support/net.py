"""Loopback ports, and counting what passes them."""
import random
import socket
import threading

from .wait import until

HOST = "127.0.0.1"


def free_port():
    """One that no outgoing connection is given (those have 32768 and more), as whoever asks takes it only
    after a while."""
    for _ in range(1000):
        port = random.randrange(10000, 32000)
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind((HOST, port))
            except OSError:
                continue
        return port
    raise AssertionError("no port is free")


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
