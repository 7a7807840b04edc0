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
	maxFailing   = 100_000 // remembered failures; further ones are tried at each look
	maxNamed     = 100     // tenants in the metric, and failures in the status
	otherTenants = "other tenants"
	maxErrorText = 1000
)

// failingKey names what fails: a tenant's day, or an L0 pack of a day that
// cannot be opened.
type failingKey struct {
	day    int64
	tenant tenant.ID // empty for a pack
	pack   ulid.ULID // zero for a tenant
}

// fingerprint identifies what a compaction of a tenant's day merges. The zero value
// stands for inputs that could not be read.
type fingerprint [sha256.Size]byte

// inputsOf hashes the L0 packs, the published version and the last deletion.
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

// failure is one compaction that fails, and when it is tried again.
type failure struct {
	inputs      fingerprint
	since, next time.Time
	attempts    int
	object      string // of a pack
	err         string
	look        uint64 // at work in which it was last met
}

// failures remembers what fails and when it is due again. It is in memory only:
// after a restart everything is tried once. It is safe for concurrent use.
type failures struct {
	interval time.Duration
	metrics  *metrics

	mu    sync.Mutex
	look  uint64
	byKey map[failingKey]*failure
	shown map[string]bool // label values of the gauge
}

func newFailures(interval time.Duration, m *metrics) *failures {
	return &failures{interval: interval, metrics: m, byKey: map[failingKey]*failure{}, shown: map[string]bool{}}
}

// nextLook begins another look at the work.
func (f *failures) nextLook() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.look++
}

// text is the error of a failure.
func (f *failures) text(k failingKey) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if e := f.byKey[k]; e != nil {
		return e.err
	}
	return ""
}

// waits reports whether the same inputs failed and are not due yet.
func (f *failures) waits(k failingKey, in fingerprint, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.byKey[k]
	if e == nil {
		return false
	}
	e.look = f.look
	return e.inputs == in && now.Before(e.next)
}

// failed notes a failure; the delay doubles as long as the inputs are the same.
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
	e.look = f.look
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

// prune forgets what was not met in this look at the work, except on days that
// were not looked at.
func (f *failures) prune(waiting map[int64]bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.byKey, func(k failingKey, e *failure) bool { return e.look != f.look && !waiting[k.day] })
}

// clear forgets everything: another compactor does the work now.
func (f *failures) clear() {
	f.mu.Lock()
	clear(f.byKey)
	f.mu.Unlock()
	f.publish()
}

// publish sets the metrics. Label values exist only while their tenant fails.
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

// list names what fails, the longest first, up to maxNamed.
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

// problems collects errors and keeps the text of the first few.
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
		return errors.Join(append(p.list, fmt.Errorf("and %d more; the log names each", p.more))...)
	}
	return errors.Join(p.list...)
}
