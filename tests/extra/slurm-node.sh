#!/usr/bin/env bash
# A SLURM of one node on this machine, as root and without systemd, for tests/extra/slurm.py.
# Needs `apt install slurm-wlm munge`. Usage: slurm-node.sh start FOLDER | stop FOLDER
set -euo pipefail
action=$1
folder=$2
name=$(hostname -s)

if [ "$action" = stop ]; then
    for daemon in slurmctld slurmd munged; do pkill -x "$daemon" || true; done
    exit 0
fi

mkdir -p "$folder"/{state,spool} /run/munge /etc/munge /var/log/munge /var/lib/munge
[ -s /etc/munge/munge.key ] || dd if=/dev/urandom of=/etc/munge/munge.key bs=1024 count=1 status=none
chown -R munge: /run/munge /etc/munge /var/log/munge /var/lib/munge
chmod 400 /etc/munge/munge.key
pgrep -x munged >/dev/null || runuser -u munge -- munged

cat >"$folder/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$name
SlurmUser=root
AuthType=auth/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
KillWait=2
NodeName=$name CPUs=$(nproc) State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$folder/slurm.conf
pgrep -x slurmctld >/dev/null || slurmctld -f "$SLURM_CONF"
pgrep -x slurmd >/dev/null || slurmd -f "$SLURM_CONF"
for _ in $(seq 60); do
    if sinfo --noheader --format=%T 2>/dev/null | grep -q idle; then exit 0; fi
    sleep 0.5
done
sinfo >&2 || true
tail -n 5 "$folder"/slurm{ctld,d}.log >&2
echo "no node of SLURM became idle" >&2
exit 1
