#!/bin/sh
# Brings up one sandbox host. Runs as process 1 of fresh mount, process, name and IPC namespaces, inside the host's
# network namespace: every mount below exists for the host alone and is gone with its last process.
#
# host.sh FOLDER IMAGE SHARED...
#   FOLDER  the host's own: config/ (files for it), disk.ext4 (made here), root/ (where its tree is mounted)
#   IMAGE   the tree that all hosts share, never written to
#   SHARED  folders of the machine that the host sees read-only, under the same path
set -eu
folder=$1 image=$2
shift 2
config=$folder/config root=$folder/root

mount --make-rprivate /

# A sparse file is the disk: the host sees the size that was rented, and overlayfs gets a file system it can use also
# where the machine's own is an overlay.
truncate -s "$(cat "$config/disk-bytes")" "$folder/disk.ext4"
mkfs.ext4 -q -F -m 0 -i 65536 -O ^has_journal -E lazy_itable_init=1,nodiscard "$folder/disk.ext4"
mkdir -p "$folder/disk" "$root"
mount -o loop "$folder/disk.ext4" "$folder/disk"
mkdir "$folder/disk/upper" "$folder/disk/work"
mount -t overlay -o "lowerdir=$image,upperdir=$folder/disk/upper,workdir=$folder/disk/work" overlay "$root"

mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/dev/shm"
for path in "$@"; do
    mkdir -p "$root$path"
    mount --bind "$path" "$root$path"
    mount -o remount,bind,ro "$root$path"
done

name=$(cat "$config/hostname")
hostname "$name"
cp "$config/hostname" "$config/hosts" "$root/etc/"
cp "$config/ports.conf" "$root/etc/ssh/sshd_config.d/"
mkdir -p "$root/etc/launcher-sandbox" "$root/run/sshd"
cp "$config/url" "$root/etc/launcher-sandbox/"
install -m 755 "$config/init" "$root/sbin/launcher-sandbox-init"
for file in start starts-ssh; do
    [ ! -e "$config/$file" ] || cp "$config/$file" "$root/etc/launcher-sandbox/"
done
if [ -e "$config/gpus" ]; then
    cp "$config/gpus" "$root/etc/launcher-sandbox/"
    install -m 755 "$config/nvidia-smi" "$root/usr/bin/nvidia-smi"
fi

# Clients of the providers inside the host (SkyPilot's autodown) must find the sandbox too.
lambda_home=home/ubuntu # root has a link to what lies there
for packages in "$root/$lambda_home"/skypilot-runtime/lib/python3*/site-packages; do
    cp "$config/launcher_sandbox_redirect.py" "$config/launcher_sandbox_redirect.pth" "$packages/"
done

user=$(cat "$config/user")
home=$(chroot "$root" sh -c "echo ~$user")
cat "$config/authorized_keys" >>"$root$home/.ssh/authorized_keys"
chroot "$root" chown "$user:" "$home/.ssh/authorized_keys"
chmod 600 "$root$home/.ssh/authorized_keys"

cd "$root"
exec chroot "$root" /sbin/launcher-sandbox-init
