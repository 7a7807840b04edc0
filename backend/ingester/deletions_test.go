package ingester

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
)

// deletion returns a deletion of all samples of a metric up to a time.
func deletion(number uint64, name string, maxt int64) schema.Tombstone {
	ts := schema.NewTombstone(number, 0, maxt, [][]*labels.Matcher{{labels.MustNewMatcher(labels.MatchEqual, "__name__", name)}}, maxt)
	ts.State = schema.Active
	return ts
}

// names checks the series of tenant a, by Select and by label values.
func (b *bench) names(what string, want ...string) {
	b.t.Helper()
	if got := slices.Sorted(maps.Keys(b.read("a"))); !slices.Equal(got, want) {
		b.t.Errorf("%s: series %q, want %q", what, got, want)
	}
	values, _, err := b.ing.LabelValues(context.Background(), "__name__", series.Request{Tenant: "a", MaxTime: b.now.UnixMilli() + 1000})
	if err != nil || len(values) != len(want) {
		b.t.Errorf("%s: metrics %q, error %v; want %d metrics", what, values, err, len(want))
	}
}

func (b *bench) delete(l *longTerm, ts schema.Tombstone) {
	b.t.Helper()
	if err := b.ing.Delete("a", ts); err != nil {
		b.t.Fatal(err)
	}
	l.change(func() { l.deletions["a"] = append(l.deletions["a"], ts) })
}

// knownOf returns the number of tenant a's deletions with matchers, and checks that
// memory and file agree.
func (b *bench) knownOf() int {
	b.t.Helper()
	of, err := b.ing.deletions.of("a")
	if err != nil {
		b.t.Fatal(err)
	}
	set, damage, err := openDeletions(filepath.Join(b.dir, "deletions.json"))
	if err != nil || damage != nil {
		b.t.Fatalf("openDeletions: error %v, damage %v", err, damage)
	}
	stored := set.byTenant["a"]
	if len(stored.known) != len(of.known) || stored.last != of.last || !slices.Equal(stored.pruned, of.pruned) {
		b.t.Errorf("the file has %d deletions up to %d, pruned %v; memory has %d up to %d, pruned %v", len(stored.known), stored.last, stored.pruned, len(of.known), of.last, of.pruned)
	}
	return len(of.known)
}

func (b *bench) expire() {
	b.t.Helper()
	if err := b.ing.Sweep(); err != nil {
		b.t.Fatal(err)
	}
}

