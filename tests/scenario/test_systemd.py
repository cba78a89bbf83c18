"""Under systemd, played by a few lines of Python: its sockets, and what it is told."""
import os
import shutil
import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from support import repos
from support.admin import Admin, tokens_file
from support.faulty import Gate
from support.gitclient import advertisement
from support.net import HOST, accepts
from support.systemd import Systemd
from support.wait import DEADLINE

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


@pytest.fixture(params=["path", "abstract"])
def systemd(request, tmp_path):
    systemd = Systemd(tmp_path, request.param == "abstract")
    yield systemd
    systemd.close()


@pytest.fixture
def one(tmp_path):
    systemd = Systemd(tmp_path)
    yield systemd
    systemd.close()


def test_it_is_told_of_the_start_a_reload_and_the_stop(start, origin, systemd):
    pannier = systemd.wrap(start(config={"upstreams": [{"name": "origin", "url": origin.url}]}, launch=False))
    pannier.start()
    assert systemd.hear() == {"READY": "1"}
    pannier.signal(signal.SIGHUP)
    reloading = systemd.hear()
    assert reloading["RELOADING"] == "1" and int(reloading["MONOTONIC_USEC"]) > 0
    assert systemd.hear() == {"READY": "1"}
    pannier.stop()
    assert systemd.hear() == {"STOPPING": "1"}


def test_a_refused_reload_is_over_as_well(start, origin, one):
    pannier = one.wrap(start(config={"upstreams": [{"name": "origin", "url": origin.url}]}, launch=False))
    pannier.start()
    one.hear()
    pannier.write_config("nonsense: 1\n")
    pannier.signal(signal.SIGHUP)
    assert "RELOADING" in one.hear() and one.hear() == {"READY": "1"}


def test_what_cannot_start_is_never_ready(start, one, tmp_path):
    (tmp_path / "file").write_text("")
    pannier = one.wrap(start(data=tmp_path / "file" / "data", launch=False))
    assert pannier.run_to_end()[0] == 1
    assert one.silent()


def test_a_notify_socket_that_is_gone_is_no_trouble(start, origin, simple, one, git):
    pannier = one.wrap(start(origin=origin.url, launch=False))
    one.told.close()
    os.unlink(one.address)
    git.clone(pannier.start().url_of("public/simple"))


def test_it_serves_on_a_socket_that_it_is_passed(start, origin, simple, one, git):
    port = one.listen()
    pannier = one.wrap(start(origin=origin.url, launch=False), ["clients"])
    pannier.spawn()
    assert one.hear() == {"READY": "1"}
    assert pannier.wait_event("listening")["address"] == f"{HOST}:{port}"
    assert not accepts(pannier.port)  # what --listen says isn't used
    git.clone_alike(f"http://{HOST}:{port}/origin/public/simple.git", origin.url_of("public/simple"))


def test_a_wide_socket_for_operators_is_refused_without_tokens(start, one, tmp_path):
    one.listen(wide=True)
    code, said = one.wrap(start(launch=False), ["admin"]).run_to_end()
    assert code == 1 and "beyond loopback" in said and "admin.tokens_file" in said, said
    assert one.silent()
    tokens = tokens_file(tmp_path / "tokens", me=("read", "a-token-of-mine"))
    allowed = one.wrap(start(config={"admin": {"tokens_file": str(tokens)}}, launch=False), ["admin"])
    allowed.spawn()
    assert one.hear() == {"READY": "1"}


def test_operators_are_served_on_a_socket_that_it_is_passed(start, origin, one):
    port = one.listen()
    pannier = one.wrap(start(origin=origin.url, launch=False), ["admin"])
    pannier.spawn()
    other, pannier.admin_port = pannier.admin_port, port
    assert one.hear() == {"READY": "1"}
    assert pannier.wait_event("listening")["admin"] == f"{HOST}:{port}"
    (node,) = Admin(pannier).get("/nodes")["nodes"]
    assert node["admin"] == f"{HOST}:{port}" and not accepts(other)


