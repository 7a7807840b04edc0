package ruler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/util/teststorage"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/switches"
	"github.com/palliumhq/pallium/policies/limits"
)

var errInjected = errors.New("injected failure")

// database is a Prometheus TSDB that also lists the samples that were recorded.
type database struct {
	*teststorage.TestStorage
	t        *testing.T
	engine   *promql.Engine
	mu       sync.Mutex
	recorded map[string]map[int64]string // values as text, by series and time
}

func newDatabase(t *testing.T) *database {
	t.Helper()
	return &database{t: t, recorded: map[string]map[int64]string{},
		TestStorage: teststorage.New(t, func(o *tsdb.Options) { o.OutOfOrderTimeWindow = 6 * 3600_000 }),
		engine:      promql.NewEngine(promql.EngineOpts{MaxSamples: 1e6, Timeout: time.Minute, LookbackDelta: 5 * time.Minute})}
}

func (d *database) query(ctx context.Context, expr string, at time.Time) (promql.Vector, error) {
	return rules.EngineQueryFunc(d.engine, d)(ctx, expr, at)
}

func textOf(v float64, fh *histogram.FloatHistogram) string {
	if fh != nil {
		return fh.String()
	}
	if value.IsStaleNaN(v) {
		return "stale"
	}
	return fmt.Sprintf("%016x", math.Float64bits(v))
}

// record records a sample. As in Pallium, a value replaces a staleness marker. For other conflicts
// it returns a text.
func (d *database) record(ls labels.Labels, t int64, text string) (conflict string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.recorded[ls.String()]
	if s == nil {
		s = map[int64]string{}
		d.recorded[ls.String()] = s
	}
	if old, ok := s[t]; ok && old != text {
		if text == "stale" {
			return ""
		}
		if old != "stale" {
			return fmt.Sprintf("%v at %d is %s and %s", ls, t, old, text)
		}
	}
	s[t] = text
	return ""
}

// append writes a sample. It ignores the error of a sample that was written before.
func (d *database) append(ls labels.Labels, t int64, v float64, fh *histogram.FloatHistogram) {
	app := d.AppenderV2(context.Background())
	_, err := app.Append(0, ls, 0, t, v, nil, fh, storage.AOptions{})
	if err != nil && !errors.Is(err, storage.ErrDuplicateSampleForTimestamp) && !errors.Is(err, storage.ErrOutOfOrderSample) {
		d.t.Errorf("append %v at %d: %v", ls, t, err)
	}
	if err := app.Commit(); err != nil {
		d.t.Errorf("commit %v at %d: %v", ls, t, err)
	}
}

// activeSince writes the samples of a ruler that evaluated the alert A, which became active at `since`, until `end`.
func (d *database) activeSince(since, end time.Time) {
	for at := since; at.Before(end); at = at.Add(15 * time.Second) {
		d.append(labels.FromStrings("__name__", "ALERTS_FOR_STATE", "alertname", "A", "a", "b"), at.UnixMilli(), float64(since.Unix()), nil)
	}
}

// reference records the samples that Prometheus' groups append.
type reference struct{ *database }

type referenceAppender struct {
	storage.AppenderV2
	d     *database
	notes []func()
}

func (r reference) AppenderV2(ctx context.Context) storage.AppenderV2 {
	return &referenceAppender{AppenderV2: r.database.AppenderV2(ctx), d: r.database}
}

func (a *referenceAppender) Append(ref storage.SeriesRef, ls labels.Labels, st, t int64, v float64, h *histogram.Histogram,
	fh *histogram.FloatHistogram, o storage.AOptions) (storage.SeriesRef, error) {
	o.RejectOutOfOrder = false // the test database accepts out-of-order samples, which the rules may write
	ref, err := a.AppenderV2.Append(ref, ls, st, t, v, h, fh, o)
	if err == nil {
		a.notes = append(a.notes, func() { a.d.record(ls, t, textOf(v, fh)) })
	}
	return ref, err
}

func (a *referenceAppender) Commit() error {
	for _, n := range a.notes {
		n()
	}
	return a.AppenderV2.Commit()
}

