#!/bin/sh
# Slurm's TaskProlog: every "export NAME=value" that it prints goes into the environment of the task. In slurm.conf:
#   TaskProlog=/etc/slurm/c4-environment.sh
# A job that has its own profiler plugin keeps it, and C4 comes before it; C4_PROFILER=off leaves C4 out.
plugin=${C4_PLUGIN:-/usr/lib/c4/libnccl-profiler-c4.so}
[ "$C4_PROFILER" = off ] && exit 0
[ -r "$plugin" ] || exit 0
case "$NCCL_PROFILER_PLUGIN" in
    "" | "$plugin") ;;
    # A file that is there. Names of other kinds are for NCCL to look up, and stay as they are.
    /*)
        [ -r "$NCCL_PROFILER_PLUGIN" ] || exit 0
        echo "export C4_CHAIN_PROFILER=$NCCL_PROFILER_PLUGIN"
        ;;
    *) exit 0 ;;
esac
echo "export NCCL_PROFILER_PLUGIN=$plugin"
