"""What operators ask about the cache, of the process that serves and of a folder alone."""
import concurrent.futures
import contextlib
import fcntl
import json
import os
import pty
import re
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from support import pktline, repos
from support.gitclient import Reader, same_objects
from support.pannier import SANITIZER, binary
from support.wait import DEADLINE, until

FIRST, SECOND = "origin/public/simple", "origin/public/second"


@pytest.fixture(scope="module")
def second(origin):
    return origin.make("public/second", repos.simple, commits=3)


@pytest.fixture(scope="module")
def medium(origin):
    return origin.make("public/for-commands", repos.big, files=3)


class Commands:
    """Commands on one data folder: run("ls") -> how it ended; document("ls") -> its JSON."""

    def __init__(self, data):
        self.data = data

    def run(self, *arguments):
        result = subprocess.run(
            [binary(), *arguments, "--data", str(self.data)], stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=4 * DEADLINE,
        )
        assert not SANITIZER.search(result.stderr), result.stderr
        return result

    def done(self, *arguments):
        result = self.run(*arguments)
        assert (result.returncode, result.stderr) == (0, ""), result
        return result.stdout

    def document(self, *arguments):
        return json.loads(self.done(*arguments, "--json"))

    def fails(self, *arguments):
        """The one sentence of a failure."""
        result = self.run(*arguments)
        assert result.returncode == 1, result
        assert result.stdout == ""
        assert re.fullmatch(r"pannier: .+\n", result.stderr), result.stderr
        return result.stderr.removeprefix("pannier: ").rstrip("\n")


def fill(pannier, git):
    """One answer and one mirror each of two repositories."""
    clones = [git.clone(pannier.url_of(path)) for path in ("public/simple", "public/second")]
    pannier.wait_answers(2)
    commands = Commands(pannier.data)
    until(lambda: commands.run("ls").returncode == 0, "the socket is there")
    until(lambda: commands.document("ls")["count"] == 4, "two answers and two mirrors are known")
    until(lambda: "pannier: " not in commands.run("ls").stderr, "the folder was read")
    return clones


@pytest.fixture(params=["running", "alone"])
def kept(request, pannier, git, simple, second):
    """A filled folder, which a pannier serves from, or none does."""
    fill(pannier, git)
    if request.param == "alone":
        pannier.stop()
    commands = Commands(pannier.data)
    commands.running = request.param == "running"
    return commands


def by_repo(document):
    return {line["repo"]: line for line in document["repositories"]}


# What is kept --------------------------------------------------------------------------------------


def test_every_repository_is_listed_once(kept):
    document = kept.document("ls")
    assert [line["repo"] for line in document["repositories"]] == sorted([FIRST, SECOND])
    for line in document["repositories"]:
        assert line["answers"] == 1 and line["mirror"] is True
        assert line["url"].endswith(line["repo"].removeprefix("origin/") + ".git")
        assert line["size"] > 0 and line["stored_size"] > 0 and line["accessed"] > 1_700_000_000
    assert document["count"] == 4 and document["repository_count"] == 2
    assert document["stored_size"] == sum(l["stored_size"] for l in document["repositories"])
    assert document["usage"]["total"] >= document["stored_size"]


def test_the_list_is_aligned_and_has_a_sum(kept):
    title, first, second, total = kept.done("ls").splitlines()
    assert title.split("  ")[0] == "REPOSITORY"
    lines = [second, first] if FIRST in second else [first, second]
    for line, repo in zip(lines, (FIRST, SECOND)):
        assert re.fullmatch(
            rf"{repo} +1  yes  +[\d.]+ (B|KiB|MiB)  +[\d.]+ (B|KiB|MiB)  (just now|\d+ min ago)", line)
        assert line.index("  yes") + 2 == title.index("MIRROR")
    assert re.match(r"2 repositories, 4 entries of .+ on disk; the folder takes ", total)


def test_one_repository_can_be_listed(kept):
    document = kept.document("ls", SECOND)
    assert list(by_repo(document)) == [SECOND]
    assert document["count"] == 2
    assert kept.fails("ls", "origin/no/such") == "nothing is kept of origin/no/such"


