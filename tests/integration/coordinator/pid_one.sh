#!/bin/sh
# An agent as a container has it: process 1 of a PID namespace, without a name for its user, on a root that it cannot
# write, with one folder that it can. Run by `unshare --mount --pid --fork`, as root.
set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /srv
mkdir /srv/job
mount --bind "$CORDEE_WORKDIR" /srv/job
chown 65532:65532 /srv/job

nameless() { setpriv --reuid 65532 --regid 65532 --clear-groups "$@"; }

# What Python needs may lie in somebody's home, or in another folder whose door is closed to others: then a folder with
# nothing else is put there. All are kept first, for one such folder may hold several of them.
saved_ifs=$IFS
IFS=:
for path in $NEEDED; do
    mkdir -p "/srv/needed$path"
    mount --bind "$path" "/srv/needed$path"
done
for path in $NEEDED; do
    door=
    IFS=/
    for name in ${path#/}; do
        door=$door/$name
        [ "$door" = "$path" ] || nameless test -x "$door" || { mount -t tmpfs -o mode=755 tmpfs "$door"; break; }
    done
    if ! nameless test -x "$path"; then
        mkdir -p "$path"
        mount --bind "/srv/needed$path" "$path"
    fi
done
IFS=$saved_ifs
mount -o remount,ro /srv
mount -o remount,bind,ro /
mount -t proc proc /proc
unset HOME USER LOGNAME XDG_DATA_HOME
export CORDEE_WORKDIR=/srv/job
cd /srv/job
exec setpriv --reuid 65532 --regid 65532 --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all "$@"
