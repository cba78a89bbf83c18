"""What the operator does: start, look after, reload, stop."""
import http.client
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from support import pktline, repos
from support.faulty import Gate
from support.gitclient import Reader, advertisement, ask, call, same_objects
from support.net import accepts
from support.wait import until

TARGET = "/origin/public/simple.git/git-upload-pack"


# Health ---------------------------------------------------------------------------------------------


def test_healthz_says_ok(pannier):
    status, text = pannier.health()
    assert status == 200 and "degraded" not in text.lower().replace('"degraded":false', "").replace('"degraded": false', "")
    # Which version of git's protocol it was is a question of git's requests.
    assert "protocol" not in pannier.requests(1, result="health")[0]


def test_listening_is_logged_with_the_address(pannier):
    line = pannier.wait_event("listening")
    assert str(pannier.port) in str(line)


def test_a_disk_that_is_full_makes_it_pass_things_through(start, origin, small_disk, git):
    repo = origin.make("public/medium", repos.big, files=3)
    disk = small_disk("8m")
    (disk / "ballast").write_bytes(b"x" * (7 << 20))
    pannier = start(origin=origin.url, data=disk / "data")
    for _ in range(2):
        same_objects(git.clone(pannier.url_of("public/medium"), "--mirror"), repo.path, same_refs=False)
    status, text = pannier.health()
    assert status == 200 and "degraded" in text
    assert pannier.answers() == []
    assert len([w for w in pannier.warnings() if "No space" in str(w) or "no room" in str(w)]) == 1


def test_a_full_disk_that_has_room_again_is_used_again(start, origin, small_disk, git):
    origin.make("public/medium", repos.big, files=3)
    origin.make("public/simple")
    disk = small_disk("5m")
    pannier = start(origin=origin.url, data=disk / "data")
    ballast = disk / "ballast"
    ballast.write_bytes(b"x" * (4 << 20))
    git.clone(pannier.url_of("public/medium"))
    assert "degraded" in pannier.health()[1]
    ballast.unlink()
    git.clone(pannier.url_of("public/simple"))
    pannier.wait_answers()
    until(lambda: '"degraded":true' not in pannier.health()[1].replace(" ", ""), "health is well again")


def test_a_disk_without_a_byte_left_while_many_read(start, upstream, small_disk, origin):
    """The fill goes over to passing through in mid-stream; followers keep what they have joined."""
    repo = origin.make("public/medium", repos.big, files=3)
    pannier = start(origin=upstream.url, data=small_disk("2m") / "data")
    gate = upstream.on("fetch", Gate(after=1 << 20), times=1)
    body = pktline.fetch([repo.oid()])
    readers = [Reader(pannier.port).post("/origin/public/medium.git/git-upload-pack", body) for _ in range(2)]
    gate.wait_held()
    for reader in readers:
        reader.read_until(b"PACK")
    gate.open()
    with ThreadPoolExecutor() as pool:
        for status, said in pool.map(lambda r: r.read_response(), readers):
            assert status == 200 and pktline.pack_is_whole(said)


# The data folder ------------------------------------------------------------------------------------


def fails_to_start(pannier, *words):
    code, text = pannier.run_to_end()
    assert code == 1, text
    assert len(text.strip()) > 10
    for word in words:
        assert str(word) in text


def test_a_data_folder_that_cannot_be_made_is_said_at_start(start, tmp_path):
    (tmp_path / "file").write_text("")
    fails_to_start(start(data=tmp_path / "file" / "data", launch=False), tmp_path / "file" / "data")


def test_a_data_folder_that_is_read_only_is_said_at_start(start, small_disk):
    folder = small_disk("1m", "ro")
    fails_to_start(start(data=folder, launch=False), folder)


def test_a_data_folder_of_another_version_is_left_alone(start, origin):
    pannier = start(origin=origin.url)
    pannier.stop()
    version = pannier.data / "version"
    version.write_text("99999\n")
    fails_to_start(pannier, pannier.data, "version")
    assert version.read_text() == "99999\n"


def test_two_do_not_serve_from_one_data_folder(start, origin, simple, git):
    first = start(origin=origin.url)
    git.clone(first.url_of("public/simple"))
    first.wait_answers()
    fails_to_start(start(data=first.data, launch=False), first.data, "in use by another pannier")
    git.clone(first.url_of("public/simple"))
    assert first.packs(2) == ["miss, upstream", "hit, local"]


def test_a_data_folder_is_free_again_after_kill_9(pannier, simple, git):
    pannier.kill()
    pannier.start()
    git.clone(pannier.url_of("public/simple"))


def test_a_port_in_use_is_said_at_start(start, origin, tmp_path):
    first = start(origin=origin.url)
    second = start(launch=False)
    second.arguments = ["--listen", f"127.0.0.1:{first.port}"]
    fails_to_start(second, first.port)


# Reload ---------------------------------------------------------------------------------------------


def upstreams(**urls):
    return {"upstreams": [{"name": name, "url": url} for name, url in urls.items()]}


