# All tools except Go are built into .tools from the Go module proxy, with pinned
# versions.
GO        ?= go
TOOLS     := $(CURDIR)/.tools
PROMETHEUS_VERSION := v0.316.0
NODE_EXPORTER_VERSION := v1.12.1
LINT_VERSION := v2.15.0
BIGTABLE_EMULATOR_VERSION := v1.58.0
FAKE_GCS_SERVER_VERSION := v1.56.1
KUSTOMIZE_VERSION := v5.8.1
KUBECTL_VALIDATE_VERSION := v0.0.4
NFPM_VERSION := v2.43.4
CYCLONEDX_VERSION := v1.10.0
KUBETOOLS := $(TOOLS)/kustomize-$(KUSTOMIZE_VERSION) $(TOOLS)/kubectl-validate-$(KUBECTL_VALIDATE_VERSION)
DEPLOYENV := KUSTOMIZE=$(TOOLS)/kustomize-$(KUSTOMIZE_VERSION) KUBECTL_VALIDATE=$(TOOLS)/kubectl-validate-$(KUBECTL_VALIDATE_VERSION) \
	PROMTOOL=$(TOOLS)/promtool-$(PROMETHEUS_VERSION)
EMULATORS := $(TOOLS)/bigtable-emulator-$(BIGTABLE_EMULATOR_VERSION) $(TOOLS)/fake-gcs-server-$(FAKE_GCS_SERVER_VERSION)
FUZZTIME  ?= 30s

# The version is the tag, or the tag with the number of commits after it.
VERSION   ?= $(shell git describe --tags --match 'v*' --dirty 2>/dev/null || echo dev)
COMMIT    ?= $(shell git rev-parse HEAD 2>/dev/null)$(shell git diff --quiet HEAD 2>/dev/null || echo ', with changes')
# Google's clients import gRPC's xDS for DirectPath, which we do not use: 128
# packages and 9 MB.
BUILDFLAGS := -tags disable_grpc_modules
LDFLAGS   := -s -w -X main.version=$(VERSION) -X 'main.commit=$(COMMIT)'
# Only the race detector needs C. Without it a bare machine compiles less, and the
# binary is static.
export CGO_ENABLED ?= 0
UNIT      := $(shell $(GO) list ./... 2>/dev/null | grep -v /test/)

REDIS_SERVER ?= redis-server
CLUSTER   := $(CURDIR)/data/cluster
CLUSTERENV := PALLIUM=$(CURDIR)/bin/pallium REDIS_SERVER=$(REDIS_SERVER) \
	BIGTABLE_EMULATOR_BIN=$(TOOLS)/bigtable-emulator-$(BIGTABLE_EMULATOR_VERSION) \
	FAKE_GCS_SERVER_BIN=$(TOOLS)/fake-gcs-server-$(FAKE_GCS_SERVER_VERSION)

.PHONY: run build release test check cover generate unit race lint vet fuzz e2e chaos cluster cluster-stop redis proto deploy-check model bench bench-queries load load-cluster tools clean

run: build                      ## build and serve on :9009, data in ./data
	./bin/pallium all $(ARGS)

build:                          ## build bin/pallium
	@echo "building pallium $(VERSION); the first time on a machine its dependencies are compiled, too, which takes minutes"
	@$(GO) build $(BUILDFLAGS) -ldflags "$(LDFLAGS)" -o bin/pallium .
	@./bin/pallium version

release: $(TOOLS)/nfpm-$(NFPM_VERSION) $(TOOLS)/cyclonedx-gomod-$(CYCLONEDX_VERSION)  ## static binaries, Debian packages, licences and checksums in dist/
	@GO="$(GO)" VERSION="$(VERSION)" COMMIT="$(COMMIT)" BUILDFLAGS="$(BUILDFLAGS)" \
	NFPM=$(TOOLS)/nfpm-$(NFPM_VERSION) CYCLONEDX=$(TOOLS)/cyclonedx-gomod-$(CYCLONEDX_VERSION) ./deploy/release.sh

test: vet lint unit e2e         ## what CI runs

