"""Random operations against several nodes while things fail, and a model of what may come of each.

    chaos = Chaos(cluster, rgw, origin, git, seed, folder)
    chaos.run(150)          raises Wrong with the seed and the last operations

The model knows when which refs, objects and rights were upstream's, and which answers may be older than
the last acknowledged invalidation.  What is decided at random comes from the seed alone; what a
machine's timing makes of it does not."""
import hashlib
import random
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPException

from . import pktline, repos
from .gitclient import ask, fsck
from .origin import PASSWORDS
from .wait import DEADLINE, until

ACCESS_TTL = 0.2
SLACK = 0.05  # between what was done to upstream and when it noted that
USERS = (None, "alice", "bob")


class Wrong(AssertionError):
    pass


class History:
    """What held when: a value and from when to when it may have been seen."""

    def __init__(self, value):
        self.spans = [[0.0, float("inf"), value]]
        self.lock = threading.Lock()

    @property
    def now(self):
        return self.spans[-1][2]

    def change(self, act):
        """act() -> the new value; both hold while it runs."""
        began = time.monotonic()
        with self.lock:
            self.spans.append([began, float("inf"), None])
        value = act()
        with self.lock:
            self.spans[-2][1] = time.monotonic()
            self.spans[-1][2] = value

    def during(self, start, end):
        """All that held at some time between; None is what is just becoming."""
        with self.lock:
            return [value for a, b, value in self.spans if a <= end and b >= start]


class Upstream:
    """One repository at the origin, what it had when, and who might read it."""

    def __init__(self, origin, path, users):
        self.origin, self.path, self.name = origin, path, f"origin/{path}"
        self.repo = origin.make(path, repos.simple, commits=4)
        self.private = path.startswith("private/")
        self.readers = History(frozenset(users) if self.private else frozenset(USERS))
        if self.private:
            origin.allow(path, users, ())
        self.objects, self.commits, self.reached = set(), [], {}
        self.refs = History(self.look())
        self.changes = 0

    def look(self):
        refs = dict(reversed(line.split(" ", 1)) for line in self.repo.git(
            "for-each-ref", "--format=%(objectname) %(refname)", "refs/heads/", "refs/tags/").splitlines())
        tips = [oid for name, oid in refs.items() if name.startswith("refs/heads/")]
        for line in self.repo.objects():
            oid, kind, _ = line.split()
            if oid not in self.objects and kind == "commit":
                self.commits.append(oid)
            self.objects.add(oid)
        assert tips
        return refs

    def behind(self, wants, haves=(), depth=0):
        """What a pack for this must have."""
        question = (tuple(wants), tuple(haves), depth)
        if question not in self.reached:
            out = self.repo.git("rev-list", "--objects", *([f"--max-count={len(wants)}", "--no-walk"] if depth else []),
                                *wants, *(f"^{h}" for h in haves))
            self.reached[question] = {line.split()[0] for line in out.splitlines()}
        return self.reached[question]

    # Changes --------------------------------------------------------------------------------------

    def change(self, act):
        self.changes += 1

        def whole():
            act()
            return self.look()
        self.refs.change(whole)

    def push(self, rng):
        branch = rng.choice(["main", "topic", "side-line"])
        if f"refs/heads/{branch}" not in self.refs.now:
            base = self.refs.now["refs/heads/main"]
            self.change(lambda: self.repo.git("update-ref", f"refs/heads/{branch}", base))
        self.change(lambda: self.repo.commit(branch, f"change {self.changes}"))

    def force_push(self, rng):
        old = rng.choice(self.commits)
        self.change(lambda: self.repo.git("update-ref", "refs/heads/topic", old))

    def delete(self, _):
        self.change(lambda: self.repo.git("update-ref", "-d", "refs/heads/topic"))

    def set_readers(self, users):
        def act():
            self.origin.allow(self.path, sorted(users), ())
            return frozenset(users)
        self.readers.change(act)

    def may_read(self, user, start, end):
        """True, False, or None where upstream may have said either."""
        said = {None if users is None else user in users
                for users in self.readers.during(start - ACCESS_TTL - SLACK, end + SLACK)}
        return said.pop() if len(said) == 1 else None


