#!/bin/bash
# box.sh: boots a real systemd as PID 1 of namespaces of its own, over a
# throw-away overlay on a root folder. To be sourced (bash); it gives:
#
#   box_why_not              prints why this machine cannot, and fails; else succeeds
#   box_prepare DIR LOWER    makes DIR with an empty layer DIR/upper over LOWER
#                            (put files for the box under DIR/upper before booting)
#   box_up DIR               boots and waits until systemd says it is running
#   box_exec DIR CMD...      runs CMD in the box; the exit status is CMD's
#   box_down DIR             ends the box; its layer stays, so box_up boots it again
#   box_remove DIR           ends the box and removes DIR
#   box_leftovers DIR        prints what of the box is still there (nothing, if well)
#
# Or to be run, from any language's tests:
#
#   box.sh hold DIR LOWER    prepares DIR unless it is, boots, prints "up", and takes
#                            the box down again when its standard input ends
#   box.sh exec DIR CMD...   runs CMD in the box; the exit status is CMD's
#
# Settings, taken from the environment:
#   BOX_CGROUP       auto (default), hybrid or unified
#   BOX_CONTROLLERS  cgroup v1 controllers handed to the box where hybrid
#   BOX_BOOT_SECONDS limit for booting (default 60)
#   BOX_UNIT         unit to boot into (default box.target, made by box_prepare)
#
# Nothing is mounted outside the box's own mount namespace. Of the machine's
# control groups only sub-groups below the caller's own are made, and removed
# again. The box dies with the process that called box_up.

BOX_CGROUP=${BOX_CGROUP:-auto}
# Not "cpu": where the kernel has CONFIG_RT_GROUP_SCHED a sub-group of the v1
# cpu controller may not use real-time scheduling at all.
BOX_CONTROLLERS=${BOX_CONTROLLERS:-memory pids devices freezer blkio}
BOX_BOOT_SECONDS=${BOX_BOOT_SECONDS:-60}
BOX_UNIT=${BOX_UNIT:-box.target}
BOX_PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
BOX_SELF=$(readlink -f "${BASH_SOURCE[0]}")
# Taken from the box, so that nothing in it can load modules, set the clock or
# reach hardware. CAP_SYSLOG stays: ProtectKernelLogs= could not be shown without.
BOX_DROP=-sys_time,-sys_module,-sys_rawio,-mac_admin,-mac_override,-wake_alarm,-block_suspend,-audit_read

box_why_not() {
    local tool
    [ "$(uname -s)" = Linux ] || { echo "not Linux"; return 1; }
    [ "$(id -u)" = 0 ] || { echo "needs root"; return 1; }
    for tool in unshare nsenter setpriv mount pivot_root pgrep ip; do
        command -v "$tool" >/dev/null || { echo "no $tool on this machine"; return 1; }
    done
    unshare --mount --pid --fork --uts --ipc --net --cgroup true 2>/dev/null ||
        { echo "may not make namespaces (CAP_SYS_ADMIN missing?)"; return 1; }
    grep -qw overlay /proc/filesystems || { echo "the kernel has no overlayfs"; return 1; }
    [ -n "$(_box_hierarchies)" ] || { echo "no control groups are mounted"; return 1; }
    unshare --mount --cgroup sh -c 'mount -t tmpfs none /mnt' 2>/dev/null ||
        { echo "may not mount in a namespace of its own"; return 1; }
}

# "KIND MOUNTPOINT PATH" for each mounted hierarchy that the caller is in;
# KIND is v2, name=systemd or the name of a v1 controller.
_box_hierarchies() {
    local id names path kind point
    while IFS=: read -r id names path; do
        [ "$path" = / ] && path=
        if [ "$id" = 0 ]; then kind=v2; else kind=$names; fi
        point=$(awk -v want="$kind" '{
            for (i = 1; $i != "-"; i++); type = $(i + 1); options = "," $(i + 3) ","
            if (want == "v2" ? type == "cgroup2" : type == "cgroup" && index(options, "," want ",")) {
                print $5; exit
            } }' /proc/self/mountinfo)
        [ -n "$point" ] && echo "$kind $point $path"
    done </proc/self/cgroup
}

# Whether process PID still is one of DIR's box: a number may be another's by now.
_box_owns() {
    [ -n "$2" ] && grep -qsE "/$(cat "$1/name")(/|$)" "/proc/$2/cgroup"
}

