package faults

import (
	"context"
	"errors"
	"slices"
	"testing"
)

func TestPlan(t *testing.T) {
	for _, c := range []struct {
		kind Kind
		want []string // results of four calls with a fault at the second
	}{
		{None, []string{"done", "done", "done", "done"}},
		{Rejected, []string{"done", "failed", "done", "done"}},
		{Partial, []string{"done", "failed", "done", "done"}},
		{Lost, []string{"done", "done, failed", "done", "done"}},
		{Killed, []string{"done", "failed", "failed", "failed"}},
		{KilledAfter, []string{"done", "done, failed", "failed", "failed"}},
	} {
		var p Plan
		p.Fail(2, c.kind)
		if got := calls(t, &p); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.kind, got, c.want)
		}
		p.Heal()
		if got := calls(t, &p); slices.Contains(got, "failed") {
			t.Errorf("%s, healed: %q", c.kind, got)
		}
	}
}

// calls makes four calls and returns the result of each.
func calls(t *testing.T, p *Plan) (out []string) {
	t.Helper()
	for range 4 {
		text := ""
		err := p.Do(t.Context(), "call", func() error { text = "done"; return nil })
		switch {
		case err != nil && !errors.Is(err, ErrInjected):
			t.Fatal(err)
		case err != nil && text != "":
			text += ", failed"
		case err != nil:
			text = "failed"
		}
		out = append(out, text)
	}
	return out
}

func TestHang(t *testing.T) {
	var p Plan
	p.HangAt("slow")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Do(ended, "slow", func() error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("hanging call: %v", err)
	}
	if err := p.Do(ended, "other", func() error { return nil }); err != nil {
		t.Errorf("call with another name: %v", err)
	}
	if got := p.Calls(); !slices.Equal(got, []string{"slow", "other"}) {
		t.Errorf("calls %q", got)
	}
}
