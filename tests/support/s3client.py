"""A small S3 client with signatures of its own, to look behind pannier's back.

    s3 = S3(endpoint, bucket, access_key, secret_key)
    s3.put("key", b"..."); s3.get("key").body; s3.keys("prefix/")
    s3.read("key"); s3.damage("key", at=100); s3.objects()       these fail where S3 refuses
    own = s3.below("prefix/")       the same, with keys as they are behind the prefix
"""
import copy
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


def encode(query):
    return "&".join(f"{quote(n, safe='')}={quote(v, safe='')}" for n, v in sorted(query.items()))


class S3:
    def __init__(self, endpoint, bucket, access_key, secret_key, region="us-east-1"):
        self.endpoint, self.bucket, self.region = endpoint, bucket, region
        self.access_key, self.secret_key = access_key, secret_key
        self.prefix = ""

    def below(self, prefix):
        other = copy.copy(self)
        other.prefix = self.prefix + prefix
        return other

    def but(self, **changed):
        """Another one: but(bucket="nowhere"), but(secret_key="wrong")."""
        other = copy.copy(self)
        vars(other).update(changed)
        return other

    def signature(self, now, method, path, query, headers, payload):
        canonical = "\n".join([method, path, query, *(f"{n}:{headers[n]}" for n in sorted(headers)), "",
                               ";".join(sorted(headers)), payload])
        text = "\n".join(["AWS4-HMAC-SHA256", now, self.scope(now),
                          hashlib.sha256(canonical.encode()).hexdigest()])
        key = ("AWS4" + self.secret_key).encode()
        for part in self.scope(now).split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        return hmac.new(key, text.encode(), "sha256").hexdigest()

    def scope(self, now):
        return f"{now[:8]}/{self.region}/s3/aws4_request"

    def sign(self, method, path, query, headers, body):
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        payload = hashlib.sha256(body).hexdigest()
        headers.update({"x-amz-date": now, "x-amz-content-sha256": payload})
        names = ";".join(sorted(headers))
        signature = self.signature(now, method, path, query, headers, payload)
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self.access_key}/{self.scope(now)},SignedHeaders={names},"
            f"Signature={signature}")

    def presigned(self, key, seconds=3600):
        """A URL with which anybody may get the object, for so long."""
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        path = quote(f"/{self.bucket}/{self.prefix}{key}")
        query = encode({"X-Amz-Algorithm": "AWS4-HMAC-SHA256", "X-Amz-Date": now,
                        "X-Amz-Credential": f"{self.access_key}/{self.scope(now)}",
                        "X-Amz-Expires": str(seconds), "X-Amz-SignedHeaders": "host"})
        signature = self.signature(now, "GET", path, query, {"host": urlsplit(self.endpoint).netloc},
                                   "UNSIGNED-PAYLOAD")
        return f"{self.endpoint}{path}?{query}&X-Amz-Signature={signature}"

    def request(self, method, key=None, body=b"", headers=(), **query):
        url = urlsplit(self.endpoint)
        path = quote(f"/{self.bucket}" + (f"/{self.prefix}{key}" if key is not None else ""))
        encoded = encode({name.replace("_", "-"): value for name, value in query.items()})
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

    def objects(self, prefix=""):
        """All of them, in order: {key: bytes}."""
        out, after = {}, ""
        while True:
            reply = self.request("GET", list_type="2", prefix=self.prefix + prefix,
                                 start_after=after, encoding_type="url")
            self.must(reply, "list")
            text = reply.body.decode()
            for key, size in re.findall(r"<Key>(.*?)</Key>.*?<Size>(\d+)</Size>", text, re.S):
                after = unquote(key)
                out[after[len(self.prefix):]] = int(size)
            if "<IsTruncated>true" not in text:
                return out

    def keys(self, prefix=""):
        return list(self.objects(prefix))

    @staticmethod
    def must(reply, what):
        if reply.status not in (200, 204):
            raise AssertionError(f"no {what}: {reply.status} {reply.body[:500]}")
        return reply

    def read(self, key):
        return self.must(self.get(key), f"object {key}").body

    def write(self, key, body):
        self.must(self.put(key, body), f"put of {key}")

    def damage(self, key, at=0):
        """One byte is another one; negative: from the end.  The size stays."""
        body = bytearray(self.read(key))
        body[at] ^= 0xFF
        self.write(key, bytes(body))

    def shorten(self, key, size):
        self.write(key, self.read(key)[:size])

    def clear(self, prefix=""):
        """Nothing is left."""
        for key in self.keys(prefix):
            self.must(self.remove(key), f"removal of {key}")

    def unfinished(self):
        """Uploads in parts that were begun and neither completed nor aborted: [(key, id)]."""
        text = self.must(self.request("GET", uploads="", prefix=self.prefix), "list of uploads").body
        found = re.findall(r"<Key>(.*?)</Key>.*?<UploadId>(.*?)</UploadId>", text.decode(), re.S)
        return [(key[len(self.prefix):], upload) for key, upload in found]
