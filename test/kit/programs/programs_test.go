package programs

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/palliumhq/pallium/test/kit"
)

func TestMetricIn(t *testing.T) {
	const text = "# HELP a Help.\na 1\na_total{x=\"y\"} 2.5\na_total 3\n"
	tests := map[string]struct {
		v  float64
		ok bool
	}{
		"a": {1, true}, `a_total{x="y"}`: {2.5, true}, "a_total": {3, true}, "b": {0, false}, "a_tot": {0, false},
	}
	for name, want := range tests {
		if v, ok := MetricIn(t, text, name); v != want.v || ok != want.ok {
			t.Errorf("%s: %v, %v, want %v, %v", name, v, ok, want.v, want.ok)
		}
	}
}

// TestProcess checks that a process's output is stored, that a signal reaches the process, and that
// Wait returns how the process ended.
func TestProcess(t *testing.T) {
	p := Start(t, "/bin/sh", "-c", `trap 'echo bye; exit 3' USR1; echo hello; while :; do sleep 0.01; done`)
	kit.Until(t, "the process prints hello", func() bool { return strings.Contains(p.Log(), "hello") })
	if err := p.Wait(0); err == nil || !strings.Contains(err.Error(), "still running") {
		t.Errorf("while the process runs: %v", err)
	}
	p.Signal(syscall.SIGUSR1)
	if err := p.Wait(time.Minute); err == nil || err.Error() != "exit status 3" || !strings.Contains(p.Log(), "bye") {
		t.Errorf("the process ended with %v and printed %q", err, p.Log())
	}
}

// TestLogKeepsTheEnd checks that the output of a process that prints endlessly does not fill
// memory.
func TestLogKeepsTheEnd(t *testing.T) {
	var l logBuffer
	for range 3 << 10 {
		_, _ = l.Write([]byte(strings.Repeat("x", 1<<10)))
	}
	_, _ = l.Write([]byte("end"))
	if s := l.String(); len(s) > 2<<20 || !strings.HasSuffix(s, "end") {
		t.Errorf("the buffer has %d bytes and ends with %q", len(s), s[len(s)-3:])
	}
	if got := tail("abcdef", 2); got != "...ef" {
		t.Errorf("tail: %q", got)
	}
}
