package ingester

import (
	"math"
	"time"
)

// A place is a reservation for a series that is not in the head and that may return
// without counting as a new one: it was removed early because memory was short, or
// it was active before a restart (active.go) or on an ingester that left
// (handover.go). Until it expires it counts for max_active_series, so that no new
// series can take its place. Reservations of the latter two kinds also reserve the
// memory that the series will need.
type place struct {
	until  uint32 // Unix seconds
	held   uint16 // memory reserved for each of the series, in units of heldUnit
	series uint16 // number of reserved series; more than one if their hashes are equal
}

const heldUnit = 16 // bytes

// placeUntil returns when a reservation ends, in Unix seconds, for a time in Unix
// milliseconds. It limits the result to idleSeries from now, so that wrong
// timestamps and clocks of others have no effect.
func placeUntil(ms int64, now time.Time) uint32 {
	ms = min(ms, now.Add(idleSeries).UnixMilli())
	return uint32(max(0, min((ms+999)/1000, math.MaxUint32)))
}

// heldUnits converts bytes to units of heldUnit.
func heldUnits(bytes int64) uint16 {
	return uint16(max(0, min((bytes+heldUnit-1)/heldUnit, math.MaxUint16)))
}

func (p place) over(now time.Time) bool { return int64(p.until)*1000 < now.UnixMilli() }

// bytes returns the memory reserved by the place.
func (p place) bytes() int64 { return int64(p.held) * heldUnit * int64(p.series) }

// leavePlace reserves a series that is removed early. The caller holds th.mu for
// writing.
func (th *tenantHead) leavePlace(hash uint64, until uint32) {
	p, ok := th.places[hash]
	if !ok {
		th.setPlace(hash, place{until: until, series: 1})
		return
	}
	if p.until > until { // reserved longer for another series with the same hash
		until = p.until
	}
	if p.series < math.MaxUint16 {
		p.series++
	}
	p.until = until
	th.setPlace(hash, p)
}

// keepPlace reserves series with the hash, except those in the head. It does not
// shorten or shrink an existing reservation, because the same series may be
// reserved several times. The caller holds th.mu for writing.
func (th *tenantHead) keepPlace(hash uint64, p place) {
	for s := th.series[hash]; s != nil && p.series > 0; s = s.next {
		p.series--
	}
	if p.series == 0 {
		return
	}
	if old, ok := th.places[hash]; ok {
		p.until, p.held, p.series = max(p.until, old.until), max(p.held, old.held), max(p.series, old.series)
	}
	th.setPlace(hash, p)
}

// setPlace adds or replaces a reservation.
func (th *tenantHead) setPlace(hash uint64, p place) {
	if th.places == nil {
		th.places = map[uint64]place{}
	}
	old, ok := th.places[hash]
	if !ok {
		th.grow(placeBytes)
	}
	th.places[hash] = p
	th.countPlaces(int(p.series)-int(old.series), p.bytes()-old.bytes())
}

// takePlace uses up the reservation of a series, and reports whether it had one
// that was not expired. The caller holds th.mu for writing.
func (th *tenantHead) takePlace(hash uint64, now time.Time) bool {
	p, ok := th.places[hash]
	if !ok {
		return false
	}
	if p.over(now) {
		th.dropPlace(hash)
		return false
	}
	if p.series == 1 {
		th.dropPlace(hash)
		return true
	}
	p.series--
	th.setPlace(hash, p)
	return true
}

func (th *tenantHead) dropPlace(hash uint64) {
	p := th.places[hash]
	delete(th.places, hash)
	th.grow(-placeBytes)
	th.countPlaces(-int(p.series), -p.bytes())
	if len(th.places) == 0 {
		th.places = nil // a map never shrinks
	}
}

// countPlaces counts reserved series and the memory reserved for them.
func (th *tenantHead) countPlaces(series int, held int64) {
	th.placed += series
	th.account.places.Add(int64(series))
	th.held.Add(held)
	th.account.held.Add(held)
}

// sweepPlaces drops expired reservations. It releases th.mu after every sliceSeries
// reservations.
func (th *tenantHead) sweepPlaces(now time.Time) {
	latest := placeUntil(math.MaxInt64-1000, now)
	th.mu.Lock()
	defer th.mu.Unlock()
	n := 0
	for hash, p := range th.places {
		switch {
		case p.over(now):
			th.dropPlace(hash)
		case p.until > latest: // the clock was set back
			p.until = latest
			th.setPlace(hash, p)
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
	return th.count + th.placed
}
