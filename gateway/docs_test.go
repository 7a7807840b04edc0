package gateway

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestRoutesAreDocumented keeps docs/gateway.md and the route table the same.
func TestRoutesAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("../docs/gateway.md")
	if err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	for _, r := range Routes() {
		scope, upstream := string(r.Scope), r.Upstream
		if scope == "" {
			scope = "none"
		}
		if upstream == "" {
			upstream = r.Path
		}
		if r.kind == kindOpen || r.kind == kindLocal {
			upstream = "answered by the gateway"
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s |\n", r.Path, strings.Join(r.Methods, ", "), scope, upstream)
	}
	if !strings.Contains(string(doc), "| --- | --- | --- | --- |\n"+table.String()+"\n") {
		t.Errorf("docs/gateway.md does not have this table:\n%s", table.String())
	}
}
