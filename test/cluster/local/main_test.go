package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestArguments checks that wrong arguments are errors, and that stopping a cluster that never ran
// is not an error.
func TestArguments(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cluster")
	for args, says := range map[string]string{"": "usage", "up": "usage", "restart " + dir: "usage", "up a b": "usage"} {
		if err := run(strings.Fields(args)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", args, err)
		}
	}
	if err := run([]string{"down", dir}); err != nil {
		t.Errorf("down without a cluster: %v", err)
	}
}
