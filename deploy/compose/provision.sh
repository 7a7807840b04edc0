#!/bin/sh
# Creates the tenant "demo" and a key for writes and reads, for Prometheus and
# Grafana, in the shared volume. Each `docker compose up` issues a new key.
set -eu
for url in http://gateway-1:9010 http://gateway-2:9010; do
  until wget -q -O /dev/null "$url/ready"; do sleep 1; done
done
pallium token issue -q -admin-url http://gateway-1:9010 -tenant demo -create-tenant \
  -scopes metrics:read,metrics:write -name compose -expires 90d > /shared/token.new
chmod 0644 /shared/token.new
mv /shared/token.new /shared/token
