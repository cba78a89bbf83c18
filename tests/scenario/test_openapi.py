"""The API against its own description: every path and method is called, every response is what it says,
and nothing is there that isn't described."""
import json
import re

import jsonschema
import pytest

from support.admin import ROOT, Admin, routes, tokens_file
from support.wait import until

DOCUMENT = json.loads((ROOT / "proxy/admin/openapi.json").read_text())
OPERATIONS = [(path, method, operation)
              for path, item in DOCUMENT["paths"].items()
              for method, operation in item.items() if method != "parameters"]
NAMES = [operation["operationId"] for _, _, operation in OPERATIONS]
# What each is called with to do what it is for: (query, body).
GOOD = {
    "beginWarmup": [("", {"repositories": ["{name}", {"repository": "{name}", "branches": ["main"], "depth": None,
                                                      "priority": "low"}]}),
                    ("", {"repositories": [{"repository": "{name}", "branches": None, "depth": 5}], "by": "command"})],
    "listRepositories": [("", None), ("?limit=1&sort=-size&q=own&upstream=origin&pinned=false", None),
                         ("?name=origin/none", None), ("?sort=-hit_ratio", None), ("?sort=byte_hit_ratio", None), ("?sort=requests", None)],
    "listRefs": [("", None), ("?limit=1&sort=-seen&q=heads", None)],
    "invalidateAll": [("", {"everything": True, "dry_run": True, "reason": "a test"})],
    "history": [("", None), ("?step=5&since=1700000000", None)],
    "listAnswers": [("", None), ("?limit=1000&sort=-created", None), ("?repository={id}", None)],
    "setLogLevel": [("", {"level": "debug"})],
    "evict": [("", {"dry_run": True, "to_bytes": 0}), ("", {}), ("", None)],
    "invalidate": [("", {"refs": True}), ("", {"ref": "refs/heads/main", "reason": "a test"}),
                   ("", {"object": "0" * 40, "dry_run": True}), ("", {"everything": True, "dry_run": True})],
}
LAST = ["unpin", "removeRepository"]  # after these it isn't there any more


def schema_of(response):
    (content,) = response["content"].items()
    kind, media = content
    return kind, {**media["schema"], "components": DOCUMENT["components"]}


def check(answer, operation):
    """It is one of the responses that are described, to the letter."""
    described = operation["responses"].get(str(answer.status))
    assert described, (operation["operationId"], answer.status, answer.body)
    kind, schema = schema_of(described)
    assert answer.type == kind
    if kind != "text/event-stream":
        jsonschema.Draft202012Validator(schema).validate(answer.json)
    return answer


@pytest.fixture
def filled(pannier, own, git):
    """A pannier that has a repository; its API, and the repository's id."""
    path, _ = own()
    git.clone(pannier.url_of(path))
    pannier.wait_mirror(path)
    admin = Admin(pannier)
    until(lambda: [r["mirror"] for r in admin.get("/repositories")["repositories"]] == [True],
          "answer and mirror are known")
    return admin, admin.repository(f"origin/{path}")


def test_the_document_is_served_as_it_lies_here(pannier):
    assert Admin(pannier).get("/openapi.json") == DOCUMENT


def test_the_document_is_what_openapi_wants():
    assert DOCUMENT["openapi"].startswith("3.1.") and len(set(NAMES)) == len(NAMES)
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    text = json.dumps(DOCUMENT)
    for reference in re.findall(r'"\$ref": "#/components/schemas/(\w+)"', text):
        assert reference in DOCUMENT["components"]["schemas"]
    for path, method, operation in OPERATIONS:
        given = {p["name"] for p in DOCUMENT["paths"][path].get("parameters", [])}
        assert set(re.findall(r"{(\w+)}", path)) == given
        assert operation["summary"] and operation["responses"]
        assert operation["security"] == ([] if operation["x-scope"] == "none" else [{"token": []}])


def test_every_route_is_described_and_nothing_else_is():
    described = {(method.upper(), path, operation["x-scope"].upper()) for path, method, operation in OPERATIONS}
    assert {route for route in routes() if route[1].startswith("/api/")} == described


def id_for(admin, path, repository):
    """What stands for {id} in the path."""
    if "/nodes/" in path:
        return admin.get("/nodes")["nodes"][0]["name"]
    if "/warmups/" not in path:
        return repository
    (latest, *_) = admin.get("/warmups")["warmups"]
    return latest["id"]


