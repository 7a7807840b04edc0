package ingester

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/series"
)

// packFiles lists all files below the directory of local packs.
func (b *bench) packFiles() []string {
	b.t.Helper()
	var out []string
	dir := filepath.Join(b.dir, "l0")
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out = append(out, strings.TrimPrefix(path, dir))
		}
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

// windowAndLate pushes samples that a seal writes into two packs.
func (b *bench) windowAndLate() map[string][]series.Sample {
	b.t.Helper()
	now, late := b.now.UnixMilli(), b.now.UnixMilli()-3*series.WindowMillis
	b.push("a", entry(metric("x"), f(late, 1), f(now, 2)))
	b.push("b", entry(metric("y"), f(late, 3), f(now, 4)))
	return map[string][]series.Sample{metric("x").String(): {f(late, 1), f(now, 2)}}
}

// TestFailedSeal checks that after a failed seal the head is as before, the next
// seal succeeds, and no unused file is left.
func TestFailedSeal(t *testing.T) {
	window := func(b *bench) string {
		return filepath.Join(b.dir, "l0", fmt.Sprint(series.Day(series.WindowStart(b.now.UnixMilli()))))
	}
	late := func(b *bench) string { return filepath.Join(b.dir, "l0", "late") }
	for name, blocked := range map[string]func(*bench) string{"first pack": window, "second pack": late} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			want := b.windowAndLate()
			if err := os.WriteFile(blocked(b), nil, 0o600); err != nil { // instead of a directory
				t.Fatal(err)
			}
			for range 2 {
				if err := b.ing.Flush(); err == nil {
					t.Fatal("the seal succeeded without a directory for its packs")
				}
				same(t, "after a failed seal", b.read("a"), want)
			}
			if err := os.Remove(blocked(b)); err != nil {
				t.Fatal(err)
			}
			if files := b.packFiles(); len(files) != 0 {
				t.Errorf("files left by the failed seals: %q", files)
			}
			again := f(b.now.UnixMilli()+1, 5)
			b.push("a", entry(metric("x"), again))
			want[metric("x").String()] = append(want[metric("x").String()], again)
			same(t, "pushed after a failed seal", b.read("a"), want)
			if err := b.ing.Flush(); err != nil {
				t.Fatal(err)
			}
			same(t, "sealed", b.read("a"), want)
			if n := b.ing.heads()[0].all()[0].hasData(math.MinInt64, math.MaxInt64); n {
				t.Error("the head still has the sealed samples")
			}
			b.crash()
			same(t, "after a restart", b.read("a"), want)
		})
	}
}

// TestFailedClose checks that if the last pack of a seal cannot be completed, the
// earlier ones are removed too and all samples are in the head again.
func TestFailedClose(t *testing.T) {
	for name, breakIt := range map[string]func(tmp string) error{
		"written file was removed": os.Remove,
		"name is a directory": func(tmp string) error {
			return os.Mkdir(strings.TrimSuffix(tmp, pack.TemporarySuffix), 0o700)
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			want := b.windowAndLate()
			broken := false
			s := &sealer{ing: b.ing, sealTimes: sealTimes{window: series.WindowStart(b.now.UnixMilli()), bound: endOfTime, far: endOfTime}}
			s.deletions = func(tenant.ID) uint64 {
				if tmp, _ := filepath.Glob(filepath.Join(b.dir, "l0", "late", "*"+pack.TemporarySuffix)); len(tmp) == 1 && !broken {
					broken = true
					if err := breakIt(tmp[0]); err != nil {
						t.Fatal(err)
					}
				}
				return 0
			}
			err := s.write()
			if err == nil || !broken || len(s.paths) != 2 {
				t.Fatalf("error %v, second pack broken: %v, packs %q; want an error, true and 2 packs", err, broken, s.paths)
			}
			_ = s.giveUp() // its error is ignored: it depends on whether the written file exists
			if files := b.packFiles(); len(files) != 0 {
				t.Errorf("files left by the failed seal: %q", files)
			}
			same(t, "after a failed seal", b.read("a"), want)
			if err := b.ing.Flush(); err != nil {
				t.Fatal(err)
			}
			same(t, "sealed", b.read("a"), want)
		})
	}
}

// stepContext calls a function at a given call of Err.
type stepContext struct {
	context.Context
	asked, at int
	call      func()
}

func (c *stepContext) Err() error {
	if c.asked++; c.asked == c.at {
		c.call()
	}
	return nil
}

