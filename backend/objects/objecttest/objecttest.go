// Package objecttest tests the contract of objects.Store. Every adapter must pass it, and callers may
// rely only on behavior that it tests.
package objecttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/palliumhq/pallium/backend/disk"
	"github.com/palliumhq/pallium/backend/objects"
)

// Run runs the tests. `open` returns a new, empty store that accepts names beginning with l0/ or l1/; Run
// closes it.
func Run(t *testing.T, open func(t *testing.T) objects.Store) {
	t.Helper()
	for _, c := range []struct {
		name string
		test func(t *testing.T, s objects.Store)
	}{
		{"names", testNames},
		{"put and get", testPutGet},
		{"create only", testCreateOnly},
		{"checksum", testChecksum},
		{"ranges", testRanges},
		{"not found", testNotFound},
		{"list", testList},
		{"delete", testDelete},
		{"one winner", testOneWinner},
		{"race of put and delete", testPutDelete},
		{"file removed after put", testFileRemoved},
		{"context", testContext},
		{"close", testClose},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t)
			defer func() {
				if err := s.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			}()
			c.test(t, s)
		})
	}
}

var ctx = context.Background()

// file writes content to a file and returns its path and checksum.
func file(t *testing.T, content []byte) (string, uint32) {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
	return f.Name(), disk.Checksum(content)
}

