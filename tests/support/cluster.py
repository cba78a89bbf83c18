"""Nodes that share the tier and one Redis, each over a link of its own that can be cut.

    a, b, c = cluster.nodes_up("a", "b", "c")       started, and each knows of the others
    cluster.link(a).cut()
    cluster.invalidate(a, "origin/public/simple")   `pannier repo invalidate --everything`; how it ended
    cluster.who(a)                                  {name: what `pannier nodes --json` says of it}
"""
import json
import subprocess
import time
import uuid

from .admin import Admin
from .net import HOST, free_port
from .pannier import SANITIZER, binary
from .redis_server import Link
from .wait import DEADLINE, until

SECRET = "a-secret-that-all-nodes-know"
# Short, so that a test needn't wait long for a dead one; long enough for a slow machine's heartbeat.
NODE_TTL = 2.0
LEASE_TTL = 2.0


class Ended:
    """How a command ended, and what it said."""

    def __init__(self, done, seconds):
        self.status, self.out, self.err = done.returncode, done.stdout, done.stderr
        self.seconds = seconds

    def __repr__(self):
        return f"status {self.status} after {self.seconds:.2f} s\n{self.out}{self.err}"


def run(*arguments):
    started = time.monotonic()
    done = subprocess.run([binary(), *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=4 * DEADLINE)
    assert not SANITIZER.search(done.stderr), done.stderr
    return Ended(done, time.monotonic() - started)


def command(node, *arguments):
    """A command to the node's admin listener."""
    return run(*arguments, "--admin", f"http://{HOST}:{node.admin_port}")


def folder_command(node, *arguments):
    """A command to the process that serves from the node's data folder."""
    return run(*arguments, "--data", node.data)


class Cluster:
    def __init__(self, tier, redis, folder):
        self.tier, self.redis, self.folder = tier, redis, folder
        self.prefix = f"{uuid.uuid4().hex[:8]}:"
        self.links = {}
        self.nodes = []
        self.secret_file = self.write_secret("secret", SECRET)

    def write_secret(self, name, text):
        file = self.folder / name
        file.write_text(text + "\n")
        file.chmod(0o600)
        return file

    def close(self):
        # Nodes end before their links do: at SIGTERM they take their leave.
        for link in self.links.values():
            link.heal()
        self.redis.revive()
        for node in self.nodes:
            node.stop()
        for link in self.links.values():
            link.close()

    # Nodes ----------------------------------------------------------------------------------------

    def settings(self, name, upstream=None, when_away="pass", secret_file=None, shared=True, redis=True,
                 node_ttl=NODE_TTL, lease_ttl=LEASE_TTL, upstreams=None, **other):
        """upstreams: what stands beside name and url; shared, redis: settings in place of ours."""
        config = {"node": name, "log": {"level": "debug"}, "shutdown_grace": "5s",
                  "upstreams": [{"name": "origin", "url": upstream or self.tier.upstream, **(upstreams or {})}]}
        if redis:
            if name not in self.links:
                self.links[name] = Link(self.redis.port)
            config["redis"] = {"url": f"redis://{HOST}:{self.links[name].port}", "prefix": self.prefix,
                               **(redis if isinstance(redis, dict) else {})}
            config["cluster"] = {"listen": f"{HOST}:{free_port()}", "when_away": when_away,
                                 "secret_file": str(secret_file or self.secret_file),
                                 "node_ttl": f"{int(node_ttl * 1000)}ms",
                                 "lease_ttl": f"{int(lease_ttl * 1000)}ms"}
        if shared:
            config["shared"] = self.tier.settings(**(shared if isinstance(shared, dict) else {}))
        config.update(other)
        return config

    def node(self, name, launch=True, **settings):
        """Started, but it may not have met the others yet."""
        node = self.tier.start(config=self.settings(name, **settings), launch=launch)
        node.name = name
        self.nodes.append(node)
        self.tier.nodes.append(node)
        return node

    def nodes_up(self, *names, **settings):
        nodes = [self.node(name, **settings) for name in names]
        self.wait_met(*nodes)
        return nodes

    def link(self, node):
        return self.links[node.name]

    def wait_met(self, *nodes):
        """Each knows of all of them, and may serve what it has."""
        for node in nodes:
            until(lambda: self.health(node)["caught_up"], f"{node.name} has joined and read the events",
                  2 * DEADLINE)

    def wait_remembered(self, *nodes):
        """They have looked, by themselves, at who is there now.  A node looks after each of its heartbeats,
        so that the second one from now says that it has."""
        for node in nodes:
            for _ in range(2):
                heard = self.redis.hash(self.prefix + "nodes")[node.name]
                until(lambda: self.redis.hash(self.prefix + "nodes")[node.name] != heard,
                      f"{node.name}'s next heartbeat", DEADLINE)

    def wait_known(self):
        """Redis has known for so long who is there that it can be sure that nobody is missing: without
        that an invalidation is acknowledged only after a node's ttl."""
        def known():
            listed = self.redis.hash(self.prefix + "nodes:since")
            now = self.redis.ask("TIME")
            return listed and int(now[0]) + int(now[1]) / 1e6 - int(listed["since"]) / 1e3 > NODE_TTL
        until(known, "Redis knows who is there", 2 * DEADLINE)

    # What they say --------------------------------------------------------------------------------

    @staticmethod
    def health(node):
        return json.loads(node.health()[1])["cluster"]

    def wait_status(self, node, status):
        return until(lambda: (now := self.health(node))["status"] == status and now,
                     f"{node.name}'s cluster is {status}", 2 * DEADLINE)

    @staticmethod
    def who(node):
        said = command(node, "nodes", "--json")
        assert said.status == 0, said
        return {n["name"]: n for n in json.loads(said.out)["nodes"]}

    @staticmethod
    def invalidate(node, repo, *more):
        return command(node, "repo", "invalidate", repo, "--everything", *more)

    @staticmethod
    def invalidate_by_hand(node, repo):
        """The same without a process of its own, for those who measure and for many: what the API answers."""
        admin = Admin(node)
        return admin.call("POST", f"/api/v1/repositories/{admin.repository(repo)}/invalidate", {"everything": True})

    @staticmethod
    def results(*nodes):
        """How requests for packs were answered, on all of these, sorted."""
        return sorted(result for node in nodes for result in node.packs(0))
