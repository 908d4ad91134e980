# decaf: which link or device lost the packets. `make help` lists the targets.
GO        ?= go
BIN       := bin/decaf
PKGS      ?= ./...
# Without C, as the binary is, lint, tests and what these build share one compilation.
export CGO_ENABLED := 0
# Tests of packages that measure the kernel share one machine's namespaces, CPUs
# and tracepoints: package after package, or they disturb each other's packets.
# All others run beside them, on what CPU those leave.
KERNEL    := $(addprefix decaf/,device hostagent tracer sim sim/bench sim/kernel)
TESTFLAGS ?= -timeout 20m

.DEFAULT_GOAL := help
.PHONY: help run build test test-kernel test-beside soak bench bench-blame lint generate fuzz clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: build ## build, then start the demo: fabric (as root on Linux the kernel's, else simulated), faults, page (Ctrl-C ends it)
	@$(BIN) demo

build: ## build bin/decaf
	@$(GO) build -trimpath -o $(BIN) .

test: build ## all tests; as root also those on the kernel fabric; names what it skipped
	@rm -f $(BIN).*.test.json
	@$(MAKE) --no-print-directory -k -j2 test-kernel test-beside

test-kernel test-beside: list = $(shell $(GO) list $(PKGS))
test-kernel:
	$(call gotestsum,,kernel,$(filter $(KERNEL),$(list)))
test-beside:
	$(call gotestsum,nice -n 19,beside,$(filter-out $(KERNEL),$(list)))

# $(1) before the command, $(2) in the name of its record, $(3) packages
gotestsum = $(if $(strip $(3)),@$(1) $(GO) tool gotestsum --format pkgname --format-hide-empty-pkg --jsonfile $(BIN).$(2).test.json -- -p 1 $(TESTFLAGS) $(3))

soak: SCENARIOS ?= $(filter-out quiet,$(basename $(notdir $(wildcard sim/scenarios/*.yaml))))
soak: ROUNDS ?= 10
soak: build ## each of SCENARIOS ROUNDS times on the kernel fabric (as root; all 10 times: 100 minutes), then ten quiet minutes
	@mkdir -p bin/soak; failed=0; \
	for name in $(SCENARIOS); do \
	  for seed in $$(seq 1 $(ROUNDS)); do \
	    $(BIN) sim run $$name --fabric kernel --seed $$seed > bin/soak/$$name-$$seed.txt 2>&1 && result=passed || { result=FAILED; failed=1; }; \
	    echo "$$result $$name seed $$seed: $$(grep -h 'detected at' bin/soak/$$name-$$seed.txt | sed 's/^ *//')"; \
	  done; done; \
	$(BIN) sim run quiet --fabric kernel > bin/soak/quiet.txt 2>&1 && echo "passed quiet" || { echo "FAILED quiet"; failed=1; }; \
	exit $$failed

bench: ## every benchmark of the Go packages, with figures
	@$(GO) test -p 1 -run '^$$' -bench . -benchmem $(PKGS)

bench-blame: ## the inference on 20 seeds a row: precision, recall, flow accuracy, calibration, time (minutes; BLAME_ROWS=, BLAME_EVIDENCE=none, BLAME_SEEDS=, BLAME_JSON=file)
	@BLAME_TABLE=1 $(GO) test -run '^$$' -bench '^BenchmarkTable$$' -benchtime 1x -timeout 4h ./correlator/blame

lint: ## gofmt, go vet (also as for macOS), staticcheck
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$unformatted" ]; then echo "gofmt would change:"; echo "$$unformatted"; exit 1; fi
	@$(GO) vet $(PKGS)
	@GOOS=darwin $(GO) vet $(PKGS)
	@$(GO) tool staticcheck $(PKGS)

fuzz: ## fuzz every decoder for FUZZTIME each (default 30s)
	@for pkg in $$($(GO) list $(PKGS)); do \
	  for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
	    echo "$$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $${FUZZTIME:-30s} -fuzzminimizetime 10x $$pkg || exit 1; \
	  done; done

generate: ## regenerate api/decafpb from decaf.proto and api/yang/model from the YANG module (needs protoc: apt-get install protobuf-compiler)
	@command -v protoc >/dev/null || { echo "make generate needs protoc: apt-get install protobuf-compiler"; exit 1; }
	@mkdir -p bin && $(GO) build -o bin/protoc-gen-go google.golang.org/protobuf/cmd/protoc-gen-go
	@protoc --plugin=bin/protoc-gen-go --go_out=. --go_opt=paths=source_relative api/decafpb/decaf.proto
	@$(GO) generate ./api/yang/...

clean: ## remove what was built
	@rm -rf bin
