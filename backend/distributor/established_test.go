package distributor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/exemplar"

	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/series"
)

// kind is the response of a replica to a series of interest.
type kind int

const (
	exists  kind = iota // applies the entry to an existing series
	creates             // applies the entry and creates the series
	full                // rejects the entry for lack of capacity
	rejects             // rejects the samples
	fails               // fails the whole push
	kinds   int  = iota
)

func (k kind) String() string { return [...]string{"exists", "creates", "full", "rejects", "fails"}[k] }

// member is a replica that responds to series of interest by its kind, and in pushes
// marked established by repeat. It has all other series.
type member struct {
	kind, repeat kind
	reason       string                                     // of rejections for lack of capacity
	before       func(context.Context, *series.Batch) error // runs before the response

	mu     sync.Mutex
	held   map[string][]int64 // timestamps by series
	pushes []string           // of established pushes: the series, and "metadata"
}

func interesting(e *series.Entry) bool { return e.Labels.Has("interesting") }

func (m *member) Push(ctx context.Context, b *series.Batch) (series.Outcome, error) {
	k := m.kind
	if b.Established {
		k = m.repeat
	}
	if m.before != nil {
		if err := m.before(ctx, b); err != nil {
			return series.Outcome{}, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if b.Established {
		m.pushes = append(m.pushes, strings.Repeat("metadata ", len(b.Metadata))+names(b))
	}
	if k == fails {
		return series.Outcome{}, errors.New("down")
	}
	if m.held == nil {
		m.held = map[string][]int64{}
	}
	var out series.Outcome
	for i := range b.Entries {
		e := &b.Entries[i]
		keep := e.Samples
		if interesting(e) {
			switch k {
			case creates:
				out.Created = append(out.Created, i)
			case full:
				out.RejectEntry(i, m.reason, "full", len(keep), nil)
				continue
			case rejects:
				out.RejectEntry(i, "too_many_sample_type_changes", "changes", len(keep), nil)
				keep = nil
			case exists, fails:
			}
		}
		out.Exemplars += len(e.Exemplars)
		for _, s := range keep {
			m.held[e.Labels.String()] = append(m.held[e.Labels.String()], s.T)
		}
	}
	return out, nil
}

func names(b *series.Batch) string {
	var all []string
	for i := range b.Entries {
		all = append(all, b.Entries[i].Labels.Get("i"))
	}
	return strings.Join(all, ",")
}

// trio returns a distributor over three replicas.
func trio(o Options, ms ...*member) limited {
	ings := map[string]Ingester{}
	for i, m := range ms {
		if m.reason == "" {
			m.reason = "max_active_series"
		}
		ings[fmt.Sprint(i)] = m
	}
	o.Ring, o.Replication, o.Replica = newZones(1), 3, lookup(ings)
	return unlimited(o)
}

func interestingSeries(i int) series.Entry {
	return entryOf(rawLabels("__name__", "up", "i", fmt.Sprint(i), "interesting", "x"), at(nowMillis), at(nowMillis+1))
}

// rule implements the rules of docs/cluster.md for one entry: it returns the entry's fate
// and the number of replicas to which it is repeated.
func rule(answers [3]kind, repeat kind) (fate, int) {
	count := func(k kind) (n int) {
		for _, a := range answers {
			if a == k {
				n++
			}
		}
		return n
	}
	majority := func() fate {
		switch {
		case count(exists)+count(creates) >= 2:
			return fateAccepted
		case count(rejects) >= 2:
			return fateRejected
		}
		return fateUndecided
	}
	if f := majority(); f != fateUndecided {
		return f, 0
	}
	repeats := 0
	if count(exists) > 0 && count(full) > 0 {
		repeats = count(full)
		for i, a := range answers {
			if a == full && repeat != fails {
				answers[i] = repeat
			}
		}
		if f := majority(); f != fateUndecided {
			return f, repeats
		}
	}
	if count(exists) == 0 && count(fails) < 2 {
		return fateRejected, repeats
	}
	return fateUndecided, repeats
}

// combinations calls f with all combinations of three replicas' responses, and of the
// response of full replicas to an established series.
func combinations(f func(answers [3]kind, repeat kind)) {
	for n := range kinds * kinds * kinds * kinds {
		answers := [3]kind{kind(n % kinds), kind(n / kinds % kinds), kind(n / kinds / kinds % kinds)}
		f(answers, kind(n/kinds/kinds/kinds))
	}
}

// TestEstablished checks the fate of a series for all combinations of the responses of
// three replicas. Another series of the request is accepted unless the request fails.
func TestEstablished(t *testing.T) {
	combinations(func(answers [3]kind, repeat kind) {
		t.Run(fmt.Sprintf("%v then %v", answers, repeat), func(t *testing.T) {
			var ms []*member
			for i, k := range answers {
				ms = append(ms, &member{kind: k, repeat: repeat, reason: []string{"max_active_series", "instance_memory"}[i%2]})
			}
			d := trio(Options{}, ms...)
			e := interestingSeries(0)
			out, err := d.Push(context.Background(), &series.Batch{Tenant: "t",
				Entries: []series.Entry{entryOf(rawLabels("__name__", "other"), at(nowMillis)), e}})
			_ = d.Close()
			got := outcomeOf(t, out, err)
			want, repeats := rule(answers, repeat)
			if got != want {
				t.Errorf("fate %d, want %d: %+v, %v", got, want, out, err)
			}
			pushes := 0
			for _, m := range ms {
				pushes += len(m.pushes)
			}
			if pushes != repeats {
				t.Errorf("retried %d times, want %d", pushes, repeats)
			}
			promises(t, ms, answers, got, out.Samples-1, e)
			if used := d.inflight.Load(); used != 0 {
				t.Errorf("%d bytes in flight, want 0", used)
			}
		})
	})
}

// outcomeOf returns the fate of the second of two series. The first one has one sample and
// is never rejected.
func outcomeOf(t *testing.T, out series.Outcome, err error) fate {
	t.Helper()
	switch {
	case err != nil:
		if !errors.Is(err, ErrUnavailable) || out.Samples != 0 {
			t.Errorf("Push = %+v, %v", out, err)
		}
		return fateUndecided
	case len(out.Rejections) > 0:
		if n := out.Rejections[0].Samples + out.Samples; n != 3 || out.Samples < 1 || out.Rejections[0].Message == "" {
			t.Errorf("outcome counts %d of 3 samples: %+v", n, out)
		}
		return fateRejected
	}
	if out.Samples != 3 {
		t.Errorf("outcome %+v, want 3 samples", out)
	}
	return fateAccepted
}

// promises checks the invariants: accepted samples are on two replicas, and an existing
// series is not rejected permanently because a replica failed.
func promises(t *testing.T, ms []*member, answers [3]kind, got fate, samples int, e series.Entry) {
	t.Helper()
	durable := 0
	for _, s := range e.Samples {
		copies := 0
		for _, m := range ms {
			if slices.Contains(m.held[e.Labels.String()], s.T) {
				copies++
			}
		}
		if copies >= 2 {
			durable++
		}
	}
	if got != fateUndecided && samples > durable {
		t.Errorf("%d samples accepted, but only %d are on two replicas", samples, durable)
	}
	knew := slices.Contains(answers[:], exists)
	failed := slices.Contains(answers[:], fails)
	hard := 0
	for _, k := range answers {
		if k == rejects {
			hard++
		}
	}
	if got == fateRejected && knew && failed && hard < 2 {
		for _, m := range ms {
			if m.repeat == rejects && len(m.pushes) > 0 {
				return // the retried push was rejected because of its samples
			}
		}
		t.Error("an existing series is rejected permanently because a replica failed")
	}
}

// TestNoWait checks that a hanging replica does not delay what two others decide, and that
// its later response causes no retried push.
func TestNoWait(t *testing.T) {
	for _, tt := range []struct {
		first  kind
		reject bool
	}{{exists, false}, {creates, false}, {rejects, true}} {
		t.Run(tt.first.String(), func(t *testing.T) {
			release := make(chan struct{})
			late := &member{kind: full, before: func(context.Context, *series.Batch) error { <-release; return nil }}
			d := trio(Options{PushTimeout: time.Hour}, &member{kind: tt.first}, late, &member{kind: tt.first})
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second) // exceeded if Push waits for the third
			defer cancel()
			out, err := d.Push(ctx, &series.Batch{Tenant: "t", Entries: []series.Entry{interestingSeries(0)}})
			close(release)
			_ = d.Close()
			if err != nil || (len(out.Rejections) > 0) != tt.reject {
				t.Errorf("Push = %+v, %v", out, err)
			}
			if len(late.pushes) != 0 {
				t.Errorf("retried after the response to the request: %q", late.pushes)
			}
		})
	}
}

// TestWaitForThird checks that rejections of two full replicas do not decide before the
// third, which may have the series, responded or timed out.
func TestWaitForThird(t *testing.T) {
	for _, tt := range []struct {
		third kind
		want  fate
	}{{exists, fateAccepted}, {creates, fateRejected}, {full, fateRejected}, {rejects, fateRejected}, {fails, fateRejected}} {
		t.Run(tt.third.String(), func(t *testing.T) {
			var answered sync.WaitGroup
			answered.Add(2)
			first := func(_ context.Context, b *series.Batch) error {
				if !b.Established {
					answered.Done()
				}
				return nil
			}
			third := &member{kind: tt.third, before: func(ctx context.Context, _ *series.Batch) error {
				answered.Wait()
				if tt.third == fails { // hangs
					<-ctx.Done()
					return ctx.Err()
				}
				return nil
			}}
			o := Options{PushTimeout: time.Minute}
			if tt.third == fails {
				o.PushTimeout = 200 * time.Millisecond
			}
			d := trio(o, &member{kind: full, before: first}, third, &member{kind: full, before: first})
			defer d.Close()
			out, err := d.Push(context.Background(), &series.Batch{Tenant: "t",
				Entries: []series.Entry{entryOf(rawLabels("__name__", "other"), at(nowMillis)), interestingSeries(0)}})
			if got := outcomeOf(t, out, err); got != tt.want {
				t.Errorf("fate %d, want %d", got, tt.want)
			}
		})
	}
}

// TestRepeat checks that the entries that a full ingester rejected are repeated once if
// another ingester has their series, without anything else, and that their exemplars count.
func TestRepeat(t *testing.T) {
	fulls := &member{kind: full}
	d := trio(Options{}, &member{kind: fails}, &member{}, fulls)
	b := &series.Batch{Tenant: "t", Metadata: []series.MetricMetadata{{Metric: "up"}}}
	for i := range 100 {
		e := entryOf(rawLabels("__name__", "up", "i", fmt.Sprint(i)), at(nowMillis))
		if i%30 == 7 {
			e = interestingSeries(i)
			e.Exemplars = []exemplar.Exemplar{{Labels: rawLabels("trace", "1"), Value: 1, Ts: nowMillis, HasTs: true}}
		}
		b.Entries = append(b.Entries, e)
	}
	out, err := d.Push(context.Background(), b)
	_ = d.Close()
	if err != nil || out.Samples != 104 || out.Exemplars != 4 || len(out.Rejections) != 0 {
		t.Fatalf("Push = %+v, %v", out, err)
	}
	if want := []string{"7,37,67,97"}; !slices.Equal(fulls.pushes, want) {
		t.Errorf("repeated %q, want %q", fulls.pushes, want)
	}
	for i := range b.Entries {
		if got := len(fulls.held[b.Entries[i].Labels.String()]); got != len(b.Entries[i].Samples) {
			t.Errorf("entry %d has %d samples", i, got)
		}
	}
	for result, m := range map[string]*member{"rejected": {kind: full, repeat: full}, "failed": {kind: full, repeat: fails}} {
		d := trio(Options{}, &member{kind: fails}, &member{}, m)
		_, err := d.Push(context.Background(), &series.Batch{Tenant: "t", Entries: []series.Entry{interestingSeries(0)}})
		_ = d.Close()
		if !errors.Is(err, ErrUnavailable) {
			t.Errorf("%s: error %v, want ErrUnavailable", result, err)
		}
		if n := testutil.ToFloat64(d.established.WithLabelValues("2", result)); n != 1 {
			t.Errorf("%s: counted %v times", result, n)
		}
	}
	if n := testutil.ToFloat64(d.established.WithLabelValues("2", "accepted")); n != 1 {
		t.Errorf("accepted: counted %v times", n)
	}
}

// TestRepeatIsBounded checks that retried pushes are bounded by the request's deadline and
// by the push timeout, and that the memory account has their memory.
func TestRepeatIsBounded(t *testing.T) {
	entries := []series.Entry{interestingSeries(0)}
	t.Run("deadline", func(t *testing.T) {
		for _, limited := range []bool{true, false} {
			var first, got time.Time
			m := &member{kind: full, before: func(ctx context.Context, b *series.Batch) error {
				if b.Established {
					got, _ = ctx.Deadline()
				} else {
					first, _ = ctx.Deadline()
				}
				return nil
			}}
			d := trio(Options{PushTimeout: time.Hour}, &member{}, m, &member{kind: fails})
			begun := time.Now()
			allowed := 2 * time.Hour
			if limited {
				allowed = time.Minute
			}
			ctx, cancel := context.WithTimeout(context.Background(), allowed)
			want, _ := ctx.Deadline()
			_, err := d.Push(ctx, &series.Batch{Tenant: "t", Entries: entries})
			_ = d.Close()
			cancel()
			if err != nil {
				t.Error(err)
			}
			if !limited && (got.Before(begun.Add(time.Hour)) || got.After(time.Now().Add(time.Hour))) || limited && !got.Equal(want) {
				t.Errorf("limited %v: deadline of the retried push is %v", limited, got)
			}
			if first.Before(begun.Add(time.Hour)) { // a first push continues after its request
				t.Errorf("limited %v: the first push ends with its request, at %v", limited, first)
			}
		}
	})
	t.Run("hangs", func(t *testing.T) {
		m := &member{kind: full, before: func(ctx context.Context, b *series.Batch) error {
			if b.Established {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}}
		d := trio(Options{PushTimeout: 200 * time.Millisecond}, &member{}, m, &member{kind: fails})
		defer d.Close()
		if _, err := d.Push(context.Background(), &series.Batch{Tenant: "t", Entries: entries}); !errors.Is(err, ErrUnavailable) {
			t.Errorf("Push = %v, want ErrUnavailable", err)
		}
	})
	t.Run("bytes", func(t *testing.T) {
		account := memory.NewAccount(1<<20, nil)
		held := int64(0)
		m := &member{kind: full}
		m.before = func(_ context.Context, b *series.Batch) error {
			if b.Established {
				held = account.Used()
			}
			return nil
		}
		d := trio(Options{Memory: account}, &member{}, m, &member{kind: fails})
		_, err := d.Push(context.Background(), &series.Batch{Tenant: "t", Entries: entries})
		_ = d.Close()
		if err != nil || len(m.pushes) != 1 || held == 0 {
			t.Errorf("error %v, repeated %q with %d bytes of memory", err, m.pushes, held)
		}
		if used := account.Used(); used != 0 {
			t.Errorf("%d bytes still held", used)
		}
	})
}
