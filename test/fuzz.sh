#!/usr/bin/env bash
# Runs every fuzz target of the repository for FUZZTIME, one after the other.
set -euo pipefail
GO=${GO:-go} FUZZTIME=${FUZZTIME:-30s}
grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u | while read -r dir; do
  grep -rhoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' "$dir"/*_test.go | sed 's/^func //' | sort -u | while read -r target; do
    echo "== $dir $target"
    "$GO" test -vet=off -run '^$' -fuzz "^${target}\$" -fuzztime "$FUZZTIME" "$dir"
  done
done
