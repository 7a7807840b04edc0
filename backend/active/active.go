// Package active tracks the reads that a process is serving for tenants: queries, lists of labels
// and series, and remote reads. Operators can list and end them. Slow reads are logged.
package active

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/palliumhq/pallium/authn/apikey"
	"github.com/palliumhq/pallium/authn/tenant"
)

// ErrEnded is the cause with which the context of a read is canceled when an operator ends it.
var ErrEnded = errors.New("the query was ended by an operator, probably because it needs too many resources: " +
	"select fewer series, a shorter range or a longer step")

// Query is a read that is in progress. Its JSON is that of the admin API.
type Query struct {
	ID      string    `json:"id"` // random, of 16 hexadecimal digits
	Tenant  tenant.ID `json:"tenant"`
	Path    string    `json:"path"`
	Text    string    `json:"query"` // expression or selectors, at most textBytes
	Start   string    `json:"start,omitempty"`
	End     string    `json:"end,omitempty"`
	Step    string    `json:"step,omitempty"`
	Since   time.Time `json:"since"`
	Running bool      `json:"running"` // false while it waits for one of the tenant's max_concurrent_queries
}

// textBytes is the maximum length of Query.Text, pathBytes of Query.Path, and partBytes of its
// other texts.
const (
	textBytes = 2 << 10
	pathBytes = 300
	partBytes = 100
)

// Options configure a Registry.
type Options struct {
	// Slow is the shortest duration of a read that is logged when it is done; 0 or less:
	// no read is logged.
	Slow       time.Duration
	Now        func() time.Time
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Registry has the reads of a process. It is safe for concurrent use.
type Registry struct {
	o     Options
	slow  prometheus.Counter
	ended prometheus.Counter

	mu  sync.Mutex
	all map[string]*Entry
}

// Entry is a read in progress.
type Entry struct {
	registry *Registry
	query    Query
	running  atomic.Bool
	ended    atomic.Bool // by an operator
	cancel   context.CancelCauseFunc
	samples  atomic.Int64 // read by its queries
	peak     atomic.Int64 // peak number of samples that a query had in memory
	status   atomic.Int64
	// details returns more attributes of the log line of a slow read; nil: there are none.
	details func() []any
}

// New returns an empty Registry.
func New(o Options) *Registry {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	auto := promauto.With(o.Registerer)
	return &Registry{o: o, all: map[string]*Entry{},
		slow: auto.NewCounter(prometheus.CounterOpts{Name: "pallium_api_slow_queries_total",
			Help: "Reads that took longer than querier.log_queries_longer_than, and were logged."}),
		ended: auto.NewCounter(prometheus.CounterOpts{Name: "pallium_api_ended_queries_total", Help: "Reads that an operator ended."}),
	}
}

type entryKey struct{}

// Begin adds a read. The context that it returns carries the Entry, and is canceled when an
// operator ends the read. The caller must call Done.
func (r *Registry) Begin(ctx context.Context, q Query) (context.Context, *Entry) {
	q.ID, q.Since = newID(), r.o.Now()
	// These texts are shown to operators and logged. The path may contain the name of a label.
	q.Text, q.Path = shown(q.Text, textBytes), shown(q.Path, pathBytes)
	q.Start, q.End, q.Step = shown(q.Start, partBytes), shown(q.End, partBytes), shown(q.Step, partBytes)
	e := &Entry{registry: r, query: q}
	ctx, e.cancel = context.WithCancelCause(ctx)
	r.mu.Lock()
	r.all[q.ID] = e
	r.mu.Unlock()
	return context.WithValue(ctx, entryKey{}, e), e
}

// Of returns the read of a context, or nil. Its exported methods do nothing on a nil Entry.
func Of(ctx context.Context) *Entry {
	e, _ := ctx.Value(entryKey{}).(*Entry)
	return e
}

// Run records that the read no longer waits.
func (e *Entry) Run() {
	if e != nil {
		e.running.Store(true)
	}
}

// Read records the number of samples that a query of the read has read, and its peak number of
// samples in memory.
func (e *Entry) Read(samples, peak int64) {
	if e == nil {
		return
	}
	e.samples.Add(samples)
	for {
		old := e.peak.Load()
		if old >= peak || e.peak.CompareAndSwap(old, peak) {
			return
		}
	}
}

// Status records the HTTP status of the response. Only the first call has an effect. It reports
// whether this is the first call.
func (e *Entry) Status(code int) bool { return e != nil && e.status.CompareAndSwap(0, int64(code)) }

// Details sets what returns further attributes of the log line if the read is slow. It must be
// called before the read runs.
func (e *Entry) Details(attrs func() []any) {
	if e != nil {
		e.details = attrs
	}
}

// Done removes the read, and logs it if it was slow.
func (e *Entry) Done() {
	if e == nil {
		return
	}
	r := e.registry
	r.mu.Lock()
	delete(r.all, e.query.ID)
	r.mu.Unlock()
	e.cancel(nil)
	took := r.o.Now().Sub(e.query.Since)
	if r.o.Slow <= 0 || took < r.o.Slow {
		return
	}
	r.slow.Inc()
	q := &e.query
	attrs := []any{"id", q.ID, "tenant", q.Tenant, "path", q.Path, "query", q.Text, "start", q.Start, "end", q.End,
		"step", q.Step, "duration", took.Round(time.Millisecond), "status", e.status.Load(), "samples_read", e.samples.Load(),
		"peak_samples", e.peak.Load()}
	if e.details != nil {
		attrs = append(attrs, e.details()...)
	}
	r.o.Logger.Info("slow query", attrs...)
}

// List returns all reads, the oldest first.
func (r *Registry) List() []Query {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]Query, 0, len(r.all))
	for _, e := range r.all {
		list = append(list, e.current())
	}
	slices.SortFunc(list, func(a, b Query) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.ID, b.ID)) })
	return list
}

// End ends a read. It returns the read, or false if there is none with this ID.
func (r *Registry) End(id string) (Query, bool) {
	r.mu.Lock()
	e := r.all[id]
	r.mu.Unlock()
	if e == nil {
		return Query{}, false
	}
	if !e.ended.Swap(true) { // an ended read stays in the list until Done
		r.ended.Inc()
		e.cancel(ErrEnded)
		r.o.Logger.Warn("an operator ended a query", "id", id, "tenant", e.query.Tenant, "query", e.query.Text)
	}
	return e.current(), true
}

// current returns the read with its state.
func (e *Entry) current() Query {
	q := e.query
	q.Running = e.running.Load()
	return q
}

func newID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// shown returns a client's text without the secrets of API keys. A text of more than n bytes is cut
// and ends with "...".
func shown(s string, n int) string {
	if len(s) > n {
		s = strings.ToValidUTF8(s[:n-3], "") + "..."
	}
	return apikey.Redact(s)
}
