"""Repositories, made quickly and always alike by `git fast-import`."""
import os
import random
import subprocess

ENV = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.com",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.com",
    "GIT_AUTHOR_DATE": "1700000000 +0000",
    "GIT_COMMITTER_DATE": "1700000000 +0000",
    "LC_ALL": "C",
}
EPOCH = 1600000000
PERSON = "A <a@example.com>"
# A setting for what is big and has no deltas: upstream's git does not look for any.
NO_DELTAS = {"core.bigFileThreshold": "256k"}


def git(path, *args, data=None):
    command = ["git", "-C", str(path), *map(str, args)]
    done = subprocess.run(command, env=ENV, input=data, capture_output=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.decode()}"
    return done.stdout.decode().strip()


class Stream:
    """A fast-import stream under construction."""

    def __init__(self, seed):
        self.seed = seed
        self.out = []
        self.marks = 0
        self.time = EPOCH

    def data(self, content):
        self.out += [b"data %d\n" % len(content), content, b"\n"]

    def line(self, text):
        self.out.append(text.encode() + b"\n")

    def commit(self, ref, message, files=(), parents=()):
        """files: (path, content) or (path, ("commit", oid)) for a submodule.  Returns the mark."""
        self.marks += 1
        self.time += 3600
        self.line(f"commit {ref}")
        self.line(f"mark :{self.marks}")
        self.line(f"committer {PERSON} {self.time} +0000")
        self.data(message.encode())
        for word, parent in zip(("from", *["merge"] * len(parents)), parents):
            self.line(f"{word} :{parent}")
        for path, content in files:
            if isinstance(content, tuple):
                self.line(f"M 160000 {content[1]} {path}")
            else:
                self.line(f"M 100644 inline {path}")
                self.data(content)
        return self.marks

    def reset(self, ref, mark):
        self.line(f"reset {ref}")
        self.line(f"from :{mark}\n")

    def tag(self, name, mark):
        self.line(f"tag {name}")
        self.line(f"from :{mark}")
        self.line(f"tagger {PERSON} {self.time} +0000")
        self.data(name.encode())

    def noise(self, size, what):
        """Bytes that no compression shrinks, so that packs have a predictable size."""
        return random.Random(f"{self.seed}/{what}").randbytes(size)


class Repo:
    """A bare repository on disk."""

    def __init__(self, path):
        self.path = path
        self.hidden = None  # a commit that no ref reaches any more

    def git(self, *args, data=None):
        return git(self.path, *args, data=data)

    def oid(self, name="refs/heads/main"):
        return self.git("rev-parse", "--verify", name)

    def set(self, **settings):
        for key, value in settings.items():
            self.git("config", key.replace("_", "."), value)

    def commit(self, branch="main", text="more", size=300):
        """One more commit on top of a branch, as if somebody had pushed it; its id."""
        s = Stream(f"{self.path.name}/{text}")
        parent = self.git("rev-parse", "--verify", "-q", f"refs/heads/{branch}")
        s.line(f"commit refs/heads/{branch}")
        s.line(f"committer {PERSON} 1690000000 +0000")
        s.data(text.encode())
        s.line(f"from {parent}")
        s.line("M 100644 inline added")
        s.data(s.noise(size, text))
        self.git("fast-import", "--quiet", data=b"".join(s.out))
        return self.oid(f"refs/heads/{branch}")

    def objects(self):
        return self.git("cat-file", "--batch-all-objects", "--batch-check").splitlines()


def init(path, object_format="sha1", settings=()):
    os.makedirs(path)
    git(path, "init", "-q", "--bare", "-b", "main", f"--object-format={object_format}", ".")
    repo = Repo(path)
    for key, value in {
        "http.receivepack": "true",
        "uploadpack.allowFilter": "true",
        "uploadpack.allowAnySHA1InWant": "true",
        "gc.auto": "0",
        **dict(settings),
    }.items():
        repo.git("config", key, value)
    return repo


def empty(path, **options):
    return init(path, **options)


def simple(path, commits=12, blob=300, hidden=False, submodules=(), **options):
    """A main line with a merge, a topic branch, tags of both kinds, a pull request."""
    repo = init(path, **options)
    s = Stream(path.name)
    main = None
    marks = []
    for n in range(commits):
        files = [
            (f"dir{n % 3}/file{n % 5}", s.noise(blob, n)),
            ("README", b"".join(b"line %d\n" % i for i in range(n + 1))),
        ]
        main = s.commit("refs/heads/main", f"commit {n}", files, [main] if main else [])
        marks.append(main)
    middle = marks[len(marks) // 2]
    side = s.commit("refs/heads/side", "side", [("side", b"side\n")], [middle])
    s.reset("refs/heads/topic", middle)
    topic = s.commit("refs/heads/topic", "topic", [("topic", s.noise(blob, "t"))], [middle])
    merge = s.commit("refs/heads/main", "merge", [("side", b"side\n")], [main, side])
    s.reset("refs/pull/1/head", topic)
    s.commit("refs/pull/1/head", "pull request", [("pull", s.noise(blob, "p"))], [topic])
    s.tag("v1.0", middle)
    s.tag("v2.0", merge)
    s.reset("refs/tags/light", marks[1])
    if submodules:
        text = "".join(
            f'[submodule "{name}"]\n\tpath = {name}\n\turl = {url}\n' for name, url, _ in submodules
        )
        files = [(".gitmodules", text.encode())]
        files += [(name, ("commit", oid)) for name, _, oid in submodules]
        s.commit("refs/heads/main", "submodules", files, [merge])
    if hidden:
        s.reset("refs/heads/hidden", middle)
        s.commit("refs/heads/hidden", "hidden", [("secret", s.noise(blob, "h"))], [middle])
    repo.git("fast-import", "--quiet", data=b"".join(s.out))
    if hidden:
        repo.hidden = repo.oid("refs/heads/hidden")
    repo.git("pack-refs", "--all")
    return repo


def hide(repo):
    """The branch `hidden` goes, its commit stays in the object store."""
    repo.git("update-ref", "-d", "refs/heads/hidden")


def big(path, files=12, blob=1 << 20, **options):
    """A pack that is larger than all socket buffers on its way."""
    repo = init(path, **options)
    s = Stream(path.name)
    first = s.commit("refs/heads/main", "small", [("small", b"small\n")])
    content = [(f"file{n}", s.noise(blob, n)) for n in range(files)]
    s.commit("refs/heads/main", "big", content, [first])
    repo.git("-c", "core.bigFileThreshold=1", "fast-import", "--quiet", data=b"".join(s.out))
    return repo


def many_refs(path, count=10000, **options):
    """count branches, each on a commit of its own."""
    repo = init(path, **options)
    s = Stream(path.name)
    root = s.commit("refs/heads/main", "root", [("file", b"content\n")])
    for n in range(count - 1):
        s.commit("refs/heads/main", f"{n}", (), [root])
    # All commits are made on one ref and named afterwards: 10k loose refs would be 10k files.
    marks = path / "marks"
    repo.git("fast-import", "--quiet", "--force", f"--export-marks={marks}", data=b"".join(s.out))
    oids = [line.split()[1] for line in marks.read_text().splitlines()]
    marks.unlink()
    names = sorted(f"refs/heads/branch-{n:05}" for n in range(len(oids) - 1))
    lines = [f"{oid} {name}" for name, oid in zip(names, oids[1:])]
    repo.git("update-ref", "refs/heads/main", oids[0])
    (path / "packed-refs").write_text(
        "# pack-refs with: peeled fully-peeled sorted \n" + "\n".join(lines) + "\n"
    )
    return repo
