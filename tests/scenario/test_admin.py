"""The admin listener: who gets in, from where, and health."""
import http.client
import json
import signal
import socket

import pytest

from support import pktline
from support.admin import Admin, tokens_file
from support.faulty import Gate
from support.gitclient import Reader
from support.net import HOST, free_port
from support.wait import until

READ, OPERATE = "a-reader's-token", "an-operator's-token"


@pytest.fixture
def guarded(start, origin, tmp_path):
    """A pannier with tokens; its file is guarded.tokens."""
    file = tokens_file(tmp_path / "tokens", scraper=("read", READ), oncall=("operate", OPERATE))
    pannier = start(origin=origin.url, config={"admin": {"tokens_file": str(file)}})
    pannier.tokens = file
    return pannier


def test_without_tokens_whoever_reaches_it_may_do_all(pannier):
    admin = Admin(pannier)
    assert admin.get("/stats")["local"]["entries"] == {"answers": 0, "mirrors": 0}
    assert admin.done("PUT", "/log/level", {"level": "warn"}) == {"level": "warn"}


def test_a_token_opens_what_its_scope_says(guarded):
    reader, operator = Admin(guarded, READ), Admin(guarded, OPERATE)
    for admin in (reader, operator):
        assert admin.get("/log/level") == {"level": "info"}
        assert admin.call("GET", "/metrics").status == 200
    assert "operate" in reader.refused(403, "PUT", "/log/level", {"level": "debug"})["detail"]
    assert operator.get("/log/level") == {"level": "info"}
    assert operator.done("PUT", "/log/level", {"level": "debug"}) == {"level": "debug"}
    assert guarded.wait_event("admin request", method="PUT", status=200)["who"] == "oncall"


@pytest.mark.parametrize("authorization", [
    None, "Bearer", "Bearer ", "Bearer wrong", f"Bearer {READ}x", f"Basic {READ}", READ])
def test_who_shows_no_known_token_is_asked_for_one(guarded, authorization):
    headers = {"Authorization": authorization} if authorization else {}
    answer = Admin(guarded).call("GET", "/api/v1/stats", headers=headers)
    assert answer.status == 401 and answer.problem
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_tokens_that_change_hold_at_once(guarded):
    old, new = Admin(guarded, READ), Admin(guarded, "another")
    old.get("/stats")
    tokens_file(guarded.tokens, scraper=("read", "another"))
    old.refused(401, "GET", "/stats")
    new.get("/stats")
    guarded.tokens.write_text("nonsense\n")
    new.get("/stats")
    assert "nonsense" not in guarded.wait_event("tokens refused, the old ones go on")["reason"]


def test_a_token_is_nowhere_told(guarded):
    Admin(guarded, READ).refused(403, "PUT", "/log/level", {"level": "debug"})
    Admin(guarded, "a-wrong-token").refused(401, "GET", "/stats")
    guarded.stop()
    assert READ not in guarded.output() and "a-wrong-token" not in guarded.output()


def test_beyond_loopback_it_wants_tokens(start, origin, tmp_path):
    pannier = start(origin=origin.url, launch=False, arguments=["--admin-listen", f"0.0.0.0:{free_port()}"])
    code, said = pannier.run_to_end()
    assert code == 2 and "admin.listen: is beyond loopback" in said
    missing = start(origin=origin.url, launch=False, config={"admin": {"tokens_file": f"{tmp_path}/none"}})
    code, said = missing.run_to_end()
    assert code == 1 and f"{tmp_path}/none: cannot be read" in said


def test_an_address_that_is_taken_is_refused_unless_it_is_the_default(start, origin):
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        pannier = start(origin=origin.url, launch=False, arguments=["--admin-listen", f"{HOST}:{port}"])
        code, said = pannier.run_to_end()
    assert code == 1 and "admin.listen: listen on" in said


def test_it_can_be_off(start, origin, git, simple):
    pannier = start(origin=origin.url, arguments=["--admin-listen", "off"])
    git.clone(pannier.url_of("public/simple"))
    with pytest.raises(ConnectionRefusedError):
        Admin(pannier).get("/stats")
    assert "admin" not in pannier.wait_event("listening")


# Browsers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host, status", [
    ("localhost", 200), ("LOCALHOST:{port}", 200), ("127.0.0.1:{port}", 200), ("[::1]:{port}", 200),
    ("pannier.example.org", 200), ("other.example.org:{port}", 200), ("evil.example.org", 421),
    ("localhost.evil.org", 421), ("127.0.0.1.evil.org", 421), ("", 421), ("pannier.example.or", 421)])
def test_a_name_that_is_not_ours_is_refused(start, origin, host, status):
    config = {"admin": {"hosts": "pannier.example.org, other.example.org"}}
    admin = Admin(start(origin=origin.url, config=config))
    answer = admin.call("GET", "/api/v1/stats", host=host.format(port=admin.pannier.admin_port) or " ")
    assert answer.status == status
    if status != 200:
        assert "admin.hosts" in answer.problem["detail"]