def test_each_operation_answers_as_described(filled):
    admin, repository = filled
    repo = admin.get("/repositories")["repositories"][0]["repo"]
    order = [o for o in OPERATIONS if o[2]["operationId"] not in LAST]
    order.sort(key=lambda o: o[2]["operationId"] != "beginWarmup")  # the others look at what it began
    order += [o for name in LAST for o in OPERATIONS if o[2]["operationId"] == name]
    for path, method, operation in order:
        name = operation["operationId"]
        if name == "events":
            continue  # doesn't end: below
        for query, body in GOOD.get(name, [("", None)]):
            where = path.replace("{id}", id_for(admin, path, repository)) + query.replace("{id}", repository)
            body = json.loads(json.dumps(body).replace("{name}", repo))
            answer = check(admin.call(method.upper(), where, body), operation)
            # The only node there is is alive: test_cluster.py has one that isn't.
            expected = {"beginWarmup": 202, "forgetNode": 409}.get(name, 200)
            assert answer.status == expected, (name, answer.body)
        if name == "beginWarmup":  # or it would make anew what is removed at the end
            until(lambda: all(w["ended"] for w in admin.get("/warmups")["warmups"]), "it has ended")
    assert admin.get("/repositories")["repositories"] == []


def test_events_are_as_described(pannier):
    events = Admin(pannier).events()
    (operation,) = [o for _, _, o in OPERATIONS if o["operationId"] == "events"]
    assert events.response.headers["Content-Type"] in operation["responses"]["200"]["content"]
    events.close()


def test_every_operation_refuses_what_it_does_not_know(filled):
    admin, repository = filled
    for path, method, operation in OPERATIONS:
        if operation["operationId"] == "openapi":
            continue
        where = path.replace("{id}", repository)
        answer = check(admin.call(method.upper(), where + "?no_such=1"), operation)
        assert answer.status == 400 and answer.problem["field"] == "no_such"
        if "{id}" in path:
            for unknown, status in (("0" * 64, 404), ("x", 404), ("0" * 63, 404), ("%2e%2e", 404)):
                body = {"everything": True} if "invalidate" in operation["operationId"] else None
                answer = check(admin.call(method.upper(), path.replace("{id}", unknown), body), operation)
                assert answer.status == status, (operation["operationId"], unknown, answer.body)
        if method in ("post", "put", "delete"):
            for raw, status in ((b"{", 400), (b"[]", 400), (b'{"a":1,"a":1}', 400), (b"\xff\xfe", 400),
                                (b'{"no_such":1}', 400), (b"x" * 70_000, 413)):
                answer = check(admin.call(method.upper(), where, raw=raw,
                                          headers={"Content-Type": "application/json"}), operation)
                assert answer.status == status, (operation["operationId"], raw[:20], answer.body)
            assert check(admin.call(method.upper(), where, raw=b"{}"), operation).status == 415
    assert admin.call("GET", f"/api/v1/repositories/{repository}").status == 200