def test_every_entry_can_be_listed(kept):
    entries = kept.document("ls", "--entries")["entries"]
    assert sorted((e["repo"], e["kind"]) for e in entries) == sorted(
        (repo, kind) for repo in (FIRST, SECOND) for kind in ("answer", "mirror"))
    lines = kept.done("ls", "--entries").splitlines()
    assert len(lines) == 1 + 4 + 1 and lines[0].split()[:2] == ["KIND", "REPOSITORY"]


def test_what_is_listed_lies_there(kept):
    for entry in kept.document("ls", "--entries")["entries"]:
        place = kept.data / entry["path"]
        assert place.is_dir() == (entry["kind"] == "mirror")
        files = [place] if place.is_file() else [place, *place.rglob("*")]
        assert entry["stored_size"] == sum(f.lstat().st_blocks * 512 for f in files)


def test_a_folder_says_the_same_when_nobody_serves(pannier, git, simple, second):
    fill(pannier, git)
    commands = Commands(pannier.data)
    asked = ("ls",), ("ls", "--entries"), ("show", FIRST)

    def said():
        documents = [commands.document(*arguments) for arguments in asked]
        for document in documents:
            document.pop("usage")
        return documents

    while_running = said()
    pannier.stop()
    assert said() == while_running


def test_an_empty_folder_has_an_empty_list(pannier):
    commands = Commands(pannier.data)
    until(lambda: commands.run("ls").stderr == "", "the folder was read")
    for _ in ("running", "alone"):
        document = commands.document("ls")
        assert document["repositories"] == [] and document["count"] == 0
        assert commands.done("ls").startswith("0 repositories, 0 entries")
        assert commands.document("rm", "--all")["count"] == 0
        pannier.stop()


# One repository ------------------------------------------------------------------------------------


def test_all_is_shown_that_is_known(kept, simple):
    entries = {e["kind"]: e for e in kept.document("show", FIRST)["entries"]}
    assert sorted(entries) == ["answer", "mirror"]
    answer = entries["answer"]
    assert answer["repo"] == FIRST and answer["url"].endswith("/public/simple.git")
    assert re.fullmatch(r"[0-9a-f]{16,}", answer["repo_id"])
    assert re.fullmatch(r"[0-9a-f]{40}", answer["commit"])
    assert answer["created"] <= answer["accessed"] and answer["accesses"] >= 0
    assert answer["tier"] == "local" and answer["node"] is None
    assert answer["path"].startswith("answers/") and answer["objects"] > 0
    assert entries["mirror"]["path"] == "mirrors/origin/public/simple.git"

    text = kept.done("show", FIRST)
    assert f"answer of {FIRST}\n" in text and f"mirror of {FIRST}\n" in text
    assert f"  commit        {answer['commit']}\n" in text
    assert f"  location      local, {answer['path']}, this node\n" in text
    assert re.search(r"  created       \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}\n", text)


def test_a_repository_has_many_names(kept, origin):
    expected = kept.document("show", FIRST)["entries"]
    for name in (f"{FIRST}.git", f"https://{FIRST}", f"http://{FIRST}.git/",
                 origin.url_of("public/simple")):
        assert kept.document("show", name)["entries"] == expected


def test_what_is_not_there_is_told(kept):
    for command in ("show", "rm"):
        assert kept.fails(command, "origin/no/such") == "nothing is kept of origin/no/such"
        result = kept.run(command, "origin/no/such", "--json")
        assert result.returncode == 1
        assert json.loads(result.stdout)["error"] == {
            "kind": "not-found", "text": "nothing is kept of origin/no/such"}


def test_what_was_removed_is_gone_and_the_rest_stays(kept, pannier, origin, git):
    document = kept.document("rm", FIRST)
    assert sorted(e["kind"] for e in document["entries"]) == ["answer", "mirror"]
    assert not any((kept.data / e["path"]).exists() for e in document["entries"])
    assert list(by_repo(kept.document("ls"))) == [SECOND]
    assert kept.fails("rm", FIRST) == f"nothing is kept of {FIRST}"
    if not kept.running:
        pannier.start()
    git.clone_alike(pannier.url_of("public/simple"), origin.url_of("public/simple"))
    git.clone_alike(pannier.url_of("public/second"), origin.url_of("public/second"))


