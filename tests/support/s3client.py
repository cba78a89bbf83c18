"""A small S3 client with signatures of its own, to look behind pannier's back.

    s3 = S3(endpoint, bucket, access_key, secret_key)
    s3.put("key", b"..."); s3.get("key").body; s3.keys("prefix/")
"""
import datetime
import hashlib
import hmac
import http.client
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit


@dataclass
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes


class S3:
    def __init__(self, endpoint, bucket, access_key, secret_key, region="us-east-1"):
        self.endpoint, self.bucket, self.region = endpoint, bucket, region
        self.access_key, self.secret_key = access_key, secret_key

    def sign(self, method, path, query, headers, body):
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        headers.update({"x-amz-date": now,
                        "x-amz-content-sha256": hashlib.sha256(body).hexdigest()})
        names = ";".join(sorted(headers))
        canonical = "\n".join([method, path, query,
                               *(f"{n}:{headers[n]}" for n in sorted(headers)), "", names,
                               headers["x-amz-content-sha256"]])
        scope = f"{now[:8]}/{self.region}/s3/aws4_request"
        text = "\n".join(["AWS4-HMAC-SHA256", now, scope,
                          hashlib.sha256(canonical.encode()).hexdigest()])
        key = ("AWS4" + self.secret_key).encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self.access_key}/{scope},SignedHeaders={names},"
            f"Signature={hmac.new(key, text.encode(), 'sha256').hexdigest()}")

    def request(self, method, key=None, body=b"", headers=(), **query):
        url = urlsplit(self.endpoint)
        path = quote(f"/{self.bucket}" + (f"/{key}" if key is not None else ""))
        encoded = "&".join(f"{quote(n, safe='')}={quote(v, safe='')}"
                           for n, v in sorted((n.replace("_", "-"), v) for n, v in query.items()))
        all_headers = {"host": url.netloc, **{n.lower(): v for n, v in dict(headers).items()}}
        self.sign(method, path, encoded, all_headers, body)
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=60)
        try:
            connection.request(method, path + (f"?{encoded}" if encoded else ""), body, all_headers)
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        finally:
            connection.close()

    def make_bucket(self):
        reply = self.request("PUT")
        if reply.status != 200:
            raise AssertionError(f"no bucket could be made: {reply.status} {reply.body[:500]}")

    def put(self, key, body, headers=()):
        return self.request("PUT", key, body, headers)

    def get(self, key):
        return self.request("GET", key)

    def head(self, key):
        return self.request("HEAD", key)

    def remove(self, key):
        return self.request("DELETE", key)

    def keys(self, prefix=""):
        """All of them."""
        out, after = [], ""
        while True:
            reply = self.request("GET", list_type="2", prefix=prefix, start_after=after,
                                 encoding_type="url")
            if reply.status != 200:
                raise AssertionError(f"no list: {reply.status} {reply.body[:500]}")
            out += [unquote(k) for k in re.findall(r"<Key>(.*?)</Key>", reply.body.decode())]
            if "<IsTruncated>true" not in reply.body.decode():
                return out
            after = out[-1]

    def unfinished(self):
        """Ids of uploads in parts that were begun and neither completed nor aborted."""
        reply = self.request("GET", uploads="")
        return re.findall(r"<UploadId>(.*?)</UploadId>", reply.body.decode())
