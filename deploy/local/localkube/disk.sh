#!/bin/sh
# The volumes of this machine: each is a file system of its own on a sparse file, so that it can be filled, frozen and
# broken without the others. Run inside the machine, by its boot and by the storage provisioner's helper Pods.
# Not for faults: those come from outside (disks.py).
set -eu
PATH=/usr/sbin:/usr/bin:/sbin:/bin

images=/var/disks
volumes=/var/volumes
megabyte=1048576
# What ext4 with a journal can't do without.
least_megabytes=16
# A flush does not wait for the disk below: this kernel outlives the machine, so what reached it is not lost. Then
# fsync costs what it costs on that disk; with barriers it would commit two journals, ours and the one below.
options=loop,barrier=0,noinit_itable,errors=remount-ro

usage() {
    echo "usage: disk.sh make VOLUME BYTES | make-folder VOLUME | remove VOLUME | attach VOLUME | attach-all" >&2
    echo "       disk.sh try FOLDER   (changes nothing outside, in a mount namespace of its own)" >&2
    exit 2
}

make() {
    if [ ! -e "$images/$1.img" ]; then
        size=$((($2 + megabyte - 1) / megabyte))
        [ "$size" -ge "$least_megabytes" ] || size=$least_megabytes
        [ ! -e "$images/$1.unfinished" ] || rm "$images/$1.unfinished"
        format "$images/$1.unfinished" "$size"
        mv "$images/$1.unfinished" "$images/$1.img"
    fi
    mount_image "$1"
    chmod 0777 "$volumes/$1"
}

format() {
    # The holes of the file are zeros already.
    mkfs.ext4 -q -F -b 4096 -m 0 -E lazy_itable_init=1,lazy_journal_init=1,nodiscard "$1" "${2}M" >/dev/null
}

attach() {
    if ! mountpoint --quiet "$volumes/$1"; then
        # 1: it had errors and has none any more.
        e2fsck -p "$images/$1.img" >&2 || [ $? -eq 1 ]
        mount_image "$1"
    fi
}

mount_image() {
    if mountpoint --quiet "$volumes/$1"; then
        return
    fi
    # Nobody but root can write where a volume should be and is not.
    [ -d "$volumes/$1" ] || mkdir -m 0 "$volumes/$1"
    mount_file "$images/$1.img" "$volumes/$1"
    # MariaDB would take it for a database.
    [ ! -d "$volumes/$1/lost+found" ] || rmdir --ignore-fail-on-non-empty "$volumes/$1/lost+found"
    # Without a second copy of everything in memory; not every file system below can do that.
    losetup --direct-io=on "$(losetup --noheadings --output=NAME --associated="$images/$1.img")" 2>/dev/null || :
}

mount_file() {
    if ! mount -t ext4 -o "$options" "$1" "$2"; then
        # Where /dev is not the kernel's own, as in a container, new loop devices have no file in it.
        provide_files
        mount -t ext4 -o "$options" "$1" "$2"
    fi
}

provide_files() {
    for loop in /sys/block/loop*; do
        if [ ! -e "/dev/${loop##*/}" ]; then
            numbers=$(cat "$loop/dev")
            mknod "/dev/${loop##*/}" b "${numbers%:*}" "${numbers#*:}"
        fi
    done
}

attach_all() {
    for image in "$images"/*.img; do
        [ -e "$image" ] || continue
        volume=${image##*/}
        # One that is beyond repair does not keep the machine from booting.
        sh "$0" attach "${volume%.img}" || echo "the volume ${volume%.img} is not there" >&2
    done
}

remove() {
    if mountpoint --quiet "$volumes/$1"; then
        fsfreeze --unfreeze "$volumes/$1" 2>/dev/null || :
        umount --lazy "$volumes/$1"
    fi
    rm -rf "${volumes:?}/$1" "$images/$1.img" "$images/$1.unfinished"
}

[ $# -gt 0 ] || usage
verb=$1
if [ "$verb" = try ]; then
    mkdir "$2/mount"
    format "$2/image" "$least_megabytes"
    mount_file "$2/image" "$2/mount"
    exit
fi
volume=${2:-}
# The provisioner says where the volume's folder is, not what it is called.
volume=${volume##*/}
[ -n "$volume" ] || [ "$verb" = attach-all ] || usage
mkdir -p "$images" "$volumes"
if [ "$verb" != attach-all ]; then
    # One at a time: a heal and the provisioner may be at the same volume.
    exec 9<"$images"
    flock 9
fi
case $verb in
    make) make "$volume" "$3" ;;
    make-folder) [ -d "$volumes/$volume" ] || mkdir -m 0777 "$volumes/$volume" ;;
    remove) remove "$volume" ;;
    attach) attach "$volume" ;;
    attach-all) attach_all ;;
    *) usage ;;
esac
