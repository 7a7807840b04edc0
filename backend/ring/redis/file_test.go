package redis

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/palliumhq/pallium/backend/redisconn"
	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/test/kit/programs"
)

// place opens ingester-1 with a zone and a directory, which has samples if hasData is set,
// and joins.
func place(t *testing.T, addr, zone, dir string, hasData bool) (*Membership, error) {
	t.Helper()
	client, err := redisconn.Open(redisconn.Config{Addresses: []string{addr}}, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	m, err := Open(Options{Client: client, Signer: signer(t, secret), Self: ring.Instance{ID: "ingester-1", Zone: zone, Addr: "ingester-1:1"},
		File: filepath.Join(dir, "ring.json"), HasData: hasData, Heartbeat: beatEvery, Timeout: time.Second})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = m.Close() })
	return m, m.Join(context.Background(), ring.Active)
}

// placedOnce runs an instance in zone a that gets its tokens, records losses and ends. It
// returns the instance.
func placedOnce(t *testing.T, addr, dir string) ring.Instance {
	t.Helper()
	m, err := place(t, addr, "a", dir, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.LossRecorded(); err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	return m.Self()
}

// rewrite changes the stored file of a directory.
func rewrite(t *testing.T, dir string, change func(map[string]any)) {
	t.Helper()
	path := filepath.Join(dir, "ring.json")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	stored := map[string]any{}
	if err := json.Unmarshal(data, &stored); err != nil {
		t.Fatal(err)
	}
	change(stored)
	if data, err = json.Marshal(stored); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestZoneChanged checks that the zone of an ingester with samples cannot be changed. One
// without samples gets tokens in the new zone, and LostZone returns the old zone.
func TestZoneChanged(t *testing.T) {
	for _, test := range []struct {
		name     string
		hasData  bool
		prepare  func(t *testing.T, dir string)
		emptied  bool // Redis loses its data
		rejected bool
	}{
		{name: "with samples", hasData: true, rejected: true},
		{name: "file of an older version", hasData: true, rejected: true, prepare: func(t *testing.T, dir string) {
			rewrite(t, dir, func(s map[string]any) { delete(s, "zone") })
		}},
		{name: "damaged file", hasData: true, rejected: true, prepare: func(t *testing.T, dir string) {
			if err := os.Truncate(filepath.Join(dir, "ring.json"), 0); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "no file", hasData: true, rejected: true, prepare: func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "ring.json")); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "with samples, and Redis lost its data", hasData: true, rejected: true, emptied: true},
		{name: "no samples"},
		{name: "new disk", prepare: func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "ring.json")); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			srv := programs.Redis(t)
			dir := t.TempDir()
			old := placedOnce(t, srv.Addr, dir)
			if test.prepare != nil {
				test.prepare(t, dir)
			}
			if test.emptied {
				srv.Kill()
				srv.Start()
			}
			m, err := place(t, srv.Addr, "b", dir, test.hasData)
			if test.rejected {
				if !errors.Is(err, ErrZoneChanged) || !strings.Contains(err.Error(), `"b"`) || !strings.Contains(err.Error(), `"a"`) {
					t.Fatalf("error %v, want ErrZoneChanged with both zones", err)
				}
				if m != nil {
					_ = m.Close()
				}
				if m, err = place(t, srv.Addr, "a", dir, true); err != nil {
					t.Fatalf("back in its zone: %v", err)
				}
				if got := m.Self(); got.Zone != "a" || !slices.Equal(got.Tokens, old.Tokens) {
					t.Errorf("back in its zone: zone %q, want a; with its old tokens: %v", got.Zone, slices.Equal(got.Tokens, old.Tokens))
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			fresh, replaced := m.Fresh()
			if got := m.Self(); got.Zone != "b" || got.Incarnation == old.Incarnation || slices.Equal(got.Tokens, old.Tokens) || !fresh || !replaced || m.LostZone() != "a" {
				t.Errorf("zone %q, incarnation %s, before %s, fresh %v, replaced %v, lost zone %q", got.Zone, got.Incarnation, old.Incarnation, fresh, replaced, m.LostZone())
			}
			_ = m.Close()
			if m, err = place(t, srv.Addr, "b", dir, true); err != nil {
				t.Fatal(err)
			}
			if fresh, replaced := m.Fresh(); !fresh || !replaced || m.LostZone() != "a" {
				t.Errorf("after a restart: fresh %v, replaced %v, lost zone %q", fresh, replaced, m.LostZone())
			}
		})
	}
}

// TestDamagedFile checks that an ingester with a damaged file starts as one that lost its
// disk, since the file may have had Fresh set.
func TestDamagedFile(t *testing.T) {
	for _, content := range []string{"", "{", "{}", "null", "\x00\x00", `{"id":"ingester-1","incarnation":"1","tokens":"!"}`} {
		srv := programs.Redis(t)
		dir := t.TempDir()
		old := placedOnce(t, srv.Addr, dir)
		if err := os.WriteFile(filepath.Join(dir, "ring.json"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := place(t, srv.Addr, "a", dir, true)
		if err != nil {
			t.Fatalf("%q: %v", content, err)
		}
		fresh, replaced := m.Fresh()
		if got := m.Self(); !fresh || !replaced || got.Incarnation == old.Incarnation || !slices.Equal(got.Tokens, old.Tokens) {
			t.Errorf("%q: fresh %v, replaced %v, incarnation %s, before %s, with its old tokens: %v", content, fresh, replaced, got.Incarnation,
				old.Incarnation, slices.Equal(got.Tokens, old.Tokens))
		}
		if st, err := os.Stat(filepath.Join(dir, "ring.json")); err != nil || st.Mode().Perm() != 0o600 || st.Size() == 0 {
			t.Errorf("%q: file info %v, %v", content, st, err)
		}
	}
}

func FuzzFile(f *testing.F) {
	f.Add([]byte(`{"id":"i","incarnation":"1","registered":5,"tokens":"AQ","zone":"a","fresh":true}`))
	f.Add([]byte(``))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, tokens, err := decodeFile(data)
		if err != nil {
			return
		}
		s.Tokens = encodeTokens(tokens)
		first, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		again, tokens, err := decodeFile(first)
		if err != nil {
			t.Fatalf("decode %s: %v", first, err)
		}
		again.Tokens = encodeTokens(tokens)
		if second, err := json.Marshal(again); err != nil || !bytes.Equal(first, second) {
			t.Errorf("%s became %s, %v", first, second, err)
		}
	})
}