def test_sighup_takes_a_new_configuration_over(start, origin, simple):
    pannier = start(config=upstreams(origin=origin.url))
    assert advertisement(pannier.url_of("public/simple", "second")).status == 403
    pannier.write_config(upstreams(second=origin.url))
    pannier.signal(signal.SIGHUP)
    until(lambda: advertisement(pannier.url_of("public/simple", "second")).status == 200, "the new upstream is there")
    assert advertisement(pannier.url_of("public/simple")).status == 403


@pytest.mark.parametrize("bad", ["upstreams: [", "no_such_key: 1\n", "limits:\n  body: plenty\n"])
def test_sighup_with_a_bad_file_changes_nothing_and_says_why(start, origin, simple, git, bad):
    pannier = start(config=upstreams(origin=origin.url))
    pannier.write_config(bad)
    pannier.signal(signal.SIGHUP)
    until(lambda: [w for w in pannier.warnings() if str(pannier.config_file) in str(w)], "the refusal is logged")
    git.clone(pannier.url_of("public/simple"))
    pannier.write_config(upstreams(third=origin.url))
    pannier.signal(signal.SIGHUP)
    until(lambda: advertisement(pannier.url_of("public/simple", "third")).status == 200, "a good file is taken again")


def test_sighup_leaves_transfers_alone(start, upstream, simple):
    pannier = start(config=upstreams(origin=upstream.url))
    gate = upstream.on("fetch", Gate(after=40))
    reader = Reader(pannier.port).post(TARGET, pktline.fetch([simple.oid()]))
    gate.wait_held()
    pannier.write_config(upstreams(other=upstream.url))
    pannier.signal(signal.SIGHUP)
    until(lambda: advertisement(pannier.url_of("public/simple")).status == 403, "the new configuration is there")
    gate.open()
    status, body = reader.read_response()
    assert status == 200 and pktline.pack_is_whole(body)


# Stopping -------------------------------------------------------------------------------------------


def held(pannier, upstream, repo):
    gate = upstream.on("fetch", Gate(after=40))
    reader = Reader(pannier.port).post(TARGET, pktline.fetch([repo.oid()]))
    reader.read_until(b"packfile")
    gate.wait_held()
    return gate, reader


def test_sigterm_lets_a_running_transfer_end(behind, upstream, simple):
    gate, reader = held(behind, upstream, simple)
    idle = Reader(behind.port)
    behind.signal(signal.SIGTERM)
    until(lambda: not accepts(behind.port), "no new connections")
    assert behind.process.poll() is None
    gate.open()
    status, body = reader.read_response()
    assert status == 200 and pktline.pack_is_whole(body)
    assert behind.wait() == 0
    behind.check_sane()
    idle.leave()


def test_a_second_sigterm_ends_at_once(behind, upstream, simple):
    held(behind, upstream, simple)
    behind.signal(signal.SIGTERM)
    until(lambda: not accepts(behind.port), "the first is taken")
    behind.signal(signal.SIGTERM)
    behind.wait(10)
    behind.check_sane()


def test_shutdown_grace_is_the_longest_it_takes(start, upstream, simple):
    pannier = start(origin=upstream.url, config={"shutdown_grace": "300ms"})
    _, reader = held(pannier, upstream, simple)
    pannier.signal(signal.SIGTERM)
    assert pannier.wait(15) == 0
    pannier.check_sane()
    assert not reader.read_all().endswith(b"0\r\n\r\n")  # broken off, not ended as if it were whole


def test_sigterm_with_nothing_to_do_ends_at_once(pannier):
    waiting = [Reader(pannier.port) for _ in range(3)]
    call(f"{pannier.url}/healthz")
    pannier.signal(signal.SIGTERM)
    assert pannier.wait(15) == 0
    for reader in waiting:
        reader.leave()


def test_sigint_is_as_good(pannier):
    pannier.signal(signal.SIGINT)
    assert pannier.wait(15) == 0


def test_after_sigterm_the_answer_of_the_last_transfer_is_kept(behind, upstream, simple):
    gate, reader = held(behind, upstream, simple)
    behind.signal(signal.SIGTERM)
    until(lambda: not accepts(behind.port), "it is stopping")
    gate.open()
    assert reader.read_response()[0] == 200
    assert behind.wait() == 0
    behind.start()
    assert pktline.pack_is_whole(ask(behind.url_of("public/simple"), pktline.fetch([simple.oid()])).body)
    assert behind.packs(1) == ["hit, local"]


def test_nobody_reading_the_log_stops_nothing(pannier, simple, git):
    """stderr is a full pipe: log lines are dropped, requests go on."""
    pannier.deaf.set()
    connection = http.client.HTTPConnection("127.0.0.1", pannier.port, timeout=30)
    for _ in range(1000):
        assert call(f"{pannier.url}/healthz", connection=connection).status == 200
    connection.close()
    git.clone(pannier.url_of("public/simple"))
    pannier.deaf.clear()


def test_it_runs_as_small_as_it_says(pannier, simple, git):
    for _ in range(3):
        git.clone(pannier.url_of("public/simple"))
    assert pannier.threads() < 60
    until(lambda: pannier.children() == {}, "no git program is left behind")
