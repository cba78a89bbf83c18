"""pannier serves https: the real git, certificates of both sides, and reloads under way."""
import http.client
import shutil
import signal
import socket
import ssl
import threading

import pytest

from support import pktline, repos
from support.authority import Authority
from support.faulty import Gate
from support.gitclient import advertisement, ask, call, dechunked, same_objects
from support.net import HOST
from support.wait import DEADLINE, until


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority") / "ca")


@pytest.fixture(scope="session")
def stranger(tmp_path_factory):
    """Another authority, that nobody here trusts."""
    return Authority(tmp_path_factory.mktemp("stranger") / "ca", "a stranger")


@pytest.fixture
def certificate(authority, tmp_path):
    """Where the server's certificate and key are; tests may put others there."""
    files = {"certificate": tmp_path / "server.pem", "key": tmp_path / "server.key"}
    put(files, authority.issue("/CN=pannier"))
    return files


def put(files, issued):
    for to, source in zip((files["certificate"], files["key"]), issued):
        shutil.copy(source, to)


def with_tls(files, url, **more):
    tls = {name: str(path) for name, path in files.items()}
    return {"upstreams": [{"name": "origin", "url": url}], "tls": tls, **more}


@pytest.fixture
def serve(start, certificate):
    """serve(url of the upstream, settings of tls): a pannier that speaks https."""

    def serve(url, tls=None, **more):
        config = with_tls(certificate, url, **more)
        config["tls"].update({name: str(value) for name, value in (tls or {}).items()})
        return start(config=config)

    return serve


def https(pannier, path="public/simple"):
    return f"https://{HOST}:{pannier.port}/origin/{path}.git"


def context(authority, identity=None):
    out = ssl.create_default_context(cafile=authority.file)
    if identity:
        out.load_cert_chain(*identity)
    return out


def connect(pannier, authority, identity=None, **options):
    """A TLS connection by hand."""
    chosen = context(authority, identity)
    for name, value in options.items():
        setattr(chosen, name, value)
    plain = socket.create_connection((HOST, pannier.port), timeout=2 * DEADLINE)
    return chosen.wrap_socket(plain, server_hostname=HOST)


def keep(pannier, authority, identity=None):
    """An HTTP connection that is used again and again."""
    return http.client.HTTPSConnection(HOST, pannier.port, timeout=2 * DEADLINE,
                                       context=context(authority, identity))


def shown(pannier, authority):
    """The certificate that a new connection is shown."""
    with connect(pannier, authority) as connection:
        return connection.getpeercert(binary_form=True)


def trust(git, authority, identity=None):
    git.set("http.sslCAInfo", str(authority.file))
    if identity:
        git.set("http.sslCert", str(identity[0]))
        git.set("http.sslKey", str(identity[1]))
    return git


# Serving --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [0, 2])
def test_clones_over_tls_are_direct_clones(serve, origin, authority, git, own, protocol):
    path, _ = own(repos.big, files=3)
    pannier = serve(origin.url)
    trust(git, authority).set("protocol.version", str(protocol))
    for _ in range(2):
        git.clone_alike(https(pannier, path), origin.url_of(path))
        pannier.wait_answers()
    assert pannier.packs(2) == ["miss, upstream", "hit, local"]
    assert pannier.wait_event("listening")["scheme"] == "https"


def test_a_certificate_of_another_authority_is_refused_by_git(serve, origin, simple, stranger, git):
    pannier = serve(origin.url)
    said = trust(git, stranger).fails("clone", https(pannier), git.place())
    assert "certificate" in said


def test_one_connection_takes_many_requests(serve, origin, simple, authority):
    pannier = serve(origin.url)
    connection = keep(pannier, authority)
    connection.connect()
    first = connection.sock
    for _ in range(3):
        assert advertisement(https(pannier), connection=connection).status == 200
        answer = ask(https(pannier), pktline.fetch([simple.oid()]), connection=connection)
        assert answer.status == 200 and pktline.pack_is_whole(answer.body)
        pannier.wait_answers()
    assert connection.sock is first
    connection.close()


def test_tls_is_of_version_1_2_or_1_3_and_carries_http_1_1(serve, origin, authority):
    pannier = serve(origin.url)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        with connect(pannier, authority, minimum_version=version, maximum_version=version) as connection:
            assert connection.version() == version.name.replace("_", ".")
    chosen = context(authority)
    chosen.set_alpn_protocols(["h2", "http/1.1"])
    with socket.create_connection((HOST, pannier.port)) as plain:
        with chosen.wrap_socket(plain, server_hostname=HOST) as connection:
            assert connection.selected_alpn_protocol() == "http/1.1"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tls_1_1_is_refused(serve, origin, authority):
    pannier = serve(origin.url)
    old = context(authority)
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    with socket.create_connection((HOST, pannier.port)) as plain, pytest.raises(ssl.SSLError):
        old.wrap_socket(plain, server_hostname=HOST)