func put(t *testing.T, s objects.Store, name string, content []byte) objects.Object {
	t.Helper()
	path, crc := file(t, content)
	o, err := s.Put(ctx, name, path, crc)
	if err != nil {
		t.Fatalf("put %s: %v", name, err)
	}
	return o
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

func testNames(t *testing.T, s objects.Store) {
	path, crc := file(t, []byte("x"))
	for _, name := range []string{"", "/l1/a", "l1/a/", "l1//a", "l1/../a", "l1/./a", "l1/a b", "l1/a\x00", "l1/ä", "l1/a.tmp", "l1/" +
		strings.Repeat("n", objects.MaxNameLength)} {
		if _, err := s.Put(ctx, name, path, crc); !errors.Is(err, objects.ErrInvalid) {
			t.Errorf("put %q: error %v, want ErrInvalid", name, err)
		}
		if _, err := s.Get(ctx, name, 0, 1); !errors.Is(err, objects.ErrInvalid) {
			t.Errorf("get %q: error %v, want ErrInvalid", name, err)
		}
	}
	for _, name := range []string{"l1/a.tmp/b", "l1/(x)*'!_-/c", "l0/20000/03/i-1.pk"} {
		put(t, s, name, []byte(name))
		if b, err := s.Get(ctx, name, 0, len(name)); err != nil || string(b) != name {
			t.Errorf("get %q: %q, %v", name, b, err)
		}
	}
}

func testPutGet(t *testing.T, s objects.Store) {
	content := pattern(3 << 20)
	before := time.Now().Add(-time.Hour)
	o := put(t, s, "l1/a/b", content)
	got, err := s.Stat(ctx, "l1/a/b")
	if err != nil || got.Name != "l1/a/b" || got.Size != int64(len(content)) ||
		got.CRC != disk.Checksum(content) || got.Created.Before(before) {
		t.Errorf("stat: %+v, %v", got, err)
	}
	if o.Name != got.Name || o.Size != got.Size || o.CRC != got.CRC {
		t.Errorf("Put() = %+v, Stat() = %+v", o, got)
	}
	b, err := s.Get(ctx, "l1/a/b", 0, len(content))
	if err != nil || !bytes.Equal(b, content) {
		t.Fatalf("get: %d bytes, %v", len(b), err)
	}
	clear(b) // the caller owns the bytes
	if b, err = s.Get(ctx, "l1/a/b", 0, len(content)); err != nil || !bytes.Equal(b, content) {
		t.Errorf("get after the caller changed its bytes: %v", err)
	}
}

func testCreateOnly(t *testing.T, s objects.Store) {
	put(t, s, "l1/a", []byte("one"))
	put(t, s, "l1/a", []byte("one"))
	for _, other := range []string{"two", "longer"} {
		path, crc := file(t, []byte(other))
		if _, err := s.Put(ctx, "l1/a", path, crc); !errors.Is(err, objects.ErrExists) {
			t.Errorf("put of different content: error %v, want ErrExists", err)
		}
	}
	if b, err := s.Get(ctx, "l1/a", 0, 3); err != nil || string(b) != "one" {
		t.Errorf("content after rejected puts: %q, error %v", b, err)
	}
}

func testChecksum(t *testing.T, s objects.Store) {
	path, crc := file(t, pattern(100_000))
	if _, err := s.Put(ctx, "l1/a", path, crc^1); err == nil {
		t.Error("Put succeeded with a wrong checksum")
	}
	if _, err := s.Stat(ctx, "l1/a"); !errors.Is(err, objects.ErrNotFound) {
		t.Errorf("stat after a rejected put: error %v, want ErrNotFound", err)
	}
}

func testRanges(t *testing.T, s objects.Store) {
	content := pattern(1000)
	put(t, s, "l1/a", content)
	for _, r := range [][2]int{{0, 1}, {0, 1000}, {999, 1}, {10, 500}} {
		b, err := s.Get(ctx, "l1/a", int64(r[0]), r[1])
		if err != nil || !bytes.Equal(b, content[r[0]:r[0]+r[1]]) {
			t.Errorf("range %v: %d bytes, %v", r, len(b), err)
		}
	}
	for _, r := range [][2]int{{0, 0}, {-1, 5}, {0, -1}, {0, 1001}, {999, 2}, {1000, 1}, {5000, 1}, {0, objects.MaxRange + 1}} {
		if b, err := s.Get(ctx, "l1/a", int64(r[0]), r[1]); !errors.Is(err, objects.ErrInvalid) {
			t.Errorf("range %v: %d bytes, error %v, want ErrInvalid", r, len(b), err)
		}
	}
}

func testNotFound(t *testing.T, s objects.Store) {
	put(t, s, "l1/a/b", []byte("x"))
	for _, name := range []string{"l1/none", "l1/a", "l1/a/b/c"} {
		if _, err := s.Get(ctx, name, 0, 1); err == nil || name != "l1/a/b/c" && !errors.Is(err, objects.ErrNotFound) {
			t.Errorf("get %s: error %v, want ErrNotFound (any error for l1/a/b/c)", name, err)
		}
		if _, err := s.Stat(ctx, name); err == nil || name != "l1/a/b/c" && !errors.Is(err, objects.ErrNotFound) {
			t.Errorf("stat %s: error %v, want ErrNotFound (any error for l1/a/b/c)", name, err)
		}
	}
}

func testList(t *testing.T, s objects.Store) {
	names := []string{"l0/1/02/x.pk", "l0/late/x.pk", "l1/a!/1/p", "l1/a/1/p", "l1/a/10/p", "l1/a/1/q", "l1/a-b/1/p", "l1/ab/1/p", "l1/b"}
	for _, n := range names {
		put(t, s, n, []byte(n))
	}
	slices.Sort(names)
	for _, prefix := range []string{"", "l", "l0/", "l1/", "l1/a", "l1/a/", "l1/a/1", "l1/a/1/", "l1/a/1/p", "l1/none", "l2/"} {
		var want, got []string
		for _, n := range names {
			if strings.HasPrefix(n, prefix) {
				want = append(want, n)
			}
		}
		err := s.List(ctx, prefix, func(o objects.Object) bool {
			if o.Size != int64(len(o.Name)) {
				t.Errorf("list: %+v", o)
			}
			got = append(got, o.Name)
			return true
		})
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("list %q: %q, want %q, %v", prefix, got, want, err)
		}
	}
	n := 0
	if err := s.List(ctx, "l1/", func(objects.Object) bool { n++; return n < 2 }); err != nil || n != 2 {
		t.Errorf("List stopped by visit: %d visits, %v", n, err)
	}
	err := s.List(ctx, "l1/a/", func(o objects.Object) bool { return s.Delete(ctx, o.Name) == nil })
	if err != nil {
		t.Errorf("List with a visit that deletes: %v", err)
	}
	if err := s.List(ctx, "l1/a/", func(o objects.Object) bool { t.Errorf("%s still exists", o.Name); return true }); err != nil {
		t.Error(err)
	}
}

