package pebble

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/rows/rowtest"
)

func TestContract(t *testing.T) {
	rowtest.Run(t, func(t *testing.T) rows.Store {
		s, err := Open("rows", Options{FS: vfs.NewMem(), CacheBytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

func TestReopen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "rows")
	ctx := context.Background()
	for i := range 3 {
		s, err := Open(dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		if err := s.ReadRows(ctx, []rows.Range{{}}, rows.Filter{}, func(rows.Row) bool { n++; return true }); err != nil {
			t.Fatal(err)
		}
		if n != i {
			t.Fatalf("%d rows at start %d", n, i)
		}
		m := rows.RowMutation{Key: strings.Repeat("k", i+1), Mutations: []rows.Mutation{rows.Set(rows.System, "q", 1, nil)}}
		if err := s.Mutate(ctx, m); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCrash checks that all successful writes exist after a crash that loses all data that was not
// synced.
func TestCrash(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s, err := Open("db", Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	ctx, set := context.Background(), []rows.Mutation{rows.Set(rows.System, "q", 1, []byte("v"))}
	if err := s.Mutate(ctx, rows.RowMutation{Key: "a", Mutations: set}); err != nil {
		t.Fatal(err)
	}
	if errs := s.MutateRows(ctx, []rows.RowMutation{{Key: "b", Mutations: set}, {Key: "gone/1", Mutations: set}}); errs != nil {
		t.Fatal(errs)
	}
	if ok, err := s.CheckAndMutate(ctx, "c", rows.Absent(rows.System, "q"), set, nil); !ok || err != nil {
		t.Fatalf("CheckAndMutate = %t, %v", ok, err)
	}
	if err := s.DeletePrefix(ctx, "gone/"); err != nil {
		t.Fatal(err)
	}
	after := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 0})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, err = Open("db", Options{FS: after})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var got string
	if err := s.ReadRows(ctx, []rows.Range{{}}, rows.Filter{}, func(r rows.Row) bool { got += r.Key; return true }); err != nil {
		t.Fatal(err)
	}
	if got != "abc" {
		t.Errorf("rows after the crash: %q, want abc", got)
	}
}

func TestUnknownLayout(t *testing.T) {
	fs := vfs.NewMem()
	s, err := Open("db", Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.db.Set(formatKey, []byte("pallium rows 9"), nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second attempt shows that the lock was released
		if _, err := Open("db", Options{FS: fs}); err == nil || !strings.Contains(err.Error(), "pallium rows 9") {
			t.Errorf("open: %v", err)
		}
	}
}

// TestLocked checks that a store that is open cannot be opened again, neither in the same process nor
// in another one, which is this test binary.
func TestLocked(t *testing.T) {
	if dir := os.Getenv("PALLIUM_TEST_LOCKED_DIR"); dir != "" {
		if s, err := Open(dir, Options{}); err == nil {
			_ = s.Close()
			t.Fatal("the other process could open the store")
		} else if !strings.Contains(err.Error(), "in use") || !strings.Contains(err.Error(), dir) {
			t.Fatalf("Open of a locked store: %v, want an error with the directory", err)
		}
		return
	}
	dir := t.TempDir()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := Open(dir, Options{}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("same process: %v", err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestLocked$")
	cmd.Env = append(os.Environ(), "PALLIUM_TEST_LOCKED_DIR="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("other process: %v\n%s", err, out)
	}
}

func FuzzKey(f *testing.F) {
	f.Add([]byte("a\x00\x01sq\x00\x01\xff\xff\xff\xff\xff\xff\xff\xff"))
	f.Add([]byte("a\x00\xffb\x00\x01x\x00\x01\x80\x00\x00\x00\x00\x00\x00\x00"))
	f.Add([]byte{0})
	f.Fuzz(func(t *testing.T, key []byte) {
		row, rest, err := splitRow(key)
		if err != nil {
			return
		}
		fam, q, ms, err := decodeCell(rest)
		if err != nil {
			return
		}
		if back := cellKey(rowPrefix(unescape(row)), fam, q, ms); !bytes.Equal(back, key) {
			t.Errorf("key %q was decoded and encoded as %q", key, back)
		}
	})
}

func FuzzKeyOrder(f *testing.F) {
	f.Add("a", "a\x00", "q", "q\x00")
	f.Fuzz(func(t *testing.T, r1, r2, q1, q2 string) {
		a, b := cellKey(rowPrefix(r1), rows.Data, q1, 1), cellKey(rowPrefix(r2), rows.Data, q2, 1)
		want := strings.Compare(r1, r2)
		if want == 0 {
			want = strings.Compare(q1, q2)
		}
		if got := bytes.Compare(a, b); got != want {
			t.Errorf("%q %q against %q %q: %d, want %d", r1, q1, r2, q2, got, want)
		}
	})
}
