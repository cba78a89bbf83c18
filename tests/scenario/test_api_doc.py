"""The examples of docs/api.md, as somebody pastes them into a shell."""
import re
import subprocess

from support.admin import ROOT, Admin, routes
from support.wait import until

PROJECT = "github.com/example/project"


def examples():
    """(commands that came before, the command, what it prints) for each one that prints something."""
    text = (ROOT / "docs/api.md").read_text()
    setting, found = [], []
    for block in re.findall(r"(?:^    .*\n)+", text, re.M):
        lines = [line[4:] for line in block.splitlines()]
        if not lines[0].startswith("$ "):
            continue
        while lines:
            command = lines.pop(0).removeprefix("$ ")
            printed = []
            while lines and not lines[0].startswith("$ "):
                printed.append(lines.pop(0))
            if printed:
                found.append((list(setting), command, "\n".join(printed)))
            elif re.match(r"\w+=", command):
                setting.append(command)
            else:
                found.append((list(setting), command, None))
    return found


def fits(printed, expected):
    """'...' stands for anything."""
    pattern = ".*".join(re.escape(part) for part in expected.split("..."))
    return re.fullmatch(pattern, printed.strip(), re.S)


def test_each_example_prints_what_it_says(start, origin, own, git):
    path, _ = own()
    # An upstream whose name is the page's.
    pannier = start(**{"github.com": f"{origin.url}/{path.rpartition('/')[0]}"})
    name = path.rpartition("/")[2]
    for _ in range(2):
        git.clone(f"{pannier.url}/github.com/{name}.git", "--mirror")
    admin = Admin(pannier)
    until(lambda: [r["mirror"] for r in admin.get("/repositories")["repositories"]] == [True], "all is known")
    until(lambda: admin.call("GET", "/readyz").status == 200, "it serves")
    ran = 0
    for setting, command, expected in sorted(examples(), key=lambda e: "-X DELETE" in e[1]):
        script = "\n".join([*setting, command]).replace("127.0.0.1:8081", f"127.0.0.1:{pannier.admin_port}")
        script = script.replace("example/project", name)
        done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, (command, done.stderr)
        if expected is not None:
            assert fits(done.stdout, expected.replace("example/project", name)), (command, done.stdout)
            ran += 1
    assert ran >= 12


def test_every_route_is_on_the_page():
    text = (ROOT / "docs/api.md").read_text()
    for _, path, _ in routes():
        words = path.removeprefix("/api/v1/").replace("{id}", "").strip("/").split("/")
        assert all(word in text for word in words if word), path