// input writes the series that the rules read. They are equal for equal seeds.
func (d *database) input(seed uint64, from, to time.Time) {
	rng := rand.New(rand.NewPCG(seed, 7))
	app := d.AppenderV2(context.Background())
	put := func(t int64, v float64, fh *histogram.FloatHistogram, ls ...string) {
		if _, err := app.Append(0, labels.FromStrings(ls...), 0, t, v, nil, fh, storage.AOptions{}); err != nil {
			d.t.Fatal(err)
		}
	}
	loads, total, alive := make([]float64, 6), make([]float64, 6), make([]bool, 6)
	h := &histogram.FloatHistogram{Schema: 1, PositiveSpans: []histogram.Span{{Length: 3}}, PositiveBuckets: []float64{0, 0, 0}}
	heart := true
	for at := from.Truncate(15 * time.Second); at.Before(to); at = at.Add(15 * time.Second) {
		t := at.UnixMilli()
		for i := range loads {
			job, instance := string(rune('a'+i%2)), fmt.Sprint("i", i)
			loads[i] = math.Abs(math.Mod(loads[i]+rng.NormFloat64()*2, 10))
			total[i] += rng.Float64() * 100
			put(t, loads[i], nil, "__name__", "load", "job", job, "instance", instance)
			put(t, total[i], nil, "__name__", "requests_total", "job", job, "instance", instance)
			if was := alive[i]; rng.IntN(8) == 0 {
				if alive[i] = !was; was {
					put(t, math.Float64frombits(value.StaleNaN), nil, "__name__", "pod", "pod", fmt.Sprint("p", i), "job", job)
				}
			} else if was {
				put(t, float64(i), nil, "__name__", "pod", "pod", fmt.Sprint("p", i), "job", job)
			}
		}
		for i := range h.PositiveBuckets {
			n := float64(rng.IntN(5))
			h.PositiveBuckets[i], h.Count, h.Sum = h.PositiveBuckets[i]+n, h.Count+n, h.Sum+n*float64(i)
		}
		put(t, 0, h.Copy(), "__name__", "lat", "job", "a")
		if was := heart; rng.IntN(12) == 0 {
			if heart = !was; was {
				put(t, math.Float64frombits(value.StaleNaN), nil, "__name__", "heartbeat")
			}
		} else if was {
			put(t, 1, nil, "__name__", "heartbeat")
		}
	}
	if err := app.Commit(); err != nil {
		d.t.Fatal(err)
	}
}

// notifications records notified alerts.
type notifications struct {
	mu   sync.Mutex
	list []string
	// changes contains the starts and ends of alerts without repetitions, by labels.
	changes map[string][]string
}

func (n *notifications) add(expr string, alerts []*rules.Alert) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.changes == nil {
		n.changes = map[string][]string{}
	}
	alerts = slices.Clone(alerts)
	slices.SortFunc(alerts, func(a, b *rules.Alert) int { return labels.Compare(a.Labels, b.Labels) })
	for _, a := range alerts {
		n.list = append(n.list, fmt.Sprintf("%s %v %v %v active %v fired %v resolved %v sent %v valid %v kept %v", expr, a.Labels, a.Annotations,
			a.Value, a.ActiveAt, a.FiredAt, a.ResolvedAt, a.LastSentAt, a.ValidUntil, a.KeepFiringSince))
		text := fmt.Sprintf("fired %v, resolved %v", a.FiredAt, a.ResolvedAt)
		list := n.changes[a.Labels.String()]
		if !slices.Contains(list, text) {
			n.changes[a.Labels.String()] = append(list, text)
		}
	}
}

// fakeRules contains the rules of tenants.
type fakeRules struct {
	mu      sync.Mutex
	sets    map[tenant.ID]Set
	deleted map[tenant.ID]bool
}

func (f *fakeRules) set(id tenant.ID, groups ...Definition) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sets == nil {
		f.sets, f.deleted = map[tenant.ID]Set{}, map[tenant.ID]bool{}
	}
	f.sets[id] = Set{Version: f.sets[id].Version + "+", Groups: slices.Clone(groups)}
	for i := range groups {
		f.sets[id].Groups[i].Written = time.Now()
	}
}

// stored sets the groups of a tenant as if an earlier process had stored them.
func (f *fakeRules) stored(id tenant.ID, groups ...Definition) {
	f.set(id, groups...)
	for i := range groups {
		f.sets[id].Groups[i].Written = time.Now().Add(-time.Hour)
	}
}

