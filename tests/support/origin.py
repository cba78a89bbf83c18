"""A real upstream: nginx, fcgiwrap and `git http-backend` on free loopback ports.

    /public/<path>[.git]/...    anonymous
    /private/<path>[.git]/...   Basic auth; who may read and who may push is said per repository
    /v0/...                     either, without protocol v2 (Git-Protocol is not passed on)
    /public/old/<path>          has moved to /public/new/<path>
    /public/away/<path>         redirects to the same port under another host name

The access log tells what upstream was asked, and what it cost."""
import atexit
import base64
import gzip
import http.client
import json
import os
import shutil
import signal
import subprocess
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from . import repos
from .net import HOST, free_port, wait_for_port
from .wait import until

PASSWORDS = {"alice": "alices-t0ken-93f1", "bob": "bobs-t0ken-57ac"}
NO_PACK = 1500  # every repository that tests clone has a bigger pack
BACKEND = "/usr/lib/git-core/git-http-backend"

NGINX = r"""
daemon off;
worker_processes 1;
%(user)s
pid nginx.pid;
error_log error.log warn;
events { worker_connections 4096; }
http {
    client_body_temp_path temp;
    fastcgi_temp_path temp;
    proxy_temp_path temp;
    scgi_temp_path temp;
    uwsgi_temp_path temp;
    log_format seen escape=json '{"method":"$request_method","target":"$request_uri","status":$status,'
        '"bytes":$body_bytes_sent,"user":"$remote_user","host":"$http_host","scheme":"$scheme",'
        '"protocol":"$http_git_protocol","agent":"$http_user_agent",'
        '"encoding":"$http_content_encoding","body":"$request_body"}';
    access_log access.log seen;
    client_max_body_size 0;
    client_body_buffer_size 1m;
    keepalive_requests 100000;
    tcp_nodelay on;
    %(limit_rate)s

    map $uri $realm { default off; ~^(/v0)?/private/ "origin"; }
    map "$uri $arg_service" $right { default read; ~git-receive-pack push; }
    map $uri $git_protocol { default $http_git_protocol; ~^/v0/ ""; }

    server {
        listen %(host)s:%(port)d backlog=1024;
        listen %(host)s:%(tls_port)d ssl;
        ssl_certificate server.pem;
        ssl_certificate_key server.key;
        root files;

        location /files/ { alias files/; }
        location /mark/ { return 204; }
        location ~ ^/public/old/(.*)$ {
            if ($request_method = POST) { return 308 /public/new/$1; }
            return 301 /public/new/$1$is_args$args;
        }
        location ~ ^/public/away/(.*)$ {
            return 301 http://localhost:%(port)d/public/$1$is_args$args;
        }
        location ~ ^(?:/v0)?/(?<repo>(?:public|private)/.+?)(?:\.git)?/(?<rest>info/refs|HEAD|objects/.*|git-upload-pack|git-receive-pack)$ {
            auth_basic $realm;
            auth_basic_user_file auth/$repo.$right;
            fastcgi_pass unix:%(socket)s;
            fastcgi_buffering off;
            fastcgi_read_timeout 300s;
            fastcgi_param SCRIPT_FILENAME %(backend)s;
            fastcgi_param GIT_PROJECT_ROOT %(root)s/repos;
            fastcgi_param GIT_HTTP_EXPORT_ALL "1";
            fastcgi_param GIT_CONFIG_NOSYSTEM "1";
            fastcgi_param HOME %(root)s;
            fastcgi_param PATH_INFO /$repo.git/$rest;
            fastcgi_param HTTP_GIT_PROTOCOL $git_protocol;
            fastcgi_param QUERY_STRING $query_string;
            fastcgi_param REQUEST_METHOD $request_method;
            fastcgi_param CONTENT_TYPE $content_type;
            fastcgi_param CONTENT_LENGTH $content_length;
            fastcgi_param REMOTE_USER $remote_user;
            fastcgi_param REMOTE_ADDR $remote_addr;
        }
        location / { return 404; }
    }
}
"""


@dataclass
class Seen:
    """One request that upstream has answered."""

    method: str
    target: str
    status: int
    bytes: int
    user: str
    host: str
    scheme: str
    protocol: str
    agent: str
    body: bytes

    @property
    def path(self):
        return self.target.partition("?")[0]

    @property
    def kind(self):
        return kind_of(self.method, self.target, self.body)


def kind_of(method, target, body):
    """What a request is: refs (info/refs), ls-refs, fetch, probe, push-refs, push, lfs or other."""
    path, _, query = target.partition("?")
    if path.endswith("/info/refs"):
        return "push-refs" if "git-receive-pack" in query else "refs"
    if path.endswith("/git-upload-pack"):
        if body == b"0000":
            return "probe"
        return "ls-refs" if b"command=ls-refs" in body[:40] else "fetch"
    if path.endswith("/git-receive-pack"):
        return "probe" if body == b"0000" else "push"
    return "lfs" if "/info/lfs" in path else "other"


def inflated(body, encoding):
    if encoding in ("gzip", "x-gzip"):
        try:
            return gzip.decompress(body)
        except (OSError, EOFError, zlib.error):
            return body
    return body