func testDelete(t *testing.T, s objects.Store) {
	put(t, s, "l1/a/b/c", []byte("one"))
	put(t, s, "l1/a/b/d", []byte("two"))
	for range 2 {
		if err := s.Delete(ctx, "l1/a/b/c"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Stat(ctx, "l1/a/b/c"); !errors.Is(err, objects.ErrNotFound) {
		t.Errorf("stat after delete: error %v, want ErrNotFound", err)
	}
	if b, err := s.Get(ctx, "l1/a/b/d", 0, 3); err != nil || string(b) != "two" {
		t.Errorf("the other object: %q, %v", b, err)
	}
	if err := s.Delete(ctx, "l1/a/b"); err != nil {
		t.Errorf("delete of a name without an object: %v", err)
	}
	put(t, s, "l1/a/b/c", []byte("again, and other"))
}

func testOneWinner(t *testing.T, s objects.Store) {
	const racers = 8
	var wg sync.WaitGroup
	errs := make([]error, racers)
	for i := range racers {
		path, crc := file(t, []byte(fmt.Sprintf("content %d", i/2))) // two files with each content
		wg.Go(func() { _, errs[i] = s.Put(ctx, "l1/x/race", path, crc) })
	}
	wg.Wait()
	b, err := s.Get(ctx, "l1/x/race", 0, len("content 0"))
	if err != nil {
		t.Fatal(err)
	}
	for i, err := range errs {
		won := string(b) == fmt.Sprintf("content %d", i/2)
		if won && err != nil || !won && !errors.Is(err, objects.ErrExists) {
			t.Errorf("put %d: error %v with stored content %q", i, err, b)
		}
	}
}

func testPutDelete(t *testing.T, s objects.Store) {
	var wg sync.WaitGroup
	path, crc := file(t, []byte("x"))
	for i := range 4 {
		wg.Go(func() {
			for k := range 25 {
				name := fmt.Sprintf("l1/dir/%d/%d", k%3, i)
				if _, err := s.Put(ctx, name, path, crc); err != nil {
					t.Errorf("put %s: %v", name, err)
				}
				if err := s.Delete(ctx, name); err != nil {
					t.Errorf("delete %s: %v", name, err)
				}
			}
		})
	}
	wg.Wait()
}

func testFileRemoved(t *testing.T, s objects.Store) {
	path, crc := file(t, []byte("stays"))
	if _, err := s.Put(ctx, "l1/a", path, crc); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	if b, err := s.Get(ctx, "l1/a", 0, 5); err != nil || string(b) != "stays" {
		t.Errorf("content after the file was removed: %q, error %v", b, err)
	}
	if _, err := s.Put(ctx, "l1/b", path, crc); err == nil {
		t.Error("Put succeeded with a missing file")
	}
}

func testContext(t *testing.T, s objects.Store) {
	put(t, s, "l1/a", []byte("x"))
	done, cancel := context.WithCancel(ctx)
	cancel()
	path, crc := file(t, []byte("x"))
	_, putErr := s.Put(done, "l1/b", path, crc)
	_, getErr := s.Get(done, "l1/a", 0, 1)
	_, statErr := s.Stat(done, "l1/a")
	for what, err := range map[string]error{"put": putErr, "get": getErr, "stat": statErr, "delete": s.Delete(done, "l1/a"),
		"list": s.List(done, "", func(objects.Object) bool { return true })} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: error %v, want context.Canceled", what, err)
		}
	}
}

func testClose(t *testing.T, s objects.Store) {
	put(t, s, "l1/a", []byte("x"))
	path, crc := file(t, []byte("x"))
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	_, putErr := s.Put(ctx, "l1/b", path, crc)
	_, getErr := s.Get(ctx, "l1/a", 0, 1)
	_, statErr := s.Stat(ctx, "l1/a")
	for what, err := range map[string]error{"put": putErr, "get": getErr, "stat": statErr, "delete": s.Delete(ctx, "l1/a"),
		"list": s.List(ctx, "", func(objects.Object) bool { return true })} {
		if !errors.Is(err, objects.ErrClosed) {
			t.Errorf("%s: error %v, want ErrClosed", what, err)
		}
	}
}
