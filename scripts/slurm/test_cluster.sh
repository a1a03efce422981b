#!/bin/bash
# A real Slurm on one machine, for trying out the batch scripts: a controller with accounting, and nodes that are network
# namespaces with addresses of their own and GPUs in name only.
#
#   scripts/slurm/test_cluster.sh start FOLDER [NODES [GPUS]]    # 3 nodes n1, n2, ... of 4 GPUs
#   scripts/slurm/test_cluster.sh run FOLDER COMMAND ...         # sbatch, squeue, sacct, scancel ...
#   scripts/slurm/test_cluster.sh stop FOLDER                    # jobs are killed
#
# Needs root, and on Debian: apt-get install slurm-wlm slurmdbd munge mariadb-server iproute2. Everything is written to
# FOLDER (state, logs, slurm.conf), which should be on a path short enough for sockets, such as /tmp/slurm. The network
# is reached by `run` alone. Partitions: `low` is preempted at once by jobs in `high`; `grace` after GRACE seconds, in
# which a job gets SIGTERM, or with USER_SIGNAL=1 the signal that it asked for (--signal).
set -euo pipefail

die() { echo "test_cluster.sh: $*" >&2 && exit 2; }
(($# >= 2)) || die "usage: start FOLDER [NODES [GPUS]] | run FOLDER COMMAND ... | stop FOLDER"
action=$1
DIR=$(realpath -m "$2")
shift 2
NET=slurm-$(printf %s "$DIR" | cksum | cut -d' ' -f1) # prefix of the namespaces' names
NETWORK=10.78.0
export SLURM_CONF=$DIR/slurm.conf

inside() { # inside NODE COMMAND ...: run a command on a node, which sees its own name and the cluster's hosts
    # shellcheck disable=SC2016
    local enter='hostname "$1" && mount --bind "$2" /etc/hosts && shift 2 && exec "$@"'
    exec nsenter --net="/run/netns/$NET-$1" unshare --mount --uts sh -c "$enter" sh "$1" "$DIR/hosts" "${@:2}"
}

daemon() { # daemon NAME NODE COMMAND ...
    (inside "$2" setsid "${@:3}" </dev/null >>"$DIR/$1.out" 2>&1) &
}

spaces() { ip netns list | awk -v prefix="$NET-" 'index($1, prefix) == 1 { print $1 }'; }

until_ok() { # until_ok SECONDS WHAT COMMAND ...
    local deadline=$((SECONDS + $1)) what=$2
    until "${@:3}" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || { tail -n 5 "$DIR/$what"*.out >&2 && die "$what did not start"; }
        sleep 0.3
    done
}

start() {
    local nodes=${1:-3} gpus=${2:-4} cpus memory i name
    [[ $(id -u) == 0 ]] || die "only root can make network namespaces"
    for name in munged slurmctld slurmd slurmdbd mariadbd ip; do
        [[ -n $(type -P $name) ]] || die "$name is not installed"
    done
    [[ -z $(spaces) ]] || die "the cluster of $DIR is running: stop it first"
    mkdir -p "$DIR"/{state,sql,munge,gpus,spool}
    cpus=$(nproc)
    memory=$(awk '/MemTotal/ { print int($2 / 1024 * 0.9) }' /proc/meminfo)

    # A switch, and a cable from every machine to it. All are namespaces: nothing is added to this machine's network.
    ip netns add "$NET-switch"
    ip -n "$NET-switch" link add bridge type bridge
    ip -n "$NET-switch" link set bridge up
    echo "127.0.0.1 localhost" >"$DIR/hosts"
    for ((i = 0; i <= nodes; i++)); do
        name=$( ((i)) && echo "n$i" || echo control)
        ip netns add "$NET-$name"
        ip -n "$NET-switch" link add "$name" type veth peer name eth0 netns "$NET-$name"
        ip -n "$NET-switch" link set "$name" master bridge up
        ip -n "$NET-$name" address add "$NETWORK.$((i + 1))/24" dev eth0
        ip -n "$NET-$name" link set lo up
        ip -n "$NET-$name" link set eth0 up
        echo "$NETWORK.$((i + 1)) $name" >>"$DIR/hosts"
    done

    # linuxproc: control groups would be shared by the nodes. cred_expire: a requeued job waits that long, by default 120 s.
    cat >"$SLURM_CONF" <<END
ClusterName=test
SlurmctldHost=control($NETWORK.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$DIR/munge/socket,cred_expire=10
CommunicationParameters=NoAddrCache
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool/%n
SlurmctldPidFile=$DIR/slurmctld.pid
SlurmdPidFile=$DIR/slurmd-%n.pid
SlurmctldLogFile=$DIR/slurmctld.log
SlurmdLogFile=$DIR/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
SlurmdParameters=config_overrides
ReturnToService=2
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=control
AccountingStoragePass=$DIR/munge/socket
AccountingStorageTRES=gres/gpu
JobAcctGatherType=jobacct_gather/linux
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
${USER_SIGNAL:+SlurmctldParameters=preempt_send_user_signal}
KillWait=${KILL_WAIT:-30}
NodeName=n[1-$nodes] CPUs=$cpus RealMemory=$memory Gres=gpu:$gpus State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES PriorityTier=1
PartitionName=grace Nodes=ALL PriorityTier=1 GraceTime=${GRACE:-120}
PartitionName=high Nodes=ALL PriorityTier=2 PreemptMode=OFF
END
    for ((i = 0; i < gpus; i++)); do [[ -e $DIR/gpus/fake$i ]] || mknod "$DIR/gpus/fake$i" c 1 3; done # like /dev/null
    echo "Name=gpu File=$DIR/gpus/fake[0-$((gpus - 1))]" >"$DIR/gres.conf"
    cat >"$DIR/slurmdbd.conf" <<END
DbdHost=control
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$DIR/munge/socket
LogFile=$DIR/slurmdbd.log
PidFile=$DIR/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
END
    chmod 600 "$DIR/slurmdbd.conf"

    rm -f "$DIR/sql.sock"
    [[ -e $DIR/munge/key ]] || (umask 077 && head -c 128 /dev/urandom >"$DIR/munge/key")
    daemon munged control munged --foreground --force --key-file="$DIR/munge/key" --socket="$DIR/munge/socket" \
        --pid-file="$DIR/munge/pid" --seed-file="$DIR/munge/seed"
    [[ -d $DIR/sql/mysql ]] || mariadb-install-db --no-defaults --user=root --datadir="$DIR/sql" >"$DIR/install.out" 2>&1
    daemon mariadbd control mariadbd --no-defaults --user=root --datadir="$DIR/sql" --socket="$DIR/sql.sock" \
        --skip-networking --skip-grant-tables --innodb-lock-wait-timeout=900
    until_ok 60 mariadbd test -S "$DIR/sql.sock"
    until_ok 20 munged test -S "$DIR/munge/socket"
    daemon slurmdbd control env SLURM_CONF="$DIR/slurmdbd.conf" MYSQL_UNIX_PORT="$DIR/sql.sock" slurmdbd -D
    until_ok 60 slurmdbd "$0" run "$DIR" sacctmgr -n list cluster
    "$0" run "$DIR" sacctmgr -i add cluster test >/dev/null 2>&1 || true # it may be there from the last time
    daemon slurmctld control slurmctld -D
    for ((i = 1; i <= nodes; i++)); do daemon "slurmd-n$i" "n$i" slurmd -D; done
    until_ok 60 slurmctld all_idle "$nodes"
    "$0" run "$DIR" sinfo
}

all_idle() { [[ $("$0" run "$DIR" sinfo -h -N -p low -t idle | wc -l) == "$1" ]]; }

stop() { # only what `start` has started: the processes that live in the cluster's namespaces
    local name signal
    [[ -z $(spaces) ]] || "$0" run "$DIR" scancel --state=RUNNING --user="$(id -un)" 2>/dev/null || true
    for signal in TERM KILL; do
        # shellcheck disable=SC2046
        kill -$signal $(processes) 2>/dev/null || true
        for ((i = 0; i < 40; i++)); do
            [[ $(processes) ]] || break
            sleep 0.25
        done
    done
    for name in $(spaces); do ip netns delete "$name"; done
}

processes() { for name in $(spaces); do ip netns pids "$name"; done; }

case $action in
start) start "$@" ;;
stop) stop ;;
run) inside control "$@" ;;
*) die "unknown action $action" ;;
esac