// TestDamagedDeletions checks that an ingester with a damaged file rejects reads
// and seals until the deletions are loaded from the long-term store. Then the
// deletions apply, and samples pushed after them exist.
func TestDamagedDeletions(t *testing.T) {
	for _, content := range []string{"", "{", "null", `{"a":7}`, `{"a":{"last":1,"pruned":[[3,2]]}}`, `{"a":[{"sets":[["="]]}]}`, "\x00\x00\x00\x00"} {
		t.Run(fmt.Sprintf("%q", content), func(t *testing.T) {
			b, l := withLongTerm(t)
			now := b.now.UnixMilli()
			b.push("a", entry(metric("gone"), f(now, 1)), entry(metric("kept"), f(now, 1)))
			b.delete(l, deletion(1, "gone", now+100))
			b.push("a", entry(metric("gone"), f(now+1, 2)))
			if err := os.WriteFile(filepath.Join(b.dir, "deletions.json"), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			b.crash()
			req := series.Request{Tenant: "a", MaxTime: now + 1000}
			_, _, err := b.ing.Select(context.Background(), req)
			_, _, namesErr := b.ing.LabelNames(context.Background(), req)
			_, _, valuesErr := b.ing.LabelValues(context.Background(), "__name__", req)
			for what, err := range map[string]error{"select": err, "names": namesErr, "values": valuesErr, "flush": b.ing.Flush()} {
				if !errors.Is(err, ErrDeletionsUnknown) {
					t.Errorf("%s while the deletions are unknown: %v", what, err)
				}
			}
			l.failWith(errors.New("not now"))
			if err := b.ing.LearnDeletions(context.Background(), []tenant.ID{"a"}); !errors.Is(err, l.fail) {
				t.Errorf("LearnDeletions: %v", err)
			}
			if _, _, err := b.ing.Select(context.Background(), req); !errors.Is(err, ErrDeletionsUnknown) {
				t.Errorf("select after a failed LearnDeletions: %v", err)
			}
			l.failWith(nil)
			if err := b.ing.LearnDeletions(context.Background(), []tenant.ID{"a"}); err != nil {
				t.Fatal(err)
			}
			check := func(what string) {
				t.Helper()
				same(t, what, b.read("a"), map[string][]series.Sample{metric("gone").String(): {f(now+1, 2)}, metric("kept").String(): {f(now, 1)}})
			}
			check("loaded")
			if err := b.ing.Flush(); err != nil {
				t.Fatal(err)
			}
			check("sealed")
			b.crash()
			check("after another start")
		})
	}
}

// TestNumberAfterDamage checks that sections sealed after the file was damaged have
// no lower number than sections sealed before, although the long-term store does
// not list the deletion.
func TestNumberAfterDamage(t *testing.T) {
	b, _ := withLongTerm(t)
	now := b.now.UnixMilli()
	if err := b.ing.Delete("a", deletion(7, "gone", now)); err != nil {
		t.Fatal(err)
	}
	b.push("a", entry(metric("x"), f(now, 1)))
	if err := b.ing.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(b.dir, "deletions.json"), 0); err != nil {
		t.Fatal(err)
	}
	b.crash()
	if err := b.ing.LearnDeletions(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	if n := b.ing.deletions.number("a"); n != 7 {
		t.Errorf("number %d, want 7", n)
	}
}

// TestLearnDeletions checks that deletions made while the ingester was unavailable
// apply to its data, and that known deletions, including pruned ones, do not cause
// another seal.
func TestLearnDeletions(t *testing.T) {
	b, l := withLongTerm(t)
	now := b.now.UnixMilli()
	b.push("a", entry(metric("gone"), f(now, 1)), entry(metric("kept"), f(now, 1)))
	l.change(func() {
		l.deletions["a"] = []schema.Tombstone{deletion(1, "gone", now+100), deletion(2, "other", now+100)}
	})
	learn := func() {
		t.Helper()
		if err := b.ing.LearnDeletions(context.Background(), []tenant.ID{"a", "b"}); err != nil {
			t.Fatal(err)
		}
	}
	learn()
	kept, gone := metric("kept").String(), metric("gone").String()
	b.names("loaded", kept)
	b.push("a", entry(metric("gone"), f(now+1, 2)))
	packs := len(b.ing.packs.choose(func(*localPack) bool { return true }))
	learn()
	b.names("pushed again", gone, kept)
	all := b.ing.packs.choose(func(*localPack) bool { return true })
	if len(all) != packs {
		t.Errorf("loading known deletions caused a seal: %d packs, want %d", len(all), packs)
	}
	if err := b.ing.packs.drop(all[0]); err != nil {
		t.Fatal(err)
	}
	packs--
	b.expire() // prunes, because no pack is older than the deletions
	if n := b.knownOf(); n != 0 {
		t.Fatalf("%d deletions are known with their matchers, want 0", n)
	}
	b.crash()
	learn()
	b.names("after pruning, a restart and loading", gone)
	if got := len(b.ing.packs.choose(func(*localPack) bool { return true })); got != packs {
		t.Errorf("loading pruned deletions caused a seal: %d packs, want %d", got, packs)
	}
}

// TestPruneDeletions checks that a deletion is kept while a pack needs it, and that
// sections sealed later have its number.
func TestPruneDeletions(t *testing.T) {
	b, l := withLongTerm(t)
	now := b.now.UnixMilli()
	b.push("a", entry(metric("gone"), f(now, 1)), entry(metric("kept"), f(now, 1)))
	b.push("b", entry(metric("gone"), f(now, 1)))
	b.delete(l, deletion(1, "gone", now+100))
	b.expire()
	if n := b.knownOf(); n != 1 {
		t.Fatalf("%d deletions are known, want the one that the pack needs", n)
	}
	// Deletions that no local data needs are pruned: this tenant's pack is dropped.
	b.push("b", entry(metric("x"), f(now, 1))) // another tenant's older pack does not count
	if err := b.ing.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, lp := range b.ing.packs.choose(func(lp *localPack) bool { return numberOf(lp.reader.Info(), "a") == 0 }) {
		if len(lp.reader.Info().Sections) == 2 {
			if err := b.ing.packs.drop(lp); err != nil {
				t.Fatal(err)
			}
		}
	}
	for n := uint64(2); n <= 300; n++ { // without matching samples: their number must not grow
		b.delete(l, deletion(n, "gone", now+100))
	}
	b.expire()
	if n := b.knownOf(); n != 0 {
		t.Errorf("%d deletions are known, want 0", n)
	}
	if st, err := os.Stat(filepath.Join(b.dir, "deletions.json")); err != nil || st.Size() > 200 {
		t.Errorf("the file has %d bytes, %v", st.Size(), err)
	}
	for n := uint64(1); n <= 300; n++ {
		if !b.ing.deletions.knows("a", n) {
			t.Fatalf("deletion %d is unknown", n)
		}
	}
	b.push("a", entry(metric("gone"), f(now+1, 2)))
	if err := b.ing.Flush(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if n := b.ing.deletions.number("a"); n != 300 {
			t.Errorf("number %d, want 300", n)
		}
		b.names("after pruning", metric("gone").String())
		b.crash()
	}
	b.delete(l, deletion(301, "gone", now+100))
	b.names("deleted again")
}

// TestPruneKeepsForFiles checks that a deletion is kept while a series set aside
// has a lower number.
func TestPruneKeepsForFiles(t *testing.T) {
	b, l := withLongTerm(t)
	now := b.now.UnixMilli()
	b.delete(l, deletion(1, "gone", now+100))
	b.delete(l, deletion(2, "gone", now+100))
	for _, test := range []struct {
		file *asideFile
		want int
	}{
		{&asideFile{path: "1", tenant: "a", deletion: 1}, 1},
		{&asideFile{path: "2", tenant: "a", damage: errors.New("damaged")}, 1},
		{&asideFile{path: "3", tenant: "b"}, 0},
	} {
		b.ing.aside.put(test.file)
		if err := b.ing.pruneDeletions(); err != nil {
			t.Fatal(err)
		}
		if n := b.knownOf(); n != test.want {
			t.Errorf("with file %s, %d deletions are known, want %d", test.file.path, n, test.want)
		}
		b.ing.aside.mu.Lock()
		delete(b.ing.aside.files["a"], test.file.path)
		b.ing.aside.mu.Unlock()
	}
}

// TestReadDuringPrune checks that a read in progress keeps the deletions that it
// needs, although the pack is removed and the deletions are pruned before the pack
// is read.
func TestReadDuringPrune(t *testing.T) {
	b, l := withLongTerm(t)
	now := b.now.UnixMilli()
	b.push("a", entry(metric("gone"), f(now, 1)), entry(metric("kept"), f(now, 1)))
	b.delete(l, deletion(1, "gone", now+100))
	deleted, err := b.ing.deletions.of("a")
	if err != nil {
		t.Fatal(err)
	}
	readers := b.ing.packs.retain("a", 0, now+1000)
	if _, err := b.ing.packs.removeIf(func(*localPack) bool { return true }); err != nil {
		t.Fatal(err)
	}
	b.expire()
	if n := b.knownOf(); n != 0 {
		t.Fatalf("%d deletions are known, want 0", n)
	}
	req := series.Request{Tenant: "a", MaxTime: now + 1000}
	j := series.NewJoiner(0, memory.FromContext(context.Background()))
	for _, r := range readers {
		if err := selectPack(context.Background(), r, req, deleted, j); err != nil {
			t.Fatal(err)
		}
		_ = r.Release()
	}
	if out := j.Series(); len(out) != 1 || out[0].Labels.Get("__name__") != "kept" {
		t.Errorf("series %v, want only the one that was not deleted", out)
	}
}

// TestOldDeletionsFile checks that lists of deletions as older versions wrote them
// can be read.
func TestOldDeletionsFile(t *testing.T) {
	b, l := withLongTerm(t)
	now := b.now.UnixMilli()
	b.push("a", entry(metric("gone"), f(now, 1)), entry(metric("kept"), f(now, 1)))
	b.delete(l, deletion(3, "gone", now+100))
	data, err := json.Marshal(map[tenant.ID][]schema.Tombstone{"a": l.deletions["a"]})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.dir, "deletions.json"), data, 0o640); err != nil {
		t.Fatal(err)
	}
	b.crash()
	b.names("with the file of an older version", metric("kept").String())
	if n := b.ing.deletions.number("a"); n != 3 {
		t.Errorf("number %d, want 3", n)
	}
}

