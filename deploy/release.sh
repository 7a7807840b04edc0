#!/usr/bin/env bash
# Builds a release into dist/: static binaries for linux and darwin on amd64 and arm64,
# Debian packages, a list of the modules in the binary with their licences (CycloneDX,
# SPDX identifiers), and checksums. `make release` calls it with the tools.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${GO:=go}" "${VERSION:?}" "${COMMIT:?}" "${NFPM:?}" "${CYCLONEDX:?}" "${BUILDFLAGS:?}"
rm -rf dist && mkdir -p dist

# built OS ARCH FILE
built() {
	echo "building $3"
	# shellcheck disable=SC2086 # several flags
	CGO_ENABLED=0 GOOS=$1 GOARCH=$2 "$GO" build -trimpath -buildvcs=false $BUILDFLAGS \
		-ldflags "-s -w -X main.version=$VERSION -X main.commit=$COMMIT" -o "$3" .
}

for target in linux/amd64 linux/arm64 darwin/amd64 darwin/arm64; do
	os=${target%/*} arch=${target#*/}
	name=pallium-${VERSION#v}-$os-$arch
	mkdir "dist/$name"
	built "$os" "$arch" "dist/$name/pallium"
	cp LICENSE README.md CHANGELOG.md deploy/systemd/pallium.service "dist/$name/"
	if [ "$os" = linux ]; then
		if [ ! -f dist/pallium.bash ]; then "$GO" run . completion bash > dist/pallium.bash; fi
		ARCH=$arch VERSION=${VERSION#v} BINARY=dist/$name/pallium COMPLETION=dist/pallium.bash \
			"$NFPM" package --config deploy/debian/nfpm.yaml --packager deb --target dist/
	fi
	# The same input gives the same bytes.
	tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$(git log -1 --format=%ct)" -C dist -c "$name" | gzip -n > "dist/$name.tar.gz"
	rm -r "dist/$name"
done
rm dist/pallium.bash
"$CYCLONEDX" app -json -licenses -output dist/modules.cdx.json -main . . 2>/dev/null
(cd dist && sha256sum ./* | sed 's|\./||' > SHA256SUMS)
cat dist/SHA256SUMS
