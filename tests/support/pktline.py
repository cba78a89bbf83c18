"""pkt-lines: hand-made requests, and responses taken apart and put together again."""
import hashlib
import re
import struct

FLUSH = b"0000"
DELIM = b"0001"
BAND_MAX = 65515


def pkt(payload):
    if isinstance(payload, str):
        payload = payload.encode() + b"\n"
    return b"%04x" % (len(payload) + 4) + payload


def split(data):
    """Payloads in order; None is a flush, "delim" and "end" are 0001 and 0002."""
    out, at = [], 0
    while at < len(data):
        size = int(data[at : at + 4], 16)
        if size < 4:
            out.append((None, "delim", "end")[size])
            at += 4
        else:
            if at + size > len(data):
                raise ValueError("the last pkt is cut")
            out.append(data[at + 4 : at + size])
            at += size
    return out


def join(pkts):
    special = {None: b"0000", "delim": b"0001", "end": b"0002"}
    return b"".join(special[p] if p is None or isinstance(p, str) else pkt(p) for p in pkts)


# Requests ---------------------------------------------------------------------------------------


def ls_refs(agent="git/2.39.5", prefixes=("refs/heads/", "refs/tags/"), algo="sha1"):
    lines = ["command=ls-refs", f"agent={agent}", f"object-format={algo}"]
    arguments = ["peel", "symrefs"] + [f"ref-prefix {p}" for p in prefixes]
    return b"".join(map(pkt, lines)) + DELIM + b"".join(map(pkt, arguments)) + FLUSH


def fetch(wants, haves=(), agent="git/2.39.5", done=True, extra=(), algo="sha1"):
    """A v2 fetch, as git 2.39 writes it for a clone."""
    lines = ["command=fetch", f"agent={agent}", f"object-format={algo}"]
    arguments = ["thin-pack", "no-progress", "ofs-delta", *extra]
    arguments += [f"want {w}" for w in wants] + [f"have {h}" for h in haves]
    arguments += ["done"] if done else []
    return b"".join(map(pkt, lines)) + DELIM + b"".join(map(pkt, arguments)) + FLUSH


def fetch_v0(wants, capabilities="side-band-64k ofs-delta no-progress agent=git/2.39.5"):
    """A v0 clone's request: capabilities ride on the first want."""
    first, *rest = wants
    lines = [f"want {first} {capabilities}"] + [f"want {w}" for w in rest]
    return b"".join(map(pkt, lines)) + FLUSH + pkt("done")


# Responses --------------------------------------------------------------------------------------


def bands(data):
    """What each sideband carried, as {1: bytes, 2: bytes, 3: bytes}, as far as there are pkts."""
    out, at, is_open = {1: b"", 2: b"", 3: b""}, 0, False
    while re.match(rb"[0-9a-f]{4}", data[at : at + 4]):
        size = int(data[at : at + 4], 16)
        payload = data[at + 4 : at + max(size, 4)]
        at += max(size, 4)
        if payload == b"packfile\n":
            is_open = True
        elif payload[:1] in (b"\1", b"\2", b"\3") and (is_open or payload[1:5] == b"PACK"):
            is_open = True
            out[payload[0]] += payload[1:]
    return out


def pack_of(data):
    pack = bands(data)[1]
    assert pack[:4] == b"PACK", f"no pack in {data[:200]!r}"
    return pack


def pack_is_whole(data):
    pack = pack_of(data)
    return data.endswith(FLUSH) and hashlib.sha1(pack[:-20]).digest() == pack[-20:]


def with_pack(data, change):
    """The response with its pack replaced by change(pack)."""
    pkts = split(data)
    at = next(i for i, p in enumerate(pkts) if isinstance(p, bytes) and p[:5] == b"\1PACK")
    pack = change(pack_of(data))
    pieces = [b"\1" + pack[i : i + BAND_MAX] for i in range(0, len(pack), BAND_MAX)]
    return join(pkts[:at] + pieces + [None])


def wrong_checksum(pack):
    return pack[:-1] + bytes([pack[-1] ^ 1])


def lying_count(pack):
    """One object more in the header than there are, under a right checksum."""
    count = struct.unpack(">I", pack[8:12])[0]
    body = pack[:8] + struct.pack(">I", count + 1) + pack[12:-20]
    return body + hashlib.sha1(body).digest()
