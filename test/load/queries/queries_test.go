package main

import (
	"fmt"
	"testing"
	"time"
)

// TestAgree checks the comparison of two responses.
func TestAgree(t *testing.T) {
	answer := func(series string) []byte {
		return fmt.Appendf(nil, `{"status":"success","data":{"resultType":"matrix","result":[%s]}}`, series)
	}
	const a = `{"metric":{"a":"1"},"values":[[1,"2"],[2,"0.3"]]}`
	const b = `{"metric":{"a":"2"},"values":[[1,"NaN"]]}`
	for _, c := range []struct {
		name string
		x, y string
		want alike
	}{
		{"equal", a, a, exact},
		{"order of series", a + "," + b, b + "," + a, exact},
		{"last bit", a, `{"metric":{"a":"1"},"values":[[1,"2"],[2,"0.30000000000000004"]]}`, near},
		{"value", a, `{"metric":{"a":"1"},"values":[[1,"2"],[2,"0.31"]]}`, different},
		{"time", a, `{"metric":{"a":"1"},"values":[[1,"2"],[3,"0.3"]]}`, different},
		{"label", a, `{"metric":{"a":"2"},"values":[[1,"2"],[2,"0.3"]]}`, different},
		{"missing series", a + "," + b, a, different},
		{"missing point", a, `{"metric":{"a":"1"},"values":[[1,"2"]]}`, different},
		{"histogram", `{"metric":{},"histograms":[[1,{"count":"3"}]]}`, `{"metric":{},"histograms":[[1,{"count":"4"}]]}`, different},
	} {
		got, err := agree(answer(c.x), answer(c.y))
		if err != nil || got != c.want {
			t.Errorf("%s: %d, %v, want %d", c.name, got, err, c.want)
		}
	}
}

// TestGenerator checks that samples are in order, and that the buckets of a classic
// histogram never decrease with their bounds.
func TestGenerator(t *testing.T) {
	g := newGenerator(2*perTarget, time.Minute, time.Unix(1_800_000_000, 0))
	for range 5 {
		if _, err := g.bodies(7); err != nil {
			t.Fatal(err)
		}
		for i := 1; i < len(g.series); i++ {
			s, before := &g.series[i], &g.series[i-1]
			if s.kind == classic && before.kind == classic && s.value < before.value {
				t.Errorf("bucket %d has %g, the one before it %g", s.bucket, s.value, before.value)
			}
			if s.kind != native {
				continue
			}
			if err := s.hist.Validate(); err != nil {
				t.Error(err)
			}
		}
	}
	if want := time.Unix(1_800_000_000, 0).Add(35 * time.Minute); !g.next.Equal(want) {
		t.Errorf("the next sample is at %s, want %s", g.next, want)
	}
}
