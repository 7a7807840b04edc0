package fake

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/palliumhq/pallium/authn/apikey"
	"github.com/palliumhq/pallium/policies/budget"
	"github.com/palliumhq/pallium/test/kit"
)

func TestKeys(t *testing.T) {
	ctx, s := context.Background(), NewKeys()
	s.ByID["k"] = apikey.Credential{KeyID: "k"}
	if c, err := s.Credential(ctx, "k"); err != nil || c.KeyID != "k" {
		t.Errorf("key k: %+v, %v", c, err)
	}
	if _, err := s.Credential(ctx, "x"); !errors.Is(err, apikey.ErrNotFound) {
		t.Errorf("missing key: %v", err)
	}
	down := errors.New("down")
	s.Fail(down)
	if _, err := s.Credential(ctx, "k"); !errors.Is(err, down) {
		t.Errorf("failing store: %v", err)
	}
	s.Touch("k")
	if s.Reads() != 3 || !slices.Equal(s.Touched(), []string{"k"}) {
		t.Errorf("%d reads, %q touched; want 3 reads, k touched", s.Reads(), s.Touched())
	}
}

// TestHub checks that a gateway receives the demands of the gateways that made an exchange within the last
// two seconds.
func TestHub(t *testing.T) {
	ctx, clock := context.Background(), kit.NewClock(time.Unix(0, 0))
	h := NewHub(clock.Now)
	received := func(id string, want int) {
		t.Helper()
		all, err := h.Exchange(ctx, id, budget.Demands{"t": {1}})
		if _, self := all[id]; err != nil || len(all) != want || !self {
			t.Errorf("%s at %s received %v, %v, want %d demands", id, clock.Now(), all, err, want)
		}
	}
	received("a", 1)
	clock.Advance(2 * time.Second)
	received("b", 2)
	clock.Advance(time.Millisecond)
	received("b", 1)
}