def test_plain_http_gets_nothing_and_does_no_harm(serve, origin, simple, authority, git):
    pannier = serve(origin.url)
    with socket.create_connection((HOST, pannier.port)) as plain:
        plain.settimeout(DEADLINE)
        plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        try:
            assert b"HTTP/1.1 200" not in plain.recv(1000)
        except ConnectionResetError:
            pass
    trust(git, authority).clone(https(pannier))


def test_who_never_ends_the_handshake_is_cut_off(serve, origin, authority):
    pannier = serve(origin.url, limits={"header_timeout": "300ms"})
    with socket.create_connection((HOST, pannier.port)) as plain:
        plain.settimeout(DEADLINE)
        plain.sendall(b"\x16\x03\x01")
        assert plain.recv(100) == b""


def test_a_cold_clone_streams_over_tls(serve, upstream, authority, own):
    path, repo = own(repos.big, files=3)
    pannier = serve(upstream.url)
    gate = upstream.on("fetch", Gate(after=1 << 20), times=1)
    body = pktline.fetch([repo.oid()])
    readers = [connect(pannier, authority) for _ in range(3)]
    for reader in readers:
        reader.sendall(f"POST /origin/{path}.git/git-upload-pack HTTP/1.1\r\nHost: {HOST}\r\n"
                       "Git-Protocol: version=2\r\nConnection: close\r\n"
                       "Content-Type: application/x-git-upload-pack-request\r\n"
                       f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    gate.wait_held()
    got = [b""] * len(readers)
    for i, reader in enumerate(readers):
        while len(got[i]) < 500_000:
            got[i] += reader.recv(65536)
        assert b"PACK" in got[i]
    assert upstream.requests("fetch")[1:] == []  # and upstream holds the rest
    gate.open()
    for i, reader in enumerate(readers):
        while data := reader.recv(1 << 20):
            got[i] += data
        head, _, rest = got[i].partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert pktline.pack_is_whole(dechunked(rest) if b"chunked" in head else rest)
        reader.close()


def test_a_reader_that_is_slow_gets_all_of_a_kept_answer(serve, origin, authority, own):
    path, repo = own(repos.big, files=6)
    pannier = serve(origin.url)
    body = pktline.fetch([repo.oid()])
    for _ in range(2):
        connection = keep(pannier, authority)
        connection.connect()
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        answer = ask(https(pannier, path), body, connection=connection)
        connection.close()
        assert answer.whole and pktline.pack_is_whole(answer.body)
        pannier.wait_answers()
    assert pannier.packs(2) == ["miss, upstream", "hit, local"]


def test_a_big_push_goes_through_tls(serve, origin, authority, private, person):
    path, repo = private()
    pannier = serve(origin.url)
    alice = trust(person("alice"), authority)
    clone = alice.clone(https(pannier, path))
    (clone / "big").write_bytes(bytes(range(256)) * 20000 + repo.oid().encode())
    noise = clone / "noise"
    noise.write_bytes(random_bytes(5 << 20))
    alice.run("add", ".", cwd=clone)
    oid = alice.commit(clone, "big")
    alice.run("push", "-q", "origin", "main", cwd=clone)
    assert repo.oid() == oid


def random_bytes(size):
    import random

    return random.Random(7).randbytes(size)


def test_a_body_over_the_limit_is_refused_in_its_middle(serve, origin, authority):
    """The client waits for a reply before it sends the rest."""
    pannier = serve(origin.url, limits={"body": "4K"})
    with connect(pannier, authority) as connection:
        connection.sendall(f"POST /origin/public/simple.git/git-upload-pack HTTP/1.1\r\nHost: {HOST}\r\n"
                           "Content-Type: application/x-git-upload-pack-request\r\n"
                           "Transfer-Encoding: chunked\r\n\r\n".encode())
        connection.sendall(b"2000\r\n" + b"x" * 0x2000 + b"\r\n")
        got = b""
        while b"limits.body" not in got:
            data = connection.recv(4096)
            assert data, got
            got += data
    assert got.startswith(b"HTTP/1.1 413 ") and b"Connection: close" in got
    pannier.requests(1, status=413)


# Clients' certificates ------------------------------------------------------------------------------


def test_a_client_certificate_is_required_and_its_subject_is_known(serve, origin, simple, authority, git):
    identity = authority.issue_client("/O=Example/CN=ci-runner")
    pannier = serve(origin.url, {"client_ca": authority.file})
    trust(git, authority, identity).clone(https(pannier))
    subjects = {line["subject"] for line in pannier.requests(2)}
    assert subjects == {"CN=ci-runner,O=Example"}


def refused(pannier, authority, identity=None):
    """TLS 1.3's client learns of it only when it reads."""
    connection = keep(pannier, authority, identity)
    with pytest.raises((OSError, http.client.HTTPException)):
        connection.request("GET", "/healthz")
        connection.getresponse()
    connection.close()


def test_who_has_no_certificate_or_a_strangers_is_turned_away(serve, origin, simple, authority, stranger, git):
    pannier = serve(origin.url, {"client_ca": authority.file})
    refused(pannier, authority)
    refused(pannier, authority, stranger.issue_client("/CN=ci-runner"))
    refused(pannier, authority, authority.issue_client("/CN=ci-runner", "serverAuth"))
    trust(git, authority).fails("clone", https(pannier), git.place())
    assert pannier.requests() == []


def test_a_certificate_may_be_optional_but_never_wrong(serve, origin, simple, authority, stranger, git):
    pannier = serve(origin.url, {"client_ca": authority.file, "client": "optional"})
    trust(git, authority).clone(https(pannier))
    assert not any("subject" in line for line in pannier.requests(2))
    refused(pannier, authority, stranger.issue_client("/CN=ci-runner"))
    connection = keep(pannier, authority, authority.issue_client("/CN=somebody"))
    for _ in range(2):
        assert call(https(pannier) + "/info/refs?service=git-upload-pack", connection=connection).status == 200
    connection.close()
    assert len(pannier.requests(2, subject="CN=somebody")) == 2


# Reloads --------------------------------------------------------------------------------------------


def reload(pannier, event="configuration reloaded", count=1):
    pannier.signal(signal.SIGHUP)
    pannier.wait_lines(lambda l: l.get("event") == event, count, event)


def test_a_reload_shows_the_new_certificate_while_a_slow_clone_goes_on(
    serve, upstream, authority, certificate, own, git, origin
):
    path, _ = own(repos.big, files=3)
    pannier = serve(upstream.url)
    gate = upstream.on("fetch", Gate(after=1 << 20), times=1)
    done = []
    trust(git, authority)
    clone = threading.Thread(target=lambda: done.append(git.clone(https(pannier, path))))
    clone.start()
    gate.wait_held()
    connection = keep(pannier, authority)
    connection.request("GET", "/healthz")
    connection.getresponse().read()
    before = shown(pannier, authority)
    put(certificate, authority.issue("/CN=renewed"))
    reload(pannier)
    after = shown(pannier, authority)
    assert before != after
    # Who was connected before goes on as well.
    connection.request("GET", "/healthz")
    assert connection.getresponse().read()
    assert connection.sock.getpeercert(binary_form=True) == before
    connection.close()
    gate.open()
    clone.join()
    same_objects(done[0], git.clone(origin.url_of(path)))


def test_reloads_and_new_connections_at_once(serve, origin, simple, authority, certificate, git):
    pannier = serve(origin.url)
    trust(git, authority)
    known = set()
    stop = threading.Event()
    troubles = []

    def connecting():
        try:
            while not stop.is_set():
                connection = keep(pannier, authority)
                answer = advertisement(https(pannier), connection=connection)
                assert answer.status == 200
                connection.close()
        except Exception as trouble:
            troubles.append(trouble)

    threads = [threading.Thread(target=connecting) for _ in range(4)]
    for thread in threads:
        thread.start()
    for n in range(1, 6):
        put(certificate, authority.issue(f"/CN=renewed {n}"))
        reload(pannier, count=n)
        known.add(shown(pannier, authority))
    stop.set()
    for thread in threads:
        thread.join()
    assert troubles == [] and len(known) == 5


def test_who_may_connect_changes_with_a_reload(serve, origin, simple, authority, stranger, tmp_path):
    trusted = tmp_path / "clients.pem"
    shutil.copy(authority.file, trusted)
    pannier = serve(origin.url, {"client_ca": trusted})
    ours, theirs = authority.issue_client("/CN=ours"), stranger.issue_client("/CN=theirs")
    refused(pannier, authority, theirs)
    shutil.copy(stranger.file, trusted)
    reload(pannier)
    refused(pannier, authority, ours)
    assert advertisement(https(pannier), connection=keep(pannier, authority, theirs)).status == 200


WRONG = {
    "no such certificate": (lambda f: f["certificate"].unlink(), "tls.certificate"),
    "no such key": (lambda f: f["key"].unlink(), "tls.key"),
    "no certificate in it": (lambda f: f["certificate"].write_text("hello\n"), "tls.certificate"),
    "no key in it": (lambda f: f["key"].write_text("hello\n"), "tls.key"),
    "half a certificate": (lambda f: f["certificate"].write_text(f["certificate"].read_text()[:300]), "tls.certificate"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_file_is_one_sentence_at_start(start, certificate, what):
    spoil, word = WRONG[what]
    spoil(certificate)
    code, text = start(config=with_tls(certificate, "http://127.0.0.1:1"), launch=False).run_to_end()
    assert code == 1
    assert [l for l in text.splitlines() if word in l] == text.splitlines()
    assert str(certificate[word.removeprefix("tls.")]) in text


def test_a_key_of_another_certificate_and_an_authority_without_certificates_are_said(start, authority, certificate, tmp_path):
    shutil.copy(authority.issue("/CN=other")[1], certificate["key"])
    code, text = start(config=with_tls(certificate, "http://127.0.0.1:1"), launch=False).run_to_end()
    assert code == 1 and "is not the key of" in text and len(text.splitlines()) == 1
    put(certificate, authority.issue("/CN=pannier"))
    (tmp_path / "empty.pem").write_text("")
    files = {**certificate, "client_ca": tmp_path / "empty.pem"}
    code, text = start(config=with_tls(files, "http://127.0.0.1:1"), launch=False).run_to_end()
    assert code == 1 and "tls.client_ca" in text and len(text.splitlines()) == 1


def test_half_of_the_settings_is_refused(start, certificate):
    del certificate["key"]
    code, text = start(config=with_tls(certificate, "http://127.0.0.1:1"), launch=False).run_to_end()
    assert code == 2 and "tls.key" in text


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_file_at_a_reload_leaves_the_old_one(serve, origin, simple, authority, certificate, git, what):
    pannier = serve(origin.url)
    before = shown(pannier, authority)
    spoil, word = WRONG[what]
    spoil(certificate)
    reload(pannier, "configuration refused, the old one goes on")
    assert word in pannier.wait_event("configuration refused, the old one goes on")["reason"]
    assert shown(pannier, authority) == before
    trust(git, authority).clone(https(pannier))


def test_from_http_to_https_takes_a_restart(start, origin, simple, certificate, git):
    pannier = start(config={"upstreams": [{"name": "origin", "url": origin.url}]})
    pannier.write_config(with_tls(certificate, origin.url))
    reload(pannier)
    assert "tls" in pannier.wait_event("these settings need a restart")["settings"]
    git.clone(pannier.url_of("public/simple"))


def test_a_certificate_that_runs_out_is_said(serve, origin, authority, certificate):
    put(certificate, authority.issue("/CN=short", days=3))
    pannier = serve(origin.url)
    assert pannier.wait_event("the certificate runs out")["days_left"] in (2, 3)


def test_a_stop_lets_a_clone_over_tls_end(serve, upstream, authority, own, git):
    path, repo = own(repos.big, files=3)
    pannier = serve(upstream.url)
    gate = upstream.on("fetch", Gate(after=1 << 20), times=1)
    done = []
    trust(git, authority)
    clone = threading.Thread(target=lambda: done.append(git.clone(https(pannier, path))))
    clone.start()
    gate.wait_held()
    pannier.signal(signal.SIGTERM)
    pannier.wait_event("stopping")
    gate.open()
    clone.join()
    assert pannier.wait() == 0
    assert done and until(lambda: repo.oid() in git.run("rev-parse", "HEAD", cwd=done[0]), "the clone's head")


# Nodes among themselves -------------------------------------------------------------------------------


def test_nodes_follow_each_other_by_https(cluster, authority, certificate, simple, git):
    def node(name):
        config = cluster.settings(name, shared=False, tls={k: str(v) for k, v in certificate.items()})
        config["cluster"].update(tls=True, ca_file=str(authority.file))
        started = cluster.tier.start(config=config)
        started.name = name
        cluster.nodes.append(started)
        return started

    a, b = node("a"), node("b")
    until(lambda: set(cluster.who(a)) == {"a", "b"}, "a knows of b")
    git.set("http.sslCAInfo", str(authority.file))
    for n, result in ((a, "miss, upstream"), (b, "hit, peer")):
        git.run("clone", "-q", https(n), f"from-{n.name}")
        assert n.packs(1) == [result]
        n.wait_answers()