def make_authority(folder, name="pannier tests"):
    """An own CA and a certificate by it for 127.0.0.1 and localhost."""
    folder.mkdir(exist_ok=True)

    def openssl(*args):
        subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", f"/CN={name}",
            "-days", "2")
    openssl("req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=origin")
    (folder / "names").write_text(f"subjectAltName=IP:{HOST},DNS:localhost\n")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-extfile",
            "names", "-CAcreateserial", "-days", "2", "-out", "server.pem")
    return folder / "ca.pem"


class Origin:
    """limit_rate: bytes a second for each response ("25m"); delay: seconds before git starts."""

    def __init__(self, limit_rate=None, delay=None):
        # Not pytest's folder: a unix socket's path must be short.
        self.folder = Path(tempfile.mkdtemp(prefix="origin-"))
        atexit.register(self.stop)
        for name in ("repos", "auth", "temp", "files"):
            (self.folder / name).mkdir()
        self.ca_file = make_authority(self.folder)
        self.port, self.tls_port = free_port(), free_port()
        self.marks = 0
        self.made = {}
        backend = BACKEND
        if delay:
            backend = self.folder / "delayed"
            backend.write_text(f"#!/bin/sh\nsleep {delay}\nexec {BACKEND}\n")
            backend.chmod(0o755)
        socket = self.folder / "cgi.sock"
        (self.folder / "nginx.conf").write_text(
            NGINX
            % {
                "user": "user root;" if os.geteuid() == 0 else "",
                "limit_rate": f"limit_rate {limit_rate};" if limit_rate else "",
                "host": HOST,
                "port": self.port,
                "tls_port": self.tls_port,
                "socket": socket,
                "backend": backend,
                "root": self.folder,
            }
        )
        log = open(self.folder / "stderr.log", "wb")
        options = {"stdout": log, "stderr": log, "start_new_session": True}
        self.cgi = subprocess.Popen(["fcgiwrap", "-c", "32", "-s", f"unix:{socket}"], **options)
        until(socket.exists, "fcgiwrap listens")
        command = ["nginx", "-p", f"{self.folder}/", "-c", "nginx.conf", "-e", "error.log"]
        self.nginx = subprocess.Popen(command, **options)
        wait_for_port(self.port, self.nginx)

    def stop(self):
        atexit.unregister(self.stop)
        for process in (self.nginx, self.cgi):
            os.killpg(process.pid, signal.SIGTERM)  # fcgiwrap leaves its children behind
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # the session is its own
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    # Where things are ---------------------------------------------------------------------------

    @property
    def url(self):
        return f"http://{HOST}:{self.port}"

    @property
    def tls_url(self):
        return f"https://{HOST}:{self.tls_port}"

    def url_of(self, path):
        return f"{self.url}/{path}.git"

    # Repositories -------------------------------------------------------------------------------

    def make(self, path, how=repos.simple, **options):
        """Make the repository at path ("public/simple") if it is not there yet."""
        if path not in self.made:
            self.made[path] = how(self.folder / "repos" / f"{path}.git", **options)
        return self.made[path]

    def allow(self, path, read=(), push=()):
        """Who may do what with /private/...; takes effect at once."""
        for right, users in (("read", read), ("push", push)):
            file = self.folder / "auth" / f"{path}.{right}"
            file.parent.mkdir(parents=True, exist_ok=True)
            new = file.with_suffix(".new")
            new.write_text("".join(f"{u}:{{PLAIN}}{PASSWORDS[u]}\n" for u in users))
            new.rename(file)

    # What was asked -----------------------------------------------------------------------------

    def mark(self):
        """A place in the access log: everything answered before is in front of it."""
        self.marks += 1
        target = f"/mark/{self.marks}"
        connection = http.client.HTTPConnection(HOST, self.port, timeout=10)
        connection.request("GET", target)
        connection.getresponse().read()
        connection.close()
        log = self.folder / "access.log"
        wanted = f'"target":"{target}"'.encode()
        return until(lambda: log.read_bytes().find(wanted) + 1, "upstream logs the mark")

    def requests(self, since=0):
        """All Seen since a mark; does not count the marks themselves."""
        end = self.mark()
        data = (self.folder / "access.log").read_bytes()[max(since - 1, 0) : end]
        data = data[data.find(b"\n") + 1 : data.rfind(b"\n") + 1] if since else data
        seen = []
        for line in data.decode("latin-1").split("\n"):
            if not line.startswith("{") or '"/mark/' in line or not line.endswith("}"):
                continue
            entry = json.loads(line)
            entry["body"] = inflated(entry["body"].encode("latin-1"), entry.pop("encoding"))
            seen.append(Seen(**entry))
        return seen

    def fetches(self, since=0):
        return [s for s in self.requests(since) if s.kind == "fetch"]

    def packs(self, since=0):
        """Fetches that were answered with a pack; without one, an answer is some lines of text."""
        return [s for s in self.fetches(since) if s.bytes > NO_PACK]


def basic(user):
    return "Basic " + base64.b64encode(f"{user}:{PASSWORDS[user]}".encode()).decode()
