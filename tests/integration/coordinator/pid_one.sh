#!/bin/sh
# An agent as a container has it: process 1 of a PID namespace, without a name for its user, on a root that it cannot
# write, with one folder that it can. Run by `unshare --mount --pid --fork`, as root.
set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /srv
mkdir /srv/job /srv/python
mount --bind "$CORDEE_WORKDIR" /srv/job
chown 65532:65532 /srv/job
# The interpreter may lie in somebody's home, whose door is closed to others: then a folder with nothing else is put there.
home=/$(echo "$PYTHON_PREFIX" | cut -d/ -f2)
if ! setpriv --reuid 65532 --regid 65532 --clear-groups test -x "$home"; then
    mount --bind "$PYTHON_PREFIX" /srv/python
    mount -t tmpfs -o mode=755 tmpfs "$home"
    mkdir -p "$PYTHON_PREFIX"
    mount --bind /srv/python "$PYTHON_PREFIX"
fi
mount -o remount,ro /srv
mount -o remount,bind,ro /
mount -t proc proc /proc
unset HOME USER LOGNAME XDG_DATA_HOME
export CORDEE_WORKDIR=/srv/job
cd /srv/job
exec setpriv --reuid 65532 --regid 65532 --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all "$@"
