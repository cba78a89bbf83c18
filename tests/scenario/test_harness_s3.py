"""The tools of the shared tier's tests, proven without pannier: a real S3 server that can be killed,
and a front of it that counts, holds, cuts and lies."""
import datetime
import http.client
import random
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.faulty_s3 import (Gate, asks, bucket_missing, changed, cut, flipped, lost, never, slow_down,
                               stall, wrong_clock)
from support.net import HOST, Tap, accepts
from support.wait import until

KIB = 1024
BODY = random.Random("harness").randbytes(300 * KIB)


@pytest.fixture
def through(own_s3, odd_s3):
    """The same objects as own_s3's, by way of the front."""
    return own_s3.but(endpoint=odd_s3.url)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(8) as pool:
        yield pool


def broken(action):
    """It ends without a whole response."""
    with pytest.raises((OSError, http.client.HTTPException)):
        action()


# The client -----------------------------------------------------------------------------------------


def test_objects_are_listed_read_damaged_and_removed(own_s3):
    for name in ("a/1", "a/2 &<+>", "b"):
        own_s3.write(name, BODY[:100])
    assert own_s3.objects() == {"a/1": 100, "a/2 &<+>": 100, "b": 100}
    assert own_s3.keys("a/") == ["a/1", "a/2 &<+>"]
    own_s3.damage("a/1", at=-1)
    damaged = own_s3.read("a/1")
    assert damaged[:99] == BODY[:99] and damaged[99] == BODY[99] ^ 0xFF
    own_s3.shorten("b", 10)
    assert own_s3.read("b") == BODY[:10]
    own_s3.remove("a/1")
    assert own_s3.get("a/1").status == 404
    own_s3.clear()
    assert own_s3.keys() == []


def test_a_long_list_comes_whole(own_s3, pool):
    names = [f"{n:04}" for n in range(1001)]
    list(pool.map(lambda name: own_s3.write(name, b""), names))
    assert own_s3.keys() == names
    list(pool.map(own_s3.remove, names))


def test_prefixes_are_apart(own_s3, rgw):
    other = rgw.s3.below("other-")
    own_s3.write("key", b"mine")
    assert other.get("key").status == 404 and other.keys() == []
    assert own_s3.below("k").keys() == ["ey"]


def test_a_wrong_key_and_a_missing_bucket_are_refused(own_s3):
    assert b"SignatureDoesNotMatch" in own_s3.but(secret_key="wrong").get("key").body
    assert b"InvalidAccessKeyId" in own_s3.but(access_key="NOBODY").get("key").body
    assert b"NoSuchBucket" in own_s3.but(bucket="nowhere").get("key").body


def test_a_signed_url_opens_one_object(own_s3):
    own_s3.write("a key", BODY)
    assert urllib.request.urlopen(own_s3.presigned("a key"), timeout=60).read() == BODY
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(own_s3.presigned("a key")[:-1], timeout=60)


def test_an_upload_in_parts_is_seen_until_it_is_aborted(own_s3):
    begun = own_s3.request("POST", "parts", uploads="").body.decode()
    upload = begun.partition("<UploadId>")[2].partition("<")[0]
    assert own_s3.request("PUT", "parts", BODY, partNumber="1", uploadId=upload).status == 200
    assert own_s3.unfinished() == [("parts", upload)] and own_s3.keys() == []
    assert own_s3.request("DELETE", "parts", uploadId=upload).status == 204
    assert own_s3.unfinished() == []


# The server is killed ---------------------------------------------------------------------------------


def test_what_was_put_is_there_after_the_disk_and_the_gateway_were_killed(own_s3, rgw):
    own_s3.write("kept", BODY)
    rgw.osd.kill()
    rgw.gateway.kill()
    assert not accepts(rgw.port)
    rgw.revive()
    assert own_s3.read("kept") == BODY


def test_an_upload_waits_for_a_killed_disk_and_goes_on(own_s3, odd_s3, through, rgw, pool):
    gate = odd_s3.on("put", Gate(after=100 * KIB))
    put = pool.submit(through.put, "key", BODY)
    gate.wait_held()
    rgw.osd.kill()
    gate.open()
    until(lambda: odd_s3.bytes_up("put") == len(BODY), "all of it is on its way")
    assert not put.done()
    rgw.revive()
    assert put.result().status == 200 and own_s3.read("key") == BODY


def test_an_upload_fails_when_the_gateway_is_killed_and_nothing_of_it_is_seen(own_s3, odd_s3, through, rgw, pool):
    gate = odd_s3.on("put", Gate(after=100 * KIB))
    put = pool.submit(through.put, "key", BODY)
    gate.wait_held()
    rgw.gateway.kill()
    gate.open()
    broken(put.result)
    broken(lambda: through.get("key"))
    rgw.revive()
    assert own_s3.get("key").status == 404
    assert through.put("key", BODY).status == 200


