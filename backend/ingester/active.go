package ingester

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/disk"
	"github.com/palliumhq/pallium/backend/series"
)

// A seal deletes the log of the sealed samples, so after a restart the head
// contains only the series pushed since the last seal: none after a graceful stop.
// The active series are therefore saved in a file. At start, series in the file that
// replay did not restore are reserved for idleSeries; another restart does not
// extend this time.
// Otherwise new series could use up the series limit, and samples of series that
// are still being sent would be rejected and dropped by their senders.

// saveActiveEvery is the interval at which the list of active series is saved, in
// addition to every seal.
const saveActiveEvery = 5 * time.Minute

// activeSize returns about how many bytes the series needs with one chunk that was
// just begun, without its index entries. The caller holds s.mu.
func (s *memSeries) activeSize() int64 { return s.bareSize() + openBytes + freshBytes }

// activeAge returns the seconds since the series' last sample. It returns false if
// the last sample is so old, or so far in the future, that the series would not
// count as active once it is sealed (memSeries.isIdle). The caller holds s.mu.
func (s *memSeries) activeAge(now int64) (uint32, bool) {
	if s.lastT >= now+farWindows*series.WindowMillis {
		return 0, false
	}
	age := max(0, now-s.lastT)
	if s.lastT < now-idleSeries.Milliseconds() {
		return 0, false
	}
	return uint32(age / 1000), true
}

// activeNow lists the tenant's active and reserved series. It releases the lock after every
// sliceSeries series, so that pushes do not wait for the whole list.
func (th *tenantHead) activeNow(now time.Time) activeList {
	l := activeList{tenant: th.id}
	ms, size := now.UnixMilli(), int64(0)
	th.each(func(s *memSeries) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if age, ok := s.activeAge(ms); ok {
			l.series = append(l.series, activeEntry{hash: s.hash, seconds: age})
			size += s.activeSize()
		}
	})
	l.reserved = th.reservedNow(now)
	th.mu.RLock()
	if th.count > 0 {
		size += th.indexBytes * int64(len(l.series)) / int64(th.count)
	}
	size += th.held.Load()
	th.mu.RUnlock()
	if n := int64(len(l.series) + len(l.reserved)); n > 0 {
		l.bytes = max(0, size/n)
	}
	return l
}

// reservedNow lists the tenant's reserved series that have not expired.
func (th *tenantHead) reservedNow(now time.Time) []activeEntry {
	var out []activeEntry
	th.mu.RLock()
	defer th.mu.RUnlock()
	n := 0
	for hash, p := range th.reserved {
		if left := int64(p.until) - now.Unix(); left > 0 {
			e := activeEntry{hash: hash, seconds: uint32(min(left, activeMaxAge)), holds: p.held > 0}
			for range p.series {
				out = append(out, e)
			}
		}
		if n++; n%sliceSeries == 0 {
			th.mu.RUnlock()
			th.mu.RLock()
		}
	}
	return out
}

// saveActive replaces the file of active series. A failure is logged, not returned:
// the previous file stays in use.
func (ing *Ingester) saveActive() {
	ing.activeMu.Lock()
	defer ing.activeMu.Unlock()
	now := ing.opts.Now()
	ing.activeSaved = now
	var lists []activeList
	for _, th := range ing.heads() {
		if l := th.activeNow(now); len(l.series)+len(l.reserved) > 0 {
			l.sort()
			lists = append(lists, l)
		}
	}
	if err := disk.ReplaceFile(filepath.Join(ing.opts.Dir, activeFile), encodeActive(now.UnixMilli(), lists)); err != nil {
		ing.metrics.activeFailures.Inc()
		ing.opts.Logger.Warn("failed to save the list of active series: the previous list stays in use; retrying",
			"err", err)
	}
}

// saveActiveDue saves the list if the saved one is at least saveActiveEvery old.
func (ing *Ingester) saveActiveDue() {
	ing.activeMu.Lock()
	due := since(ing.opts.Now(), ing.activeSaved) >= saveActiveEvery
	ing.activeMu.Unlock()
	if due {
		ing.saveActive()
	}
}

// loadActive reserves the series in the file that are not in the head. It then
// saves the file again with the time at which each reservation ends, so that
// another restart does not extend them. A file that cannot be read is logged and
// ignored. loadActive runs after replay and before any push.
func (ing *Ingester) loadActive(ctx context.Context) error {
	path := filepath.Join(ing.opts.Dir, activeFile)
	data, err := readBounded(path, activeMaxBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var saved int64
	var lists []activeList
	if err == nil {
		saved, lists, err = decodeActive(data)
	}
	if err != nil {
		ing.opts.Logger.Warn("failed to read the list of active series: series that are not in the write-ahead log count as new",
			"file", path, "err", err)
		return nil
	}
	now, kept := ing.opts.Now(), 0
	for i := range lists {
		if err := ctx.Err(); err != nil {
			return err
		}
		if ing.tenantGone(ctx, lists[i].tenant) {
			continue
		}
		kept += ing.head(lists[i].tenant, true).restore(&lists[i], saved, now)
	}
	if kept > 0 {
		ing.opts.Logger.Info("series that were active before the restart are reserved", "series", kept)
		ing.saveActive()
	}
	return nil
}

// tenantGone reports whether the tenant is known to be deleted. Errors are logged.
func (ing *Ingester) tenantGone(ctx context.Context, id tenant.ID) bool {
	if ing.opts.Deleted == nil {
		return false
	}
	gone, err := ing.opts.Deleted(ctx, id)
	if err != nil {
		ing.opts.Logger.Warn("failed to check whether a tenant was deleted: reserving its series", "tenant", id, "err", err)
	}
	return err == nil && gone
}

// restore reserves the series of a list that was saved at the given time (Unix
// milliseconds) and returns how many series it reserved.
func (th *tenantHead) restore(l *activeList, saved int64, now time.Time) int {
	th.mu.Lock()
	defer th.mu.Unlock()
	if th.reserved == nil {
		th.reserved = make(map[uint64]seriesReservation, max(0, len(l.series)+len(l.reserved)-th.count))
	}
	before, held := th.reservedCount, heldUnits(l.bytes)
	until := reservedUntil(now.Add(idleSeries).UnixMilli(), now)
	eachHash(l.series, func(e activeEntry, n uint16) {
		th.reserve(e.hash, seriesReservation{until: until, held: held, series: n})
	})
	eachHash(l.reserved, func(e activeEntry, n uint16) {
		p := seriesReservation{until: reservedUntil(saved+int64(e.seconds)*1000, now), series: n}
		if e.holds {
			p.held = held
		}
		if !p.expired(now) {
			th.reserve(e.hash, p)
		}
	})
	if len(th.reserved) == 0 {
		th.reserved = nil
	}
	return th.reservedCount - before
}

// eachHash calls fn for each distinct hash of a sorted list, with the number of its
// entries.
func eachHash(list []activeEntry, fn func(e activeEntry, n uint16)) {
	for i := 0; i < len(list); {
		n := 1
		for i+n < len(list) && list[i+n].hash == list[i].hash {
			n++
		}
		fn(list[i], uint16(min(n, 1<<16-1)))
		i += n
	}
}

// readBounded reads a file, and fails if the file has more bytes than `most`.
func readBounded(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("file is larger than %d bytes", most)
	}
	return data, err
}
