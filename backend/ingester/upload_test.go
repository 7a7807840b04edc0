package ingester

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/test/kit"
)

// longTerm is a LongTerm that records calls.
type longTerm struct {
	mu       sync.Mutex
	fail     error // returned by every call
	intents  map[store.Window]schema.Intent
	uploads  []store.Upload
	consumed map[ulid.ULID]bool

	asides    map[asideKey]store.AsideOf
	deletions map[tenant.ID][]schema.Tombstone // active deletions
}

func newLongTerm() *longTerm {
	return &longTerm{intents: map[store.Window]schema.Intent{}, consumed: map[ulid.ULID]bool{}, asides: map[asideKey]store.AsideOf{}, deletions: map[tenant.ID][]schema.Tombstone{}}
}

func (l *longTerm) SetAside(_ context.Context, list []store.AsideOf) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail == nil {
		for _, a := range list {
			l.asides[asideKey{a.Window, a.Tenant}] = a
		}
	}
	return l.fail
}

func (l *longTerm) ClearAside(_ context.Context, list []store.AsideOf) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail == nil {
		for _, a := range list {
			delete(l.asides, asideKey{a.Window, a.Tenant})
		}
	}
	return l.fail
}

func (l *longTerm) Asides(context.Context) ([]store.AsideOf, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Values(l.asides)), l.fail
}

func (l *longTerm) ActiveDeletions(_ context.Context, tenants []tenant.ID, visit func(tenant.ID, schema.Tombstone) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range tenants {
		for _, ts := range l.deletions[t] {
			if err := visit(t, ts); err != nil {
				return err
			}
		}
	}
	return l.fail
}

func (l *longTerm) Upload(_ context.Context, u store.Upload) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return l.fail
	}
	if crc, err := pack.FileCRC(u.Path); err != nil || crc != u.CRC {
		return errors.Join(err, errors.New("checksum differs"))
	}
	l.uploads = append(l.uploads, u)
	for _, w := range u.Cleared {
		delete(l.intents, w)
	}
	return nil
}

func (l *longTerm) Intend(_ context.Context, _ string, windows map[store.Window]schema.Intent) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail == nil {
		maps.Copy(l.intents, windows)
	}
	return l.fail
}

func (l *longTerm) ClearIntents(_ context.Context, _ string, windows []store.Window) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail == nil {
		for _, w := range windows {
			delete(l.intents, w)
		}
	}
	return l.fail
}

func (l *longTerm) Intents(context.Context, string) ([]store.Window, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Keys(l.intents)), l.fail
}

func (l *longTerm) Consumed(_ context.Context, info pack.Info) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.consumed[info.ID], l.fail
}

// failWith makes every call return an error, or none again.
func (l *longTerm) failWith(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fail = err
}

// change calls fn, which may change all fields, while no call is in progress.
func (l *longTerm) change(fn func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fn()
}

func (l *longTerm) records() map[asideKey]store.AsideOf {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.asides)
}

func (l *longTerm) uploaded() []store.Upload {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.uploads)
}

// consume marks a pack as compacted.
func (l *longTerm) consume(id ulid.ULID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.consumed[id] = true
}

func (l *longTerm) openIntents() map[store.Window]schema.Intent {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.intents)
}

// withLongTerm returns a bench with a long-term store.
func withLongTerm(t *testing.T) (*bench, *longTerm) {
	t.Helper()
	b, l := newBench(t), newLongTerm()
	b.longTerm = l
	b.crash()
	return b, l
}

