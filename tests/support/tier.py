"""What one test has of the shared tier: a prefix of its own in the bucket of a real S3 server, a front
that counts and misbehaves, and nodes that share them.

    tier.node("one")                     a pannier with a folder of its own, started
    tier.wait_up(one, answers=1, mirrors=1)       all that it has is in the bucket
    tier.front.on("get", cut(after=1000))         support.faulty_s3
    tier.objects.damage(tier.answers()[0])        past the front, below the prefix"""
import json

from .rgw import ACCESS_KEY, BUCKET, SECRET_KEY
from .wait import DEADLINE, until

# A failure shows soon, and a slow machine's pause is none.
PATIENCE = {"connect_timeout": "2s", "stall_timeout": "3s", "deadline": "3s"}


class Tier:
    def __init__(self, start, objects, front, folder, upstream):
        self.start, self.objects, self.front = start, objects, front
        self.folder, self.upstream = folder, upstream
        self.nodes = []
        self.write_keys(ACCESS_KEY, SECRET_KEY)

    # Nodes ----------------------------------------------------------------------------------------

    def write_keys(self, access_key, secret_key):
        self.keys_file = self.folder / "credentials"
        self.keys_file.write_text(
            f"[default]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret_key}\n")
        self.keys_file.chmod(0o600)

    def settings(self, **other):
        """other: in place of these; None leaves one out."""
        all_of_it = {"driver": "s3", "endpoint": self.front.url, "bucket": BUCKET,
                     "prefix": self.objects.prefix, "credentials_file": str(self.keys_file), **PATIENCE,
                     **other}
        return {name: value for name, value in all_of_it.items() if value is not None}

    def node(self, name, upstream=None, data=None, cache=(), launch=True, env=None, grace=None, **shared):
        config = {"node": name, "shared": self.settings(**shared)}
        if grace:
            config["shutdown_grace"] = grace
        if cache:
            config["cache"] = dict(cache)
        node = self.start(config=config, data=data, launch=launch, env=env,
                          origin=upstream or self.upstream)
        self.nodes.append(node)
        return node

    def no_secret_was_told(self):
        """Neither a log nor the bucket has the secret key."""
        assert self.objects.secret_key == SECRET_KEY
        for node in self.nodes:
            assert node.process is None or SECRET_KEY not in node.output()

    # Objects --------------------------------------------------------------------------------------

    def answers(self):
        return self.objects.keys("answers/")

    def manifests(self):
        return [k for k in self.objects.keys("mirrors/") if k.endswith("/manifest.json")]

    def files(self):
        """Of mirrors: {key: bytes}."""
        return {k: n for k, n in self.objects.objects("mirrors/").items() if "/files/" in k}

    def pack_of(self, manifest):
        """The key of a mirror's largest file."""
        folder = manifest.rpartition("/")[0] + "/"
        files = {k: n for k, n in self.files().items() if k.startswith(folder)}
        return max(files, key=files.get)

    def manifest(self, key):
        return json.loads(self.objects.read(key))

    # Waiting --------------------------------------------------------------------------------------

    def wait_idle(self, node):
        """Nothing waits to go up."""
        def idle():
            uploads = node.shared()["uploads"]
            return uploads["waiting"] == uploads["sending"] == 0 and uploads
        return until(idle, "nothing waits to go up", 2 * DEADLINE)

    def wait_paused(self, node):
        """Nothing is on its way up; what waits, waits."""
        until(lambda: node.shared()["uploads"]["sending"] == 0, "nothing is being sent", 2 * DEADLINE)

    def wait_up(self, node, answers=1, mirrors=1):
        """So many are in the bucket, and nothing waits."""
        until(lambda: len(self.answers()) >= answers and len(self.manifests()) >= mirrors,
              f"{answers} answers and {mirrors} mirrors are in the bucket", 2 * DEADLINE)
        self.wait_idle(node)

    def wait_status(self, node, status):
        return until(lambda: (now := node.shared())["status"] == status and now,
                     f"the shared tier is {status}", 2 * DEADLINE)
