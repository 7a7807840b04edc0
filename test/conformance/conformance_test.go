// Package conformance runs Prometheus' own PromQL test scripts against a running
// Pallium: the data that they load is remote-written to a tenant, the expressions that
// they evaluate are sent to the query API, and promqltest checks the responses.
package conformance

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/storage"

	"github.com/palliumhq/pallium/test/kit/programs"
)

const config = `
log: {level: warn}
self_monitoring: {disabled: true}
`

// wide contains limits that allow the scripts' data, whose timestamps are in 1970.
var wide = []string{"past_grace=0s", "future_grace=0s", "requests_per_second=0", "samples_per_second=0", "bytes_per_second=0", "max_query_samples=0"}

// features are the switches of a tenant with which all evals pass that are not listed in exceptions.
var features = []string{"promql_experimental_functions=true", "promql_binop_fill_modifiers=true", "promql_unquoted_utf8_names=true",
	"promql_delayed_name_removal=true"}

func TestPromQL(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/prometheus/prometheus").Output()
	if err != nil {
		t.Fatalf("find the source of Prometheus: %v", err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "promql", "promqltest", "testdata", "*.test"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no test scripts in %s: %v", dir, err)
	}
	p := programs.StartPallium(t, config)
	for _, tt := range []struct {
		name     string
		version  protocol
		switched bool
		passed   int // of 2434: three have a -0, and 31 need start timestamps
	}{{"on, remote write 1.0", v1, true, 2400}, {"on, remote write 2.0", v2, true, 2400}, {"off, remote write 2.0", v2, false, 2016}} {
		t.Run("switches "+tt.name, func(t *testing.T) {
			t.Parallel()
			var all counts
			for _, file := range files {
				t.Run(filepath.Base(file), func(t *testing.T) {
					s := &script{pallium: p, protocol: tt.version, switched: tt.switched, name: filepath.Base(file), local: newEngines(t, tt.switched)}
					s.exceptions = exceptions()
					c := s.runFile(t, file)
					t.Logf("%d evals passed, %d excepted", c.passed, c.excepted)
					all.passed += c.passed
					all.excepted += c.excepted
				})
			}
			t.Logf("%d evals passed, %d excepted", all.passed, all.excepted)
			if all.passed != tt.passed {
				t.Errorf("%d evals passed, want %d", all.passed, tt.passed)
			}
		})
	}
}

type counts struct{ passed, excepted int }

// script is the state of a running script.
type script struct {
	pallium  *programs.Pallium
	protocol protocol
	switched bool // the tenant has features
	name     string
	tenants  int
	local    engines
	loader   *loader // nil until the first command after a clear

	exceptions []exception
}

func (s *script) runFile(t *testing.T, file string) counts {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var c counts
	for _, b := range blocks(string(text)) {
		switch b.kind {
		case "clear":
			s.clear(t)
		case "load":
			s.open(t)
			s.run(t, b, &remote{})
		case "eval":
			s.open(t)
			s.eval(t, b, &c)
		}
	}
	s.clear(t)
	return c
}

// clear makes the next command start with an empty tenant.
func (s *script) clear(t *testing.T) {
	if s.loader == nil {
		return
	}
	if err := s.loader.Storage.Close(); err != nil {
		t.Fatal(err)
	}
	s.loader = nil
}

// open provides a tenant for the next command, unless the previous command's tenant is
// still in use.
func (s *script) open(t *testing.T) {
	if s.loader != nil {
		return
	}
	s.tenants++
	id := fmt.Sprintf("%s-v%s-%v-%d", strings.TrimSuffix(s.name, ".test"), s.protocol, s.switched, s.tenants)
	lim := slices.Clone(wide)
	if s.switched {
		lim = append(lim, features...)
	}
	s.loader = &loader{Storage: promqltest.NewBuiltinTestStorage(t), url: s.pallium.Edge, token: s.pallium.Tenant(id, lim...), protocol: s.protocol}
}

// run executes one command with promqltest.
func (s *script) run(t *testing.T, b block, engine *remote) {
	engine.t, engine.to, engine.local = t, s.loader, s.local
	promqltest.RunTestWithStorage(t, b.padded(), engine, func(testing.TB) storage.Storage { return s.loader })
}

// eval executes and checks an eval with promqltest, or checks that an eval which is expected to
// fail still does. If the switches are off, an eval must fail if and only if Prometheus returns
// different results with and without feature flags, and its result must then be the result of
// Prometheus without them.
func (s *script) eval(t *testing.T, b block, c *counts) {
	engine := &remote{except: exceptionOf(s.exceptions, s.name, b.line)}
	listed := engine.except != nil
	if !listed && !s.switched {
		engine.except = &exception{reason: "switches are off", likePrometheus: true, unlessEqual: true}
	}
	passed := t.Run(fmt.Sprintf("line %d", b.line), func(t *testing.T) {
		s.run(t, b, engine)
		if listed && engine.differed == "" {
			t.Errorf("line %d passes: remove it from the list of exceptions (%s)", b.line, engine.except.reason)
		}
	})
	switch {
	case engine.except != nil && engine.differed != "":
		c.excepted++
	case passed:
		c.passed++
	}
}