cluster: build $(EMULATORS) redis  ## start a whole cluster as processes of this machine; its state is in data/cluster
	$(CLUSTERENV) $(GO) run ./test/cluster/local up $(CLUSTER)

cluster-stop:                    ## stop it
	$(CLUSTERENV) $(GO) run ./test/cluster/local down $(CLUSTER)

redis:                           ## install redis-server if it is missing and permissions allow
	@command -v $(REDIS_SERVER) >/dev/null 2>&1 || { \
	  if [ "$$(id -u)" = 0 ]; then apt-get update -qq && apt-get install -y -qq redis-server; \
	  else sudo -n apt-get update -qq && sudo -n apt-get install -y -qq redis-server; fi; } || \
	  { echo "redis-server is missing: install it (Debian: apt-get install redis-server), or set REDIS_SERVER" >&2; exit 1; }

proto:                           ## generate the messages between roles; needs protoc
	GOBIN=$(TOOLS) $(GO) install github.com/gogo/protobuf/protoc-gen-gogofaster
	cd backend/wire && PATH="$(TOOLS):$$PATH" protoc -I. -I"$$($(GO) list -m -f '{{.Dir}}' github.com/gogo/protobuf)" --gogofaster_out=plugins=grpc,paths=source_relative:. wire.proto

check: $(TOOLS)/golangci-lint-$(LINT_VERSION)  ## format, lint and tests of what differs from BASE (default HEAD); about a minute
	@GO="$(GO)" LINT=$< BASE="$(BASE)" ./test/check.sh

cover: $(EMULATORS) redis              ## test coverage by package, lowest last
	$(GO) test -vet=off -coverprofile=cover.out $(UNIT) | grep -o 'pallium.*coverage: [0-9.]*%' | sort -t: -k2 -rn
	$(GO) tool cover -func=cover.out | tail -1

generate:                       ## generate from the code: the tables of docs/limits.md and the imports in docs/architecture.md
	$(GO) generate ./policies/...
	UPDATE=1 $(GO) test -vet=off -count=1 -run TestImports ./test/house

unit: $(EMULATORS) redis
	$(GO) test -vet=off $(UNIT)

race: CGO_ENABLED = 1
race: $(EMULATORS) redis               ## unit and story tests under the race detector
	$(GO) test -race -vet=off $(UNIT)

vet:
	$(GO) vet -stdmethods=false $(UNIT)

lint: $(TOOLS)/golangci-lint-$(LINT_VERSION)  ## golangci-lint with the import floors
	$< run ./...

fuzz:                           ## each fuzz target for FUZZTIME (default 30s)
	GO="$(GO)" FUZZTIME=$(FUZZTIME) ./test/fuzz.sh

e2e: build bin/skewed $(EMULATORS) $(KUBETOOLS) redis $(TOOLS)/prometheus-$(PROMETHEUS_VERSION) $(TOOLS)/promtool-$(PROMETHEUS_VERSION) $(TOOLS)/node_exporter-$(NODE_EXPORTER_VERSION)  ## a real Prometheus against the real binary
	PALLIUM=$(CURDIR)/bin/pallium \
	PROMETHEUS=$(TOOLS)/prometheus-$(PROMETHEUS_VERSION) \
	PROMTOOL=$(TOOLS)/promtool-$(PROMETHEUS_VERSION) \
	NODE_EXPORTER=$(TOOLS)/node_exporter-$(NODE_EXPORTER_VERSION) \
	$(CLUSTERENV) $(DEPLOYENV) $(GO) test -vet=off -count=1 -timeout 20m ./test/...

deploy-check: build $(KUBETOOLS) $(TOOLS)/promtool-$(PROMETHEUS_VERSION)  ## check the files under deploy and compose.yaml against their schemas
	PALLIUM=$(CURDIR)/bin/pallium $(DEPLOYENV) $(GO) test -vet=off -count=1 ./test/deploy

