package switches

import (
	"reflect"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/palliumhq/pallium/policies/limits"
)

// TestEachLimitIsOneSwitch checks that every limit promql_... turns on exactly one switch, and that
// each switch changes an option of the parser or the engine that no other switch changes.
func TestEachLimitIsOneSwitch(t *testing.T) {
	if s := Of(nil); s != (Set{}) || s.String() != "" {
		t.Errorf("without limits: %q", s)
	}
	off := limits.Default()
	if s := Of(&off); s != (Set{}) {
		t.Errorf("on by default: %q", s)
	}
	type options struct {
		parser parser.Options
		engine promql.EngineOpts
	}
	var seen []options
	n := 0
	for _, name := range limits.Names() {
		if !strings.HasPrefix(name, "promql_") {
			continue
		}
		n++
		var one limits.Partial
		if err := one.Set(name, "true"); err != nil {
			t.Fatal(err)
		}
		lim := limits.Merge(limits.Default(), one)
		s := Of(&lim)
		if s.String() != name {
			t.Errorf("%s turns on %q", name, s)
		}
		o := options{parser: s.Parser()}
		s.Engine(&o.engine)
		if (s.Grammar() == s) != !reflect.DeepEqual(o.parser, parser.Options{}) || s.Grammar() != s && s.Grammar() != (Set{}) {
			t.Errorf("%s: grammar %q", name, s.Grammar())
		}
		if reflect.DeepEqual(o, options{}) {
			t.Errorf("%s changes no option", name)
		}
		for _, other := range seen {
			if reflect.DeepEqual(o, other) {
				t.Errorf("%s changes the option of another switch", name)
			}
		}
		seen = append(seen, o)
	}
	if fields := reflect.TypeFor[Set]().NumField(); n != fields {
		t.Errorf("%d limits promql_..., but %d switches", n, fields)
	}
	all := Set{true, true, true, true, true, true}
	if got := strings.Split(all.String(), ","); len(got) != n {
		t.Errorf("all switches: %q", got)
	}
}

// TestEach checks that the values of the 32 sets that were used last are cached.
func TestEach(t *testing.T) {
	created := 0
	of := Each(func(Set) int { created++; return created })
	set := func(i int) Set {
		on := func(bit int) bool { return i&(1<<bit) != 0 }
		return Set{on(0), on(1), on(2), on(3), on(4), on(5)}
	}
	for i := range 32 {
		of(set(i))
	}
	if first := of(set(0)); first != 1 || created != 32 {
		t.Fatalf("32 sets: %d created, the first is %d", created, first)
	}
	of(set(32)) // in place of set(1)
	if of(set(0)); created != 33 {
		t.Errorf("the set that was used last is not kept: %d created", created)
	}
	if of(set(1)); created != 34 {
		t.Errorf("more than 32 sets are kept: %d created", created)
	}
}
