#!/bin/sh
# In the final stage: the user that nodes run as, the directory that they own, and no pip, where the base has one.
set -eu
echo 'raftkv:x:10001:' >>/etc/group
echo 'raftkv:x:10001:10001::/data:/usr/sbin/nologin' >>/etc/passwd
mkdir -m 0700 /data
chown 10001:10001 /data
for program in pip pip3; do
    rm -f "/usr/local/bin/$program"* "/usr/bin/$program"
done
packages=$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
rm -rf "$packages"/pip "$packages"/pip-*.dist-info