def test_with_a_token_the_name_is_of_no_interest(guarded):
    assert Admin(guarded, READ).call("GET", "/metrics", host="node-7.internal").status == 200
    assert Admin(guarded).call("GET", "/metrics", host="node-7.internal").status == 421


@pytest.mark.parametrize("headers, status", [
    ({}, 200),
    ({"Origin": "http://{host}", "Sec-Fetch-Site": "same-origin"}, 200),
    ({"Sec-Fetch-Site": "none"}, 200),
    ({"Origin": "http://evil.example.org"}, 403),
    ({"Origin": "null"}, 403),
    ({"Origin": "http://{host}0"}, 403),
    ({"Sec-Fetch-Site": "cross-site"}, 403),
    ({"Sec-Fetch-Site": "same-site"}, 403),
])
def test_a_page_of_another_origin_changes_nothing(pannier, headers, status):
    admin = Admin(pannier)
    own = f"{HOST}:{pannier.admin_port}"
    headers = {name: value.format(host=own) for name, value in headers.items()}
    answer = admin.call("POST", "/api/v1/evict", {"dry_run": True}, headers)
    assert answer.status == status
    assert admin.call("GET", "/api/v1/stats", headers=headers).status == 200


def test_a_form_changes_nothing(pannier):
    for kind in ("text/plain", "application/x-www-form-urlencoded", None):
        headers = {"Content-Type": kind} if kind else {}
        answer = Admin(pannier).call("POST", "/api/v1/evict", raw=b"{}", headers=headers)
        assert answer.status == 415 and answer.problem


# Bounds --------------------------------------------------------------------------------------------


def test_a_large_body_is_refused(pannier):
    admin = Admin(pannier)
    large = {"to_bytes": 1, "padding": "x" * 100_000}
    assert admin.call("POST", "/api/v1/evict", large).status == 413
    chunks = [b"x" * 50_000] * 2
    assert admin.call("POST", "/api/v1/evict", raw=iter(chunks),
                      headers={"Content-Type": "application/json"}).status == 413


def test_clients_are_served_while_operators_hang(pannier, git, simple):
    hanging = [socket.create_connection((HOST, pannier.admin_port)) for _ in range(20)]
    for one in hanging:
        one.sendall(b"POST /api/v1/evict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{")
    git.clone(pannier.url_of("public/simple"))
    Admin(pannier).get("/stats")
    for one in hanging:
        one.close()


# Health --------------------------------------------------------------------------------------------


def get(port, path, method="GET"):
    connection = http.client.HTTPConnection(HOST, port, timeout=30)
    try:
        connection.request(method, path, headers={"Host": "whoever.asks"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_both_listeners_say_how_it_is_to_everybody(guarded):
    for port in (guarded.port, guarded.admin_port):
        status, body = get(port, "/healthz")
        assert status == 200 and b'"status":"ok"' in body
        until(lambda: get(port, "/readyz")[0] == 200, "it serves")
        assert get(port, "/readyz") == (200, b'{"status":"ready","degraded":[]}\n')
        assert get(port, "/readyz", "HEAD") == (200, b"")


def test_what_is_degraded_is_named_and_it_serves_nevertheless(start, origin, git, simple):
    config = {"shared": {"driver": "s3", "endpoint": f"http://{HOST}:{free_port()}", "bucket": "none"}}
    keys = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "a-key-of-nobody"}
    pannier = start(origin=origin.url, config=config, env=keys)
    status, body = until(lambda: b"shared" in (said := get(pannier.port, "/readyz"))[1] and said,
                         "the shared tier is known to be away")
    (part,) = json.loads(body)["degraded"]
    assert status == 200 and part["part"] == "shared" and part["reason"]
    git.clone(pannier.url_of("public/simple"))
    metrics = Admin(pannier).metrics()
    assert metrics["pannier_shared_up"] == 0 and metrics["pannier_ready"] == 1


def test_it_is_not_ready_while_it_sees_clients_off(behind, upstream, simple):
    gate = upstream.on("fetch", Gate(after=40))
    reader = Reader(behind.port).post("/origin/public/simple.git/git-upload-pack", pktline.fetch([simple.oid()]))
    reader.read_until(b"packfile")
    gate.wait_held()
    behind.signal(signal.SIGTERM)
    status, body = until(lambda: (said := get(behind.admin_port, "/readyz"))[0] == 503 and said,
                         "it is not ready any more")
    assert json.loads(body)["status"] == "draining"
    assert get(behind.admin_port, "/healthz")[0] == 200
    (node,) = Admin(behind).get("/nodes")["nodes"]
    assert node["state"] == "draining"
    gate.open()
    assert reader.read_response()[0] == 200
    assert behind.wait() == 0
    behind.check_sane()


def test_who_listens_to_events_does_not_keep_it_from_its_end(pannier):
    events = Admin(pannier).events()
    pannier.signal(signal.SIGTERM)
    assert pannier.wait(15) == 0
    events.close()
    pannier.check_sane()
