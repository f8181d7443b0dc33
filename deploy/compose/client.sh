#!/bin/sh
# The client of the chaos profile: say every change as it is committed. First make sure that there is any chaos.
if [ -z "${CHAOS:-}" ]; then
    echo "the nodes dial each other past Toxiproxy: start with --env-file deploy/compose/chaos.env (see deploy/README.md)" >&2
    exit 64
fi
exec raftkv watch --prefix ''
