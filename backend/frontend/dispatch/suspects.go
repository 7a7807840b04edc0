package dispatch

import (
	"sync"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/frontend/evaluation"
)

// suspects are the queries during which two queriers disappeared. Queries with the same tenant, label
// policy, text, length and step count as the same: a dashboard repeats its query with other times.
type suspects struct {
	now func() time.Time

	mu    sync.Mutex
	until map[suspect]time.Time
}

type suspect struct {
	tenant       tenant.ID
	policy       string
	text         string
	length, step time.Duration
}

const (
	suspectFor = 5 * time.Minute
	// maxSuspects is the maximum number of suspects. A further one replaces the oldest.
	maxSuspects = 1000
)

func newSuspects(now func() time.Time) *suspects {
	return &suspects{now: now, until: map[suspect]time.Time{}}
}

func suspectOf(r *evaluation.Request) suspect {
	return suspect{r.Access.Tenant, r.Access.Policy.String(), r.Text, r.Times.End.Sub(r.Times.Start), r.Times.Step}
}

func (s *suspects) has(r *evaluation.Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.until) == 0 {
		return false
	}
	key := suspectOf(r)
	until, ok := s.until[key]
	if ok && s.now().After(until) {
		delete(s.until, key)
		return false
	}
	return ok
}

func (s *suspects) add(r *evaluation.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	var oldest suspect
	for key, until := range s.until {
		if now.After(until) {
			delete(s.until, key)
		} else if o, ok := s.until[oldest]; !ok || until.Before(o) {
			oldest = key
		}
	}
	if len(s.until) >= maxSuspects {
		delete(s.until, oldest)
	}
	s.until[suspectOf(r)] = now.Add(suspectFor)
}
