"""The commands that speak the admin API, as an operator types them."""
import json
import re

import pytest

from support.admin import Admin, tokens_file
from support.cli import Cli, Imposter
from support.net import HOST, free_port
from support.wait import until

REPO = "origin/public/simple"


@pytest.fixture
def cli(pannier, git, simple):
    git.clone(pannier.url_of("public/simple"), "--mirror")
    git.clone(pannier.url_of("public/simple"), "--mirror")
    pannier.packs(2)
    cli = Cli(pannier)
    cli.pannier = pannier
    until(lambda: [r["mirror"] for r in cli.document("repo ls")["repositories"]] == [True], "all is known")
    return cli


def test_repositories_are_listed_for_people_and_for_programs(cli):
    title, row = cli.done("repo ls").splitlines()
    assert title.split("  ")[0] == "REPOSITORY" and re.match(rf"{REPO} +1  yes +no ", row)
    assert "50.0 %" in row and "\033" not in title
    document = cli.document("repo ls")
    assert document["complete"] is True and document["repositories"][0]["repo"] == REPO
    assert cli.document("repo ls", "--filter", "no such")["repositories"] == []
    assert cli.document("repo ls", "--sort", "-size")["repositories"] == document["repositories"]
    assert cli.document("repo ls", "--sort", "-hit_ratio")["repositories"] == document["repositories"]
    assert cli.fails("repo ls", "--sort", "colour", status=2).startswith("sort: ")


def test_one_is_shown_by_any_of_its_names(cli):
    text = cli.done("repo show", REPO)
    assert text.startswith(REPO + "\n") and re.search(r"^  hit ratio +50\.0 %$", text, re.M)
    document = cli.document("repo show", REPO)
    upstream = document["url"].partition("://")[2]
    for name in (f"{REPO}.git", f"https://{REPO}", document["id"], document["url"], f"http://me:s3cret@{upstream}.git"):
        assert cli.document("repo show", name) == document
    assert "s3cret" not in cli.pannier.output()
    assert "origin/no/such: nothing is kept of" in cli.fails("repo show", "origin/no/such")
    result = cli.run("repo show", "origin/no/such", "--json")
    assert result.returncode == 1 and json.loads(result.stdout)["error"]["kind"] == "not-found"


def test_what_is_invalidated_is_told(cli):
    assert "would remove 2 entries" in cli.done("repo invalidate", REPO, "--everything", "--dry-run")
    assert "removed 0 entries" in cli.done("repo invalidate", REPO, "--refs")
    said = cli.done("repo invalidate", REPO, "--object", "ab" * 20, "--reason", "a leak")
    assert "removed 1 entry of" in said and "the mirror" not in said
    assert "this node had nothing of it" not in said
    document = cli.document("repo invalidate", REPO, "--everything")
    assert document["nodes"][0]["entries"] == 1 and document["nodes"][0]["mirror"] is True
    assert cli.fails("repo invalidate", REPO, "--object", "zz", status=2).startswith("object: ")
    assert cli.pannier.wait_event("invalidated", scope="object")["reason"] == "a leak"


def test_what_is_meant_by_the_url_upstream_is_what_goes(cli):
    url = cli.document("repo show", REPO)["url"]
    assert "removed 2 entries" in cli.done("repo invalidate", url, "--everything")
    # And what nobody knows is told to be nothing, not to be gone.
    said = cli.run("repo invalidate", REPO, "--everything")
    assert said.returncode == 0 and "this node had nothing of it: is it called so by clients?" in said.stdout
    assert "nothing is kept of" in cli.fails("repo invalidate", "elsewhere.example/a", "--everything")


def test_two_that_are_one_upstream_are_told_apart_by_their_ids(start, origin, git, simple):
    pannier = start(**{"one": origin.url, "two": origin.url})
    for name in ("one", "two"):
        git.clone(f"{pannier.url}/{name}/public/simple.git", "--mirror")
    cli = Cli(pannier)
    listed = until(lambda: len(r := cli.document("repo ls")["repositories"]) == 2 and r, "both are kept")
    said = cli.fails("repo pin", listed[0]["url"], status=2)
    assert "one/public/simple or two/public/simple" in said
    cli.done("repo pin", listed[1]["id"])
    assert [r["pinned"] for r in cli.document("repo ls")["repositories"]] == [False, True]


def test_all_repositories_are_invalidated_where_that_is_said(cli):
    assert "would remove 2 entries" in cli.done("repo invalidate", "--all", "--dry-run")
    said = cli.done("repo invalidate", "--all", "--reason", "a leak")
    assert "removed 2 entries" in said and "the mirror among them" in said and "no node serves it any more" in said
    assert cli.document("repo ls")["repositories"] == []
    assert cli.pannier.wait_event("invalidated", scope="everything")["reason"] == "a leak"


def test_refs_that_were_seen_are_listed(cli, simple):
    lines = cli.done("repo refs", REPO).splitlines()
    assert lines[0].split() == ["REF", "OBJECT", "SEEN", "SHOWN", "TO"]
    assert any(re.fullmatch(rf"refs/heads/main +{simple.oid()} +.+ +anonymous", line) for line in lines)
    document = cli.document("repo refs", REPO)
    assert len(document["refs"]) == document["seen"]["count"] == len(lines) - 1
    assert re.search(rf"^  refs seen +{len(lines) - 1}; last at .+ by a client without a credential$",
                     cli.done("repo show", REPO), re.M)
    cli.done("repo invalidate", REPO, "--refs")
    assert cli.done("repo refs", REPO) == "upstream has shown none since the start\n"
    assert "nothing is kept of" in cli.fails("repo refs", "origin/no/such")


