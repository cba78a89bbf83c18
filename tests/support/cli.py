"""The commands that speak the admin API, as an operator types them."""
import json
import os
import pty
import re
import select
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from .net import HOST
from .pannier import SANITIZER, binary
from .wait import DEADLINE


class Cli:
    """Commands to one pannier: run("repo ls") -> how it ended; done("stats") -> what it printed."""

    def __init__(self, pannier, **env):
        self.url = f"http://{HOST}:{pannier.admin_port}"
        keep = {name: value for name, value in os.environ.items() if name.endswith("SAN_OPTIONS")}
        self.env = {**keep, "HOME": "/none", "PATH": os.environ["PATH"], **env}

    def command(self, words, *arguments):
        return [binary(), *words.split(), *arguments, "--admin", self.url]

    def run(self, words, *arguments):
        result = subprocess.run(self.command(words, *arguments), env=self.env, stdin=subprocess.DEVNULL,
                                capture_output=True, text=True, timeout=4 * DEADLINE)
        assert not SANITIZER.search(result.stderr), result.stderr
        return result

    def done(self, words, *arguments):
        result = self.run(words, *arguments)
        assert (result.returncode, result.stderr) == (0, ""), result
        return result.stdout

    def document(self, words, *arguments):
        return json.loads(self.done(words, *arguments, "--json"))

    def fails(self, words, *arguments, status=1):
        result = self.run(words, *arguments)
        assert result.returncode == status and result.stdout == "", result
        assert re.fullmatch(r"pannier: .+\n", result.stderr), result.stderr
        return result.stderr.removeprefix("pannier: ").rstrip("\n")

    def on_terminal(self, words, *arguments, enough=None):
        """What a terminal shows; until it has shown enough, or the end."""
        mine, its = pty.openpty()
        process = subprocess.Popen(self.command(words, *arguments), env={**self.env, "TERM": "xterm"},
                                   stdin=subprocess.DEVNULL, stdout=its, stderr=its)
        os.close(its)
        shown = b""
        while select.select([mine], [], [], DEADLINE)[0]:
            try:
                data = os.read(mine, 65536)
            except OSError:
                break
            shown += data
            if not data or (enough and enough(shown)):
                break
        process.terminate()
        process.wait(DEADLINE)
        os.close(mine)
        return shown.decode()


class Imposter:
    """Answers the admin API's calls as a test says: replies are (status, document, headers), the last of them
    again and again."""

    def __init__(self, *replies):
        self.replies, self.asked = list(replies), []
        imposter = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def answer(self):
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                imposter.asked.append((self.command, self.path))
                status, document, headers = imposter.replies[0]
                if len(imposter.replies) > 1:
                    imposter.replies.pop(0)
                body = json.dumps(document).encode()
                self.send_response(status)
                for name, value in {"Content-Length": len(body), **headers}.items():
                    self.send_header(name, str(value))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_DELETE = answer

        self.server = ThreadingHTTPServer((HOST, 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.admin_port = self.server.server_address[1]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
