"""Many at once: one transfer, whoever comes, leaves, stalls or is refused."""
import pytest

from support import pktline, repos
from support.faulty import Gate, reply
from support.gitclient import Reader, ask, same_objects, wait_traced
from support.wait import until

BIG = 16 << 20  # more than the socket buffers of both sides hold


@pytest.fixture(scope="module")
def big(origin):
    return origin.make("public/big", repos.big, files=16)


@pytest.fixture
def target():
    return "/origin/public/big.git/git-upload-pack"


def whole(reader):
    status, body = reader.read_response()
    return status == 200 and pktline.pack_is_whole(body)


@pytest.mark.parametrize("options, marker", [
    ((), b"< packfile"),
    (("--depth=1",), b"< packfile"),
    (("-c", "protocol.version=0"), b"< NAK"),
], ids=["full", "shallow", "protocol 0"])
def test_twenty_cold_clones_at_once_cost_one_pack(behind, upstream, origin, simple, git, tmp_path, options, marker):
    gate = upstream.on("fetch", Gate(after=40 if marker == b"< packfile" and not options else 200))
    clones, traces = [], []
    for n in range(20):
        traces.append(tmp_path / f"trace{n}")
        clones.append(git.start("clone", "-q", *options, behind.url_of("public/simple"), f"twin{n}",
                                GIT_TRACE_PACKET=str(traces[-1])))
    for trace in traces:
        wait_traced(trace, marker)  # each has joined the stream and follows it
    assert [c.poll() for c in clones] == [None] * 20
    gate.open()
    for clone in clones:
        _, said = clone.communicate(timeout=120)
        assert clone.returncode == 0, said
    assert len(upstream.requests("fetch")) == 1
    assert sorted(behind.packs(20)) == ["hit, coalesced"] * 19 + ["miss, upstream"]
    direct = git.clone(origin.url_of("public/simple"), *options)
    for n in (0, 19):
        same_objects(git.home / f"twin{n}", direct)


def test_a_clone_streams_while_upstream_is_still_sending(behind, upstream, big, target):
    gate = upstream.on("fetch", Gate(after=1 << 20))
    first, late = Reader(behind.port), Reader(behind.port)
    first.post(target, pktline.fetch([big.oid()])).read_until(b"PACK")
    gate.wait_held()
    late.post(target, pktline.fetch([big.oid()])).read_until(b"PACK")
    for reader in (first, late):
        until(lambda: len(reader.read_until(reader.got[:1])) > 0, "bytes")
        while len(reader.got) < 900_000:
            reader.got += reader.socket.recv(65536)
    gate.open()
    assert whole(first) and whole(late)
    assert len(upstream.requests("fetch")) == 1


@pytest.mark.parametrize("who", ["the first", "a later one", "both"])
@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_reader_that_leaves_does_not_stop_the_others(behind, upstream, big, target, who, how):
    gate = upstream.on("fetch", Gate(after=1 << 20))
    readers = []
    for _ in range(3):
        readers.append(Reader(behind.port).post(target, pktline.fetch([big.oid()])))
        readers[-1].read_until(b"PACK")
    leaving = {"the first": [0], "a later one": [1], "both": [0, 1]}[who]
    for n in leaving:
        readers[n].leave(reset=how == "reset")
    gate.wait_held()
    gate.open()
    for n in set(range(3)) - set(leaving):
        assert whole(readers[n])
    assert len(upstream.requests("fetch")) == 1
    behind.wait_answers()


def test_when_all_have_left_the_next_one_gets_all(behind, upstream, big, target):
    gate = upstream.on("fetch", Gate(after=1 << 20))
    reader = Reader(behind.port).post(target, pktline.fetch([big.oid()]))
    reader.read_until(b"PACK")
    gate.wait_held()
    reader.leave(reset=True)
    gate.open()
    assert pktline.pack_is_whole(ask(behind.url_of("public/big"), pktline.fetch([big.oid()])).body)


def test_a_reader_that_stalls_does_not_slow_the_others(behind, upstream, big, target):
    stalled = Reader(behind.port, receive_buffer=4096).post(target, pktline.fetch([big.oid()]))
    stalled.read_until(b"PACK")
    for _ in range(2):
        assert pktline.pack_is_whole(ask(behind.url_of("public/big"), pktline.fetch([big.oid()])).body)
    behind.wait_answers()
    assert len(upstream.requests("fetch")) == 1
    assert whole(stalled)  # having taken its time, it gets the rest


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_a_reader_that_takes_nothing_is_cut_off(start, origin, big, target, warm):
    pannier = start(origin=origin.url, config={"limits": {"stall_timeout": "500ms"}})
    if warm:
        ask(pannier.url_of("public/big"), pktline.fetch([big.oid()]))
        pannier.wait_answers()
    stalled = Reader(pannier.port, receive_buffer=4096).post(target, pktline.fetch([big.oid()]))
    stalled.read_until(b"PACK")
    # The log line of the broken-off request is the sign.
    pannier.requests(2 if warm else 1, service="upload-pack")
    assert len(stalled.read_all()) < BIG
    assert pktline.pack_is_whole(ask(pannier.url_of("public/big"), pktline.fetch([big.oid()])).body)


