"""The program's commands as an operator types them."""
import os
import re
import subprocess
from pathlib import Path

import pytest

from support.pannier import binary

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ["serve", "ls", "show", "rm", "verify", "evict", "repo ls", "repo show", "repo refs",
            "repo invalidate", "repo refresh", "repo pin", "repo unpin", "nodes", "stats", "top", "config check", "config show",
            "config describe", "metrics describe", "version", "help"]


@pytest.fixture
def pannier_binary():
    return binary()


@pytest.fixture
def run(pannier_binary, tmp_path):
    """run("config", "show") -> what came of it; nothing of the caller's environment matters."""

    def call(*arguments, stdout=subprocess.PIPE, **env):
        keep = {name: value for name, value in os.environ.items() if name.endswith("SAN_OPTIONS")}
        return subprocess.run(
            [pannier_binary, *arguments], env={**keep, "HOME": "/home/u", **env}, cwd=tmp_path,
            stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60,
        )

    return call


def refused(result):
    """The one sentence of a refusal."""
    assert result.returncode == 2, result
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr.rstrip("\n")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("form", ["{} --help", "{} -h", "help {}"])
def test_every_command_has_help(run, command, form):
    result = run(*form.format(command).split())
    assert result.returncode == 0
    assert result.stdout.startswith(f"usage: pannier {command}")
    assert result.stderr == ""


@pytest.mark.parametrize("arguments", [["help"], ["--help"], ["-h"]])
def test_the_program_lists_its_commands(run, arguments):
    result = run(*arguments)
    assert result.returncode == 0
    for command in COMMANDS:
        assert f"  pannier {command} " in result.stdout


def test_nothing_at_all_gets_the_list_as_a_mistake(run):
    result = run()
    assert result.returncode == 2
    assert result.stdout == ""
    assert "usage:" in result.stderr


@pytest.mark.parametrize("option", ["--config FILE", "--listen HOST:PORT", "--admin-listen HOST:PORT",
                                    "--data DIR", "--upstream NAME=URL", "--log-format FORMAT", "--help"])
@pytest.mark.parametrize("command", ["serve", "config show"])
def test_help_names_every_option(run, command, option):
    assert f"  {option} " in run(*command.split(), "--help").stdout


@pytest.mark.parametrize("command, own", [
    ("ls", ["--entries"]), ("show", []), ("rm", ["--all"]), ("verify", ["--repair"]),
    ("evict", ["--dry-run", "--to SIZE"]),
])
def test_a_command_names_its_own_options_and_no_others(run, command, own):
    listed = re.findall(r"^  (--[a-z-]+(?: [A-Z]+)?) ", run(command, "--help").stdout, re.M)
    assert sorted(listed) == sorted(own + ["--json", "--data DIR", "--config FILE", "--help"])


@pytest.mark.parametrize("command, own", [
    ("repo ls", ["--sort KEY", "--filter TEXT", "--json"]), ("repo show", ["--json"]), ("repo refs", ["--json"]),
    ("repo invalidate", ["--all", "--refs", "--ref NAME", "--object ID", "--everything", "--reason TEXT", "--dry-run",
                         "--json"]),
    ("nodes", ["--forget NODE", "--json"]),
    ("repo refresh", ["--json"]), ("repo pin", ["--json"]), ("repo unpin", ["--json"]), ("stats", ["--json"]),
    ("top", []),
])
def test_a_command_to_the_admin_listener_says_which_and_with_which_token(run, command, own):
    listed = re.findall(r"^  (--[a-z-]+(?: [A-Z]+)?) ", run(*command.split(), "--help").stdout, re.M)
    assert sorted(listed) == sorted(own + ["--admin URL", "--token-file FILE", "--help"])


@pytest.mark.parametrize("arguments", [["version"], ["--version"]])
def test_the_version_is_one_line(run, arguments):
    result = run(*arguments)
    assert result.returncode == 0
    assert re.fullmatch(r"pannier \d+\.\d+\.\d+\n", result.stdout)


