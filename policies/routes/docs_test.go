package routes

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestRoutesAreDocumented compares docs/gateway.md with the route table.
func TestRoutesAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/gateway.md")
	if err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	for _, r := range Table() {
		scope, upstream := string(r.Scope), r.Upstream()
		if scope == "" {
			scope = "none"
		}
		if r.By == Gateway {
			upstream = "answered by the gateway"
		}
		for _, path := range r.Paths {
			fmt.Fprintf(&table, "| `%s` | %s | %s | %s | %s |\n", path, strings.Join(r.Methods, ", "), scope, r.Cost, upstream)
		}
	}
	if !strings.Contains(string(doc), "| --- | --- | --- | --- | --- |\n"+table.String()+"\n") {
		t.Errorf("docs/gateway.md does not have this table:\n%s", table.String())
	}
}

// TestCostsAreDocumented checks that docs/gateway.md describes each class of cost.
func TestCostsAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/gateway.md")
	if err != nil {
		t.Fatal(err)
	}
	for c := Free; c <= Samples; c++ {
		if n := strings.Count(string(doc), "\n| `"+c.String()+"` | "); n != 1 {
			t.Errorf("docs/gateway.md has %d lines for cost %s", n, c)
		}
	}
}