def test_the_first_ones_401_does_not_fail_those_who_follow(behind, upstream, private):
    """Then the next one's credential leads."""
    path, repo = private(read=["alice", "bob"])
    refusal = reply(401, WWW_Authenticate='Basic realm="expired"')
    gate = upstream.on("fetch", Gate(after=None, then=refusal), times=1)
    body, target = pktline.fetch([repo.oid()]), f"/origin/{path}.git/git-upload-pack"
    alice = Reader(behind.port).post(target, body, "alice")
    gate.wait_held()
    ask(behind.url_of(path), pktline.ls_refs(), user="bob")  # as git does
    bob = Reader(behind.port).post(target, body, "bob")
    gate.open()
    assert alice.read_response()[0] == 401
    assert whole(bob)
    assert [a.user for a in upstream.requests("fetch")] == ["alice", "bob"]


def test_those_who_follow_a_fill_that_fails_are_told_at_once(behind, upstream, big, git, tmp_path):
    gate = upstream.on("fetch", Gate(after=1 << 20, breaks=True), times=1)
    clones = []
    for n in range(3):
        trace = tmp_path / f"trace{n}"
        clones.append(git.start("clone", "-q", behind.url_of("public/big"), f"clone{n}", GIT_TRACE_PACKET=str(trace)))
        wait_traced(trace, b"< packfile")
    gate.open()
    for clone in clones:
        _, said = clone.communicate(timeout=60)
        assert clone.returncode != 0
        assert "remote: " in said or "remote error: " in said
    assert behind.answers() == []
    git.clone(behind.url_of("public/big"))


def test_a_refresh_that_twenty_need_is_made_once(behind, upstream, own, git):
    path, repo = own()
    git.clone(behind.url_of(path))
    behind.wait_mirror(path)
    repo.commit()
    ask(behind.url_of(path), pktline.ls_refs())  # as git does
    gate = upstream.on("fetch", Gate(after=None))
    bodies = [pktline.fetch([repo.oid()], extra=[f"deepen {n}"]) for n in range(1, 6)]
    target = f"/origin/{path}.git/git-upload-pack"
    readers = [Reader(behind.port).post(target, body) for body in bodies for _ in range(4)]
    gate.wait_held()
    gate.open()
    assert all(whole(reader) for reader in readers)
    assert len(upstream.requests("fetch")) == 2  # the cold clone, and one refresh


def test_beyond_the_queue_there_is_503_with_retry_after(start, upstream, own):
    pannier = start(origin=upstream.url, config={"limits": {"fills": 1, "queue": 0}})
    (one, first), (two, second) = own(), own()
    second.commit(text="differs")
    gate = upstream.on("fetch", Gate(after=40))
    reader = Reader(pannier.port).post(f"/origin/{one}.git/git-upload-pack", pktline.fetch([first.oid()]))
    gate.wait_held()
    answer = ask(pannier.url_of(two), pktline.fetch([second.oid()]))
    assert answer.status == 503 and int(answer.header("Retry-After")) > 0
    gate.open()
    assert whole(reader)
    until(lambda: ask(pannier.url_of(two), pktline.fetch([second.oid()])).status == 200, "there is room again")
    assert pktline.pack_is_whole(ask(pannier.url_of(two), pktline.fetch([second.oid()])).body)


def test_a_warm_answer_needs_no_worker(start, upstream, own):
    pannier = start(origin=upstream.url, config={"limits": {"queries": 1}})
    (warm, repo), (cold, _) = own(), own()
    asked = pktline.fetch([repo.oid()])
    assert pktline.pack_is_whole(ask(pannier.url_of(warm), asked).body)
    pannier.wait_answers()
    gate = upstream.on("refs", Gate())
    waiting = Reader(pannier.port).send(f"GET /origin/{cold}.git/info/refs?service=git-upload-pack HTTP/1.1\r\n"
                                        f"Host: pannier\r\nGit-Protocol: version=2\r\n\r\n".encode())
    gate.wait_held()  # and with it the only one who answers questions
    assert pktline.pack_is_whole(ask(pannier.url_of(warm), asked).body)
    assert pannier.packs(2)[1] == "hit, local"
    gate.open()
    assert waiting.read_response()[0] == 200


def test_many_readers_cost_no_threads_and_no_processes(behind, upstream, big, target):
    ask(behind.url_of("public/big"), pktline.fetch([big.oid()]))
    behind.wait_answers()
    behind.wait_mirror("public/big")
    readers = [Reader(behind.port, receive_buffer=4096) for _ in range(60)]
    readers[0].post(target, pktline.fetch([big.oid()])).read_until(b"PACK")
    threads = behind.threads()
    for reader in readers[1:]:
        reader.post(target, pktline.fetch([big.oid()]))
    for reader in readers[1:]:
        reader.read_until(b"PACK")
    assert behind.threads() <= threads + 32  # limits.queries: they start as they are needed
    assert behind.children() == {}
    for reader in readers:
        reader.leave()


def test_git_programs_are_bounded(start, upstream, simple, git):
    pannier = start(origin=upstream.url, config={"limits": {"git_processes": 2}})
    git.clone(pannier.url_of("public/simple"))
    pannier.wait_mirror("public/simple")
    wants = [simple.oid(f"main~{n}") for n in range(8)]
    target = "/origin/public/simple.git/git-upload-pack"
    ask(pannier.url_of("public/simple"), pktline.ls_refs())
    readers = [Reader(pannier.port).post(target, pktline.fetch([w], extra=["deepen 1"])) for w in wants]
    most = 0
    for reader in readers:
        most = max(most, len([c for c in pannier.children().values() if b"upload-pack" in c and b"pack-objects" not in c]))
        assert whole(reader)
    assert most <= 2