def test_everything_can_be_removed(kept, pannier, origin, git):
    assert re.match(r"removed 4 entries, .+ on disk; the folder takes ", kept.done("rm", "--all"))
    assert kept.document("ls")["repositories"] == []
    assert pannier.answers() == [] and pannier.files("mirrors") == []
    if not kept.running:
        pannier.start()
    git.clone_alike(pannier.url_of("public/simple"), origin.url_of("public/simple"))


# Is it what was written? ---------------------------------------------------------------------------


def flip(path, at):
    """Another byte there."""
    path.chmod(0o600)
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0xFF]))


def damage(kept):
    """One answer and one mirror; their entries."""
    entries = {e["kind"]: e for e in kept.document("show", FIRST)["entries"]}
    flip(kept.data / entries["answer"]["path"], 200)
    (pack,) = (kept.data / entries["mirror"]["path"]).glob("objects/pack/*.pack")
    flip(pack, 100)
    return entries


def test_what_is_as_it_was_written_is_no_finding(kept):
    document = kept.document("verify")
    assert document["findings"] == [] and document["count"] == document["repaired"] == 0
    assert document["checked"] == kept.document("ls")["stored_size"]
    result = kept.run("verify")
    assert result.returncode == 0
    assert re.fullmatch(r".+ read; all is as it was written\n", result.stdout)
    assert re.search(r"^100 %: (.+) of \1 read\n\Z", result.stderr, re.M)


def test_damage_is_found_and_left_as_it_is(kept):
    entries = damage(kept)
    result = kept.run("verify", "--json")
    assert result.returncode == 1
    document = json.loads(result.stdout)
    assert document["count"] == 2 and document["repaired"] == 0
    for finding in document["findings"]:
        entry = entries[finding["entry"]["kind"]]
        assert finding["entry"]["path"] == entry["path"]
        assert finding["kind"] == "corrupt" and finding["text"] and finding["repaired"] is False
    lines = kept.run("verify").stdout.splitlines()
    assert len(lines) == 3
    assert any(line.startswith(f"{entries['answer']['path']} (answer of {FIRST}): ")
               for line in lines)
    assert lines[2].endswith("2 entries are damaged, 0 dropped; see 'pannier verify --repair'")
    assert kept.document("ls")["count"] == 4


def test_damage_is_dropped_and_made_again(kept, pannier, origin, git):
    damage(kept)
    document = kept.document("verify", "--repair")
    assert document["count"] == document["repaired"] == 2
    assert list(by_repo(kept.document("ls"))) == [SECOND]
    assert kept.document("verify")["findings"] == []
    if not kept.running:
        pannier.start()
    git.clone_alike(pannier.url_of("public/simple"), origin.url_of("public/simple"))


def test_a_terminal_shows_a_bar(kept):
    mine, its = pty.openpty()
    result = subprocess.run(
        [binary(), "verify", "--data", str(kept.data)], stdin=subprocess.DEVNULL, text=True,
        stdout=subprocess.PIPE, stderr=its, timeout=4 * DEADLINE,
    )
    os.close(its)
    shown = b""
    with contextlib.suppress(OSError):  # which is how a terminal ends
        while data := os.read(mine, 65536):
            shown += data
    os.close(mine)
    shown = shown.decode()
    assert result.returncode == 0
    assert "\r[" + "#" * 30 + "] 100 %  " in shown
    assert shown.endswith("\r\033[K")


# Room ----------------------------------------------------------------------------------------------


def test_what_would_go_is_told_and_stays(kept):
    before = kept.document("ls", "--entries")["entries"]
    document = kept.document("evict", "--dry-run", "--to", "0")
    assert document["dry_run"] is True and document["goal"] == 0 and document["count"] == 4
    assert all(entry["why"] for entry in document["entries"])
    text = kept.done("evict", "--dry-run", "--to", "0")
    assert "WHY" in text.splitlines()[0] and "would remove 4 entries" in text.splitlines()[-1]
    assert kept.document("ls", "--entries")["entries"] == before


