#!/usr/bin/env bash
# launch/slurm.sh under a Slurm of one node, started here for it, with two tasks on the CPU: a run of
# 20 steps completes; one that is signalled saves, ends with 75, is requeued and goes on.
#
# Run, as root, in an environment with spectral-flax: apt-get install slurm-wlm && evidence/slurm.sh
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
export SLURM_CONF=$scratch/slurm.conf JAX_PLATFORMS=cpu
stop() {
  for daemon in slurmd slurmctld munged; do
    [ ! -f "$scratch/$daemon.pid" ] || kill "$(cat "$scratch/$daemon.pid")"
  done
}
trap stop EXIT

mkdir "$scratch"/{state,spool,munge}
cat > "$SLURM_CONF" << END
ClusterName=one
SlurmctldHost=$(hostname)
AuthType=auth/munge
AuthInfo=socket=$scratch/munge/socket
SlurmUser=root
SlurmctldPort=26817
SlurmdPort=26818
StateSaveLocation=$scratch/state
SlurmdSpoolDir=$scratch/spool
SlurmctldPidFile=$scratch/slurmctld.pid
SlurmdPidFile=$scratch/slurmd.pid
ProctrackType=proctrack/pgid
SelectType=select/cons_tres
NodeName=$(hostname) CPUs=2
PartitionName=all Nodes=ALL Default=YES State=UP
END
head -c 1024 /dev/urandom > "$scratch/key"
chmod 600 "$scratch/key"
munged --force --key-file="$scratch/key" --socket="$scratch/munge/socket" \
  --pid-file="$scratch/munged.pid" --log-file="$scratch/munge/log" --seed-file="$scratch/munge/seed"
slurmctld
sleep 2
slurmd

submit() {
  sbatch --parsable --nodes=1 --ntasks-per-node=2 --gpus-per-node=0 --cpus-per-task=1 \
    --output="$scratch/out.%j" launch/slurm.sh tests/train/toy_config.py "$@"
}
# Wait until the words stand in the output of a job, at most five minutes.
await() {
  for _ in $(seq 300); do
    if grep -qs "$2" "$scratch/out.$1"; then
      grep -m 1 "$2" "$scratch/out.$1"
      return
    fi
    sleep 1
  done
  echo "NOT SO: job $1 never says: $2"
  exit 1
}

job=$(submit --steps 20 --workdir "$scratch/short")
await "$job" "test at step 20"
long=$(submit --steps 100000 --save-every 100000 --log-every 50 --workdir "$scratch/long")
await "$long" "step 100/"
scancel --signal=TERM "$long"
await "$long" "SIGTERM at step"
await "$long" "going on from"
scancel "$long"