@pytest.mark.parametrize("name, query, body, field", [
    ("listRepositories", "?limit=0", None, "limit"),
    ("listRepositories", "?limit=1001", None, "limit"),
    ("listRepositories", "?limit=+5", None, "limit"),
    ("listRepositories", "?limit=ten", None, "limit"),
    ("listRepositories", "?cursor=zz", None, "cursor"),
    ("listRepositories", "?sort=colour", None, "sort"),
    ("listRepositories", "?sort=-name", None, "sort"),
    ("listRepositories", "?pinned=yes", None, "pinned"),
    ("listRepositories", "?limit=1&limit=2", None, "limit"),
    ("listRepositories", "?q=%zz", None, "q"),
    ("listRepositories", "?q=%00", None, "q"),
    ("listAnswers", "?sort=hit_ratio", None, "sort"),
    ("listRefs", "?sort=size", None, "sort"),
    ("listRefs", "?cursor=zz", None, "cursor"),
    ("invalidateAll", "", {}, "everything"),
    ("invalidateAll", "", {"everything": False}, "everything"),
    ("invalidateAll", "", {"everything": True, "refs": True}, "refs"),
    ("listAnswers", "?repository=abc", None, "repository"),
    ("history", "?step=7", None, "step"),
    ("history", "?since=-1", None, "since"),
    ("history", "?since=yesterday", None, "since"),
    ("setLogLevel", "", {"level": "loud"}, "level"),
    ("setLogLevel", "", {"level": 1}, "level"),
    ("setLogLevel", "", {}, "level"),
    ("beginWarmup", "", {}, "repositories"),
    ("beginWarmup", "", {"repositories": []}, "repositories"),
    ("beginWarmup", "", {"repositories": "origin/a/b"}, "repositories"),
    ("beginWarmup", "", {"repositories": ["origin/a/b"] * 1001}, "repositories"),
    ("beginWarmup", "", {"repositories": ["origin/a/b", 5]}, "repositories[1]"),
    ("beginWarmup", "", {"repositories": [""]}, "repositories[0]"),
    ("beginWarmup", "", {"repositories": ["origin"]}, "repositories[0]"),
    ("beginWarmup", "", {"repositories": ["origin/../a"]}, "repositories[0]"),
    ("beginWarmup", "", {"repositories": ["origin/a\n"]}, "repositories[0]"),
    ("beginWarmup", "", {"repositories": ["origin/a%ff"]}, "repositories[0]"),
    ("beginWarmup", "", {"repositories": ["elsewhere.example/a/b"]}, "repositories[0]"),
    ("beginWarmup", "", {"repositories": [{"branches": ["main"]}]}, "repositories[0].repository"),
    ("beginWarmup", "", {"repositories": [{"repository": "elsewhere.example/a"}]}, "repositories[0].repository"),
    ("beginWarmup", "", {"repositories": [{"repository": "origin/a", "brunches": []}]}, "repositories[0].brunches"),
    ("beginWarmup", "", {"repositories": [{"repository": "origin/a", "branches": "main"}]}, "repositories[0].branches"),
    ("beginWarmup", "", {"repositories": [{"repository": "origin/a", "branches": [""]}]}, "repositories[0].branches"),
    ("beginWarmup", "", {"repositories": [{"repository": "origin/a", "branches": ["b"] * 17}]},
     "repositories[0].branches"),
    ("beginWarmup", "", {"repositories": [{"repository": "origin/a", "depth": 0}]}, "repositories[0].depth"),
    ("beginWarmup", "", {"repositories": [{"repository": "origin/a", "depth": "1"}]}, "repositories[0].depth"),
    ("beginWarmup", "", {"repositories": [{"repository": "origin/a", "priority": "x"}]}, "repositories[0].priority"),
    ("beginWarmup", "", {"repositories": ["origin/a"], "most_used": 0}, "most_used"),
    ("beginWarmup", "", {"most_used": 1001}, "most_used"),
    ("beginWarmup", "", {"most_used": True}, "most_used"),
    ("beginWarmup", "", {"repositories": ["origin/a"], "by": "schedule"}, "by"),
    ("evict", "", {"to_bytes": -1}, "to_bytes"),
    ("evict", "", {"to_bytes": "1G"}, "to_bytes"),
    ("evict", "", {"dry_run": "yes"}, "dry_run"),
    ("invalidate", "", {"object": "abc"}, "object"),
    ("invalidate", "", {"object": "g" * 40}, "object"),
    ("invalidate", "", {"ref": ""}, "ref"),
    ("invalidate", "", {"ref": ["a"]}, "ref"),
    ("invalidate", "", {"refs": 1}, "refs"),
    ("invalidate", "", {"everything": True, "reason": "x" * 1025}, "reason"),
    ("invalidate", "", {}, None),
    ("invalidate", "", {"refs": True, "everything": True}, None),
    ("invalidate", "", {"refs": False}, None),
])
def test_the_field_that_is_to_blame_is_named(filled, name, query, body, field):
    admin, repository = filled
    ((path, method, operation),) = [o for o in OPERATIONS if o[2]["operationId"] == name]
    answer = check(admin.call(method.upper(), path.replace("{id}", repository) + query, body), operation)
    assert answer.status == 400 and answer.problem.get("field") == field


def test_a_parameter_has_a_bound(pannier):
    problem = Admin(pannier).refused(400, "GET", "/repositories?q=" + "a" * 1025)
    assert problem["field"] == "q"


def test_scopes_are_those_that_are_described(start, origin, tmp_path):
    file = tokens_file(tmp_path / "tokens", reader=("read", "reads"), operator=("operate", "operates"))
    pannier = start(origin=origin.url, config={"admin": {"tokens_file": str(file)}})
    allowed = {"none": {None, "reads", "operates"}, "read": {"reads", "operates"}, "operate": {"operates"}}
    for path, method, operation in OPERATIONS:
        for token in (None, "reads", "operates", "unknown"):
            where = path.replace("{id}", "0" * 64) + ("?no_such=1" if operation["x-scope"] != "none" else "")
            answer = check(Admin(pannier, token).call(method.upper(), where), operation)
            expected = allowed[operation["x-scope"]]
            if token in expected or operation["x-scope"] == "none":
                assert answer.status in (200, 400), (operation["operationId"], token)
            else:
                assert answer.status == (403 if token == "reads" else 401), (operation["operationId"], token)


@pytest.mark.parametrize("method, path, status", [
    ("POST", "/api/v1/stats", 405), ("PUT", "/api/v1/repositories", 405), ("PATCH", "/api/v1/log/level", 405),
    ("GET", "/api/v1", 404), ("GET", "/api/v2/stats", 404), ("GET", "/api/v1/stats/", 404),
    ("GET", "/api/v1/repositories/a/b", 404), ("GET", "/api/v1/repositories//pin", 404),
    ("POST", "/api/v1/repositories/" + "0" * 64 + "/invalidate/x", 404), ("GET", "//etc/passwd", 404)])
def test_what_is_not_there_is_a_problem(pannier, method, path, status):
    answer = Admin(pannier).call(method, path)
    assert answer.status == status and answer.problem
    assert (status == 405) == ("Allow" in answer.headers)
