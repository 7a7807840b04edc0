package ingester

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/wal/waltest"
	"github.com/palliumhq/pallium/policies/limits"
)

// newFaultyBench returns a bench whose log is on a disk with injected faults.
func newFaultyBench(t *testing.T, replicas int) (*bench, *waltest.Disk) {
	t.Helper()
	disk := &waltest.Disk{}
	b := &bench{t: t, dir: t.TempDir(), lim: limits.Default(), replicas: replicas, logDisk: disk}
	b.set(time.UnixMilli(1_700_000_000_000))
	b.open()
	t.Cleanup(func() { _ = b.ing.Close() })
	return b, disk
}

// cutPower ends the ingester as a power loss does and opens its directory again.
func (b *bench) cutPower(disk *waltest.Disk) {
	b.t.Helper()
	old := b.ing
	old.background.Stop()
	b.must(disk.CutPower())
	b.open()
	_ = old.packs.close()
}

// TestAcknowledgedIsDurable checks that without replicas, acknowledged samples survive an
// immediate power loss.
func TestAcknowledgedIsDurable(t *testing.T) {
	b, disk := newFaultyBench(t, 1)
	now := b.now.UnixMilli()
	for i := range int64(3) {
		b.push("a", entry(metric("m"), f(now+i, float64(i))))
	}
	b.cutPower(disk)
	b.checkSamples(map[string]map[int64]float64{metric("m").String(): {now: 0, now + 1: 1, now + 2: 2}})
}

// TestReplicasSyncEverySecond checks that with replicas, pushes do not wait for a
// sync, and that the log is synced soon afterwards.
func TestReplicasSyncEverySecond(t *testing.T) {
	b, disk := newFaultyBench(t, 3)
	now := b.now.UnixMilli()
	b.ing.sealMu.Lock() // prevents seals, which sync too
	b.push("a", entry(metric("m"), f(now, 1)))
	deadline := time.Now().Add(20 * time.Second)
	for disk.Syncs() == 0 && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	b.ing.sealMu.Unlock()
	if disk.Syncs() == 0 {
		t.Fatal("the log was not synced")
	}
	b.cutPower(disk)
	b.checkSamples(map[string]map[int64]float64{metric("m").String(): {now: 1}})
}

// TestPowerLoss checks that with syncs that fail once, often or always, seals,
// checkpoints and borders of windows, all acknowledged samples exist after each
// power loss, and no samples that were not sent. A disk that lies may lose data that
// it reported as synced; then the remaining samples can be read, and the start
// succeeds.
func TestPowerLoss(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			b, disk := newFaultyBench(t, 1)
			rng := rand.New(rand.NewPCG(seed, 11))
			acked, sent := map[string]map[int64]float64{}, map[string]map[int64]float64{}
			lied := false
			for step := range 150 {
				switch rng.IntN(30) {
				case 0:
					disk.FailSyncs(1 + rng.IntN(3))
				case 1:
					disk.FailSyncs(-1)
				case 2:
					disk.FailSyncs(0)
				case 3:
					if seed%3 == 2 {
						lied = true
						disk.Lie(rng.IntN(2) == 0)
					}
				case 4:
					b.set(b.now.Add(time.Duration(rng.IntN(100)) * time.Minute))
				case 5:
					_ = b.ing.sealDue() //nolint:errcheck // a seal may fail with the disk
				case 6:
					_ = b.ing.Flush() //nolint:errcheck // a seal may fail with the disk
				case 7:
					b.set(b.now.Add(checkpointAfter))
					_ = b.ing.labels.checkpoint(t.Context()) //nolint:errcheck // as above
				case 8:
					disk.FailSyncs(0)
					b.cutPower(disk)
					b.checkPowerLoss(acked, sent, lied)
				default:
					ls, at := metric("m", "i", fmt.Sprint(rng.IntN(15))), b.now.UnixMilli()+int64(step)
					note(sent, ls, at, float64(step))
					if _, err := b.ing.Push(context.Background(), &series.Batch{Tenant: "a", Entries: []series.Entry{entry(ls, f(at, float64(step)))}}); err == nil {
						note(acked, ls, at, float64(step))
					}
				}
			}
			disk.FailSyncs(0)
			b.cutPower(disk)
			b.checkPowerLoss(acked, sent, lied)
		})
	}
}

func note(set map[string]map[int64]float64, ls labels.Labels, at int64, v float64) {
	if set[ls.String()] == nil {
		set[ls.String()] = map[int64]float64{}
	}
	set[ls.String()][at] = v
}

