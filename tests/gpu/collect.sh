#!/usr/bin/env bash
# Collects the built programs and libraries, stripped, into one small directory that can be carried to a GPU machine:
#   tests/gpu/collect.sh DIR [target/release]
set -euo pipefail

if [[ $# -lt 1 || $# -gt 2 ]]; then
    echo "usage: $0 DIR [BUILD]" >&2
    exit 2
fi
root=$(cd "$(dirname "$0")/../.." && pwd)
to=$1
from=${2:-$root/target/release}
mkdir -p "$to"
missing=0
for name in c4-controller c4-agent c4ctl c4-fault c4-paths ringjob libnccl_profiler_c4.so libc4_path.so libc4_netfault.so libc4_profiler_switch.so libc4_chained_profiler.so; do
    if [[ ! -e $from/$name ]]; then
        echo "$from/$name is missing" >&2
        missing=1
        continue
    fi
    # Symbols a library exports stay.
    strip --strip-unneeded -o "$to/$name" "$from/$name"
done
du -ch "$to"/* | tail -1
exit $missing
