package main

import (
	"fmt"
	"testing"

	"github.com/palliumhq/pallium/authn/tenant"
)

// TestWakes checks that one goroutine is started for all changes, that no change is lost when the goroutine ends, and that
// repeated changes of a tenant are reported once.
func TestWakes(t *testing.T) {
	var w wakes
	started := 0
	for range 3 {
		for _, id := range []tenant.ID{"b", "a", "b"} {
			if w.add(id) {
				started++
			}
		}
		if got := fmt.Sprint(w.take()); got != "[a b]" {
			t.Errorf("take = %s", got)
		}
	}
	if got := w.take(); len(got) > 0 || started != 1 {
		t.Errorf("take without changes = %v, %d goroutines were started", got, started)
	}
	if !w.add("c") {
		t.Error("no goroutine is started for a change after the last one has ended")
	}
}
