package ingester

import (
	"fmt"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
)

// maxOrphans bounds how many samples may wait for the labels of their series
// to turn up later in the log.
const maxOrphans = 10_000_000

// replay puts the records of the log into the head.
type replay struct {
	ing     *Ingester
	segment int
	th      *tenantHead
	byRef   map[uint64]replayed
	waiting map[uint64][]orphan // samples whose series was not yet met

	samples, skipped, orphans int
	windows                   timeBounds // of what went into the head
	far                       int64      // where the far future begins
	times                     span       // of the segment
}

type replayed struct {
	th *tenantHead
	s  *memSeries
}

type orphan struct {
	segment int
	sample  series.Sample
}

func newReplay(ing *Ingester) *replay {
	return &replay{ing: ing, byRef: map[uint64]replayed{}, waiting: map[uint64][]orphan{}, far: farFrom(ing.opts.Now())}
}

func (r *replay) record(segment int, rec []byte) error {
	r.segment, r.times = segment, noTimes()
	err := decodeRecord(rec, r)
	if r.times != noTimes() {
		r.ing.seals.note(segment, r.times)
	}
	return err
}

func (r *replay) tenant(id tenant.ID) error {
	r.th = r.ing.head(id, true)
	return nil
}

func (r *replay) series(ref uint64, ls labels.Labels) error {
	r.seenRef(ref)
	if known, ok := r.byRef[ref]; ok {
		if !labels.Equal(known.s.labels, ls) {
			return fmt.Errorf("reference %d names both %s and %s", ref, known.s.labels, ls)
		}
		return nil
	}
	hash := ls.Hash()
	s := r.th.find(hash, ls)
	if s == nil {
		s = r.ing.newSeries(r.th, ls, hash, ref)
	}
	r.byRef[ref] = replayed{r.th, s}
	return nil
}

func (r *replay) seenRef(ref uint64) {
	if ref > r.ing.nextRef.Load() {
		r.ing.nextRef.Store(ref)
	}
}

func (r *replay) sample(ref uint64, smp series.Sample) error {
	r.seenRef(ref)
	r.times.add(smp.T, r.far)
	if r.ing.seals.covers(r.segment, smp.T) {
		r.skipped++
		return nil
	}
	known, ok := r.byRef[ref]
	if !ok {
		if r.orphans++; r.orphans <= maxOrphans {
			r.waiting[ref] = append(r.waiting[ref], orphan{r.segment, smp})
		}
		return nil
	}
	return r.append(known, smp)
}

func (r *replay) append(to replayed, smp series.Sample) error {
	t := smp.T
	if _, err := to.s.append(&smp); err != nil {
		return err
	}
	r.samples++
	to.th.extend(t, t)
	r.windows.add(t)
	return nil
}

func (r *replay) metadata(metric string, m metadata.Metadata) error {
	r.th.keepMetadata(series.MetricMetadata{Metric: metric, Metadata: m})
	return nil
}

// finish gives samples to series whose labels stood only further on in the log,
// because the record with their first copy was damaged.
func (r *replay) finish() {
	for ref, samples := range r.waiting {
		known, ok := r.byRef[ref]
		if !ok {
			continue
		}
		for _, o := range samples {
			if r.append(known, o.sample) == nil {
				r.orphans--
			}
		}
	}
	r.waiting = nil
	r.ing.unsealed.add(r.windows.windows)
	r.ing.recount()
}
