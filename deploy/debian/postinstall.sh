#!/bin/sh
# Creates the user of the service. Does not start the service, so that the configuration can be checked first.
set -e
if ! getent passwd pallium >/dev/null; then
	useradd --system --user-group --home-dir /var/lib/pallium --no-create-home --shell /usr/sbin/nologin pallium
fi
chgrp pallium /etc/default/pallium
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	if systemctl is-active --quiet pallium; then systemctl restart pallium; fi
fi
