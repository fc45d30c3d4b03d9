# Evenkeel. `make help` lists what there is; `make demo` shows the whole loop.

GO ?= go
BIN := bin
CACHE := .cache

# One set of build flags for binaries, vet, staticcheck and the tests that are
# not race-tested: every other combination would compile all dependencies again.
export CGO_ENABLED ?= 0

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
VERSION_PACKAGE := github.com/prometheus/common/version
LDFLAGS := -s -w -X $(VERSION_PACKAGE).Version=$(VERSION) \
	-X $(VERSION_PACKAGE).Revision=$(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)

BINARIES := evenkeel evenkeel-agent evenkeel-collector evenkeel-remediator

# Packages that embed the Prometheus server's libraries are tested without the
# race detector: building those libraries a second time takes longer than every
# test together, and what is ours in them has no concurrency of its own.
WITHOUT_RACE := /(alerts|dashboards|internal/sim/store|cmd/evenkeel|test)(/|$$)

.PHONY: help
help: ## Show this help.
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build the four binaries into bin/.
	@mkdir -p $(BIN)
	$(GO) build -ldflags "$(LDFLAGS)" -o $(BIN)/ $(addprefix ./cmd/,$(BINARIES))

.PHONY: demo
demo: build ## Run the whole loop on this machine: faults, decisions, one replacement, resumed training. Ctrl-C ends it.
	$(BIN)/evenkeel demo $(DEMO_FLAGS)

.PHONY: test
test: servers lint build test-unit test-race ## Everything that must hold: lint, unit tests with -race, end-to-end tests on real binaries and servers.

.PHONY: test-unit
test-unit: build servers
	$(GO) test -ldflags "$(LDFLAGS)" -timeout 10m $$($(GO) list ./... | grep -E '$(WITHOUT_RACE)')

.PHONY: test-race
test-race: servers
	CGO_ENABLED=1 $(GO) test -race -vet=off -timeout 10m $$($(GO) list ./... | grep -vE '$(WITHOUT_RACE)')

.PHONY: soak
soak: build servers ## What takes longer (under 20 minutes): kill -9 at random moments, long outages, fuzzing.
	EVENKEEL_SOAK=1 $(GO) test -ldflags "$(LDFLAGS)" -timeout 15m -count=1 -p 1 -parallel 3 -v -run 'Soak|TestProperties' ./test/... ./cmd/evenkeel/... ./remediate/incident
	scripts/fuzz.sh 3000x

.PHONY: test-kubernetes
test-kubernetes: ## Tests against a real kube-apiserver. There are none yet.
	@echo "no tests need a kube-apiserver yet"

.PHONY: lint
lint: ## gofmt, go vet, staticcheck, generated files up to date.
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$unformatted" ] || { echo "run gofmt -w on:"; echo "$$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

.PHONY: generate
generate: ## Rewrite what is generated: docs/faults.md, the dashboard, golden files. Look at the diff.
	$(GO) test $$(git grep -l '"github.com/evenkeel/evenkeel/internal/golden"' -- '*_test.go' | xargs -n1 dirname | sort -u | sed 's|^|./|') -update

.PHONY: bench
bench: ## Run the benchmarks that the documentation quotes.
	$(GO) test -run '^$$' -bench . -benchtime 1s -benchmem $$($(GO) list ./... | grep -vE '/(test)(/|$$)')

# Debian packages of servers that tests talk to, unpacked below .cache without
# installing or starting anything.
.PHONY: servers
servers:
	scripts/fetch-deb.sh prometheus

.PHONY: clean
clean: ## Remove what was built and fetched.
	rm -rf $(BIN) $(CACHE)
