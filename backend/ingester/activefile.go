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

// The file of active series; docs/format/active.md has the bytes.
const (
	activeMagic    = "PLACTIV1"
	activeFile     = "active.bin"
	activeMaxBytes = 1 << 30 // of a file that is read
	activeMaxAge   = int64(idleSeries / 1e9)
)

// activeList is what one tenant has of active series at a time.
type activeList struct {
	tenant tenant.ID
	bytes  int64         // that one of the series takes in memory without samples, on average
	series []activeEntry // in the head, by hash; seconds since the last activity
	places []activeEntry // not in the head, by hash; seconds for which the place is kept
}

// activeEntry is one series of an activeList.
type activeEntry struct {
	hash    uint64
	seconds uint32
	holds   bool // of places: memory is held
}

// sort brings the entries into the order of the file.
func (l *activeList) sort() {
	byHash := func(a, b activeEntry) int { return cmp.Compare(a.hash, b.hash) }
	slices.SortFunc(l.series, byHash)
	slices.SortFunc(l.places, byHash)
}

// encodeActive makes a file. saved is the time of the lists in Unix milliseconds.
func encodeActive(saved int64, lists []activeList) []byte {
	size := 64
	for i := range lists {
		size += 64 + len(lists[i].tenant) + 9*(len(lists[i].series)+len(lists[i].places))
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
		b = appendEntries(b, l.places, func(e *activeEntry) uint64 {
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

var errActive = errors.New("file of active series is damaged")

// decodeActive reads a file. What it takes in memory is in proportion to the file.
func decodeActive(data []byte) (saved int64, lists []activeList, err error) {
	if !bytes.HasPrefix(data, []byte(activeMagic)) {
		return 0, nil, fmt.Errorf("%w: it does not begin with %s", errActive, activeMagic)
	}
	if len(data) < len(activeMagic)+crc32.Size {
		return 0, nil, fmt.Errorf("%w: it is cut off", errActive)
	}
	body, sum := data[:len(data)-crc32.Size], binary.BigEndian.Uint32(data[len(data)-crc32.Size:])
	if disk.Checksum(body) != sum {
		return 0, nil, fmt.Errorf("%w: its checksum is wrong", errActive)
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
		return 0, nil, fmt.Errorf("%w: %d bytes follow its end", errActive, len(d.B))
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
		return l, fmt.Errorf("%w: a series takes %d bytes", errActive, size)
	}
	l.bytes = int64(size)
	if l.series, err = decodeEntries(d, false); err != nil {
		return l, err
	}
	l.places, err = decodeEntries(d, true)
	return l, err
}

func decodeEntries(d *encoding.Decbuf, places bool) ([]activeEntry, error) {
	n := d.Uvarint64()
	if d.Err() == nil && n > uint64(len(d.B))/2 { // an entry has two bytes at least
		return nil, fmt.Errorf("%w: %d entries in %d bytes", errActive, n, len(d.B))
	}
	if d.Err() != nil || n == 0 {
		return nil, d.Err()
	}
	list := make([]activeEntry, 0, n)
	last := uint64(0)
	for range n {
		delta, v := d.Uvarint64(), d.Uvarint64()
		e := activeEntry{hash: last + delta}
		if places {
			e.holds, v = v&1 == 1, v>>1
		}
		if err := d.Err(); err != nil {
			return nil, fmt.Errorf("%w: %w", errActive, err)
		}
		if e.hash < last || v > uint64(activeMaxAge) {
			return nil, fmt.Errorf("%w: entry %d of %d is out of bounds", errActive, len(list), n)
		}
		e.seconds, last = uint32(v), e.hash
		list = append(list, e)
	}
	return list, nil
}