chaos: build bin/skewed $(EMULATORS) redis  ## the long chaos tests: hostile tenants, many series killed, and tenants at their limit, ten minutes each, Alertmanagers with random faults, a quarter of an hour, and a cluster, about an hour and a half, and the model-based test, two hours; CHAOS_SEED and MODEL_SEED reproduce one
	PALLIUM=$(CURDIR)/bin/pallium CHAOS=long $(GO) test -vet=off -count=1 -timeout 1h -v -run 'TestHostileTenants|TestKillManySeries' ./test/chaos
	CHAOS=long $(CLUSTERENV) $(GO) test -vet=off -count=1 -timeout 1h -v -run 'TestAtItsLimit' ./test/cluster
	PALLIUM=$(CURDIR)/bin/pallium CHAOS=long $(CLUSTERENV) $(GO) test -vet=off -count=1 -timeout 1h -v ./test/ruler
	CHAOS=long $(CLUSTERENV) $(GO) test -vet=off -count=1 -timeout 1h -v ./test/alertmanager
	PALLIUM=$(CURDIR)/bin/pallium CHAOS=long $(CLUSTERENV) $(GO) test -vet=off -count=1 -timeout 4h -v ./test/chaos/cluster
	MODEL=$${MODEL:-1h} $(MAKE) model
	STORM_PUBLICATIONS=1000 $(GO) test -vet=off -count=1 -timeout 1h -v -run 'TestPublicationStorm' ./backend/store

model: build bin/skewed $(EMULATORS) redis  ## random operations against one process and a cluster, compared with a model; MODEL=1h runs each for an hour, MODEL_SEED repeats a run
	$(CLUSTERENV) $(GO) test -vet=off -count=1 -timeout 0 -v ./test/model

bin/skewed: build                 ## build pallium with a clock that tests can set
	$(GO) build -tags skewed,disable_grpc_modules -o $@ .

bench: $(EMULATORS) redis              ## micro-benchmarks
	$(GO) test -vet=off -run '^$$' -bench . -benchmem $(UNIT)

load: build $(TOOLS)/prometheus-$(PROMETHEUS_VERSION)  ## load test, compared with Prometheus' remote-write receiver
	PALLIUM=$(CURDIR)/bin/pallium PROMETHEUS=$(TOOLS)/prometheus-$(PROMETHEUS_VERSION) $(GO) run ./test/load

load-cluster: build $(EMULATORS) redis  ## load test of a cluster, compared with one process
	$(CLUSTERENV) $(GO) run ./test/load/cluster

bench-queries: build $(TOOLS)/prometheus-$(PROMETHEUS_VERSION)  ## range queries with the query frontend, without it, and of Prometheus; ARGS has flags of test/load/queries
	PALLIUM=$(CURDIR)/bin/pallium PROMETHEUS=$(TOOLS)/prometheus-$(PROMETHEUS_VERSION) $(GO) run $(BUILDFLAGS) ./test/load/queries $(ARGS)

tools: $(TOOLS)/prometheus-$(PROMETHEUS_VERSION) $(TOOLS)/promtool-$(PROMETHEUS_VERSION) $(TOOLS)/node_exporter-$(NODE_EXPORTER_VERSION) $(TOOLS)/golangci-lint-$(LINT_VERSION) $(EMULATORS) $(KUBETOOLS)

$(TOOLS)/nfpm-$(NFPM_VERSION):
	GOBIN=$(TOOLS) $(GO) install github.com/goreleaser/nfpm/v2/cmd/nfpm@$(NFPM_VERSION)
	mv $(TOOLS)/nfpm $@

$(TOOLS)/cyclonedx-gomod-$(CYCLONEDX_VERSION):
	GOBIN=$(TOOLS) $(GO) install github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@$(CYCLONEDX_VERSION)
	mv $(TOOLS)/cyclonedx-gomod $@

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

$(TOOLS)/kustomize-$(KUSTOMIZE_VERSION):
	GOBIN=$(TOOLS) $(GO) install sigs.k8s.io/kustomize/kustomize/v5@$(KUSTOMIZE_VERSION)
	mv $(TOOLS)/kustomize $@

$(TOOLS)/kubectl-validate-$(KUBECTL_VALIDATE_VERSION):
	GOBIN=$(TOOLS) $(GO) install sigs.k8s.io/kubectl-validate@$(KUBECTL_VALIDATE_VERSION)
	mv $(TOOLS)/kubectl-validate $@

clean:
	rm -rf bin dist .tools
