# Sourced by tests/run and tests/demo: Debian's packages for what they need and this machine lacks.

# lacking [PROGRAM=PACKAGE]...: the packages of the programs that are neither on the path nor in /usr/sbin. The program may be
# the path of a file instead.
lacking() {
    local pair
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || [ -e "/usr/sbin/${pair%%=*}" ] || [ -e "${pair%%=*}" ] ||
            printf '%s ' "${pair#*=}"
    done
}

# install_lacking SCRIPT [PROGRAM=PACKAGE]...: installs them where that may be done (root, or sudo without a password), says so
# in SCRIPT's name where it may not.
install_lacking() {
    local script=$1 missing as_root=()
    read -ra missing <<<"$(lacking "${@:2}")"
    ((${#missing[@]})) || return 0
    if [ "$(id -u)" -ne 0 ]; then as_root=(sudo -n); fi
    if ! command -v apt-get >/dev/null || ! { [ "$(id -u)" -eq 0 ] || sudo -n true; }; then
        echo "$script: cannot install ${missing[*]} (no apt-get or no rights): what needs them will fail"
        return 0
    fi
    # What is wanted are programs; nobody wants a package's service to start.
    "${as_root[@]}" apt-get update -q &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
            apt-get install -q -y --no-install-recommends "${missing[@]}" && return 0
    echo "$script: installing ${missing[*]} failed: what needs them will fail"
}

# What it takes to build: cargo fetches over TLS, and some crates hold C.
to_build=(/etc/ssl/certs/ca-certificates.crt=ca-certificates cc=gcc /usr/include/stdlib.h=libc6-dev)
