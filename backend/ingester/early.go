package ingester

import "time"

const (
	// earlyInterval is the least time between two looks at what an early seal
	// would free.
	earlyInterval = 30 * time.Second
	// earlyPart is the part of the memory budget that an early seal has to free:
	// when series fill it rather than samples, sealing would only write packs.
	earlyPart = 16
	// earlyLogBytes is how much log an early seal has to be able to delete when the
	// disk is nearly full.
	earlyLogBytes = 1 << 20
)

// sealEarly reports whether everything should be sealed now, before its window
// ends, because memory or disk are nearly full and sealing would free a good
// part of it. It is asked by one goroutine.
func (ing *Ingester) sealEarly(now time.Time) bool {
	budget, used := ing.opts.MemoryBytes, ing.bytes.Load()
	memory := budget > 0 && used > budget/10*8
	disk := ing.disk.near()
	if !memory && !disk || now.Sub(time.UnixMilli(ing.early.Load())).Abs() < earlyInterval {
		return false
	}
	ing.early.Store(now.UnixMilli())
	if freed := ing.log.Bytes(); disk && freed >= earlyLogBytes {
		ing.opts.Logger.Warn("disk is nearly full, sealing early", "free", ing.disk.left.Load(), "reserve", ing.disk.reserve(), "log", freed)
		return true
	}
	if !memory {
		return false
	}
	freed := ing.freeable(now.Add(-idleSeries).UnixMilli())
	if freed < budget/earlyPart {
		return false
	}
	ing.opts.Logger.Warn("head is near its memory budget, sealing early", "bytes", used, "budget", budget, "freed", freed)
	return true
}

// freeable is about how much of the counted memory a seal would free: closed
// chunks, and series without a sample since idleSince.
func (ing *Ingester) freeable(idleSince int64) int64 {
	total := int64(0)
	for _, th := range ing.heads() {
		th.each(func(s *memSeries) {
			s.mu.Lock()
			defer s.mu.Unlock()
			total += sizeOf(s.in.Done())
			if s.lastT < idleSince {
				total += seriesOverhead + int64(s.labels.ByteSize())
			}
		})
	}
	return total
}
