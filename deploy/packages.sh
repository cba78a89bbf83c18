# Debian packages, for scripts that need some: source it, then install_packages NAME...
# It asks dpkg first; when nothing is missing apt is not called.

# What the program is built from.
BUILD_PACKAGES=(build-essential cmake ninja-build pkg-config git libmicrohttpd-dev
    libgnutls28-dev libcurl4-openssl-dev libgit2-dev libjansson-dev libssl-dev zlib1g-dev
    libzstd-dev libxxhash-dev libsqlite3-dev libexpat1-dev libcyaml-dev libyaml-dev uthash-dev
    libhiredis-dev ca-certificates tzdata)

missing_packages() {
    local name

    for name in "$@"; do
        dpkg-query -W -f='${db:Status-Status}\n' "$name" 2>/dev/null | grep -qx installed ||
            echo "$name"
    done
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

run_apt_get() {
    # A fresh machine may still be updating itself: wait for its lock.
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 "$@" \
        </dev/null
}

install_packages() {
    local missing

    if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
        echo "This is no Debian: install what these packages hold by hand: $*" >&2
        return 1
    fi
    mapfile -t missing < <(missing_packages "$@")
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
        echo "These packages are missing, and there is no sudo.  As root, run:" >&2
        echo "    apt-get update && apt-get install --no-install-recommends ${missing[*]}" >&2
        return 1
    fi
    echo "Installing the Debian packages that are missing: ${missing[*]}"
    if ! run_apt_get update; then
        echo "apt-get update failed; going on with the package lists that are there." >&2
    fi
    run_apt_get install -y --no-install-recommends "${missing[@]}"
}
