#!/bin/sh
# Stops the service when the package is removed; an upgrade restarts it.
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
	systemctl --no-reload disable --now pallium
fi