def test_the_servers_end_with_who_started_them():
    """A run that is killed leaves nothing behind."""
    code = ("import sys; sys.path.insert(0, sys.argv[1])\nfrom pathlib import Path\n"
            "from support.rgw import Daemon\n"
            "d = Daemon(['sleep', '300'], Path('/dev/null'), None)\n"
            "d.start(); print(d.process.pid, flush=True); sys.stdin.read()\n")
    started = subprocess.Popen([sys.executable, "-c", code, str(Path(__file__).resolve().parents[1])],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    pid = int(started.stdout.readline())
    until(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n", "it has begun")
    started.send_signal(signal.SIGKILL)
    started.wait()

    def gone():
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except FileNotFoundError:
            return True

    until(gone, "the server ends")


# The front ------------------------------------------------------------------------------------------


def test_the_front_relays_and_counts_by_kind_and_key(own_s3, odd_s3, through):
    through.write("a/1", BODY)
    through.write("b/ä 2", b"x")
    assert through.read("a/1") == BODY and through.read("b/ä 2") == b"x"
    assert through.head("a/1").headers["content-length"] == str(len(BODY))
    assert through.keys() == ["a/1", "b/ä 2"]
    through.remove("b/ä 2")
    assert own_s3.keys() == ["a/1"]
    kinds = [a.kind for a in odd_s3.requests()]
    assert kinds == ["put", "put", "get", "get", "head", "list", "remove"]
    assert odd_s3.count("put") == odd_s3.count("PUT") == 2
    assert odd_s3.count("get", "a/") == odd_s3.count("get", "b/ä 2") == 1
    assert odd_s3.count("get head", "a/") == 2 and odd_s3.count("DELETE") == 1
    assert odd_s3.count("list", own_s3.prefix) == 1
    assert odd_s3.bytes_up("put", "a/") == len(BODY) and odd_s3.bytes_up() == len(BODY) + 1
    assert odd_s3.bytes_down("get", "a/") == len(BODY) and odd_s3.bytes_down("head") == 0
    assert {a.status for a in odd_s3.requests()} == {200, 204}
    odd_s3.forget()
    assert odd_s3.count() == 0


def test_the_front_knows_the_steps_of_an_upload_in_parts(odd_s3, through, own_s3):
    begun = through.request("POST", "parts", uploads="").body.decode()
    upload = begun.partition("<UploadId>")[2].partition("<")[0]
    part = through.request("PUT", "parts", BODY, partNumber="1", uploadId=upload)
    document = ("<CompleteMultipartUpload><Part><PartNumber>1</PartNumber>"
                f"<ETag>{part.headers['etag']}</ETag></Part></CompleteMultipartUpload>").encode()
    assert through.request("POST", "parts", document, uploadId=upload).status == 200
    through.request("DELETE", "parts", uploadId="none")
    assert [a.kind for a in odd_s3.requests()] == ["begin", "part", "complete", "abort"]
    assert own_s3.read("parts") == BODY


def test_one_connection_carries_many_requests(odd_s3, through, rgw):
    connection = http.client.HTTPConnection(HOST, odd_s3.port, timeout=60)
    for method, key, body in (("PUT", "k", BODY), ("GET", "k", b""), ("HEAD", "k", b""),
                              ("DELETE", "k", b""), ("GET", "k", b"")):
        headers = {"host": f"{HOST}:{odd_s3.port}"}
        path = f"/{through.bucket}/{through.prefix}{key}"
        through.sign(method, path, "", headers, body)
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        response.read()
        assert connection.sock is not None
    assert response.status == 404
    connection.close()


def test_a_gate_holds_an_upload_in_its_middle(own_s3, odd_s3, through, pool):
    gate = odd_s3.on(asks("put", "held"), Gate(after=100 * KIB))
    puts = [pool.submit(through.put, f"held/{n}", BODY) for n in range(2)]
    gate.wait_held(2)
    assert through.put("other", b"").status == 200
    assert [a.up for a in odd_s3.requests("put", "held")] == [100 * KIB] * 2
    assert own_s3.keys() == ["other"] and not any(p.done() for p in puts)
    gate.open()
    assert [p.result().status for p in puts] == [200, 200]
    assert own_s3.read("held/1") == BODY


def test_a_gate_holds_a_download_in_its_middle(own_s3, odd_s3, through, pool):
    own_s3.write("key", BODY)
    gate = odd_s3.on("get", Gate(after=1000))
    get = pool.submit(through.get, "key")
    gate.wait_held()
    assert odd_s3.bytes_down("get") == 1000 and not get.done()
    gate.open()
    assert get.result().body == BODY


def test_a_gate_holds_before_anything_is_asked(own_s3, odd_s3, through, pool):
    own_s3.write("key", b"old")
    gate = odd_s3.on("get", Gate())
    get = pool.submit(through.get, "key")
    gate.wait_held()
    own_s3.write("key", b"new")
    gate.open()
    assert get.result().body == b"new"


def test_a_gate_may_break_off(own_s3, odd_s3, through, pool):
    gate = odd_s3.on("put", Gate(after=1000, breaks=True))
    put = pool.submit(through.put, "key", BODY)
    gate.wait_held()
    gate.open()
    broken(put.result)
    assert own_s3.keys() == []


def test_closing_the_front_lets_go_what_it_holds(odd_s3, through, pool):
    odd_s3.on("get", never)
    odd_s3.on("put", Gate())
    held = [pool.submit(through.get, "key"), pool.submit(through.put, "key", b"x")]
    until(lambda: odd_s3.count() == 2, "both are asked")
    odd_s3.close()
    broken(held[0].result)
    held[1].exception()


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_bodies_are_cut_in_both_directions(own_s3, odd_s3, through, reset):
    own_s3.write("down", BODY)
    odd_s3.on("get", cut(after=1000, reset=reset), times=1)
    odd_s3.on("put", cut(after=1000, reset=reset), times=1)
    broken(lambda: through.get("down"))
    broken(lambda: through.put("up", BODY))
    assert odd_s3.bytes_down("get") == odd_s3.bytes_up("put") == 1000
    assert own_s3.keys() == ["down"]
    assert through.read("down") == BODY and through.put("up", BODY).status == 200


def test_an_answer_is_lost_and_the_object_is_there(own_s3, odd_s3, through):
    odd_s3.on("put", lost, times=1)
    broken(lambda: through.put("key", BODY))
    assert own_s3.read("key") == BODY


def test_wrong_bytes_come(own_s3, odd_s3, through):
    own_s3.write("key", BODY)
    odd_s3.on("get", flipped(1000), times=1)
    got = through.read("key")
    assert len(got) == len(BODY) and [n for n in range(len(got)) if got[n] != BODY[n]] == [1000]
    odd_s3.on("get", changed(lambda body: body[:10]), times=1)
    assert through.read("key") == BODY[:10]
    assert through.read("key") == BODY


def test_it_slows_down_so_many_times(odd_s3, through):
    odd_s3.on(asks("get put"), slow_down(retry_after=1), times=3)
    replies = [through.get("key"), through.put("key", BODY), through.get("key"), through.put("key", BODY)]
    assert [r.status for r in replies] == [503, 503, 503, 200]
    assert b"SlowDown" in replies[0].body and replies[0].headers["retry-after"] == "1"
    odd_s3.on("put", slow_down(early=True), times=1)
    try:
        assert through.put("key", b"x" * 100).status == 503
    except OSError:
        pass  # it closes on what it did not read


def test_it_hangs_before_and_in_a_body(own_s3, odd_s3, through, pool):
    own_s3.write("key", BODY)
    odd_s3.on("get", stall(after=1000), times=1)
    odd_s3.on("head", never)
    hanging = [pool.submit(through.get, "key"), pool.submit(through.head, "key")]
    until(lambda: odd_s3.bytes_down("get") == 1000, "some of it comes")
    assert through.read("key") == BODY
    assert not any(h.done() for h in hanging)
    odd_s3.close()
    for h in hanging:
        broken(h.result)


def test_its_clock_is_wrong(odd_s3, through):
    odd_s3.on("get", wrong_clock(ahead=7200))
    reply = through.get("key")
    date = datetime.datetime.strptime(reply.headers["date"], "%a, %d %b %Y %H:%M:%S GMT")
    ahead = (date - datetime.datetime.utcnow()).total_seconds()
    assert reply.status == 403 and b"RequestTimeTooSkewed" in reply.body and 7000 < ahead < 7400


def test_its_bucket_is_missing(odd_s3, through):
    odd_s3.on(asks(), bucket_missing(), times=2)
    assert b"NoSuchBucket" in through.get("key").body and through.put("key", BODY).status == 404
    assert through.put("key", BODY).status == 200


def test_a_tap_counts_bytes_in_both_directions(own_s3, rgw):
    tap = Tap(rgw.port)
    through = own_s3.but(endpoint=tap.url)
    through.write("key", BODY)
    there = tap.bytes_there
    assert len(BODY) < there < len(BODY) + 2000
    assert through.read("key") == BODY
    assert len(BODY) < tap.bytes < len(BODY) + 2000
    assert tap.bytes_there - there < 2000
    tap.close()