// TestSealAtEachStepOfARead moves samples from the head into a pack at each step of
// a read, which must still return all of them.
func TestSealAtEachStepOfARead(t *testing.T) {
	all := []string{"in_head", "in_pack"}
	matcher := labels.MustNewMatcher(labels.MatchRegexp, "__name__", "in_.*")
	reads := map[string]func(*bench, context.Context, series.Request) ([]string, error){
		"select": func(b *bench, ctx context.Context, req series.Request) ([]string, error) {
			sel, _, err := b.ing.Select(ctx, req)
			if err != nil {
				return nil, err
			}
			defer sel.Release()
			var out []string
			for _, s := range sel.Series {
				if !req.LabelsOnly && len(s.Chunks) == 0 {
					t.Errorf("series %s has no chunks", s.Labels)
				}
				out = append(out, s.Labels.Get("__name__"))
			}
			slices.Sort(out)
			return out, nil
		},
		"label values": func(b *bench, ctx context.Context, req series.Request) ([]string, error) {
			values, _, err := b.ing.LabelValues(ctx, "__name__", req)
			return values, err
		},
		"label names": func(b *bench, ctx context.Context, req series.Request) ([]string, error) {
			names, _, err := b.ing.LabelNames(ctx, req)
			return slices.DeleteFunc(names, func(n string) bool { return n == "__name__" }), err
		},
	}
	for name, read := range reads {
		for _, req := range []series.Request{{}, {LabelsOnly: true}, {Matchers: []*labels.Matcher{matcher}}} {
			for at, asked := 1, 1; at <= asked; at++ {
				b := newBench(t)
				now := b.now.UnixMilli()
				b.push("a", entry(metric("in_pack", "in_pack", "1"), f(now, 1)))
				if err := b.ing.Flush(); err != nil {
					t.Fatal(err)
				}
				b.push("a", entry(metric("in_head", "in_head", "1"), f(now, 1)))
				ctx := &stepContext{Context: context.Background(), at: at, call: func() {
					if err := b.ing.Flush(); err != nil {
						t.Error(err)
					}
				}}
				req.Tenant, req.MaxTime = "a", now+1000
				got, err := read(b, ctx, req)
				if err != nil || !slices.Equal(got, all) {
					t.Errorf("%s, matchers %v, labels only %v, sealed at step %d: %q, %v, want %q", name, req.Matchers, req.LabelsOnly, at, got, err, all)
				}
				asked = ctx.asked
				if asked == 0 {
					t.Fatalf("%s never checks its context: the test covers nothing", name)
				}
				_ = b.ing.Close()
			}
		}
	}
}

// TestDamagedSealLog checks that a list of seals that cannot be decoded counts as absent and is
// removed, because a new log could reuse the segment numbers that it names, and its samples would
// count as sealed.
func TestDamagedSealLog(t *testing.T) {
	for _, content := range []string{"", "[", "\x00\x00", `{"before_segment":7}`, `[{"before_segment":"x"}]`} {
		for _, withLog := range []bool{true, false} {
			t.Run(fmt.Sprintf("%q log %v", content, withLog), func(t *testing.T) {
				b := newBench(t)
				now, ls := b.now.UnixMilli(), metric("a")
				b.push("a", entry(ls, f(now-series.WindowMillis, 1), f(now, 2)))
				if err := b.ing.seal(series.WindowStart(now)); err != nil {
					t.Fatal(err)
				}
				if err := b.ing.Close(); err != nil {
					t.Fatal(err)
				}
				path := filepath.Join(b.dir, "sealed.json")
				if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
				want := []series.Sample{f(now-series.WindowMillis, 1), f(now, 2)}
				if !withLog {
					if err := os.RemoveAll(filepath.Join(b.dir, "wal")); err != nil {
						t.Fatal(err)
					}
					want = want[:1]
				}
				b.open()
				if _, err := os.Stat(path); err == nil {
					t.Error("the damaged file was not removed")
				}
				late := f(now-series.WindowMillis+1, 3)
				b.push("a", entry(ls, late))
				want = slices.Insert(want, 1, late)
				for what, step := range map[string]func(){"crash": b.crash, "seal": func() {
					if err := b.ing.Flush(); err != nil {
						t.Fatal(err)
					}
				}} {
					step()
					same(t, "after "+what, b.read("a"), map[string][]series.Sample{ls.String(): want})
				}
			})
		}
	}
}

// TestLeftoversAreRemoved checks that incomplete files of a crash are removed at
// the next start.
func TestLeftoversAreRemoved(t *testing.T) {
	b, _ := withLongTerm(t)
	want := b.windowAndLate()
	if err := b.ing.Flush(); err != nil {
		t.Fatal(err)
	}
	upload(t, b)
	files := b.packFiles()
	for _, path := range files {
		for _, suffix := range []string{".tmp", "x" + uploadedSuffix} {
			if strings.HasSuffix(path, pack.Suffix) || suffix == ".tmp" {
				if err := os.WriteFile(filepath.Join(b.dir, "l0", path+suffix), []byte("x"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	b.crash()
	if left := b.packFiles(); !slices.Equal(left, files) {
		t.Errorf("files %q, want %q", left, files)
	}
	same(t, "after the crash", b.read("a"), want)
	if got := slices.Collect(maps.Keys(b.read("b"))); len(got) != 1 {
		t.Errorf("series of b: %q", got)
	}
}

func FuzzSealLog(f *testing.F) {
	f.Add([]byte(`[{"before_segment":7,"before_time_ms":1700000000000,"from_time_ms":1800000000000}]`))
	f.Add([]byte(``))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "sealed.json")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := openSealLog(path)
		if err != nil {
			t.Fatal(err)
		}
		if l.damage != nil && (len(l.seals) != 0 || l.firstSegment() != 0) {
			t.Errorf("damaged list of seals: seals = %v, first segment %d, want none", l.seals, l.firstSegment())
		}
	})
}