func upload(t *testing.T, b *bench) {
	t.Helper()
	if err := b.ing.Upload(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// TestIntentsAndUploads checks that every window with samples that are not uploaded
// has an intent, and no other window, through sealing, late samples, failures and
// restarts.
func TestIntentsAndUploads(t *testing.T) {
	b, l := withLongTerm(t)
	now := b.now.UnixMilli()
	this, before := store.WindowOf(now), store.WindowOf(now-series.WindowMillis)
	b.push("a", entry(metric("m"), f(now, 1)))
	upload(t, b)
	if o := l.openIntents(); len(o) != 1 || o[this].Late {
		t.Fatalf("intents after a push: %v, want one that is not late", o)
	}
	b.push("a", entry(metric("old"), f(now-series.WindowMillis, 1)))
	b.set(b.now.Add(2*time.Hour + SealDelay))
	l.failWith(errors.New("down"))
	if err := b.ing.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := b.ing.Upload(context.Background()); err == nil {
		t.Fatal("uploaded to a store that is down")
	}
	l.failWith(nil)
	b.crash()
	b.open() // the packs are sealed and not uploaded
	upload(t, b)
	if o := l.openIntents(); len(o) != 0 || len(l.uploaded()) == 0 {
		t.Fatalf("intents after the upload: %v, want none; %d uploads", o, len(l.uploaded()))
	}
	n := len(l.uploaded())
	late := l.uploaded()[n-1].Windows
	if !slices.Contains(late, before) && !slices.Contains(l.uploaded()[0].Windows, before) {
		t.Errorf("no upload has the window of late samples: %v", l.uploads)
	}
	b.crash()
	b.open()
	upload(t, b)
	if len(l.uploaded()) != n {
		t.Errorf("%d packs were uploaded again after a restart, want 0", len(l.uploaded())-n)
	}
	// A sample of a sealed window: a late intent, which does not delay compactions.
	b.push("a", entry(metric("m"), f(now+1, 2)))
	upload(t, b)
	if o := l.openIntents(); len(o) != 1 || !o[this].Late {
		t.Fatalf("intents after a late sample: %v, want one late intent", o)
	}
	b.crash()
	b.open() // the sample is in the log
	upload(t, b)
	if o := l.openIntents(); len(o) != 1 {
		t.Fatalf("intents after a restart: %v, want one", o)
	}
	if err := b.ing.Flush(); err != nil {
		t.Fatal(err)
	}
	upload(t, b)
	if o := l.openIntents(); len(o) != 0 {
		t.Fatalf("intents at the end: %v, want none", o)
	}
	// An intent whose samples never arrived is cleared.
	l.intents[store.Window{Day: 3, Number: 3}] = schema.Intent{}
	b.crash()
	b.open()
	upload(t, b)
	if o := l.openIntents(); len(o) != 0 {
		t.Fatalf("an intent without samples was not cleared: %v", o)
	}
}

// TestLocalPacksAreRemoved checks that a local pack is served until an hour after its
// compaction and its files are deleted then, and that other packs stay.
func TestLocalPacksAreRemoved(t *testing.T) {
	b, l := withLongTerm(t)
	now := b.now.UnixMilli()
	b.push("a", entry(metric("m"), f(now, 1)))
	if err := b.ing.Flush(); err != nil {
		t.Fatal(err)
	}
	drop := func(want int) {
		t.Helper()
		if err := b.ing.dropCompacted(context.Background()); err != nil {
			t.Fatal(err)
		}
		if n := b.ing.packCount(); n != want {
			t.Fatalf("%d packs served, want %d", n, want)
		}
	}
	drop(1)
	upload(t, b)
	b.set(b.now.Add(48 * time.Hour))
	drop(1)
	id := l.uploaded()[0].Info.ID
	if !serves(t, b, id) {
		t.Error("the pack is not served")
	}
	l.consume(id)
	drop(1)
	b.set(b.now.Add(dropDelay - time.Second))
	drop(1)
	b.set(b.now.Add(time.Second))
	drop(0)
	if serves(t, b, id) {
		t.Error("the pack is still served")
	}
	err := filepath.WalkDir(filepath.Join(b.dir, "l0"), func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.Contains(path, id.String()) {
			t.Errorf("%s is left", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestDelete checks that deleted samples are not read from head and packs, after a
// restart too, and that samples pushed afterwards stay and their pack has the
// deletion's number.
func TestDelete(t *testing.T) {
	b, l := withLongTerm(t)
	now := b.now.UnixMilli()
	b.push("a", entry(metric("gone"), f(now, 1), f(now+1, 2)), entry(metric("kept"), f(now, 1)))
	b.push("b", entry(metric("gone"), f(now, 1)))
	if err := b.ing.Flush(); err != nil {
		t.Fatal(err)
	}
	b.push("a", entry(metric("gone"), f(now+2, 3)))
	d := schema.NewTombstone(1, 0, now+100, [][]*labels.Matcher{{labels.MustNewMatcher(labels.MatchEqual, "__name__", "gone")}}, now)
	if err := b.ing.Delete("a", d); err != nil {
		t.Fatal(err)
	}
	check := func(what string, want ...string) {
		t.Helper()
		got := slices.Sorted(maps.Keys(b.read("a")))
		if !slices.Equal(got, want) {
			t.Errorf("%s: series %q, want %q", what, got, want)
		}
		req := series.Request{Tenant: "a", MinTime: 0, MaxTime: now + 1000}
		values, _, err := b.ing.LabelValues(context.Background(), "__name__", req)
		if err != nil || len(values) != len(want) {
			t.Errorf("%s: metrics %q, error %v; want %d metrics", what, values, err, len(want))
		}
	}
	kept := metric("kept").String()
	check("deleted", kept)
	b.crash()
	b.open()
	check("deleted, after a restart", kept)
	if got := b.read("b"); len(got) != 1 {
		t.Errorf("another tenant lost its series: %v", got)
	}
	b.push("a", entry(metric("gone"), f(now+3, 4)))
	again := metric("gone").String()
	check("pushed again", again, kept)
	if err := b.ing.Flush(); err != nil {
		t.Fatal(err)
	}
	check("pushed again and sealed", again, kept)
	if n := len(b.read("a")[again]); n != 1 {
		t.Errorf("%d samples, want only the one that was pushed afterwards", n)
	}
	upload(t, b)
	for _, u := range l.uploaded() {
		for _, s := range u.Info.Sections {
			if s.Tenant == "b" && s.Deletion != 0 {
				t.Errorf("a section of another tenant has deletion %d", s.Deletion)
			}
		}
	}
	last := l.uploaded()[len(l.uploaded())-1].Info.Sections[0]
	if last.Tenant != "a" || last.Deletion != 1 {
		t.Errorf("the last pack has tenant %s and deletion %d, want a and 1", last.Tenant, last.Deletion)
	}
}

// serves reports whether a read of all times used the pack.
func serves(t *testing.T, b *bench, id ulid.ULID) bool {
	t.Helper()
	sel, packs, err := b.ing.Select(context.Background(), series.Request{Tenant: "a", MaxTime: math.MaxInt64, Matchers: []*labels.Matcher{labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".*")}})
	if err != nil {
		t.Fatal(err)
	}
	defer sel.Release()
	return slices.Contains(packs, id)
}

// hangingLongTerm blocks in one of its calls until the context is done.
type hangingLongTerm struct {
	*longTerm
	at      atomic.Pointer[string]
	entered chan struct{}
}

func (h *hangingLongTerm) wait(ctx context.Context, name string) error {
	if at := h.at.Load(); at == nil || *at != name {
		return nil
	}
	close(h.entered)
	<-ctx.Done()
	return ctx.Err()
}

func (h *hangingLongTerm) Upload(ctx context.Context, u store.Upload) error {
	return errors.Join(h.wait(ctx, "upload"), h.longTerm.Upload(ctx, u))
}

func (h *hangingLongTerm) Intend(ctx context.Context, id string, ws map[store.Window]schema.Intent) error {
	return errors.Join(h.wait(ctx, "intend"), h.longTerm.Intend(ctx, id, ws))
}

func (h *hangingLongTerm) Consumed(ctx context.Context, info pack.Info) (bool, error) {
	if err := h.wait(ctx, "consumed"); err != nil {
		return false, err
	}
	return h.longTerm.Consumed(ctx, info)
}

// TestStalledUpload checks that a call to the long-term store that hangs counts as a
// stalled upload and is logged once with its current step, that callers waiting for it
// return when their own context is done, that Close returns, and that the metric exists.
func TestStalledUpload(t *testing.T) {
	for call, at := range map[string]string{"intend": "write intents", "upload": "l0", "consumed": "check for compacted packs"} {
		t.Run(call, func(t *testing.T) {
			var log bytes.Buffer
			long := &hangingLongTerm{longTerm: newLongTerm(), entered: make(chan struct{})}
			b := &bench{t: t, dir: t.TempDir(), lim: limits.Default(), longTerm: long}
			b.set(time.UnixMilli(1_700_000_000_000))
			o := b.options()
			reg := prometheus.NewRegistry()
			o.Registerer, o.Logger = reg, slog.New(slog.NewTextHandler(&log, nil))
			ing, err := Open(context.Background(), o)
			if err != nil {
				t.Fatal(err)
			}
			b.ing = ing
			if call == "consumed" { // there must be an uploaded pack to check
				b.push("a", entry(labels.FromStrings("__name__", "m"), series.Sample{T: b.now.UnixMilli(), V: 1}))
				if err := errors.Join(ing.Flush(), ing.Upload(context.Background())); err != nil {
					t.Fatal(err)
				}
			}
			long.at.Store(&call)
			ended := make(chan error, 1)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			if call == "consumed" {
				go func() { ended <- ing.dropCompacted(ctx) }()
			} else {
				b.push("a", entry(labels.FromStrings("__name__", "m"), series.Sample{T: b.now.UnixMilli(), V: 1}))
				if err := ing.Flush(); err != nil { // the ingester uploads automatically
					t.Fatal(err)
				}
				ended <- context.Canceled
			}
			kit.Receive(t, "the call hangs", long.entered)
			b.set(b.now.Add(61 * time.Second))
			work := ing.uploads.progress
			if work.Check(); work.Stalled() != 61*time.Second {
				t.Errorf("stalled for %s, want 1m1s", work.Stalled())
			}
			waiter, give := context.WithCancel(context.Background())
			give()
			for _, err := range []error{ing.Upload(waiter), ing.dropCompacted(waiter)} {
				if err == nil || !strings.Contains(err.Error(), "upload in progress") {
					t.Errorf("error of a waiting caller: %v", err)
				}
			}
			cancel()
			if err := ing.Close(); err != nil {
				t.Error(err)
			}
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("error of the call that hung: %v", err)
			}
			if work.Stalled() != 0 {
				t.Error("stalled after the upload ended")
			}
			line := regexp.MustCompile("no progress in uploading or checking packs.* at=.*" + at)
			if n := len(line.FindAllString(log.String(), -1)); n != 1 {
				t.Errorf("%d lines about the stall in the log, want 1:\n%s", n, &log)
			}
			found := false
			families, err := reg.Gather()
			for _, f := range families {
				found = found || f.GetName() == "pallium_ingester_upload_stalled_seconds"
			}
			if err != nil || !found {
				t.Errorf("the metric is not registered: %v", err)
			}
		})
	}
}

// dropCompacted deletes the local packs that were compacted at least dropDelay ago.
func (ing *Ingester) dropCompacted(ctx context.Context) error {
	if ing.uploads == nil {
		return nil
	}
	return ing.uploads.drop(ctx)
}
