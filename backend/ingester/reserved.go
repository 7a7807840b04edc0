package ingester

import (
	"math"
	"time"
)

// seriesReservation is a reservation for a series that is not in the head and that
// may return without counting as a new one: it was removed early because memory was
// short, or it was active before a restart (active.go) or on another ingester
// (handover.go). Until it expires it counts for max_active_series, so that no new
// series can replace it. Except for a series removed when memory was short, a
// reservation also reserves the memory that the series will need.
type seriesReservation struct {
	until  uint32 // Unix seconds
	held   uint16 // memory reserved for each of the series, in units of heldUnit
	series uint16 // number of reserved series; more than one if their hashes are equal
}

const heldUnit = 16 // bytes

// reservedUntil returns when a reservation ends, in Unix seconds, for a time in Unix
// milliseconds. It limits the result to idleSeries from now, so that wrong
// timestamps, and wrong clocks of other ingesters, cannot extend it.
func reservedUntil(ms int64, now time.Time) uint32 {
	ms = min(ms, now.Add(idleSeries).UnixMilli())
	return uint32(max(0, min((ms+999)/1000, math.MaxUint32)))
}

// heldUnits converts bytes to units of heldUnit.
func heldUnits(bytes int64) uint16 {
	return uint16(max(0, min((bytes+heldUnit-1)/heldUnit, math.MaxUint16)))
}

func (p seriesReservation) expired(now time.Time) bool { return int64(p.until)*1000 < now.UnixMilli() }

// bytes returns the memory reserved for the series.
func (p seriesReservation) bytes() int64 { return int64(p.held) * heldUnit * int64(p.series) }

// reserveRemoved reserves a series that is removed early. The caller holds th.mu for
// writing.
func (th *tenantHead) reserveRemoved(hash uint64, until uint32) {
	p, ok := th.reserved[hash]
	if !ok {
		th.setReservation(hash, seriesReservation{until: until, series: 1})
		return
	}
	if p.until > until { // reserved longer for another series with the same hash
		until = p.until
	}
	if p.series < math.MaxUint16 {
		p.series++
	}
	p.until = until
	th.setReservation(hash, p)
}

// reserve reserves series with the hash, except those in the head. It does not
// shorten or shrink an existing reservation, because the same series may be
// reserved several times. The caller holds th.mu for writing.
func (th *tenantHead) reserve(hash uint64, p seriesReservation) {
	for s := th.series[hash]; s != nil && p.series > 0; s = s.next {
		p.series--
	}
	if p.series == 0 {
		return
	}
	if old, ok := th.reserved[hash]; ok {
		p.until, p.held, p.series = max(p.until, old.until), max(p.held, old.held), max(p.series, old.series)
	}
	th.setReservation(hash, p)
}

// setReservation adds or replaces a reservation.
func (th *tenantHead) setReservation(hash uint64, p seriesReservation) {
	if th.reserved == nil {
		th.reserved = map[uint64]seriesReservation{}
	}
	old, ok := th.reserved[hash]
	if !ok {
		th.grow(reservationBytes)
	}
	th.reserved[hash] = p
	th.countReserved(int(p.series)-int(old.series), p.bytes()-old.bytes())
}

// useReservation uses up the reservation of a series, and reports whether it had one
// that was not expired. The caller holds th.mu for writing.
func (th *tenantHead) useReservation(hash uint64, now time.Time) bool {
	p, ok := th.reserved[hash]
	if !ok {
		return false
	}
	if p.expired(now) {
		th.dropReservation(hash)
		return false
	}
	if p.series == 1 {
		th.dropReservation(hash)
		return true
	}
	p.series--
	th.setReservation(hash, p)
	return true
}

func (th *tenantHead) dropReservation(hash uint64) {
	p := th.reserved[hash]
	delete(th.reserved, hash)
	th.grow(-reservationBytes)
	th.countReserved(-int(p.series), -p.bytes())
	if len(th.reserved) == 0 {
		th.reserved = nil // a map never shrinks
	}
}

// countReserved counts reserved series and the memory reserved for them.
func (th *tenantHead) countReserved(series int, held int64) {
	th.reservedCount += series
	th.account.reserved.Add(int64(series))
	th.held.Add(held)
	th.account.held.Add(held)
}

// sweepReservations drops expired reservations, and shortens those that are too long
// because the clock was set back. It releases th.mu after every sliceSeries reservations.
func (th *tenantHead) sweepReservations(now time.Time) {
	latest := reservedUntil(math.MaxInt64-1000, now)
	th.mu.Lock()
	defer th.mu.Unlock()
	n := 0
	for hash, p := range th.reserved {
		switch {
		case p.expired(now):
			th.dropReservation(hash)
		case p.until > latest: // the clock was set back
			p.until = latest
			th.setReservation(hash, p)
		}
		if n++; n%sliceSeries == 0 {
			th.mu.Unlock()
			th.mu.Lock()
		}
	}
}

// active returns how many series of the tenant count for max_active_series.
func (th *tenantHead) active() int {
	th.mu.RLock()
	defer th.mu.RUnlock()
	return th.count + th.reservedCount
}
