#!/bin/sh
# What `make check` runs: format, build, lint and tests of the packages that differ from
# BASE (default: the last commit) and of nothing else. GO and LINT name the programs.
set -eu
base=${BASE:-HEAD}
files=$(git diff --name-only --diff-filter=d "$base" -- '*.go'; git ls-files --others --exclude-standard -- '*.go')
if [ -z "$files" ]; then
	echo "no Go file differs from $base"
	exit 0
fi
# shellcheck disable=SC2086 # one argument for each file
unformatted=$(gofmt -l $files)
if [ -n "$unformatted" ]; then
	echo "not formatted, run gofmt -w:"
	echo "$unformatted"
	exit 1
fi
packages=$(for f in $files; do echo "./$(dirname "$f")"; done | sort -u)
"$GO" build ./...
# shellcheck disable=SC2086
"$GO" vet -stdmethods=false $packages
# shellcheck disable=SC2086
"$LINT" run $packages
# Tests below test/ want servers; `make e2e` has them.
small=$(echo "$packages" | grep -v '^\./test/' || true)
if [ -n "$small" ]; then
	# shellcheck disable=SC2086
	"$GO" test -vet=off $small
fi