def test_connections_wait_while_it_restarts(start, origin, simple, one):
    port = one.listen()
    pannier = one.wrap(start(origin=origin.url, launch=False))
    pannier.spawn()
    one.hear()
    pannier.stop()
    waiting = socket.create_connection((HOST, port), timeout=DEADLINE)
    waiting.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    pannier.spawn()
    assert waiting.recv(1000).startswith(b"HTTP/1.1 200")
    waiting.close()


def test_it_drains_a_clone_on_a_passed_socket(start, upstream, own, one, git):
    path, _ = own(repos.big, files=2)
    port = one.listen()
    pannier = one.wrap(start(origin=upstream.url, launch=False))
    pannier.spawn()
    one.hear()
    gate = upstream.on("fetch", Gate(after=100_000), times=1)
    done = []
    clone = threading.Thread(target=lambda: done.append(git.clone(f"http://{HOST}:{port}/origin/{path}.git")))
    clone.start()
    gate.wait_held()
    pannier.signal(signal.SIGTERM)
    assert one.hear() == {"STOPPING": "1"}
    gate.open()
    clone.join()
    assert pannier.wait() == 0 and done


def test_sockets_for_somebody_else_are_left_alone(start, origin, simple, one, git):
    """LISTEN_PID names another process: a parent forgot to remove the variables."""
    one.listen()
    pannier = one.wrap(start(origin=origin.url, launch=False), OTHER_PID="1")
    pannier.start()
    git.clone(pannier.url_of("public/simple"))


@pytest.mark.parametrize("names", [["a", "b"], ["clients", "clients"], None])
def test_two_sockets_for_clients_are_refused(start, one, names):
    one.listen(), one.listen()
    code, text = one.wrap(start(launch=False), names).run_to_end()
    assert code == 1 and "two sockets for clients" in text and len(text.splitlines()) == 1


def test_what_does_not_listen_is_refused(start, one):
    one.listen(socket.SOCK_DGRAM)
    code, text = one.wrap(start(launch=False), ["clients"]).run_to_end()
    assert code == 1 and "no listening stream socket" in text and "clients" in text


@pytest.mark.parametrize("count", ["-1", "many", "1000000"])
def test_a_number_of_sockets_that_makes_no_sense_is_refused(start, one, count):
    code, text = one.wrap(start(launch=False), SAY_FDS=count).run_to_end()
    assert code == 1 and "LISTEN_FDS" in text


def test_the_socket_is_not_for_children(start, origin, simple, one, git):
    one.listen()
    pannier = one.wrap(start(origin=origin.url, launch=False))
    pannier.spawn()
    one.hear()
    port = one.sockets[0].getsockname()[1]
    assert advertisement(f"http://{HOST}:{port}/origin/public/simple.git").status == 200
    opened = [os.readlink(f"/proc/{pannier.process.pid}/fd/{fd}") for fd in (3,)]
    assert opened[0].startswith("socket:")
    flags = Path(f"/proc/{pannier.process.pid}/fdinfo/3").read_text()
    octal = int(flags.split("flags:")[1].split()[0], 8)
    assert octal & os.O_CLOEXEC and octal & os.O_NONBLOCK


def test_the_units_are_right(tmp_path):
    if not shutil.which("systemd-analyze"):
        pytest.skip("there is no systemd-analyze here")
    for name in ("pannier.service", "pannier.socket"):
        text = (DEPLOY / name).read_text().replace("/usr/local/bin/pannier", "/bin/true")
        (tmp_path / name).write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", tmp_path / "pannier.service", tmp_path / "pannier.socket"],
                          capture_output=True, text=True)
    ours = [line for line in done.stderr.splitlines() if "pannier" in line]
    assert done.returncode == 0 and ours == [], done.stderr
