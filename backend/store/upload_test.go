package store_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/disk"
	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/objects/memory"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
)

// sealed returns a pack of an ingester with a sample of each of the tenants a and b on testDay
// and on the day before.
func sealed(t *testing.T) store.Upload { return sealedSeries(t, labels.FromStrings("__name__", "m")) }

// sealedSeries returns a pack like sealed, but with one sample of each of the given series per
// tenant and day. The series must be sorted.
func sealedSeries(t *testing.T, list ...labels.Labels) store.Upload {
	t.Helper()
	id := ulid.Make()
	path := filepath.Join(t.TempDir(), id.String()+pack.Suffix)
	w, err := pack.Create(path, pack.Options{ID: id, Source: "i1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, owner := range []tenant.ID{"a", "b"} {
		for day := int64(testDay - 1); day <= testDay; day++ {
			chunks, err := series.Encode([]series.Sample{{T: day * series.DayMillis, V: 1}})
			if err != nil {
				t.Fatal(err)
			}
			if err := w.StartSection(owner, day, nil); err != nil {
				t.Fatal(err)
			}
			for _, ls := range list {
				if err := w.Add(ls, chunks); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	info, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	crc, err := pack.FileCRC(path)
	if err != nil {
		t.Fatal(err)
	}
	windows := store.WindowsOf(info)
	return store.Upload{Path: path, Object: store.L0Object(windows, "i1", id), CRC: crc, Info: info, Ingester: "i1", Sealed: testNow().UnixMilli(), Windows: windows, Cleared: windows}
}

// TestCellsBeforeReceipts checks at every point of an upload that the catalogs of a day have
// their cells if the day has a receipt. Otherwise a compaction could remove the receipt of a
// pack that it has not merged.
func TestCellsBeforeReceipts(t *testing.T) {
	live, u := memRows(t), sealed(t)
	plain := openStore(t, live, memory.New(), testNow)
	moments, receipts := 0, 0
	s := openStore(t, &stepRows{Store: live, wrote: func() {
		moments++
		work, err := plain.Days(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range work {
			for range d.Receipts {
				receipts++
				for _, owner := range []tenant.ID{"a", "b"} {
					c, err := plain.Catalog(t.Context(), owner, d.Day)
					if err != nil || len(c.L0) != 1 || c.L0[0].ID != u.Info.ID {
						t.Errorf("after row %d: day %d has a receipt, and the catalog of tenant %s has %v, %v", moments, d.Day, owner, c.L0, err)
					}
				}
			}
		}
	}}, memory.New(), testNow)
	if err := s.Upload(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	if moments != 6 || receipts != 3 {
		t.Errorf("%d rows were written and receipts seen %d times, want 6 and 3", moments, receipts)
	}
}

// vanishing is an object store that deletes the object after each of the next Puts, as a
// concurrent sweep may do.
type vanishing struct {
	objects.Store
	left int
}

func (v *vanishing) Put(ctx context.Context, name, path string, crc uint32) (objects.Object, error) {
	o, err := v.Store.Put(ctx, name, path, crc)
	if err == nil && v.left > 0 {
		v.left--
		err = v.Delete(ctx, name)
	}
	return o, err
}

// TestObjectDeletedDuringUpload checks that the object exists after a successful upload, even
// if an earlier object was deleted during the upload.
func TestObjectDeletedDuringUpload(t *testing.T) {
	for deleted := range 4 {
		o := &vanishing{Store: memory.New(), left: deleted}
		s, u := openStore(t, memRows(t), o, testNow), sealed(t)
		err := s.Upload(t.Context(), u)
		if (err == nil) != (deleted < 3) {
			t.Errorf("deleted %d times: %v", deleted, err)
		}
		if _, statErr := o.Stat(t.Context(), u.Object); (statErr == nil) != (err == nil) {
			t.Errorf("deleted %d times: the upload ended with %v, the object is there: %v", deleted, err, statErr)
		}
	}
}

// TestMarkConsumed checks that a receipt is removed if it is the one that was read, including
// receipts of older versions, and that it stays if the upload was repeated since.
func TestMarkConsumed(t *testing.T) {
	r := memRows(t)
	s, u := openStore(t, r, memory.New(), testNow), sealed(t)
	if err := s.Upload(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	before, err := s.Days(t.Context())
	if err != nil || len(before) != 2 {
		t.Fatalf("%v, %v; want the work of two days", before, err)
	}
	if err := s.Upload(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	consume := func(list []store.DayWork) (left int) {
		t.Helper()
		for _, d := range list {
			if err := s.MarkConsumed(t.Context(), d.Day, d.Receipts[0]); err != nil {
				t.Fatal(err)
			}
		}
		work, err := s.Days(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return len(work)
	}
	if left := consume(before); left != 2 {
		t.Fatalf("%d days have receipts, want 2: the upload was repeated", left)
	}
	// One of the receipts as an older version wrote it.
	value := before[0].Receipts[0].Encode()
	old := append([]byte{4, 1}, value[2:len(value)-12]...)
	old = appendCRC(old)
	if err := r.Mutate(t.Context(), rows.RowMutation{Key: schema.WorkKey(before[0].Day),
		Mutations: []rows.Mutation{rows.Set(rows.System, schema.ReceiptQualifier(u.Info.ID), 0, old)}}); err != nil {
		t.Fatal(err)
	}
	now, err := s.Days(t.Context())
	if err != nil || now[0].Receipts[0].Attempt != 0 || now[1].Receipts[0].Attempt == 0 {
		t.Fatalf("work %+v, error %v; want only the first receipt without an attempt", now, err)
	}
	if left := consume(now); left != 0 {
		t.Errorf("%d days have receipts, want none", left)
	}
}

// damaging is an object store that changes one byte of each read.
type damaging struct {
	objects.Store
	at   int // offset of the changed byte in a read; -1: none
	read int // number of bytes of the last read
}

func (d *damaging) Get(ctx context.Context, name string, off int64, n int) ([]byte, error) {
	b, err := d.Store.Get(ctx, name, off, n)
	d.read = len(b)
	if err == nil && d.at >= 0 && d.at < len(b) {
		b[d.at] ^= 1 << (d.at % 8)
	}
	return b, err
}

// TestDamagedBlock changes every byte that a query fetches, one at a time: the query must return
// ErrCorrupt each time, and the next query the right samples, since no damaged block may be cached.
func TestDamagedBlock(t *testing.T) {
	live, o := memRows(t), &damaging{Store: memory.New(), at: -1}
	publish(t, openStore(t, live, o, testNow), 50)
	ask := func(s *store.Store) (string, error) {
		sel, err := s.Select(t.Context(), series.Request{Tenant: "a", MaxTime: testNow().UnixMilli(), Matchers: matchers("__name__=a2")}, nil)
		if err != nil {
			return "", err
		}
		defer sel.Release()
		out := ""
		for i := range sel.Series {
			it := series.IteratorBetween(sel.Series[i].Chunks, 0, testNow().UnixMilli(), nil)
			for it.Next() != 0 {
				at, v := it.At()
				out += fmt.Sprint(sel.Series[i].Labels, at, v, "\n")
			}
			if it.Err() != nil {
				return "", it.Err()
			}
		}
		return out, nil
	}
	want, err := ask(openStore(t, live, o, testNow))
	if err != nil || len(want) == 0 {
		t.Fatalf("the samples are %q, %v", want, err)
	}
	bytes := o.read
	for at := range bytes {
		s := openStore(t, live, o, testNow)
		o.at = at
		if got, err := ask(s); !errors.Is(err, pack.ErrCorrupt) {
			t.Errorf("byte %d of %d changed: error %v, want ErrCorrupt; result is right: %t", at, bytes, err, got == want)
		}
		o.at = -1
		if got, err := ask(s); err != nil || got != want {
			t.Errorf("after byte %d of %d was changed once: next result is right: %t, error %v", at, bytes, got == want, err)
		}
	}
}

func appendCRC(b []byte) []byte {
	return binary.BigEndian.AppendUint32(b, disk.Checksum(b))
}