// checkPowerLoss checks that every sample read was sent and, unless the disk lied,
// that every acknowledged sample is read. If the disk lied, checkPowerLoss first accepts
// the losses, which would fail the reads.
func (b *bench) checkPowerLoss(acked, sent map[string]map[int64]float64, lied bool) {
	b.t.Helper()
	if lied {
		for day := range int64(3) {
			if _, err := b.ing.AcceptLoss(series.Day(b.now.UnixMilli()) - day); err != nil {
				b.t.Fatal(err)
			}
		}
	}
	got := b.read("a")
	for name, list := range got {
		for _, s := range list {
			if v, ok := sent[name][s.T]; !ok || v != s.V {
				b.t.Fatalf("%s at %d is %v; sent: %v, %v", name, s.T, s.V, ok, v)
			}
		}
	}
	if lied {
		return
	}
	for name, samples := range acked {
		there := map[int64]bool{}
		for _, s := range got[name] {
			there[s.T] = true
		}
		for at := range samples {
			if !there[at] {
				b.t.Fatalf("%s at %d was acknowledged and is missing", name, at)
			}
		}
	}
}

// TestExemplarsAfterRestart checks that exemplars exist after a crash, after seals
// that delete the log, and after several of both: each once, and the newest if
// there are more than the limit.
func TestExemplarsAfterRestart(t *testing.T) {
	b := newBench(t)
	b.lim.MaxExemplars = 20
	var want []string
	push := func() {
		for range 3 {
			b.set(b.now.Add(time.Second))
			e := entry(metric("m", "i", fmt.Sprint(len(want)%2)), f(b.now.UnixMilli(), 1))
			e.Exemplars = []exemplar.Exemplar{{Labels: labels.FromStrings("trace_id", fmt.Sprint(len(want))), Value: float64(len(want)), Ts: b.now.UnixMilli(), HasTs: true}}
			b.push("a", e)
			want = append(want, fmt.Sprint(len(want)))
		}
	}
	check := func(when string) {
		t.Helper()
		got, err := b.ing.Exemplars(t.Context(), "a", 0, series.MaxTime, [][]*labels.Matcher{{labels.MustNewMatcher(labels.MatchEqual, "__name__", "m")}})
		if err != nil {
			t.Fatal(err)
		}
		there, n := map[string]bool{}, 0
		for _, of := range got {
			for _, e := range of.Exemplars {
				there[e.Labels.Get("trace_id")] = true
				n++
			}
		}
		newest := want[max(0, len(want)-20):]
		if n != len(newest) {
			t.Errorf("%s: %d exemplars, want %d", when, n, len(newest))
		}
		for _, id := range newest {
			if !there[id] {
				t.Errorf("%s: exemplar %s is missing", when, id)
			}
		}
	}
	for round := range 4 {
		push()
		b.crash()
		check(fmt.Sprint("after a crash, round ", round))
		push()
		b.must(b.ing.Flush())
		push()
		b.must(b.ing.Flush())
		b.crash()
		check(fmt.Sprint("after a flush and a crash, round ", round))
		b.must(b.ing.Close())
		b.open()
		check(fmt.Sprint("after a restart, round ", round))
		b.set(b.now.Add(3 * time.Hour))
		b.must(b.ing.sealDue())
		b.crash()
		check(fmt.Sprint("after sealing a window, round ", round))
	}
}

// TestExemplarOrder checks Prometheus' rules for a series' exemplars: an equal one
// is a duplicate, an older one is dropped, and several at one timestamp must have
// ascending values.
func TestExemplarOrder(t *testing.T) {
	var r exemplarRing
	ls := metric("m")
	at := func(ts int64, v float64, id string) exemplar.Exemplar {
		return exemplar.Exemplar{Labels: labels.FromStrings("trace_id", id), Value: v, Ts: ts, HasTs: true}
	}
	for _, c := range []struct {
		name string
		ls   labels.Labels
		e    exemplar.Exemplar
		want bool
		size int
	}{
		{"the first", ls, at(10, 1, "a"), true, 1},
		{"again", ls, at(10, 1, "a"), true, 1},
		{"older", ls, at(9, 1, "b"), false, 1},
		{"a larger value", ls, at(10, 2, "c"), true, 2},
		{"a smaller value", ls, at(10, 1.5, "d"), false, 2},
		{"older, of another series", metric("other"), at(9, 1, "b"), true, 3},
		{"newer", ls, at(11, 0, "e"), true, 4},
		{"a recent one again", ls, at(10, 2, "c"), true, 4},
	} {
		if got, _ := r.add(c.ls, c.e, 100); got != c.want || len(r.ring) != c.size {
			t.Errorf("%s: add = %v, %d exemplars in the ring; want %v, %d", c.name, got, len(r.ring), c.want, c.size)
		}
	}
	for i := range int64(500) { // the ring wraps around; the state of dropped exemplars must be removed
		r.add(metric("m", "i", fmt.Sprint(i%150)), at(1000+i, 0, "x"), 100)
	}
	total := int32(0)
	for hash, known := range r.newest {
		total += known.count
		if r.ring[known.last].series.Hash() != hash {
			t.Errorf("the newest exemplar of a series belongs to another one")
		}
	}
	if int(total) != len(r.ring) || len(r.newest) != 100 {
		t.Errorf("counted %d exemplars of %d series, want 100 series; the ring has %d exemplars", total, len(r.newest), len(r.ring))
	}
}
