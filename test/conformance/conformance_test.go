// Package conformance runs Prometheus' own PromQL test scripts against a running
// Pallium: the data that they load is remote-written to a tenant, the expressions that
// they evaluate are sent to the query API, and promqltest checks the responses.
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

	"github.com/palliumhq/pallium/test/kit/programs"
)

const config = `
log: {level: warn}
self_monitoring: {disabled: true}
querier: {experimental_functions: true}
`

// wide contains limits that allow the scripts' data, whose timestamps are in 1970.
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
	p := programs.StartPallium(t, config)
	for _, version := range []protocol{v1, v2} {
		t.Run("remote write "+string(version), func(t *testing.T) {
			t.Parallel()
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

// script is the state of a running script.
type script struct {
	pallium  *programs.Pallium
	protocol protocol
	name     string
	tenants  int
	local    engines
	loader   *loader // nil until the first command after a clear

	exceptions []exception
}

func runScript(t *testing.T, p *programs.Pallium, version protocol, file string) counts {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s := &script{pallium: p, protocol: version, name: filepath.Base(file), local: newEngines(t), exceptions: exceptions()}
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
	id := fmt.Sprintf("%s-v%s-%d", strings.TrimSuffix(s.name, ".test"), s.protocol, s.tenants)
	s.loader = &loader{Storage: promqltest.NewBuiltinTestStorage(t), url: s.pallium.Edge, token: s.pallium.Tenant(id, wide...), protocol: s.protocol}
}

// run executes one command with promqltest.
func (s *script) run(t *testing.T, b block, engine *remote) {
	engine.t, engine.to, engine.local = t, s.loader, s.local
	promqltest.RunTestWithStorage(t, b.padded(), engine, func(testing.TB) storage.Storage { return s.loader })
}

// eval executes and checks an eval with promqltest, or checks that an eval which is
// expected to fail still does.
func (s *script) eval(t *testing.T, b block, c *counts) {
	engine := &remote{except: exceptionOf(s.exceptions, s.name, b.line)}
	passed := t.Run(fmt.Sprintf("line %d", b.line), func(t *testing.T) {
		s.run(t, b, engine)
		if engine.except != nil && engine.differed == "" {
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
