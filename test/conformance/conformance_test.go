// Package conformance runs Prometheus' own PromQL test scripts through a running
// Pallium: what they load is remote-written to a tenant, what they evaluate is
// asked of the query API, and promqltest judges the answers.
package conformance

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/storage"

	"github.com/palliumhq/pallium/test/harness"
)

const config = `
log: {level: warn}
self_monitoring: {disabled: true}
querier: {experimental_functions: true}
`

// wide are limits that let the scripts' data in, which is of 1970.
var wide = []string{"past_grace=0s", "future_grace=0s", "requests_per_second=0", "samples_per_second=0", "bytes_per_second=0", "max_query_samples=0"}

func TestPromQL(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/prometheus/prometheus").Output()
	if err != nil {
		t.Fatalf("find the source of Prometheus: %v", err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "promql", "promqltest", "testdata", "*.test"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no test scripts in %s: %v", dir, err)
	}
	p := harness.StartPallium(t, config)
	for _, version := range []protocol{v1, v2} {
		t.Run("remote write "+string(version), func(t *testing.T) {
			var all counts
			for _, file := range files {
				t.Run(filepath.Base(file), func(t *testing.T) {
					c := runScript(t, p, version, file)
					t.Logf("%d evals passed, %d excepted", c.passed, c.excepted)
					all.passed += c.passed
					all.excepted += c.excepted
				})
			}
			t.Logf("%d evals passed, %d excepted", all.passed, all.excepted)
		})
	}
}

type counts struct{ passed, excepted int }

// script is the state of a script as it runs.
type script struct {
	pallium  *harness.Pallium
	protocol protocol
	name     string
	tenants  int
	local    engines
	loader   *loader // nil until the first command after a clear
}

func runScript(t *testing.T, p *harness.Pallium, version protocol, file string) counts {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s := &script{pallium: p, protocol: version, name: filepath.Base(file), local: newEngines(t)}
	var c counts
	for _, b := range blocks(string(text)) {
		switch b.kind {
		case "clear":
			s.clear(t)
		case "load":
			s.run(t, b, nil)
		case "eval":
			s.eval(t, b, &c)
		}
	}
	s.clear(t)
	return c
}

// clear makes the next command begin with an empty tenant.
func (s *script) clear(t *testing.T) {
	if s.loader == nil {
		return
	}
	if err := s.loader.Storage.Close(); err != nil {
		t.Fatal(err)
	}
	s.loader = nil
}

// run has promqltest run one command.
func (s *script) run(t *testing.T, b block, engine *remote) {
	if s.loader == nil {
		s.tenants++
		id := fmt.Sprintf("%s-v%s-%d", strings.TrimSuffix(s.name, ".test"), s.protocol, s.tenants)
		s.loader = &loader{Storage: promqltest.NewBuiltinTestStorage(t), t: t, url: s.pallium.Edge, token: s.pallium.Tenant(id, wide...), protocol: s.protocol}
	}
	if engine == nil {
		engine = &remote{}
	}
	engine.t, engine.to, engine.local = t, s.loader, s.local
	promqltest.RunTestWithStorage(t, b.padded(), engine, func(testing.TB) storage.Storage { return s.loader })
}

func (s *script) eval(t *testing.T, b block, c *counts) {
	engine := &remote{except: exceptionOf(s.protocol, s.name, b.line)}
	failed := t.Failed()
	s.run(t, b, engine)
	switch {
	case engine.except == nil && (failed || !t.Failed()):
		c.passed++
	case engine.except != nil && engine.differed == "":
		t.Errorf("line %d passes, take it off the list of exceptions (%s)", b.line, engine.except.reason)
	case engine.except != nil:
		c.excepted++
		t.Logf("line %d: excepted (%s): %s", b.line, engine.except.reason, engine.differed)
	}
}
