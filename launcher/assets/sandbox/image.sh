#!/bin/bash
# Builds the tree that all sandbox hosts share, in $ROOT. Runs in a mount namespace of its own, so that no mount is left
# whatever happens. Started again after a failure it goes on after the debootstrap.
#
#   ROOT         folder to build in                 SUITE, MIRROR  the Debian or Ubuntu release, and where it comes from
#   UV           the uv to copy in                  SKY_PINS       SkyPilot and the providers' packages, as on this side
#   WHEELS       folder HASH/*.whl of the SkyPilot wheel that this side pushes to every host
#   CERTIFICATE  bundle of certificates             LOCAL_SOURCES  folders that package sources lie in, or nothing
#   UV_*         package sources, as uv wants them
set -euo pipefail
say() { echo "image: $* (${SECONDS} s)"; }
runtime_pins='setuptools<70 click<8.3.0 ray[default]==2.9.3 pydantic-core==2.41.1' # as SkyPilot's own set-up has them
lambda_home=home/ubuntu
packages=openssh-server,rsync,sudo,curl,ca-certificates,git,patch,procps,psmisc,iproute2,lsof,netcat-openbsd
packages+=,python3,python3-venv,python3-dev

if [ ! -e "$ROOT.bootstrapped" ]; then
    rm -rf "$ROOT"
    say "debootstrap $SUITE"
    debootstrap --variant=minbase --include="$packages" "$SUITE" "$ROOT" "$MIRROR"
    touch "$ROOT.bootstrapped"
fi
inside() { chroot "$ROOT" "$@"; }

# Hosts have no way out: what asks for packages must find that there are none, at once.
rm -rf "$ROOT"/etc/apt/sources.list.d/* "$ROOT"/var/lib/apt/lists/* "$ROOT"/var/cache/apt/archives/*.deb
: >"$ROOT/etc/apt/sources.list"
rm -f "$ROOT/etc/resolv.conf" "$ROOT/etc/uv/uv.toml"
: >"$ROOT/etc/resolv.conf"
cp "$CERTIFICATE" "$ROOT/etc/ssl/certs/ca-certificates.crt"

# Lambda logs in as ubuntu, RunPod and vast.ai as root. Not "!": the SSH server refuses locked accounts.
inside id ubuntu >/dev/null 2>&1 || inside useradd --create-home --shell /bin/bash ubuntu
inside usermod --password '*' ubuntu
echo 'ubuntu ALL=(ALL) NOPASSWD:ALL' >"$ROOT/etc/sudoers.d/ubuntu"
inside ssh-keygen -A # every host has the same: SkyPilot never checks them
cat >"$ROOT/etc/ssh/sshd_config.d/sandbox.conf" <<'CONF'
UsePAM no
PermitRootLogin yes
MaxStartups 200
MaxSessions 200
CONF
for home in $lambda_home root; do
    mkdir -p "$ROOT/$home/.local/bin" "$ROOT/$home/.ssh"
    cp "$UV" "$ROOT/$home/.local/bin/uv"
    chmod 700 "$ROOT/$home/.ssh"
done
inside chown -R ubuntu:ubuntu "/$lambda_home"
chmod 755 "$ROOT/$lambda_home"
chmod 711 "$ROOT/root" # folders shared below it must be reachable by ubuntu

mount --bind /etc/resolv.conf "$ROOT/etc/resolv.conf"
for path in $LOCAL_SOURCES; do
    mkdir -p "$ROOT$path"
    mount --bind "$path" "$ROOT$path"
done
unset PYTHONDONTWRITEBYTECODE
export UV_LINK_MODE=copy UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1 UV_HTTP_TIMEOUT=180 SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
as() { # as USER COMMAND...: in the image, with the package sources of this side
    local user=$1 home
    shift
    home=$(inside sh -c "echo ~$user")
    inside setpriv --reuid="$user" --regid="$user" --init-groups \
        env --chdir="$home" HOME="$home" PATH="$home/.local/bin:/usr/bin:/bin" "$@"
}

say "SkyPilot's runtime"
as ubuntu uv venv --quiet --seed --clear --python /usr/bin/python3 skypilot-runtime
as ubuntu uv pip install --quiet --python skypilot-runtime/bin/python $runtime_pins $SKY_PINS
for user in ubuntu root; do
    as $user uv venv --quiet --seed --clear --relocatable --system-site-packages --python /usr/bin/python3 sky-user-env
done

say "SkyPilot's wheel"
wheel=$(cd "$WHEELS" && echo */*.whl)
for home in $lambda_home root; do
    mkdir -p "$ROOT/$home/.sky/wheels"
    cp -r "$WHEELS/${wheel%/*}" "$ROOT/$home/.sky/wheels/"
    echo "${wheel%/*}" >"$ROOT/$home/.sky/wheels/current_sky_wheel_hash"
done
inside chown -R ubuntu:ubuntu "/$lambda_home"
as ubuntu uv pip install --quiet --offline --no-deps --reinstall --python skypilot-runtime/bin/python ".sky/wheels/$wheel"
ln -sfn "/$lambda_home/skypilot-runtime" "$ROOT/root/skypilot-runtime"

mkdir -p "$ROOT/etc/uv"
echo 'offline = true' >"$ROOT/etc/uv/uv.toml"
rm -f "$ROOT.bootstrapped"
say "done"