# The systemd version of DIR's root, as the name of its shared library has it.
_box_version() {
    local part file
    while read -r -d : part; do
        for file in "$part"/usr/lib/*/systemd/libsystemd-shared-*.so "$part"/usr/lib/systemd/libsystemd-shared-*.so; do
            [ -e "$file" ] || continue
            file=${file##*libsystemd-shared-}
            echo "${file%%[!0-9]*}"
            return
        done
    done <<<"$(cat "$1/lower"):"
}

_box_mode() {
    local version
    version=$(_box_version "$1")
    if [ "$BOX_CGROUP" != auto ]; then echo "$BOX_CGROUP"
    elif [ "${version:-0}" -ge 256 ]; then echo unified     # it left cgroup v1 behind
    elif _box_hierarchies | grep -q '^name=systemd '; then echo hybrid
    else echo unified; fi
}

box_prepare() {
    local dir=$1 lower=$2 etc
    mkdir -p "$dir/upper/etc/systemd/system" "$dir/work" "$dir/root"
    chmod 755 "$dir/upper" "$dir/upper/etc" "$dir/upper/etc/systemd" "$dir/upper/etc/systemd/system"
    echo "$lower" >"$dir/lower"
    basename "$dir" >"$dir/name"
    : >"$dir/cgroups"
    etc=$dir/upper/etc
    tr -d - </proc/sys/kernel/random/uuid >"$etc/machine-id"
    printf '127.0.0.1 localhost\n::1 localhost\n' >"$etc/hosts"     # debootstrap makes none
    # A small target instead of the machine's own default one, so that none of
    # the services that happen to be enabled in LOWER comes up too.
    cat >"$etc/systemd/system/box.target" <<'END'
[Unit]
Description=The test box is up
Requires=basic.target
Wants=dbus.socket
After=basic.target
AllowIsolate=yes
END
    mkdir -p "$etc/systemd/journald.conf.d" "$dir/upper/var/log/journal"
    cat >"$etc/systemd/journald.conf.d/box.conf" <<END
[Journal]
Storage=persistent
SystemMaxUse=64M
RateLimitBurst=0
END
    local unit
    for unit in timers.target dev-hugepages.mount sys-fs-fuse-connections.mount \
        sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
        systemd-remount-fs.service systemd-modules-load.service systemd-networkd.service \
        systemd-udevd.service systemd-udev-trigger.service; do
        ln -sfn /dev/null "$etc/systemd/system/$unit"
    done
}

# Runs as PID 1 of the new namespaces, before systemd does.
_box_init() {
    set -eu
    local dir=$1 mode=$2 root=$1/root kind file node pid
    read -r pid _ </proc/self/stat      # the outer /proc still: the pid out there
    echo "$pid" >"$dir/pid"
    mount --make-rprivate /
    mount -t overlay -o "lowerdir=$(cat "$dir/lower"),upperdir=$dir/upper,workdir=$dir/work" box "$root"
    mkdir -p "$root/proc" "$root/sys" "$root/dev" "$root/run" "$root/tmp"

    mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
    for file in sys sysrq-trigger irq bus fs acpi; do
        [ -e "$root/proc/$file" ] || continue
        mount --bind "$root/proc/$file" "$root/proc/$file"
        mount -o remount,bind,ro,nosuid,nodev,noexec "$root/proc/$file"
    done
    mount --bind "$root/proc/sys/net" "$root/proc/sys/net"      # the box's own network's
    mount -o remount,bind,rw,nosuid,nodev,noexec "$root/proc/sys/net"
    mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$root/sys"

    mount -t tmpfs -o nosuid,mode=755 dev "$root/dev"
    for node in "null 1 3" "zero 1 5" "full 1 7" "random 1 8" "urandom 1 9" "tty 5 0"; do
        # shellcheck disable=SC2086
        set -- $node; mknod -m 666 "$root/dev/$1" c "$2" "$3"
    done
    mkdir "$root/dev/pts" "$root/dev/shm" "$root/dev/mqueue"
    mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5,nosuid,noexec devpts "$root/dev/pts"
    ln -s pts/ptmx "$root/dev/ptmx"
    ln -s /proc/self/fd "$root/dev/fd"
    ln -s fd/0 "$root/dev/stdin"; ln -s fd/1 "$root/dev/stdout"; ln -s fd/2 "$root/dev/stderr"
    mount -t tmpfs -o nosuid,nodev,mode=1777 shm "$root/dev/shm"
    mount -t mqueue -o nosuid,nodev,noexec mqueue "$root/dev/mqueue"
    mount -t tmpfs -o nosuid,nodev,mode=755 run "$root/run"
    mount -t tmpfs -o nosuid,nodev,mode=1777 tmp "$root/tmp"
    # The kernel has one boot id for all namespaces; journald needs one a boot.
    cat "$root/proc/sys/kernel/random/uuid" >"$root/run/.boot_id"
    mount --bind "$root/run/.boot_id" "$root/proc/sys/kernel/random/boot_id"
    mount -o remount,bind,ro,nosuid,nodev,noexec "$root/proc/sys/kernel/random/boot_id"

    local groups=$root/sys/fs/cgroup
    if [ "$mode" = unified ]; then
        mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$groups"
    else
        mount -t tmpfs -o mode=755,nosuid,nodev,noexec cgroup "$groups"
        while read -r kind _; do
            case $kind in
            v2) mkdir "$groups/unified"
                mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$groups/unified" ;;
            name=systemd) mkdir "$groups/systemd"
                mount -t cgroup -o "nosuid,nodev,noexec,none,$kind" cgroup "$groups/systemd" ;;
            *)  mkdir "$groups/$kind"
                mount -t cgroup -o "nosuid,nodev,noexec,$kind" cgroup "$groups/$kind" ;;
            esac
        done <"$dir/cgroups"
        mount -o remount,bind,ro,nosuid,nodev,noexec "$groups"
    fi

    ip link set lo up
    cd "$root"
    mkdir run/old
    pivot_root . run/old
    umount -l /run/old
    rmdir /run/old
    # systemd leaves this to the container manager. Without it credentials are
    # mounted where no service can see them, and the start still succeeds.
    mount --make-rshared /
    exec setpriv --bounding-set="$BOX_DROP" -- env -i container=box PATH="$BOX_PATH" \
        /lib/systemd/systemd --unit="$BOX_UNIT" --log-target=journal --show-status=no
}

box_up() {
    local dir=$1 mode kind point path name group
    mode=$(_box_mode "$dir")
    name=$(cat "$dir/name")
    : >"$dir/cgroups"
    rm -f "$dir/pid"
    while read -r kind point path; do
        case $mode:$kind in
        *:v2) ;;
        hybrid:name=systemd) ;;
        hybrid:*) [[ " $BOX_CONTROLLERS " = *" $kind "* ]] || continue ;;
        *) continue ;;
        esac
        group=$point$path/$name
        mkdir -p "$group" || return 1
        echo "$kind $group" >>"$dir/cgroups"
    done < <(_box_hierarchies)

    (
        while read -r kind group; do echo "$BASHPID" >"$group/cgroup.procs" || exit 1; done <"$dir/cgroups"
        export BOX_DROP BOX_PATH BOX_UNIT
        exec setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child=SIGKILL --uts --ipc \
            --net --cgroup --propagation private -- bash "$BOX_SELF" __init "$dir" "$mode"
    ) </dev/null >"$dir/console.log" 2>&1 &
    BOX_OUTER=$!
    echo "$BOX_OUTER" >"$dir/outer"

    local end=$((SECONDS + BOX_BOOT_SECONDS)) state=
    while [ $SECONDS -lt $end ]; do
        kill -0 "$BOX_OUTER" 2>/dev/null || { cat "$dir/console.log" >&2; return 1; }
        if [ -s "$dir/pid" ] && box_exec "$dir" test -S /run/systemd/private 2>/dev/null; then
            state=$(timeout $((end - SECONDS + 1)) bash "$BOX_SELF" exec "$dir" systemctl is-system-running --wait)
            break
        fi
        sleep 0.02
    done
    [ "$state" = running ] && return 0
    echo "the box did not come up: ${state:-no answer}" >&2
    box_exec "$dir" systemctl --no-pager --no-legend --failed >&2
    cat "$dir/console.log" >&2
    return 1
}

box_exec() {
    local dir=$1 pid
    shift
    pid=$(cat "$dir/pid") || return 125
    ${BOX_EXEC:-} nsenter --target "$pid" --mount --pid --uts --ipc --net --cgroup --root -- \
        env -i -C / PATH="$BOX_PATH" LANG=C.UTF-8 TERM=dumb "$@"
}

box_down() {
    local dir=$1 outer inner kind group
    outer=$(cat "$dir/outer" 2>/dev/null)
    inner=$(cat "$dir/pid" 2>/dev/null)
    # Its PID 1 first, and all in its namespace with it; the process around it
    # then reaps that and ends by itself.
    _box_owns "$dir" "$inner" && kill -KILL "$inner" 2>/dev/null
    for _ in $(seq 50); do
        _box_owns "$dir" "$outer" || break
        sleep 0.02
    done
    _box_owns "$dir" "$outer" && kill -KILL "$outer" 2>/dev/null
    [ -n "$outer" ] && wait "$outer" 2>/dev/null
    for _ in $(seq 20); do
        while read -r kind group; do
            [ -d "$group" ] && find "$group" -depth -type d -exec rmdir {} + 2>/dev/null
        done <"$dir/cgroups"
        [ -z "$(box_leftovers "$dir")" ] && break
        sleep 0.05
    done
    rm -f "$dir/pid" "$dir/outer"
    return 0
}

box_leftovers() {
    local dir=$1 kind group
    while read -r kind group; do
        [ -d "$group" ] && echo "cgroup $group"
    done <"$dir/cgroups"
    grep -F " $dir/" /proc/self/mountinfo
    return 0
}

box_remove() {
    [ -d "$1" ] || return 0
    [ -f "$1/cgroups" ] && box_down "$1"
    [ -z "$(grep -F " $1/" /proc/self/mountinfo)" ] && rm -rf --one-file-system "$1"
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    case ${1:-} in
    __init) shift; _box_init "$@" ;;
    hold)
        reason=$(box_why_not) || { echo "skipped: $reason"; exit 77; }
        [ -e "$2/lower" ] || box_prepare "$2" "$3"
        trap 'box_remove "$2"' EXIT
        trap 'exit 1' TERM INT HUP
        box_up "$2" || exit 1
        echo up
        while read -r _; do :; done ;;
    exec) shift; BOX_EXEC='exec'; box_exec "$@" ;;
    *) sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; exit 2 ;;
    esac
fi
