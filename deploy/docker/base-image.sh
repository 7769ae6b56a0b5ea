#!/bin/sh
# Makes a Python base image of the name that the Dockerfile asks for, where none can be pulled: Debian's own Python
# by debootstrap, laid out as in the official image. Builds with it need --network=host where the engine has no bridge.
#
#   sudo deploy/docker/base-image.sh [NAME]        default: python:3.11-slim
#
# Needs debootstrap, docker and root. MIRROR names another Debian mirror; KEEP_CA=1 takes this machine's certificate
# authorities along, for networks that have their own.
set -eu

name=${1:-python:3.11-slim}
mirror=${MIRROR:-http://deb.debian.org/debian}
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"

# python3-venv brings the wheel of pip; it goes again once pip is where the official image has it.
debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv bookworm "$root" "$mirror"
rm "$root"/usr/lib/python3*/EXTERNALLY-MANAGED
chroot "$root" sh -euc '
  python3 -m venv /pip
  cp -r /pip/lib/python3*/site-packages/pip /pip/lib/python3*/site-packages/pip-* /usr/local/lib/python3*/dist-packages/
  printf "#!/usr/bin/python3\nfrom pip._internal.cli.main import main\nraise SystemExit(main())\n" > /usr/local/bin/pip
  chmod +x /usr/local/bin/pip
  ln -s /usr/bin/python3 /usr/local/bin/python3
  ln -s /usr/bin/python3 /usr/local/bin/python
  dpkg --purge python3-venv python3.11-venv python3-distutils python3-lib2to3 python3-pip-whl python3-setuptools-whl
'
if [ -n "${KEEP_CA:-}" ]; then
  cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
fi
rm -rf "$root/pip" "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/doc/* \
  "$root"/usr/share/locale/* "$root"/usr/share/man/* "$root"/var/log/*
tar --create --numeric-owner --directory "$root" . | docker import \
  --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' --change 'CMD ["python3"]' - "$name"
