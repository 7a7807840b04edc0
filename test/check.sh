#!/bin/sh
# `make check` runs this script. It builds all packages, but checks the format, vets, lints
# and tests only those that differ from BASE (default: the last commit). GO and LINT are the
# programs.
set -eu
base=${BASE:-HEAD}
files=$(git diff --name-only --diff-filter=d "$base" -- '*.go'; git ls-files --others --exclude-standard -- '*.go')
if [ -z "$files" ]; then
	echo "no Go file differs from $base"
	exit 0
fi
# shellcheck disable=SC2086 # one argument per file
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
# Most tests below test/ need servers, which `make e2e` sets up.
small=$(echo "$packages" | grep -v '^\./test/' || true)
if [ -n "$small" ]; then
	# shellcheck disable=SC2086
	"$GO" test -vet=off $small
fi
