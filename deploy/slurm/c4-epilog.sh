#!/bin/sh
# Slurm's Epilog: removes the flight recorders of a user when none of his jobs is left on the node. The agent does so too,
# an hour after the processes' deaths; this is for nodes with many short jobs. In slurm.conf:
#   Epilog=/etc/slurm/c4-epilog.sh
directory=${C4_RECORDER_DIR:-/dev/shm/c4}
[ -n "$SLURM_JOB_UID" ] && [ "$SLURM_JOB_UID" -ne 0 ] && [ -d "$directory" ] || exit 0
if command -v squeue >/dev/null; then
    running=$(squeue --noheader --uid="$SLURM_JOB_UID" --nodelist="$(hostname -s)" --states=running --format=%A) || exit 0
    others=$(echo "$running" | grep -cvx -e "${SLURM_JOB_ID:-0}" -e '')
    [ "$others" -eq 0 ] || exit 0
fi
# Not those of the last minute: the agent has yet to read how their processes ended.
find "$directory" -maxdepth 1 -type f -name '*.c4r' -user "$SLURM_JOB_UID" -mmin +1 -delete
exit 0
