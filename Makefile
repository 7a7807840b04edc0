# Everything that is needed beyond Go is built into .tools from the Go module
# proxy, with pinned versions.
GO        ?= go
TOOLS     := $(CURDIR)/.tools
PROMETHEUS_VERSION := v0.316.0
NODE_EXPORTER_VERSION := v1.12.1
LINT_VERSION := v2.15.0
BIGTABLE_EMULATOR_VERSION := v1.58.0
FAKE_GCS_SERVER_VERSION := v1.56.1
EMULATORS := $(TOOLS)/bigtable-emulator-$(BIGTABLE_EMULATOR_VERSION) $(TOOLS)/fake-gcs-server-$(FAKE_GCS_SERVER_VERSION)
FUZZTIME  ?= 30s
UNIT      := $(shell $(GO) list ./... 2>/dev/null | grep -v /test/)

.PHONY: run build test unit race lint vet fuzz e2e bench load tools clean

run: build                      ## build and serve on :9009, data in ./data
	./bin/pallium all $(ARGS)

build:                          ## build bin/pallium
	$(GO) build -o bin/pallium .

test: vet lint unit e2e         ## what CI runs

unit: $(EMULATORS)
	$(GO) test -vet=off $(UNIT)

race: $(EMULATORS)               ## unit and story tests under the race detector
	$(GO) test -race -vet=off $(UNIT)

vet:
	$(GO) vet -stdmethods=false $(UNIT)

lint: $(TOOLS)/golangci-lint-$(LINT_VERSION)  ## golangci-lint with the import floors
	$< run ./...

fuzz:                           ## each fuzz target for FUZZTIME (default 30s)
	GO="$(GO)" FUZZTIME=$(FUZZTIME) ./test/fuzz.sh

e2e: build $(TOOLS)/prometheus-$(PROMETHEUS_VERSION) $(TOOLS)/promtool-$(PROMETHEUS_VERSION) $(TOOLS)/node_exporter-$(NODE_EXPORTER_VERSION)  ## a real Prometheus against the real binary
	PALLIUM=$(CURDIR)/bin/pallium \
	PROMETHEUS=$(TOOLS)/prometheus-$(PROMETHEUS_VERSION) \
	PROMTOOL=$(TOOLS)/promtool-$(PROMETHEUS_VERSION) \
	NODE_EXPORTER=$(TOOLS)/node_exporter-$(NODE_EXPORTER_VERSION) \
	$(GO) test -vet=off -count=1 -timeout 20m ./test/...

bench: $(EMULATORS)              ## micro-benchmarks
	$(GO) test -vet=off -run '^$$' -bench . -benchmem $(UNIT)

load: build $(TOOLS)/prometheus-$(PROMETHEUS_VERSION)  ## paired with Prometheus' remote-write receiver
	PALLIUM=$(CURDIR)/bin/pallium PROMETHEUS=$(TOOLS)/prometheus-$(PROMETHEUS_VERSION) $(GO) run ./test/load

tools: $(TOOLS)/prometheus-$(PROMETHEUS_VERSION) $(TOOLS)/promtool-$(PROMETHEUS_VERSION) $(TOOLS)/node_exporter-$(NODE_EXPORTER_VERSION) $(TOOLS)/golangci-lint-$(LINT_VERSION) $(EMULATORS)

$(TOOLS)/golangci-lint-$(LINT_VERSION):
	GOBIN=$(TOOLS) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)
	mv $(TOOLS)/golangci-lint $@

$(TOOLS)/prometheus-$(PROMETHEUS_VERSION):
	GOBIN=$(TOOLS) $(GO) install -tags netgo,remove_all_sd,enable_file_sd github.com/prometheus/prometheus/cmd/prometheus@$(PROMETHEUS_VERSION)
	mv $(TOOLS)/prometheus $@

$(TOOLS)/promtool-$(PROMETHEUS_VERSION):
	GOBIN=$(TOOLS) $(GO) install -tags netgo,remove_all_sd github.com/prometheus/prometheus/cmd/promtool@$(PROMETHEUS_VERSION)
	mv $(TOOLS)/promtool $@

$(TOOLS)/node_exporter-$(NODE_EXPORTER_VERSION):
	CGO_ENABLED=0 GOBIN=$(TOOLS) $(GO) install github.com/prometheus/node_exporter@$(NODE_EXPORTER_VERSION)
	mv $(TOOLS)/node_exporter $@

$(TOOLS)/bigtable-emulator-$(BIGTABLE_EMULATOR_VERSION):
	GOBIN=$(TOOLS) $(GO) install cloud.google.com/go/bigtable/cmd/emulator@$(BIGTABLE_EMULATOR_VERSION)
	mv $(TOOLS)/emulator $@

$(TOOLS)/fake-gcs-server-$(FAKE_GCS_SERVER_VERSION):
	GOBIN=$(TOOLS) $(GO) install github.com/fsouza/fake-gcs-server@$(FAKE_GCS_SERVER_VERSION)
	mv $(TOOLS)/fake-gcs-server $@

clean:
	rm -rf bin .tools