func TestNumberSet(t *testing.T) {
	var s numberSet
	for _, n := range []uint64{5, 1, 3, 2, 9, 4, 4, 8, 6} {
		s = s.with(n)
	}
	if want := (numberSet{{1, 6}, {8, 9}}); !slices.Equal(s, want) {
		t.Errorf("set %v, want %v", s, want)
	}
	for n := range uint64(12) {
		if got, want := s.has(n), n >= 1 && n <= 6 || n == 8 || n == 9; got != want {
			t.Errorf("has(%d) = %v", n, got)
		}
	}
}

func FuzzDeletionsFile(f *testing.F) {
	f.Add([]byte(`{"a":{"last":7,"pruned":[[1,5]],"deletions":[]},"b":[]}`))
	f.Add([]byte(`{"a":{"last":7,"pruned":[[5,1],[2,9]]}}`))
	data, err := json.Marshal(map[tenant.ID]any{"a": []schema.Tombstone{deletion(1, "x", time.Now().UnixMilli())}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := decodeDeletions(data)
		if err != nil {
			return
		}
		first, err := json.Marshal(storedDeletions(all))
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodeDeletions(first)
		if err != nil {
			t.Fatalf("%s cannot be decoded: %v", first, err)
		}
		second, err := json.Marshal(storedDeletions(again))
		if err != nil || !bytes.Equal(first, second) {
			t.Errorf("%s became %s, %v", first, second, err)
		}
	})
}
