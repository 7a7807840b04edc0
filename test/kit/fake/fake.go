// Package fake has the project's stores and exchanges in memory, for tests of
// several packages: keys of tenants, and gateways that share budgets.
package fake

import (
	"context"
	"sync"
	"time"

	"github.com/palliumhq/pallium/authn/apikey"
	"github.com/palliumhq/pallium/policies/budget"
)

// Keys is a key store in memory that counts its reads and can be broken. Its
// fields are set before it is used.
type Keys struct {
	ByID  map[string]apikey.Credential
	Takes time.Duration // a read

	mu      sync.Mutex
	broken  error
	reads   int
	touched []string
}

// NewKeys returns a store without keys.
func NewKeys() *Keys { return &Keys{ByID: map[string]apikey.Credential{}} }

// Credential implements authn.KeyStore.
func (s *Keys) Credential(_ context.Context, id string) (apikey.Credential, error) {
	if s.Takes > 0 {
		time.Sleep(s.Takes) // tests that set it have a clock of their own
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	if s.broken != nil {
		return apikey.Credential{}, s.broken
	}
	c, ok := s.ByID[id]
	if !ok {
		return apikey.Credential{}, apikey.ErrNotFound
	}
	return c, nil
}

// Touch implements authn.KeyStore.
func (s *Keys) Touch(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.touched = append(s.touched, id)
}

// Fail makes reads fail from now on; nil ends it.
func (s *Keys) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = err
}

// Reads is how many reads there were.
func (s *Keys) Reads() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads
}

// Touched returns the keys that were used, in order.
func (s *Keys) Touched() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.touched...)
}

// hubMemory is how long a hub tells others of a gateway's demands after their last
// exchange, as the exchange by Redis does.
const hubMemory = 2 * time.Second

// Hub is an exchange of budgets between gateways in memory.
type Hub struct {
	now func() time.Time
	mu  sync.Mutex
	all map[string]budget.Demands
	at  map[string]time.Time
}

// NewHub returns an exchange without gateways.
func NewHub(now func() time.Time) *Hub {
	return &Hub{now: now, all: map[string]budget.Demands{}, at: map[string]time.Time{}}
}

// Exchange implements budget.Exchange.
func (h *Hub) Exchange(_ context.Context, id string, mine budget.Demands) (map[string]budget.Demands, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.now()
	h.all[id], h.at[id] = mine, now
	out := map[string]budget.Demands{}
	for g, d := range h.all {
		if now.Sub(h.at[g]) <= hubMemory {
			out[g] = d
		}
	}
	return out, nil
}