@pytest.mark.parametrize("arguments, sentence", [
    (["sevre"], "pannier: 'sevre' is no command; see 'pannier help'"),
    (["config"], "pannier: 'config' alone is no command; see 'pannier help'"),
    (["config", "chek"], "pannier: 'config' alone is no command; see 'pannier help'"),
    (["help", "sevre"], "pannier: 'sevre' is no command; see 'pannier help'"),
    (["serve", "--prot", "1"],
     "pannier serve: --prot is no option of this command; see 'pannier serve --help'"),
    (["serve", "x", "--data=/d", "-q"],
     "pannier serve: -q is no option of this command; see 'pannier serve --help'"),
    (["serve", "--listen"], "pannier serve: --listen needs a value; see 'pannier serve --help'"),
    (["serve", "8080"],
     "pannier serve: there is an argument too many; see 'pannier serve --help'"),
    (["ls", "--json=yes"], "pannier ls: --json takes no value; see 'pannier ls --help'"),
    (["ls", "--repair"],
     "pannier ls: --repair is no option of this command; see 'pannier ls --help'"),
    (["ls", "--listen", "a:1"],
     "pannier ls: --listen is no option of this command; see 'pannier ls --help'"),
    (["show"], "pannier show: REPO is missing; see 'pannier show --help'"),
    (["rm"], "pannier rm: needs either REPO or --all; see 'pannier rm --help'"),
    (["rm", "a/b", "--all"], "pannier rm: needs either REPO or --all; see 'pannier rm --help'"),
    (["rm", "a/b", "c/d"],
     "pannier rm: there is an argument too many; see 'pannier rm --help'"),
    (["verify", "a/b"],
     "pannier verify: there is an argument too many; see 'pannier verify --help'"),
    (["evict", "--to"], "pannier evict: --to needs a value; see 'pannier evict --help'"),
    (["evict", "--to", "half"],
     "pannier evict: --to is not a size; write a number with K, M, G or T, such as 20G"),
    (["repo"], "pannier: 'repo' alone is no command; see 'pannier help'"),
    (["repo", "show"], "pannier repo show: REPO is missing; see 'pannier repo show --help'"),
    (["repo", "show", "nothing"], "pannier repo show: REPO is neither <upstream>/<path> nor an id"),
    (["repo", "invalidate", "a/b"],
     "pannier repo invalidate: needs one of --refs, --ref, --object and --everything; see "
     "'pannier repo invalidate --help'"),
    (["repo", "invalidate", "a/b", "--refs", "--everything"],
     "pannier repo invalidate: needs one of --refs, --ref, --object and --everything; see "
     "'pannier repo invalidate --help'"),
    (["repo", "invalidate"],
     "pannier repo invalidate: needs either REPO or --all; see 'pannier repo invalidate --help'"),
    (["repo", "invalidate", "a/b", "--all"],
     "pannier repo invalidate: needs either REPO or --all; see 'pannier repo invalidate --help'"),
    (["repo", "invalidate", "--all", "--refs"],
     "pannier repo invalidate: --all is everything of all repositories, and takes none of --refs, --ref and --object; "
     "see 'pannier repo invalidate --help'"),
    (["invalidate", "a/b"], "pannier: 'invalidate' is no command; see 'pannier help'"),
    (["nodes", "--forget"], "pannier nodes: --forget needs a value; see 'pannier nodes --help'"),
    (["stats", "--admin", "localhost:1"],
     "pannier: --admin is not a URL of http or https; write for instance http://127.0.0.1:8081"),
    (["stats", "--token-file", "none"], "pannier: read none: No such file or directory"),
    (["ls", "--config", "none.yaml"], "none.yaml: cannot be read: No such file or directory"),
    (["version", "--listen", "a:1"],
     "pannier version: --listen is no option of this command; see 'pannier version --help'"),
    (["config", "check"],
     "pannier config check: FILE is missing; see 'pannier config check --help'"),
    (["config", "check", "a", "b"],
     "pannier config check: there is an argument too many; see 'pannier config check --help'"),
    (["serve", "--listen", "8080"],
     "--listen: is not HOST:PORT; write for instance 127.0.0.1:8080 or [::1]:8080"),
    (["serve", "--log-format", "xml"],
     "--log-format: is not one of the known words; write one of text, json"),
    (["serve", "--config", "none.yaml"], "none.yaml: cannot be read: No such file or directory"),
    (["config", "show", "--config", "none.yaml"],
     "none.yaml: cannot be read: No such file or directory"),
])
def test_what_makes_no_sense_is_refused_in_one_sentence(run, arguments, sentence):
    assert refused(run(*arguments)) == sentence


def test_a_secret_in_an_option_is_not_repeated(run):
    for option in ("--upstream=a=https://user:hunter2@a", "--upstreem=a=https://user:hunter2@a"):
        assert "hunter2" not in refused(run("serve", option))


def test_a_good_file_is_ok(run, tmp_path):
    (tmp_path / "good.yaml").write_text("listen: 127.0.0.1:1\n")
    result = run("config", "check", "good.yaml")
    assert (result.returncode, result.stdout, result.stderr) == (0, "good.yaml: ok\n", "")


@pytest.mark.parametrize("command", [["config", "check"], ["config", "show", "--config"],
                                     ["serve", "--config"]])
def test_a_bad_file_is_refused_with_file_line_and_key(run, tmp_path, command):
    (tmp_path / "bad.yaml").write_text("listen: 127.0.0.1:1\nlimits:\n  conections: 3\n")
    assert refused(run(*command, "bad.yaml")) == (
        "bad.yaml:3: limits.conections: is not a setting; did you mean 'connections'?")


def test_a_large_file_of_nonsense_is_refused_at_once(run, tmp_path):
    (tmp_path / "large.yaml").write_bytes(os.urandom(10 << 20))
    assert "larger than 1 MiB" in refused(run("config", "check", "large.yaml"))


def test_the_example_is_ok(run):
    example = ROOT / "deploy" / "pannier.example.yaml"
    assert run("config", "check", str(example)).stdout == f"{example}: ok\n"


def test_what_is_shown_is_a_configuration_that_shows_the_same(run, tmp_path):
    shown = run("config", "show", "--data", "d", "--upstream", "*.x=https://*.x").stdout
    assert f'data: "{tmp_path}/d"' in shown
    assert 'name: "*.x"' in shown
    (tmp_path / "shown.yaml").write_text(shown)
    assert run("config", "show", "--config", "shown.yaml").stdout == shown


def test_the_data_folder_is_a_cache_folder(run):
    assert 'data: "/home/u/.cache/pannier"' in run("config", "show").stdout
    assert 'data: "/c/pannier"' in run("config", "show", XDG_CACHE_HOME="/c").stdout


@pytest.mark.parametrize("what, page", [("config", "configuration.md"), ("metrics", "metrics.md")])
def test_the_documented_table_is_what_describe_prints(run, what, page):
    documented = (ROOT / "docs" / page).read_text()
    table = re.search(rf"<!-- pannier {what} describe: begin -->\n(.*?)"
                      rf"<!-- pannier {what} describe: end -->", documented, re.S)[1]
    assert run(what, "describe").stdout == table


def test_output_that_cannot_be_written_is_a_failure(run):
    with open("/dev/full", "w") as full:
        result = run("config", "show", stdout=full)
    assert result.returncode == 1
    assert "No space left" in result.stderr
