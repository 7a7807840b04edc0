// Package fake implements interfaces of the project in memory for the tests of several
// packages: a store of tenants' keys, and an exchange of budgets between gateways.
package fake

import (
	"context"
	"sync"
	"time"

	"github.com/palliumhq/pallium/authn/apikey"
	"github.com/palliumhq/pallium/policies/budget"
)

// Keys is a key store in memory that counts its reads and can be made to fail. Its
// exported fields must be set before the first use.
type Keys struct {
	ByID  map[string]apikey.Credential
	Takes time.Duration // duration of a read

	mu      sync.Mutex
	broken  error
	reads   int
	touched []string
}

// NewKeys returns an empty key store.
func NewKeys() *Keys { return &Keys{ByID: map[string]apikey.Credential{}} }

// Credential implements authn.Keys.
func (s *Keys) Credential(_ context.Context, id string) (apikey.Credential, error) {
	if s.Takes > 0 {
		time.Sleep(s.Takes) // tests that set Takes run on a fake clock
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

// Touch implements authn.Keys.
func (s *Keys) Touch(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.touched = append(s.touched, id)
}

// Fail makes all further reads return err; nil makes them succeed again.
func (s *Keys) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = err
}

// Reads returns the number of reads so far.
func (s *Keys) Reads() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads
}

// Touched returns the IDs of the used keys in order.
func (s *Keys) Touched() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.touched...)
}

// hubMemory is the time after a gateway's last exchange during which the hub returns the demands
// of this gateway to others. The exchange over Redis uses the same time.
const hubMemory = 2 * time.Second

// Hub is an in-memory exchange of budgets between gateways.
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
