package ingester

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"slices"
	"time"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/wal"
)

// progressEvery is the interval at which Options.Replaying is called.
const progressEvery = time.Second

// replay applies the records of the log to the head. One goroutine reads and
// decodes, several goroutines append. All samples of a series go through the same
// goroutine, in the order of the log.
type replay struct {
	ing *Ingester
	dir string

	place     wal.Place
	th        *tenantHead
	refs      refTable
	covered   covering   // ranges of the current segment that seals cover
	far       int64      // start of the far future
	times     span       // times in the current record
	bounds    timeBounds // of the current record
	oldFormat bool       // whether the current record is in the old format

	appliers *appliers
	scan     func() error // defines all labels from the current segment on
	scanned  bool         // scan was called: all labels of the log are known

	samples, skipped int
	orphans          map[tenant.ID]map[int64]*orphans // by tenant and UTC day
	inSegment        *segmentBounds
	perSegment       map[int]*segmentBounds
	epochs           map[int]int // epoch by segment
	exemplars        map[*tenantHead][]storedExemplar
	reported         time.Time
}

func newReplay(ing *Ingester, dir string) *replay {
	return &replay{
		ing:        ing,
		dir:        dir,
		far:        farFrom(ing.opts.Now()),
		appliers:   newAppliers(runtime.GOMAXPROCS(0)),
		orphans:    map[tenant.ID]map[int64]*orphans{},
		perSegment: map[int]*segmentBounds{},
		epochs:     map[int]int{},
		exemplars:  map[*tenantHead][]storedExemplar{},
	}
}

// run replays the whole log.
func (r *replay) run(ctx context.Context) (wal.Report, error) {
	r.scan = func() error { return r.scanLabels(ctx, r.place.Segment) }
	report, err := wal.Replay(ctx, r.dir, 0, wal.Reader{Segment: r.segment, Record: r.record, Progress: r.progress})
	if waitErr := r.appliers.wait(); err == nil {
		err = waitErr
	}
	if err != nil {
		return report, err
	}
	r.finish()
	return report, nil
}

func (r *replay) progress(done, total int64) {
	if r.ing.opts.Replaying == nil {
		return
	}
	if now := time.Now(); done == total || now.Sub(r.reported) >= progressEvery {
		r.reported = now
		r.ing.opts.Replaying(done, total)
	}
}

func (r *replay) segment(at wal.Place) error {
	r.place = at
	r.covered = r.ing.seals.covering(at.Segment)
	r.ing.seals.note(at, noTimes())
	r.inSegment = &segmentBounds{min: math.MaxInt64, max: math.MinInt64}
	r.perSegment[at.Segment], r.epochs[at.Segment] = r.inSegment, at.Epoch
	return nil
}

func (r *replay) record(at wal.Place, rec []byte) error {
	if err := r.appliers.failure(); err != nil {
		return err
	}
	r.times, r.bounds, r.oldFormat = noTimes(), timeBounds{}, len(rec) > 0 && rec[0] == recordOldWrite
	if err := decodeRecord(rec, r); err != nil {
		return err
	}
	r.ing.noteTimes(r.th, r.bounds)
	if r.times != noTimes() {
		r.ing.seals.note(at, r.times)
	}
	return nil
}

// tenant implements recordHandler.
func (r *replay) tenant(id tenant.ID) error {
	r.th = r.ing.head(id, true)
	return nil
}

// known implements recordHandler.
func (r *replay) known(number uint64) bool {
	ref := r.refs.get(number)
	if ref == nil {
		return false
	}
	r.noteLabels(ref)
	return true
}

// series implements recordHandler.
func (r *replay) series(number uint64, ls labels.Labels) error {
	ref, err := r.define(number, ls)
	if err != nil {
		return err
	}
	r.noteLabels(ref)
	return nil
}

// define assigns a reference to the tenant's series with the labels. It fails if
// the reference is assigned to other labels.
func (r *replay) define(number uint64, ls labels.Labels) (*reference, error) {
	r.seenRef(number)
	known := r.refs.get(number)
	if known == nil {
		return r.refs.set(number, r.th, ls), nil
	}
	if !labels.Equal(known.all, ls) {
		return nil, fmt.Errorf("series reference %d is used for both %s and %s", number, known.all, ls)
	}
	return known, nil
}

// seriesOf finds or creates the series of a reference.
func (r *replay) seriesOf(number uint64, ref *reference) *memSeries {
	if ref.s != nil {
		return ref.s
	}
	hash := ref.all.Hash()
	ref.s = ref.th.find(hash, ref.all)
	if ref.s == nil {
		ref.s = r.ing.newSeries(ref.th, newSeries{labels: ref.all, hash: hash, ref: number})
	}
	return ref.s
}

func (r *replay) seenRef(ref uint64) {
	if ref > r.ing.nextRef.Load() {
		r.ing.nextRef.Store(ref)
	}
}

// wanted returns the series to which a sample must be appended, or nil if the
// sample is covered by a seal or is an orphan.
func (r *replay) wanted(ref uint64, t int64) (*memSeries, error) {
	r.times.add(t, r.far)
	r.nearBounds(t)
	if r.covered.has(t) {
		r.skipped++
		return nil, nil
	}
	known := r.refs.get(ref)
	if known == nil && !r.scanned { // the first record with the labels is damaged
		if err := r.scan(); err != nil {
			return nil, err
		}
		known = r.refs.get(ref)
	}
	if known == nil || known.th != r.th {
		r.seenRef(ref)
		r.orphan(t)
		return nil, nil
	}
	r.samples++
	r.bounds.add(t)
	return r.seriesOf(ref, known), nil
}

// float implements recordHandler.
func (r *replay) float(ref uint64, t int64, v float64) error {
	s, err := r.wanted(ref, t)
	if s != nil {
		r.appliers.float(s, t, v)
	}
	return err
}

// histogram implements recordHandler.
func (r *replay) histogram(ref uint64, t int64, encoded []byte) error {
	s, err := r.wanted(ref, t)
	if s != nil {
		r.appliers.histogram(s, t, slices.Clone(encoded))
	}
	return err
}

// metadata implements recordHandler.
func (r *replay) metadata(metric string, m metadata.Metadata) error {
	r.th.keepMetadata(series.MetricMetadata{Metric: metric, Metadata: m}, r.ing.opts.Now().Unix())
	return nil
}

// exemplar implements recordHandler. It drops exemplars of series whose labels it does
// not know: exemplars are stored on a best-effort basis.
func (r *replay) exemplar(ref uint64, e exemplar.Exemplar) error {
	if known := r.refs.get(ref); known != nil && known.th == r.th {
		return r.keptExemplar(known.all, e)
	}
	return nil
}

// keptExemplar implements recordHandler.
func (r *replay) keptExemplar(ls labels.Labels, e exemplar.Exemplar) error {
	limit := max(0, r.ing.opts.Limits(r.th.id).MaxExemplars)
	list := append(r.exemplars[r.th], storedExemplar{series: ls, Exemplar: e})
	if len(list) >= 2*limit+resent {
		list = newestExemplars(list, limit)
	}
	r.exemplars[r.th] = list
	return nil
}

// finish completes the head after all records were read.
func (r *replay) finish() {
	for th, list := range r.exemplars {
		limit := r.ing.opts.Limits(th.id).MaxExemplars
		for _, e := range newestExemplars(list, max(0, limit)) {
			_, grown := th.exemplars.add(e.series, e.Exemplar, limit)
			th.grow(grown)
		}
	}
	r.finishLabels()
	r.ing.recount()
}
