"""The repository that is measured: a history of many small changes to text, and some content that
no compression shrinks.  Always alike, made by `git fast-import` and repacked as a host would."""
import random
import shutil
import subprocess

from support.repos import ENV, EPOCH, PERSON, git

VERSION = 1  # raise when what is generated changes: a cached one is then made anew
COMMITS = 17000
FOLDERS, FILES = 40, 25
LINES = 120
BLOBS, BLOB_SIZE = 480, 512 * 1024
LARGE_FILES, LARGE_FILE_SIZE = 128, 8 << 20
WORDS = [f"{a}{b}" for a in ("re", "un", "de", "in", "over", "pre") for b in
         ("pack", "fetch", "send", "index", "walk", "read", "write", "merge", "want", "have")]


def line(rng):
    return " ".join(rng.choices(WORDS, k=7))


class Writer:
    def __init__(self, pipe):
        self.pipe = pipe
        self.time = EPOCH

    def commit(self, number, files):
        self.time += 600
        message = b"change %d\n" % number
        out = [b"commit refs/heads/main\nmark :%d\n" % number,
               f"committer {PERSON} {self.time} +0000\n".encode(),
               b"data %d\n%b" % (len(message), message)]
        if number > 1:
            out.append(b"from :%d\n" % (number - 1))
        for path, content in files:
            out.append(b"M 100644 inline %b\ndata %d\n%b\n" % (path, len(content), content))
        self.pipe.write(b"".join(out))


def stream(pipe):
    rng = random.Random("pannier bench")
    writer = Writer(pipe)
    text = {}
    for number in range(1, COMMITS + 1):
        files = []
        for _ in range(3 if number > 1 else FOLDERS * FILES):
            place = ((number - 1 if number > 1 else len(files) // FILES) * 7 % FOLDERS,
                     rng.randrange(FILES) if number > 1 else len(files) % FILES)
            lines = text.setdefault(place, [line(rng) for _ in range(LINES)])
            lines[rng.randrange(LINES)] = line(rng)
            path = b"source/part%02d/file%02d.txt" % place
            files.append((path, "\n".join(lines).encode() + b"\n"))
        if number % (COMMITS // BLOBS) == 0:
            slot = number // (COMMITS // BLOBS) % 40  # the tip holds 40 of them
            files.append((b"media/image%02d" % slot, rng.randbytes(BLOB_SIZE)))
        writer.commit(number, dict(files).items())
        if number % 1000 == 0:
            pipe.write(b"tag v%d\nfrom :%d\ntagger %b %d +0000\ndata 4\ntag\n\n"
                       % (number // 1000, number, PERSON.encode(), writer.time))


def make(folder):
    """The path of the bare repository in folder; made if it is not there."""
    path = folder / f"repository-{VERSION}.git"
    if path.exists():
        return path
    new = folder / f"repository-{VERSION}.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    git(new, "init", "-q", "--bare", "-b", "main", ".")
    # Big files are left alone by the search for deltas; they have none.
    settings = ["-c", "core.bigFileThreshold=256k", "-c", "core.compression=1"]
    process = subprocess.Popen(["git", *settings, "fast-import", "--quiet"], cwd=new, env=ENV,
                               stdin=subprocess.PIPE)
    stream(process.stdin)
    process.stdin.close()
    if process.wait() != 0:
        raise RuntimeError("git fast-import failed")
    git(new, "pack-refs", "--all")
    git(new, *settings, "-c", "pack.threads=2", "repack", "-q", "-a", "-d", "-f", "-b")
    git(new, *settings, "commit-graph", "write", "--reachable")
    for key, value in {"uploadpack.allowFilter": "true", "uploadpack.allowAnySHA1InWant": "true",
                       "gc.auto": "0"}.items():
        git(new, "config", key, value)
    new.rename(path)
    return path


def make_large(folder):
    """1 GiB that nothing compresses, in 128 files; made if it is not there."""
    path = folder / f"large-{VERSION}.git"
    if path.exists():
        return path
    new = folder / f"large-{VERSION}.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    git(new, "init", "-q", "--bare", "-b", "main", ".")
    process = subprocess.Popen(
        ["git", "-c", "core.bigFileThreshold=256k", "-c", "core.compression=0", "fast-import", "--quiet"],
        cwd=new, env=ENV, stdin=subprocess.PIPE)
    rng = random.Random("pannier bench, large")
    writer = Writer(process.stdin)
    for number in range(1, LARGE_FILES + 1):
        writer.commit(number, [(b"file%03d" % number, rng.randbytes(LARGE_FILE_SIZE))])
    process.stdin.close()
    if process.wait() != 0:
        raise RuntimeError("git fast-import failed")
    git(new, "config", "gc.auto", "0")
    new.rename(path)
    return path


def describe(path):
    """(objects, bytes of packs)"""
    counts = dict(l.split(": ") for l in git(path, "count-objects", "-v").splitlines())
    return int(counts["in-pack"]), int(counts["size-pack"]) * 1024
