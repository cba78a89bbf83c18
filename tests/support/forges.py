"""Git hosts' webhooks, as these sign and write them.

    hook = forges.github(secret, f"{origin.url}/{path}.git", path, ref, before, after)
    hook.send(pannier)                  to /hooks/origin; the answer
    hook.but(body=b"...")               another body under the same signature"""
import base64
import dataclasses
import hashlib
import hmac
import json

from .gitclient import call

ZEROS = "0" * 40


@dataclasses.dataclass
class Hook:
    headers: dict
    body: bytes

    def but(self, body=None, **headers):
        changed = {name: value for name, value in self.headers.items() if headers.get(name, value) is not None}
        return Hook({**changed, **{n: v for n, v in headers.items() if v}}, self.body if body is None else body)

    def send(self, pannier, upstream="origin", method="POST"):
        return call(f"{pannier.url}/hooks/{upstream}", method, self.body, protocol=None,
                    headers={"Content-Type": "application/json", "User-Agent": "a-git-host/1", **self.headers})


def mac(secret, body):
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def github(secret, url, path, ref, before=ZEROS, after=ZEROS, event="push"):
    said = {"ref": ref, "before": before, "after": after,
            "repository": {"id": 1, "name": path.rpartition("/")[2], "full_name": path, "clone_url": url},
            "created": before == ZEROS, "deleted": after == ZEROS, "forced": False, "commits": [],
            "pusher": {"name": "carrier"}}
    body = json.dumps(said).encode()
    return Hook({"X-GitHub-Event": event, "X-GitHub-Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
                 "X-Hub-Signature-256": "sha256=" + mac(secret, body)}, body)


def gitlab(secret, url, path, ref, before=ZEROS, after=ZEROS):
    tag = ref.startswith("refs/tags/")
    kind = "tag_push" if tag else "push"
    said = {"object_kind": kind, "event_name": kind, "before": before, "after": after, "ref": ref,
            "project": {"id": 15, "path_with_namespace": path, "git_http_url": url}, "commits": [],
            "total_commits_count": 0}
    return Hook({"X-Gitlab-Event": "Tag Push Hook" if tag else "Push Hook", "X-Gitlab-Token": secret},
                json.dumps(said).encode())


def gitlab_signed(secret, url, path, ref, before=ZEROS, after=ZEROS):
    """With a signing token (whsec_...) in place of the secret token."""
    hook = gitlab(secret, url, path, ref, before, after)
    key = base64.b64decode(secret.removeprefix("whsec_"))
    content = b"f5e5f430-f57b-4e6e-9fac-d9128cd7232f.1767225600." + hook.body
    signature = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    del hook.headers["X-Gitlab-Token"]
    hook.headers.update({"webhook-id": "f5e5f430-f57b-4e6e-9fac-d9128cd7232f",
                         "webhook-timestamp": "1767225600", "webhook-signature": f"v1,{signature}"})
    return hook


def gitea(secret, url, path, ref, before=ZEROS, after=ZEROS):
    hook = github(secret, url, path, ref, before, after)
    hook.headers.update({"X-Gitea-Event": "push", "X-Gogs-Event": "push",
                         "X-Gitea-Signature": mac(secret, hook.body)})
    return hook


def forgejo(secret, url, path, ref, before=ZEROS, after=ZEROS):
    hook = github(secret, url, path, ref, before, after)
    del hook.headers["X-Hub-Signature-256"]
    hook.headers.update({"X-Forgejo-Event": "push", "X-Forgejo-Signature": mac(secret, hook.body)})
    return hook


def bitbucket_cloud(secret, url, path, ref, before=ZEROS, after=ZEROS):
    kind, name = ("tag", ref[10:]) if ref.startswith("refs/tags/") else ("branch", ref[11:])

    def side(oid):
        return None if oid == ZEROS else {"type": kind, "name": name, "target": {"type": "commit", "hash": oid}}

    change = {"old": side(before), "new": side(after), "created": before == ZEROS, "closed": after == ZEROS}
    said = {"push": {"changes": [change]},
            "repository": {"type": "repository", "full_name": path,
                           "links": {"html": {"href": url.removesuffix(".git")}}}}
    body = json.dumps(said).encode()
    return Hook({"X-Event-Key": "repo:push", "X-Hub-Signature": "sha256=" + mac(secret, body)}, body)


def bitbucket_server(secret, url, path, ref, before=ZEROS, after=ZEROS):
    project, _, slug = path.rpartition("/")
    kind = "ADD" if before == ZEROS else "DELETE" if after == ZEROS else "UPDATE"
    change = {"ref": {"id": ref}, "refId": ref, "fromHash": before, "toHash": after, "type": kind}
    said = {"eventKey": "repo:refs_changed",
            "repository": {"slug": slug, "project": {"key": project.upper()},
                           "links": {"clone": [{"href": "ssh://git@127.0.0.1:7999/x.git", "name": "ssh"},
                                               {"href": url, "name": "http"}]}},
            "changes": [change]}
    body = json.dumps(said).encode()
    return Hook({"X-Event-Key": "repo:refs_changed", "X-Hub-Signature": "sha256=" + mac(secret, body)}, body)


ALL = {how.__name__: how for how in (github, gitlab, gitlab_signed, gitea, forgejo, bitbucket_cloud, bitbucket_server)}
