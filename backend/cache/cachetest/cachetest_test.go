package cachetest

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/cache"
)

// simple is a simple cache with a fault.
type simple struct {
	fault string

	mu    sync.Mutex
	order []string // of names, the oldest first
	all   map[string][]byte
	bytes int
}

const (
	simpleBytes = 2 << 20
	simpleValue = 256 << 10
)

func (s *simple) name(id tenant.ID, key string) string {
	switch s.fault {
	case "tenants share keys":
		return key
	case "tenant and key can be shifted":
		return string(id) + key
	case "keys are cut":
		key = key[:min(len(key), 1000)]
	case "keys are text":
		key = string(bytes.ToValidUTF8([]byte(key), []byte("?")))
	}
	return string(id) + "\x00" + key
}

func (s *simple) Get(ctx context.Context, id tenant.ID, keys []string) map[string][]byte {
	out := map[string][]byte{}
	if ctx.Err() != nil && s.fault != "the context is ignored" {
		return out
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range keys {
		if v, ok := s.all[s.name(id, k)]; ok && (len(v) > 0 || s.fault != "an empty value is a miss") {
			out[k] = v
		}
	}
	return out
}

func (s *simple) Put(_ context.Context, id tenant.ID, key string, value []byte) {
	if len(value) > simpleValue && s.fault != "any size is stored" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	name := s.name(id, key)
	if old, ok := s.all[name]; ok {
		if s.fault == "the first value stays" {
			return
		}
		s.remove(name, old)
	}
	s.order, s.all[name], s.bytes = append(s.order, name), value, s.bytes+len(value)
	for s.bytes > simpleBytes && s.fault != "nothing is evicted" {
		oldest := s.order[0]
		if s.fault != "the oldest value is evicted" && oldest == "small\x00k" {
			oldest = s.order[1]
		}
		s.remove(oldest, s.all[oldest])
	}
}

func (s *simple) remove(name string, value []byte) {
	delete(s.all, name)
	s.bytes -= len(value)
	s.order = slices.DeleteFunc(s.order, func(n string) bool { return n == name })
}

// recorder records whether a check fails.
type recorder struct {
	testing.TB
	failed bool
}

func (r *recorder) Errorf(string, ...any) { r.failed = true }
func (r *recorder) Error(...any)          { r.failed = true }

// TestFaults checks that the contract detects each fault of an adapter, and none in an adapter
// without a fault.
func TestFaults(t *testing.T) {
	for fault, want := range map[string]string{
		"": "", "tenants share keys": "tenants", "tenant and key can be shifted": "tenants", "keys are cut": "values",
		"keys are text": "values", "the context is ignored": "context", "an empty value is a miss": "values",
		"any size is stored": "too large", "the first value stays": "replacement", "nothing is evicted": "fair",
		"the oldest value is evicted": "fair",
	} {
		found := map[string]bool{}
		for name, check := range checks() {
			r := &recorder{TB: t}
			s := Subject{TooLarge: simpleValue + 1, FairBytes: simpleBytes, Settle: func(testing.TB, cache.Cache) {}}
			check(r, s, &simple{fault: fault, all: map[string][]byte{}})
			if r.failed {
				found[name] = true
			}
		}
		if want == "" && len(found) > 0 || want != "" && !found[want] {
			t.Errorf("fault %q: the failed checks are %v, want %q", fault, found, want)
		}
	}
}
