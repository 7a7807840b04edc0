package cache_test

import (
	"context"
	"sync"
	"testing"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/cache"
	"github.com/palliumhq/pallium/backend/cache/cachetest"
)

const tooLarge = 1 << 20

// plain is a cache of small values without a bound.
type plain struct {
	mu  sync.Mutex
	all map[tenant.ID]map[string][]byte
}

func (p *plain) Get(ctx context.Context, id tenant.ID, keys []string) map[string][]byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[string][]byte{}
	for _, k := range keys {
		if v, ok := p.all[id][k]; ok && ctx.Err() == nil {
			out[k] = v
		}
	}
	return out
}

func (p *plain) Put(_ context.Context, id tenant.ID, key string, value []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all[id] == nil {
		p.all[id] = map[string][]byte{}
	}
	if len(value) < tooLarge {
		p.all[id][key] = value
	}
}

// TestContract checks that a cache of plain maps fulfills the contract.
func TestContract(t *testing.T) {
	cachetest.Run(t, cachetest.Subject{TooLarge: tooLarge, New: func(testing.TB) cache.Cache {
		return &plain{all: map[tenant.ID]map[string][]byte{}}
	}})
}
