# The emulators of Bigtable and Cloud Storage, in the versions of the Makefile.
# They store everything in memory and need no account.
FROM golang:1.26-bookworm AS build
ENV CGO_ENABLED=0 GOBIN=/out
RUN go install cloud.google.com/go/bigtable/cmd/emulator@v1.58.0
RUN go install github.com/fsouza/fake-gcs-server@v1.56.1

FROM alpine:3.22 AS bigtable
COPY --from=build /out/emulator /usr/local/bin/bigtable-emulator
USER 65532:65532
EXPOSE 8086
ENTRYPOINT ["/usr/local/bin/bigtable-emulator", "-host", "0.0.0.0", "-port", "8086"]

FROM alpine:3.22 AS gcs
COPY --from=build /out/fake-gcs-server /usr/local/bin/fake-gcs-server
# At the start, each directory below -data becomes a bucket.
RUN mkdir -p /buckets/pallium
USER 65532:65532
EXPOSE 4443
ENTRYPOINT ["/usr/local/bin/fake-gcs-server", "-scheme", "http", "-host", "0.0.0.0", "-port", "4443", "-backend", "memory", "-data", "/buckets", "-external-url", "http://gcs:4443", "-public-host", "gcs:4443", "-log-level", "warn"]