def test_nodes_are_listed_and_one_that_is_alive_is_not_forgotten(cli):
    title, row, alone = cli.done("nodes").splitlines()
    (node,) = cli.document("nodes")["nodes"]
    assert title.split()[0] == "NODE" and row.split()[:2] == [node["name"], "ready"]
    assert alone == "this node is alone: redis.url is not set"
    assert "is alive" in cli.fails("nodes", "--forget", node["name"])
    assert "no node" in cli.fails("nodes", "--forget", "x/../y")


def test_it_is_pinned_and_refreshed(cli):
    assert cli.done("repo pin", REPO) == "pinned\n"
    assert cli.document("repo ls")["repositories"][0]["pinned"] is True
    assert re.search(r"^of \d+ branches and tags 0 were not here", cli.done("repo refresh", REPO))
    assert cli.done("repo unpin", REPO) == "not pinned any more\n"
    assert cli.fails("repo unpin", REPO) == f"{REPO}: this is not pinned"
    assert cli.fails("repo unpin", f"http://me:s3cret@{REPO}.git") == f"{REPO}: this is not pinned"


def test_numbers_are_shown(cli):
    text = cli.done("stats")
    assert re.search(r"^  hits +local 1, shared 0", text, re.M)
    assert re.search(r"^  mirrors +1$", text, re.M)
    assert cli.document("stats") == {**Admin(cli.pannier).get("/stats"), "in_flight": 0}


def test_top_shows_once_where_there_is_no_terminal(cli):
    text = cli.done("top")
    assert "hit ratio" in text and REPO in text and "\033" not in text


def test_top_goes_on_on_a_terminal(cli):
    shown = cli.on_terminal("top", enough=lambda shown: shown.count(b"\033[2J") >= 2)
    assert shown.count(REPO) >= 1 and shown.startswith("\033[H\033[2J")


def test_colours_are_for_terminals(cli):
    assert "\033[31m" in cli.on_terminal("repo show", "origin/no/such")
    cli.env["NO_COLOR"] = "1"
    assert "\033" not in cli.on_terminal("repo show", "origin/no/such")


def test_a_token_comes_from_the_environment_or_a_file(start, origin, tmp_path):
    file = tokens_file(tmp_path / "tokens", me=("read", "my-own-token"))
    pannier = start(origin=origin.url, config={"admin": {"tokens_file": str(file)}})
    assert "show a token" in Cli(pannier).fails("stats")
    assert "hits" in Cli(pannier, PANNIER_ADMIN_TOKEN="my-own-token").done("stats")
    (tmp_path / "mine").write_text("my-own-token\n")
    assert "hits" in Cli(pannier).done("stats", "--token-file", str(tmp_path / "mine"))
    cli = Cli(pannier, PANNIER_ADMIN_TOKEN="my-own-token")
    assert "scope 'operate'" in cli.fails("repo pin", REPO)
    cli = Cli(pannier, PANNIER_ADMIN_TOKEN="a\nb: c")
    assert cli.fails("stats", status=2).startswith("the token holds")


def test_where_nobody_listens_is_told(pannier):
    cli = Cli(pannier)
    cli.url = f"http://{HOST}:{free_port()}"
    assert cli.fails("stats").startswith(f"{cli.url} can't be reached: ")


def test_what_is_no_pannier_is_told(pannier, origin):
    cli = Cli(pannier)
    cli.url = origin.url
    assert "not as a pannier does" in cli.fails("stats")


@pytest.mark.parametrize("words", [("repo ls",), ("repo refs", REPO), ("warm", REPO), ("warm", REPO, "--wait")],
                         ids=" ".join)
@pytest.mark.parametrize("document", [{}, [], {"repositories": {}, "next": None}, {"repositories": [{}]},
                                      {"repositories": [], "next": 5}, {"repositories": [{}], "refs": []}], ids=repr)
def test_json_of_somebody_else_is_told(document, words):
    with Imposter((200, document, {})) as other:
        assert "as a pannier does" in Cli(other).fails(*words)


def test_a_warmup_that_turns_into_something_else_is_told():
    begun = (202, {"id": "w", "total": 1, "ended": None}, {})
    with Imposter(begun, (200, {"id": "v", "total": 1}, {})) as other:
        assert "as a pannier does" in Cli(other).fails("warm", REPO, "--wait")


def test_numbers_that_make_no_sense_fit_onto_a_terminal():
    begun = (202, {"id": "w", "total": 1, "done": 5000, "ended": "now"}, {})
    with Imposter(begun) as other:
        assert f"[{'#' * 30}] 5000 of 1" in Cli(other).on_terminal("warm", REPO, "--wait")


def test_names_of_late_nodes_that_are_none_are_told():
    with Imposter((200, {"late": [5, "b"], "acknowledged": False, "dry_run": False}, {})) as other:
        result = Cli(other).run("repo invalidate", "--all")
    assert result.returncode == 1 and "? has not said" in result.stdout and "b has not said" in result.stdout
