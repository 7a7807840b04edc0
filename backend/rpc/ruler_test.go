package rpc

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/policies/limits"
)

// evaluating is a Ruler with the groups of one tenant.
type evaluating struct {
	state []byte
	mu    sync.Mutex
	woken []tenant.ID
}

func (e *evaluating) State(id tenant.ID) ([]byte, error) {
	switch id {
	case "acme":
		return e.state, nil
	case "broken":
		return nil, errors.New("cannot be encoded")
	}
	return nil, nil
}

func (e *evaluating) Wake(id tenant.ID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.woken = append(e.woken, id)
}

// TestRuler checks that the state of rules arrives in several messages, for the right tenant, that its memory
// is charged, and that Wake reaches the ruler.
func TestRuler(t *testing.T) {
	e := &evaluating{state: []byte(strings.Repeat("0123456789", 3*partBytes/10+1))}
	p, stop := serveCalls(t, func(s *Server) { s.ServeRuler(e) })
	defer stop()
	got, err := p.State(t.Context(), "acme")
	if err != nil || !bytes.Equal(got, e.state) {
		t.Errorf("State: %d bytes of %d, %v", len(got), len(e.state), err)
	}
	if got, err := p.State(t.Context(), "other"); err != nil || len(got) != 0 {
		t.Errorf("State of a tenant without rules: %v, %v", got, err)
	}
	for _, id := range []tenant.ID{"a/b", "broken"} {
		if _, err := p.State(t.Context(), id); err == nil {
			t.Errorf("State of %q succeeded", id)
		}
	}
	account := memory.NewAccount(1<<30, prometheus.NewRegistry())
	h := account.Begin(memory.Request{Tenant: "acme", Limit: 4 << 20})
	defer h.Close()
	var exceeded *limits.Exceeded
	if _, err := p.State(memory.NewContext(t.Context(), h), "acme"); !errors.As(err, &exceeded) {
		t.Errorf("State of 3 MiB with a limit of 4 MiB for text and decoded groups: %v", err)
	}
	if err := p.Wake(t.Context(), "acme"); err != nil || len(e.woken) != 1 || e.woken[0] != "acme" {
		t.Errorf("Wake: %v, the ruler was woken for %v", err, e.woken)
	}
}