def test_room_is_made_down_to_a_goal(kept, pannier):
    document = kept.document("evict", "--to", "0")
    assert document["count"] == 4 and document["stored_size"] > 0
    assert document["usage"]["answers"] == document["usage"]["mirrors"] == 0
    assert pannier.answers() == [] and pannier.files("mirrors") == []


def test_nothing_goes_while_there_is_room(kept):
    for arguments in ((), ("--to", "1T"), ("--dry-run",)):
        assert kept.document("evict", *arguments)["count"] == 0
    assert kept.document("ls")["count"] == 4


# What others use -----------------------------------------------------------------------------------


@pytest.fixture
def reading(pannier, medium, git):
    """Somebody in the middle of an answer."""
    expected = git.clone(pannier.url_of("public/for-commands"))
    pannier.wait_answers()
    reader = Reader(pannier.port, receive_buffer=4096)
    reader.post("/origin/public/for-commands.git/git-upload-pack", pktline.fetch([medium.oid()]))
    reader.read_until(b"PACK")
    commands = Commands(pannier.data)
    until(lambda: commands.document("ls")["count"] >= 2, "answer and mirror are known")
    return reader, expected


def test_an_answer_that_is_read_is_read_to_its_end_though_removed(pannier, origin, reading, git):
    reader, expected = reading
    Commands(pannier.data).done("rm", "--all")
    status, body = reader.read_response()
    assert status == 200 and body.endswith(b"0000") and len(body) > 3 << 20
    same_objects(git.clone(pannier.url_of("public/for-commands")), expected)


def test_an_answer_that_is_read_is_not_evicted(pannier, reading):
    reader, _ = reading
    Commands(pannier.data).done("evict", "--to", "0")
    status, body = reader.read_response()
    assert status == 200 and body.endswith(b"0000") and len(body) > 3 << 20


# The folder ----------------------------------------------------------------------------------------


def test_a_folder_that_is_not_there_is_not_made(tmp_path):
    commands = Commands(tmp_path / "none")
    for arguments in (["ls"], ["show", "a/b"], ["rm", "--all"], ["verify"], ["evict"]):
        assert commands.fails(*arguments) == (
            f"there is no folder {tmp_path}/none; name the one in use by --data or --config")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "incoming").mkdir()
    (tmp_path / "incoming" / "letter").write_text("mine")
    assert "is no data folder of pannier" in Commands(tmp_path).fails("ls")
    assert [p.name for p in tmp_path.iterdir()] == ["incoming"]
    assert (tmp_path / "incoming" / "letter").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_left_to_them(kept, pannier):
    if kept.running:
        pannier.stop()
    os.chown(kept.data, 65534, 65534)
    assert "belongs to user 65534" in kept.fails("ls")
    os.chown(kept.data, 0, 0)


def test_the_folder_is_named_by_the_configuration(kept, tmp_path):
    (tmp_path / "its.yaml").write_text(f"data: {kept.data}\n")
    result = subprocess.run(
        [binary(), "ls", "--json", "--config", str(tmp_path / "its.yaml")], capture_output=True,
        text=True, timeout=4 * DEADLINE,
    )
    assert result.returncode == 0 and json.loads(result.stdout)["count"] == 4


# The socket ----------------------------------------------------------------------------------------


def test_the_socket_is_private_and_goes_with_the_process(pannier):
    path = pannier.data / "control"
    until(path.exists, "the socket is there")
    assert stat.S_ISSOCK(path.lstat().st_mode) and stat.S_IMODE(path.lstat().st_mode) == 0o600
    pannier.stop()
    assert not path.exists()


