package ingester

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/prometheus/prometheus/tsdb/encoding"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/disk"
)

// Constants of the file of active series; docs/format/active.md describes the
// format.
const (
	activeMagic    = "PLACTIV1"
	activeFile     = "active.bin"
	activeMaxBytes = 1 << 30 // largest file that is read
	activeMaxAge   = int64(idleSeries / 1e9)
)

// activeList is the list of a tenant's active series at a point in time.
type activeList struct {
	tenant   tenant.ID
	bytes    int64         // average bytes of one series with a chunk that was just begun
	series   []activeEntry // in the head, sorted by hash; seconds since the last sample
	reserved []activeEntry // reserved, not in the head, sorted by hash; seconds until the reservation ends
}

// activeEntry is one series of an activeList.
type activeEntry struct {
	hash    uint64
	seconds uint32
	holds   bool // reserved series only: memory is reserved too
}

// sort sorts the entries as the file format requires.
func (l *activeList) sort() {
	byHash := func(a, b activeEntry) int { return cmp.Compare(a.hash, b.hash) }
	slices.SortFunc(l.series, byHash)
	slices.SortFunc(l.reserved, byHash)
}

// encodeActive encodes lists that were made at the time `saved`, in Unix
// milliseconds.
func encodeActive(saved int64, lists []activeList) []byte {
	size := 64
	for i := range lists {
		size += 64 + len(lists[i].tenant) + 9*(len(lists[i].series)+len(lists[i].reserved))
	}
	b := make([]byte, 0, size)
	b = append(b, activeMagic...)
	b = binary.AppendVarint(b, saved)
	b = binary.AppendUvarint(b, uint64(len(lists)))
	for i := range lists {
		l := &lists[i]
		b = binary.AppendUvarint(b, uint64(len(l.tenant)))
		b = append(b, l.tenant...)
		b = binary.AppendUvarint(b, uint64(l.bytes))
		b = appendEntries(b, l.series, func(e *activeEntry) uint64 { return uint64(e.seconds) })
		b = appendEntries(b, l.reserved, func(e *activeEntry) uint64 {
			if e.holds {
				return uint64(e.seconds)<<1 | 1
			}
			return uint64(e.seconds) << 1
		})
	}
	return binary.BigEndian.AppendUint32(b, disk.Checksum(b))
}

func appendEntries(b []byte, list []activeEntry, value func(*activeEntry) uint64) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	last := uint64(0)
	for i := range list {
		b = binary.AppendUvarint(b, list[i].hash-last)
		b = binary.AppendUvarint(b, value(&list[i]))
		last = list[i].hash
	}
	return b
}

var errActive = errors.New("damaged file of active series")

// decodeActive decodes a file. The memory that it uses is proportional to the
// file's size.
func decodeActive(data []byte) (saved int64, lists []activeList, err error) {
	if !bytes.HasPrefix(data, []byte(activeMagic)) {
		return 0, nil, fmt.Errorf("%w: magic is not %s", errActive, activeMagic)
	}
	if len(data) < len(activeMagic)+crc32.Size {
		return 0, nil, fmt.Errorf("%w: file is truncated", errActive)
	}
	body, sum := data[:len(data)-crc32.Size], binary.BigEndian.Uint32(data[len(data)-crc32.Size:])
	if disk.Checksum(body) != sum {
		return 0, nil, fmt.Errorf("%w: checksum mismatch", errActive)
	}
	d := encoding.Decbuf{B: body[len(activeMagic):]}
	saved = d.Varint64()
	n := d.Uvarint64()
	seen := map[tenant.ID]bool{}
	for i := uint64(0); i < n && d.Err() == nil; i++ {
		l, err := decodeActiveList(&d)
		if err != nil {
			return 0, nil, err
		}
		if seen[l.tenant] {
			return 0, nil, fmt.Errorf("%w: tenant %s appears twice", errActive, l.tenant)
		}
		seen[l.tenant] = true
		lists = append(lists, l)
	}
	if err := d.Err(); err != nil {
		return 0, nil, fmt.Errorf("%w: %w", errActive, err)
	}
	if len(d.B) > 0 {
		return 0, nil, fmt.Errorf("%w: %d trailing bytes", errActive, len(d.B))
	}
	return saved, lists, nil
}

func decodeActiveList(d *encoding.Decbuf) (l activeList, err error) {
	id, err := tenant.ParseID(d.UvarintStr())
	if err == nil {
		err = d.Err()
	}
	if err != nil {
		return l, fmt.Errorf("%w: tenant: %w", errActive, err)
	}
	l.tenant = id
	size := d.Uvarint64()
	if size > 1<<32 {
		return l, fmt.Errorf("%w: implausible average size of a series: %d bytes", errActive, size)
	}
	l.bytes = int64(size)
	if l.series, err = decodeEntries(d, false); err != nil {
		return l, err
	}
	l.reserved, err = decodeEntries(d, true)
	return l, err
}

func decodeEntries(d *encoding.Decbuf, reserved bool) ([]activeEntry, error) {
	n := d.Uvarint64()
	if d.Err() == nil && n > uint64(len(d.B))/2 { // an entry has at least two bytes
		return nil, fmt.Errorf("%w: list claims %d entries, but only %d bytes follow", errActive, n, len(d.B))
	}
	if d.Err() != nil || n == 0 {
		return nil, d.Err()
	}
	list := make([]activeEntry, 0, n)
	last := uint64(0)
	for range n {
		delta, v := d.Uvarint64(), d.Uvarint64()
		e := activeEntry{hash: last + delta}
		if reserved {
			e.holds, v = v&1 == 1, v>>1
		}
		if err := d.Err(); err != nil {
			return nil, fmt.Errorf("%w: %w", errActive, err)
		}
		if e.hash < last || v > uint64(activeMaxAge) {
			return nil, fmt.Errorf("%w: entry %d of %d is invalid", errActive, len(list), n)
		}
		e.seconds, last = uint32(v), e.hash
		list = append(list, e)
	}
	return list, nil
}
