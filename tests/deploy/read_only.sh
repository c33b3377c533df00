#!/bin/sh
# Run a command as a container of ours runs it: as user 10001, without capabilities, on a read-only file system with an
# empty /tmp. FOLDER alone, below /tmp, stays as it is, like a volume. As root, in a mount namespace of its own:
#   unshare --mount sh read_only.sh FOLDER PYTHON_HOME REPOSITORY COMMAND...
set -eu
folder=$1 python_home=$2 repository=$3
shift 3
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /mnt
mkdir /mnt/folder /mnt/python_home /mnt/repository
mount --bind "$folder" /mnt/folder
mount --bind "$python_home" /mnt/python_home
mount --bind "$repository" /mnt/repository
mount -t tmpfs -o mode=1777 tmpfs /tmp
mkdir -p "$folder"
mount --bind /mnt/folder "$folder"
mount -o remount,bind,ro /
# A folder that only its owner may enter, such as root's home, gives way to one that holds just what is needed.
for path in "$python_home" "$repository"; do
  top=/$(echo "$path" | cut -d / -f 2)
  case $(stat -c %a "$top") in
    *[1357]) ;;
    *) mount -t tmpfs -o mode=755 tmpfs "$top" ;;
  esac
done
for name in python_home repository; do
  eval "path=\$$name"
  [ -d "$path" ] || mkdir -p "$path"
  mount --bind "/mnt/$name" "$path"
  mount -o remount,bind,ro "$path"
done
cd /tmp
exec setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all "$@"