@dataclass
class Question:
    upstream: Upstream
    kind: str
    user: str
    wants: tuple = ()
    haves: tuple = ()
    depth: int = 0
    foreign: bool = False  # it wants what only another repository has

    @property
    def key(self):
        return self.upstream.name, self.wants, self.haves, self.depth

    def __str__(self):
        return f"{self.kind} {self.upstream.path} as {self.user} {self.wants[:1] or ''}"


@dataclass
class Fresh:
    """What may have been made since the last acknowledged invalidation of one repository."""

    asked: list = field(default_factory=list)  # Attempts
    invalidated: int = 0                       # how often


@dataclass(eq=False)
class Attempt:
    node: str
    key: tuple
    invalidated: int = 0  # before it began
    flying: bool = True   # not answered yet


class Chaos:
    def __init__(self, cluster, rgw, origin, git, seed, folder, mode):
        self.cluster, self.rgw, self.origin, self.git = cluster, rgw, origin, git
        self.rng = random.Random(seed)
        self.seed, self.mode = seed, mode
        self.log = []
        self.packs = {}  # digest of a pack -> its objects
        self.lock = threading.Lock()
        tag = cluster.prefix.rstrip(":")
        # Names that differ in their last part: what is in a repository comes from that.
        self.upstreams = [Upstream(origin, f"public/chaos/{tag}-open-{n}", ()) for n in range(2)]
        self.upstreams += [Upstream(origin, f"private/chaos/{tag}-closed-{n}", ("alice",)) for n in range(2)]
        self.scratch = {}
        for u in self.upstreams:
            bare = folder / f"scratch-{u.path.replace('/', '-')}"
            repos.init(bare)
            (bare / "objects/info/alternates").write_text(f"{u.repo.path}/objects\n")
            self.scratch[u.name] = bare
        self.fresh = {u.name: Fresh() for u in self.upstreams}
        self.counts = {}
        upstreams = {"access_ttl": f"{int(ACCESS_TTL * 1000)}ms", "denied_ttl": f"{int(ACCESS_TTL * 1000)}ms"}
        self.nodes = cluster.nodes_up("a", "b", "c", when_away=mode, upstreams=upstreams, log={"level": "info"})
        self.faults = {}  # what is wrong now -> how it is mended
        self.troubled = 0.0  # when something last was
        self.pool = ThreadPoolExecutor(8)

    # Bookkeeping ----------------------------------------------------------------------------------

    def note(self, what):
        self.log.append(f"{time.strftime('%H:%M:%S')} {what}")
        self.count(what.split(":")[0].split()[0])
        if what.startswith(("fault", "mend")):
            self.troubled = time.monotonic()

    def count(self, what):
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + 1

    def wrong(self, what):
        steps = "\n  ".join(self.log[-60:])
        return Wrong(f"{what}\nseed {self.seed}, mode {self.mode}, wrong now: {sorted(self.faults)}; the last "
                     f"operations:\n  {steps}")

    def able(self):
        """Nodes that can be asked."""
        return [n for n in self.nodes if f"stopped {n.name}" not in self.faults
                and f"dead {n.name}" not in self.faults]

    # Asking ---------------------------------------------------------------------------------------

    def choose_question(self):
        rng = self.rng
        u = rng.choice(self.upstreams)
        user = rng.choice(("alice", "alice", "alice", "bob", None)) if u.private else rng.choice((None, "alice"))
        kind = rng.choice(["full", "full", "shallow", "by id", "fetch", "refs", "foreign"])
        refs = u.refs.now
        q = Question(u, kind, user)
        if kind == "full":
            q.wants = (refs["refs/heads/main"],)
        elif kind == "shallow":
            q.wants, q.depth = (refs["refs/heads/main"],), 1
        elif kind == "by id":
            q.wants, q.depth = (rng.choice(u.commits),), rng.choice([0, 1])
        elif kind == "fetch":
            q.wants = (refs["refs/heads/main"],)
            q.haves = (rng.choice(u.commits[:3]),)
        elif kind == "foreign":
            other = rng.choice([v for v in self.upstreams if v is not u])
            mine = [c for c in other.commits if c not in u.objects]
            if mine:
                q.wants, q.foreign = (rng.choice(mine),), True
            else:
                q.kind = "refs"
        return q

    def attempt(self, node, q, hazard):
        """Ask, and judge what comes."""
        fresh = self.fresh[q.upstream.name]
        with self.lock:
            mine = Attempt(node.name, q.key, fresh.invalidated)
            fresh.asked.append(mine)
        try:
            self.ask(node, q, hazard, mine)
        finally:
            mine.flying = False

    def ask(self, node, q, hazard, mine):
        start = time.monotonic()
        try:
            if q.kind == "refs":
                answer = ask(node.url_of(q.upstream.path), pktline.ls_refs(), user=q.user)
            else:
                if q.kind in ("full", "shallow"):
                    refs = ask(node.url_of(q.upstream.path), pktline.ls_refs(), user=q.user)
                    self.judge(node, Question(q.upstream, "refs", q.user), refs, start, hazard, mine)
                extra = [f"deepen {q.depth}"] if q.depth else []
                body = pktline.fetch(q.wants, q.haves, extra=extra)
                answer = ask(node.url_of(q.upstream.path), body, user=q.user)
        except OSError as why:
            if hazard():
                return
            raise self.wrong(f"{q} through {node.name}: {why!r}") from None
        self.judge(node, q, answer, start, hazard, mine)

    def judge(self, node, q, answer, start, hazard, mine):
        end = time.monotonic()
        what = f"{q} through {node.name}: status {answer.status}, {answer.header('Cache-Status')}"
        may = q.upstream.may_read(q.user, start, end)
        if answer.status == 200 and may is False:
            raise self.wrong(f"{what}: it must not see that")
        if answer.status in (401, 403, 404) and may is not True:
            self.count("denied")
            return
        if answer.status != 200 or not answer.whole:
            if hazard():
                self.count("broken")
                return
            raise self.wrong(f"{what}: {answer.body[:300]!r}")
        if q.kind == "refs":
            self.judge_refs(q, answer, start, end, what)
        else:
            self.judge_pack(node, q, answer, hazard, what)
            self.judge_freshness(q, answer, mine, what)

    def judge_refs(self, q, answer, start, end, what):
        got = {}
        for pkt in pktline.split(answer.body):
            if isinstance(pkt, bytes):
                oid, name = pkt.decode().rstrip("\n").split(" ")[:2]
                got[name] = oid
        states = q.upstream.refs.during(start, end + SLACK)
        if None not in states and got not in states:
            raise self.wrong(f"{what}: these refs were not upstream's then: {got} but {states}")

    def objects_of(self, upstream, pack):
        digest = hashlib.sha256(pack).digest(), upstream.name
        if digest not in self.packs:
            bare = self.scratch[upstream.name]
            done = subprocess.run(["git", "-C", str(bare), "index-pack", "--stdin", "--fix-thin"], input=pack,
                                  env=repos.ENV, capture_output=True)
            if done.returncode != 0:
                raise self.wrong(f"a pack of {upstream.path} is none: {done.stderr.decode()}")
            name = done.stdout.decode().split()[1]
            idx = bare / f"objects/pack/pack-{name}.idx"
            shown = subprocess.run(["git", "show-index"], stdin=open(idx, "rb"), env=repos.ENV,
                                   capture_output=True, check=True)
            self.packs[digest] = {line.split()[1] for line in shown.stdout.decode().splitlines()}
            for file in bare.glob("objects/pack/*"):
                file.unlink()
        return self.packs[digest]

    def judge_pack(self, node, q, answer, hazard, what):
        said = pktline.bands(answer.body)
        whole = b"PACK" in said[1][:4] and pktline.pack_is_whole(answer.body)
        if not whole:
            if q.foreign or hazard():
                self.count("foreign refused" if q.foreign else "broken")
                return
            raise self.wrong(f"{what}: no whole pack: {said[3] or answer.body[:300]!r}")
        with self.lock:
            got = self.objects_of(q.upstream, said[1])
        if q.foreign:
            raise self.wrong(f"{what}: it got what is another repository's")
        if not got <= q.upstream.objects:
            raise self.wrong(f"{what}: upstream never had {sorted(got - q.upstream.objects)[:5]}")
        needed = q.upstream.behind(q.wants, q.haves, q.depth)
        if not needed <= got or (not q.haves and needed != got):
            raise self.wrong(f"{what}: {len(needed - got)} objects are missing and {len(got - needed)} too many")

    def judge_freshness(self, q, answer, mine, what):
        """Old is what can only have been made before the last acknowledged invalidation."""
        detail = (answer.header("Cache-Status") or "").rpartition("detail=")[2]
        self.count(f"served: {detail}")
        fresh = self.fresh[q.upstream.name]
        with self.lock:
            others = [a for a in fresh.asked if a is not mine]
            # One that was acknowledged while this was asked says nothing of it.
            judged = 0 < fresh.invalidated == mine.invalidated
        same = [a.node for a in others if a.key == q.key]
        old = {"local": mine.node not in same, "shared": not same, "peer": not same,
               "mirror": not others, "refresh": not others}
        if judged and old.get(detail):
            raise self.wrong(f"{what}: that is older than the invalidation")

    def traffic(self):
        able = self.able()
        if not able:
            return
        if self.rng.random() < 0.75:
            node, q = self.rng.choice(able), self.choose_question()
            self.note(f"{q} through {node.name}")
            self.attempt(node, q, lambda: False)
            return
        questions = [self.choose_question() for _ in range(2)]
        asked = [(self.rng.choice(able), self.rng.choice(questions)) for _ in range(self.rng.randint(3, 5))]
        self.note("together " + "; ".join(f"{q} through {n.name}" for n, q in asked))
        meanwhile = self.rng.random()
        broken = threading.Event()
        futures = [self.pool.submit(self.attempt, node, q, broken.is_set) for node, q in asked]
        if meanwhile < 0.1:
            broken.set()
            self.kill_node(self.rng.choice(able))
        elif meanwhile < 0.2:
            self.change_upstream()
        elif meanwhile < 0.3:
            self.invalidate()
        for future in futures:
            future.result()

    def clone(self):
        """The real git, now and then."""
        able = self.able()
        open_to = [u for u in self.upstreams if not u.private]
        if not able:
            return
        node, u = self.rng.choice(able), self.rng.choice(open_to)
        self.note(f"clone {u.path} through {node.name}")
        for other in self.nodes:  # it asks for all refs, which is no question of ours
            self.fresh[u.name].asked.append(Attempt(other.name, ("git",), flying=False))
        start = time.monotonic()
        clone = self.git.clone(node.url_of(u.path), "--bare")
        fsck(clone)
        out = self.git.run("for-each-ref", "--format=%(objectname) %(refname)", "refs/heads/", "refs/tags/", cwd=clone)
        got = dict(reversed(line.split(" ", 1)) for line in out.splitlines())
        if got not in u.refs.during(start, time.monotonic()):
            raise self.wrong(f"a clone of {u.path} has refs that upstream didn't have: {got}")
        subprocess.run(["rm", "-rf", str(clone)], check=True)

    # Changing things ------------------------------------------------------------------------------

    def change_upstream(self):
        u = self.rng.choice(self.upstreams)
        how = self.rng.choice(["push", "push", "push", "force_push", "delete"])
        self.note(f"{how} {u.path}")
        getattr(u, how)(self.rng)

    def change_rights(self):
        u = self.rng.choice([u for u in self.upstreams if u.private])
        users = {user for user, often in (("alice", 0.8), ("bob", 0.5)) if self.rng.random() < often}
        self.note(f"rights {u.path} are {sorted(users)}'s")
        u.set_readers(users)

    def invalidate(self):
        able = self.able()
        if not able:
            return
        node, u = self.rng.choice(able), self.rng.choice(self.upstreams)
        self.note(f"invalidate {u.path} through {node.name}")
        fresh = self.fresh[u.name]
        with self.lock:
            over = [a for a in fresh.asked if not a.flying]
        try:
            said = self.cluster.invalidate_by_hand(node, u.name)
        except (OSError, HTTPException):
            return  # it was killed
        done = said.status == 200
        self.log[-1] += f": {'acknowledged' if done else said.body}"
        self.count("acknowledged" if done else "not acknowledged")
        if done:
            with self.lock:
                # Who asked meanwhile may have made something new.
                fresh.asked = [a for a in fresh.asked if a not in over]
                fresh.invalidated += 1
        elif not self.faults and time.monotonic() > self.troubled + DEADLINE:
            raise self.wrong("nothing is wrong, and it was not acknowledged")

    # Faults ---------------------------------------------------------------------------------------

    def kill_node(self, node):
        self.note(f"fault: kill -9 {node.name}")
        node.kill()
        node.check_sane()
        node.start()

    def leave_dead(self, node):
        self.note(f"fault: kill -9 {node.name}, and leave it so")
        node.kill()
        node.check_sane()
        self.faults[f"dead {node.name}"] = node.start

    def stop_node(self, node):
        self.note(f"fault: SIGSTOP {node.name}")
        node.signal(signal.SIGSTOP)
        self.faults[f"stopped {node.name}"] = lambda: node.signal(signal.SIGCONT)

    def cut(self, node):
        silent = self.rng.random() < 0.5
        self.note(f"fault: cut {node.name} off from Redis{' in silence' if silent else ''}")
        self.cluster.link(node).cut(silent=silent)
        self.faults[f"cut {node.name}"] = self.cluster.link(node).heal

    def empty_redis(self):
        if "no redis" in self.faults:
            return
        self.note("fault: Redis restarts empty")
        self.cluster.redis.restart_empty()

    def kill_redis(self):
        if "no redis" in self.faults:
            return
        self.note("fault: Redis is killed")
        self.cluster.redis.kill()
        self.faults["no redis"] = self.cluster.redis.start

    def kill_gateway(self):
        if "no gateway" in self.faults:
            return
        self.note("fault: the bucket is away")
        self.rgw.gateway.kill()
        self.faults["no gateway"] = self.rgw.revive

    def fault(self):
        able = self.able()
        how = self.rng.choices(
            ["kill", "dead", "stop", "cut", "empty", "redis", "gateway"], [6, 2, 4, 6, 3, 2, 1])[0]
        if how in ("kill", "dead", "stop", "cut"):
            if len(able) < 2:  # one is always there to be asked
                return
            node = self.rng.choice(able)
            if how == "cut" and f"cut {node.name}" in self.faults:
                return
            {"kill": self.kill_node, "dead": self.leave_dead, "stop": self.stop_node, "cut": self.cut}[how](node)
        else:
            {"empty": self.empty_redis, "redis": self.kill_redis, "gateway": self.kill_gateway}[how]()

    def mend(self, fault):
        self.note(f"mend: {fault}")
        self.faults.pop(fault)()

    def mend_all(self):
        for fault in list(self.faults):
            self.mend(fault)
        self.cluster.wait_met(*self.nodes)

    # All of it ------------------------------------------------------------------------------------

    def step(self):
        if self.faults and self.rng.random() < 0.12:
            self.mend(self.rng.choice(sorted(self.faults)))
            return
        # In trouble an invalidation may wait its full time for who doesn't answer.
        often = 0.06 if not self.faults else 0.004
        p = self.rng.random()
        for share, act in ((often, self.invalidate), (0.08, self.change_upstream), (0.03, self.change_rights),
                           (0.05, self.fault), (0.02, self.clone), (1, self.traffic)):
            if p < share:
                return act()
            p -= share

    def run(self, steps):
        try:
            for n in range(1, steps + 1):
                self.step()
                if n % 1000 == 0:
                    print(f"{time.strftime('%H:%M:%S')} {n} operations", flush=True)
            self.mend_all()
            self.check_at_the_end()
        finally:
            for mend in self.faults.values():
                mend()
            self.pool.shutdown()

    def check_at_the_end(self):
        """All is as if nothing had happened."""
        for u in self.upstreams:
            if u.private:
                u.set_readers(PASSWORDS)
        threading.Event().wait(2 * ACCESS_TTL)  # what was denied before is forgotten
        for u in self.upstreams:
            until(lambda: self.cluster.invalidate_by_hand(self.nodes[0], u.name).status == 200,
                  f"{u.path} is invalidated", 4 * DEADLINE)
            self.fresh[u.name] = Fresh(invalidated=1)  # nothing is flying
            for node in self.nodes:
                q = Question(u, "full", "alice", (u.refs.now["refs/heads/main"],))
                self.attempt(node, q, lambda: False)
        for node in self.nodes:
            node.check_sane()
            assert node.shared()["damaged"] == 0, node.shared()