def test_a_socket_that_kill_9_leaves_stops_nobody(pannier, git, simple, second):
    fill(pannier, git)
    commands = Commands(pannier.data)
    pannier.kill()
    assert (pannier.data / "control").exists()
    assert commands.document("ls")["count"] == 4
    pannier.start()
    until(lambda: commands.run("ls").stderr == "", "the folder was read")
    assert commands.document("ls")["count"] == 4
    commands.done("rm", FIRST)
    assert pannier.answers() != [] and commands.document("ls")["count"] == 2


def test_a_process_without_its_socket_is_told_from_none(pannier):
    until((pannier.data / "control").exists, "the socket is there")
    (pannier.data / "control").unlink()
    assert "a pannier has the folder" in Commands(pannier.data).fails("ls")


def test_two_commands_on_a_folder_alone_take_turns(kept, pannier):
    if kept.running:
        pannier.stop()
    with open(kept.data / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "or another command" in kept.fails("rm", "--all")
    assert kept.document("ls")["count"] == 4


def test_commands_run_at_once_in_the_process_that_serves(pannier, git, simple, second):
    fill(pannier, git)
    commands = Commands(pannier.data)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(commands.document, "ls", "--entries") for _ in range(8)]
        jobs.append(pool.submit(commands.document, "show", FIRST))
        counts = [job.result()["count"] for job in jobs]
    assert counts == [4] * 8 + [2]


class Raw:
    """A client of the socket without manners."""

    def __init__(self, pannier):
        until((pannier.data / "control").exists, "the socket is there")
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(2 * DEADLINE)
        folder = os.open(pannier.data, os.O_PATH)
        self.socket.connect(f"/proc/self/fd/{folder}/control")
        os.close(folder)

    def send(self, data):
        self.socket.sendall(data)
        return self

    def lines(self):
        got = b""
        try:
            while data := self.socket.recv(65536):
                got += data
        except ConnectionResetError:  # the end, when not all of the request was read
            pass
        return [json.loads(line) for line in got.splitlines()]

    def leave(self):
        self.socket.close()


@pytest.mark.parametrize("request_line, words", [
    (b"\n", "no JSON"),
    (b"ls\n", "no JSON"),
    (b"GET / HTTP/1.1\r\n", "no JSON"),
    (b"\xff\xfe\0\n", "no JSON"),
    (b"[" * 8000 + b"\n", "no JSON"),
    (b'{"a":' * 1600 + b"\n", "no JSON"),
    (b"x" * 10000, "longer than 8192 bytes"),
    (b'{"command":"format"}\n', "does not know the command"),
    (b'{"command":"rm"}\n', "needs a repository"),
    (b'{"command":"rm","all":true,"dry_run":true}\n', "does not take all of this"),
    (b'{"command":"ls","since":"today"}\n', "makes no sense"),
], ids=lambda value: value if isinstance(value, str) else value[:12].decode("latin-1").strip())
def test_nonsense_is_refused_in_one_line(pannier, request_line, words):
    (line,) = Raw(pannier).send(request_line).lines()
    assert line["error"]["kind"] in ("input", "limit")
    assert words in line["error"]["text"]
    assert Commands(pannier.data).run("ls").returncode == 0


def test_a_client_that_goes_away_harms_nobody(pannier, git, simple, second):
    fill(pannier, git)
    Raw(pannier).leave()
    Raw(pannier).send(b'{"command"').leave()
    Raw(pannier).send(b'{"command":"ls","entries":true}\n').leave()
    Raw(pannier).send(b'{"command":"verify"}\n').leave()
    assert Commands(pannier.data).document("ls")["count"] == 4


def test_a_silent_client_does_not_keep_the_process_from_its_end(pannier):
    silent = Raw(pannier)
    pannier.stop()
    silent.leave()


def test_a_deep_data_folder_has_its_socket(start, origin, simple, git, tmp_path):
    pannier = start(origin=origin.url, data=tmp_path / ("d" * 90) / ("e" * 90))
    git.clone(pannier.url_of("public/simple"))
    pannier.wait_answers()
    commands = Commands(pannier.data)
    until((pannier.data / "control").exists, "the socket is there")
    until(lambda: commands.document("ls")["count"] == 2, "answer and mirror are known")
