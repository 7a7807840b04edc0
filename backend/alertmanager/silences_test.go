package alertmanager

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/alertmanager/silence"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/promslog"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/schema"
)

// slowSilences is a store without silences whose reads take a second.
type slowSilences struct {
	silenceStore
	mu    sync.Mutex
	reads int
}

// SilencesChange implements silenceStore.
func (s *slowSilences) SilencesChange(context.Context, tenant.ID) (uint64, error) {
	time.Sleep(time.Second)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	return 1, nil
}

// Silences implements silenceStore.
func (s *slowSilences) Silences(context.Context, tenant.ID) (map[string]schema.Silence, uint64, error) {
	return nil, 1, nil
}

// TestSharedRefresh checks that many concurrent calls of refresh share reads of the silences, and that each call uses a read
// that began after it.
func TestSharedRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &slowSilences{}
		s, err := newSilences("acme", store, silence.Options{Logger: promslog.NewNopLogger(), Metrics: prometheus.NewRegistry()})
		if err != nil {
			t.Fatal(err)
		}
		refresh := func(want time.Duration) {
			began := time.Now()
			if err := s.refresh(t.Context()); err != nil || time.Since(began) != want {
				t.Errorf("took %s, want %s: %v", time.Since(began), want, err)
			}
		}
		var wg sync.WaitGroup
		wg.Go(func() { refresh(time.Second) })
		time.Sleep(100 * time.Millisecond)
		for range 1000 { // must not use the read that is in progress
			wg.Go(func() { refresh(1900 * time.Millisecond) })
		}
		wg.Wait()
		if store.reads != 2 {
			t.Errorf("%d reads", store.reads)
		}
		refresh(time.Second)
	})
}