func (f *fakeRules) Tenants(context.Context) ([]tenant.ID, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.sets)), nil
}

func (f *fakeRules) Versions(context.Context, []tenant.ID) (map[tenant.ID]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[tenant.ID]string{}
	for id, s := range f.sets {
		out[id] = s.Version
	}
	return out, nil
}

func (f *fakeRules) Groups(_ context.Context, id tenant.ID, _ func(namespace, name, text string) *Definition) (Set, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sets[id], nil
}

func (f *fakeRules) isDeleted(_ context.Context, id tenant.ID) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.deleted[id], nil
}

// fakeLeases contains the shares that a ruler holds. A lease ends only if a test sets its number to 0.
type fakeLeases struct {
	mu      sync.Mutex
	numbers map[int]uint64
}

func (f *fakeLeases) Lease(share int) (uint64, time.Duration, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, ok := f.numbers[share]
	return n, math.MaxInt64 / 2, ok
}

func (f *fakeLeases) set(share int, number uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.numbers == nil {
		f.numbers = map[int]uint64{}
	}
	if f.numbers[share] = number; number == 0 {
		delete(f.numbers, share)
	}
}

// loadGroups reads the groups of a file in testdata.
func loadGroups(t *testing.T, name string) []rulefmt.RuleGroup {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	set, errs := rulefmt.Parse(text, false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	return set.Groups
}

func define(namespace string, groups ...rulefmt.RuleGroup) []Definition {
	var out []Definition
	for _, g := range groups {
		out = append(out, Definition{Namespace: namespace, Group: g})
	}
	return out
}

// options returns the options of a ruler over a database.
func options(d *database, source *fakeRules, leases Leases, n *notifications) Options {
	start, lim := time.Now(), limits.Default()
	return Options{
		Rules: source, Shares: leases, Count: 4, Parsers: switches.Only(parser.NewParser(parser.Options{})),
		Query: func(ctx context.Context, _ tenant.ID, expr string, at time.Time) (promql.Vector, error) {
			return d.query(ctx, expr, at)
		},
		Select:      func(tenant.ID) storage.Queryable { return d },
		Push:        d.push,
		Notify:      func(_ context.Context, _ tenant.ID, expr string, alerts ...*rules.Alert) { n.add(expr, alerts) },
		Limits:      func(tenant.ID) *limits.Limits { return &lim },
		Bounds:      func(tenant.ID) Bounds { return Bounds{Concurrent: 4, Recording: true, Alerting: true} },
		Deleted:     source.isDeleted,
		ExternalURL: func(tenant.ID) string { return "http://example.com" },
		UserError:   func(err error) bool { return !errors.Is(err, errInjected) },
		Running:     func() time.Duration { return time.Since(start) },
	}
}

func (d *database) push(_ context.Context, b *series.Batch) (series.Outcome, error) {
	var out series.Outcome
	for i := range b.Entries {
		e := &b.Entries[i]
		for _, s := range e.Samples {
			if conflict := d.record(e.Labels, s.T, textOf(s.V, s.FH)); conflict != "" {
				d.t.Error(conflict)
			}
			d.append(e.Labels, s.T, s.V, s.FH)
			out.Samples++
		}
	}
	return out, nil
}

// differences returns at most 20 differences between two sets of recorded samples.
func differences(got, want map[string]map[int64]string) string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(merged(got, want))) {
		for _, t := range slices.Sorted(maps.Keys(merged(got[name], want[name]))) {
			if g, w := got[name][t], want[name][t]; g != w {
				out = append(out, fmt.Sprintf("%s at %v: %q, want %q", name, time.UnixMilli(t).UTC().Format("15:04:05.000"), g, w))
			}
		}
	}
	if n := len(out); n > 20 {
		out = append(out[:20], fmt.Sprint("and ", n-20, " more"))
	}
	return strings.Join(out, "\n")
}

func merged[K comparable, V any](a, b map[K]V) map[K]V {
	out := maps.Clone(a)
	if out == nil {
		out = map[K]V{}
	}
	maps.Copy(out, b)
	return out
}

func seconds(n int) model.Duration { return model.Duration(time.Duration(n) * time.Second) }
