#!/bin/sh
# Stops the service when the package goes; an upgrade restarts it afterwards.
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
	systemctl --no-reload disable --now pallium
fi
