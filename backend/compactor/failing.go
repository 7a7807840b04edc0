package compactor

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/store"
)

const (
	maxBackOff   = 6 * time.Hour
	maxFailing   = 100_000 // recorded failures; further ones are retried in every pass
	maxNamed     = 100     // tenants in the metric, and failures in the status
	otherTenants = "other tenants"
	maxErrorText = 1000
)

// failingKey identifies a failure: a tenant's day, or an L0 pack of a day that cannot be
// opened.
type failingKey struct {
	day    int64
	tenant tenant.ID // empty for a pack
	pack   ulid.ULID // zero for a tenant
}

// fingerprint identifies the inputs of a compaction of a tenant's day. It is zero if they
// could not be read.
type fingerprint [sha256.Size]byte

// inputsOf returns a hash of the L0 packs, the published version and the last deletion.
func inputsOf(catalog *store.Catalog, deletions store.Deletions) fingerprint {
	ids := idsOf(catalog.L0)
	slices.SortFunc(ids, func(a, b ulid.ULID) int { return a.Compare(b) })
	h := sha256.New()
	for _, id := range ids {
		h.Write(id[:])
	}
	if catalog.Manifest != nil {
		h.Write([]byte(catalog.Manifest.Version.Prefix()))
	}
	number, _ := deletions.Last()
	h.Write(binary.BigEndian.AppendUint64(nil, number))
	return fingerprint(h.Sum(nil))
}

// failure is a failed compaction and the time of its next attempt.
type failure struct {
	inputs      fingerprint
	since, next time.Time
	attempts    int
	object      string // name of a pack's object
	err         string
	pass        uint64 // pass over the work in which it last occurred
}

// failures records failed compactions and when their next attempts are due, in memory
// only: after a restart all are retried at once. It is safe for concurrent use.
type failures struct {
	interval time.Duration
	metrics  *metrics

	mu    sync.Mutex
	pass  uint64
	byKey map[failingKey]*failure
	shown map[string]bool // current label values of the gauge
}

func newFailures(interval time.Duration, m *metrics) *failures {
	return &failures{interval: interval, metrics: m, byKey: map[failingKey]*failure{}, shown: map[string]bool{}}
}

// nextPass starts another pass over the work.
func (f *failures) nextPass() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pass++
}

// text returns the error text of a failure, or "".
func (f *failures) text(k failingKey) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if e := f.byKey[k]; e != nil {
		return e.err
	}
	return ""
}

// waits reports whether the same inputs failed and their next attempt is not due yet.
func (f *failures) waits(k failingKey, in fingerprint, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.byKey[k]
	if e == nil {
		return false
	}
	e.pass = f.pass
	return e.inputs == in && now.Before(e.next)
}

// failed records a failure. The delay until the next attempt doubles as long as the
// inputs are the same, up to maxBackOff.
func (f *failures) failed(k failingKey, in fingerprint, object string, err error, now time.Time) failure {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.byKey[k]
	if e == nil {
		e = &failure{since: now, object: object, inputs: in}
		if len(f.byKey) < maxFailing {
			f.byKey[k] = e
		}
	}
	if e.inputs != in {
		e.inputs, e.attempts = in, 0
	}
	e.attempts++
	e.pass = f.pass
	e.next = now.Add(min(f.interval<<min(e.attempts-1, 16), maxBackOff))
	e.err = err.Error()
	if len(e.err) > maxErrorText {
		e.err = e.err[:maxErrorText] + "..."
	}
	return *e
}

func (f *failures) succeeded(k failingKey) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.byKey, k)
}

// prune deletes the failures that did not occur in this pass over the work, except those
// of waiting days, which were not compacted.
func (f *failures) prune(waiting map[int64]bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.byKey, func(k failingKey, e *failure) bool { return e.pass != f.pass && !waiting[k.day] })
}

// clear deletes all failures, because another compactor has the lease now.
func (f *failures) clear() {
	f.mu.Lock()
	clear(f.byKey)
	f.mu.Unlock()
	f.publish()
}

// publish sets the metrics. A tenant has a series only while it has failures.
func (f *failures) publish() {
	f.mu.Lock()
	defer f.mu.Unlock()
	days := map[tenant.ID]int{}
	packs := 0
	for k := range f.byKey {
		if k.tenant == "" {
			packs++
		} else {
			days[k.tenant]++
		}
	}
	f.metrics.unreadable.Set(float64(packs))
	show := map[string]bool{}
	others := 0
	for i, t := range slices.Sorted(maps.Keys(days)) {
		if i >= maxNamed {
			others += days[t]
			continue
		}
		show[string(t)] = true
		f.metrics.failing.With(prometheus.Labels{"tenant": string(t)}).Set(float64(days[t]))
	}
	if others > 0 {
		show[otherTenants] = true
		f.metrics.failing.With(prometheus.Labels{"tenant": otherTenants}).Set(float64(others))
	}
	for t := range f.shown {
		if !show[t] {
			f.metrics.failing.Delete(prometheus.Labels{"tenant": t})
		}
	}
	f.shown = show
}

// list returns the maxNamed oldest failures, the oldest first.
func (f *failures) list() []Failing {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]Failing, 0, len(f.byKey))
	for k, e := range f.byKey {
		out = append(out, Failing{Tenant: k.tenant, Day: k.day, Pack: e.object, Since: e.since, Next: e.next, Attempts: e.attempts, Err: e.err})
	}
	slices.SortFunc(out, func(a, b Failing) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Day, b.Day), cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Pack, b.Pack))
	})
	return out[:min(len(out), maxNamed)]
}

// problems collects errors, and keeps the first ten and the number of the others.
type problems struct {
	list []error
	more int
}

func (p *problems) add(err error) {
	switch {
	case err == nil:
	case len(p.list) < 10:
		p.list = append(p.list, err)
	default:
		p.more++
	}
}

func (p *problems) join() error {
	if p.more > 0 {
		return errors.Join(append(p.list, fmt.Errorf("and %d more errors; see the log", p.more))...)
	}
	return errors.Join(p.list...)
}
