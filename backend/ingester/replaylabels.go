package ingester

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/wal"
)

// refPage is the number of references in one page of a refTable.
const refPage = 1 << 12

// refTable maps references in the log to series. The references in a log are mostly
// consecutive, so pages are nearly full.
type refTable struct {
	pages map[uint64]*[refPage]reference
	last  *[refPage]reference // the page used last, and its number
	at    uint64
}

// reference is the series that a reference in the log identifies. A series that
// left the head and returned has several references.
type reference struct {
	th  *tenantHead // nil if the labels are unknown
	all labels.Labels
	s   *memSeries // nil until the first sample that is in no pack, so that only series with such samples are created
	// labels is 2n if n is the first segment with the labels in the newest epoch that
	// has them, and 2n+1 if another segment of that epoch has them too; 0 = none
	// seen.
	labels int32
}

// get returns the reference, or nil if it is unknown.
func (t *refTable) get(ref uint64) *reference {
	if page := ref / refPage; t.last == nil || page != t.at {
		p := t.pages[page]
		if p == nil {
			return nil
		}
		t.last, t.at = p, page
	}
	if r := &t.last[ref%refPage]; r.th != nil {
		return r
	}
	return nil
}

func (t *refTable) set(ref uint64, th *tenantHead, ls labels.Labels) *reference {
	page := ref / refPage
	p := t.pages[page]
	if p == nil {
		if t.pages == nil {
			t.pages = map[uint64]*[refPage]reference{}
		}
		p = new([refPage]reference)
		t.pages[page] = p
	}
	r := &p[ref%refPage]
	r.th, r.all = th, ls
	return r
}

// scanLabels defines the references of all records from a segment on. It runs at
// most once: afterwards all labels in the log are known.
func (r *replay) scanLabels(ctx context.Context, from int) error {
	r.scanned = true
	th := r.th
	defer func() { r.th = th }()
	scan := labelScanner{replay: r}
	_, err := wal.Replay(ctx, r.dir, from, wal.Reader{Record: func(_ wal.Place, rec []byte) error { return decodeRecord(rec, scan) }})
	if err != nil {
		return fmt.Errorf("scan for labels after a damaged record: %w", err)
	}
	return nil
}

// labelsOnly is the part of a recordHandler that ignores everything except labels.
type labelsOnly struct{}

func (labelsOnly) float(uint64, int64, float64) error                  { return nil }
func (labelsOnly) histogram(uint64, int64, []byte) error               { return nil }
func (labelsOnly) metadata(string, metadata.Metadata) error            { return nil }
func (labelsOnly) exemplar(uint64, exemplar.Exemplar) error            { return nil }
func (labelsOnly) keptExemplar(labels.Labels, exemplar.Exemplar) error { return nil }

// labelScanner is a recordHandler that defines references.
type labelScanner struct {
	labelsOnly
	replay *replay
}

func (s labelScanner) tenant(id tenant.ID) error { return s.replay.tenant(id) }
func (s labelScanner) known(ref uint64) bool     { return s.replay.refs.get(ref) != nil }
func (s labelScanner) series(ref uint64, ls labels.Labels) error {
	_, err := s.replay.define(ref, ls)
	return err
}

// noteLabels records that the current segment has the labels.
func (r *replay) noteLabels(ref *reference) {
	first := int(ref.labels / 2)
	switch {
	case r.oldFormat: // in the old format, each segment has the labels twice
		ref.labels = int32(2*r.place.Segment + 1)
	case ref.labels == 0 || r.epochs[first] != r.place.Epoch:
		ref.labels = int32(2 * r.place.Segment)
	case first != r.place.Segment:
		ref.labels |= 1
	}
}

// finishLabels schedules a second copy of labels that the log has only once.
func (r *replay) finishLabels() {
	once := map[int]*firstUses{}
	for page, refs := range r.refs.pages {
		for i := range refs {
			ref := &refs[i]
			if ref.s == nil || ref.labels == 0 || ref.labels%2 != 0 {
				continue
			}
			segment := int(ref.labels / 2)
			uses := once[segment]
			if uses == nil {
				uses = &firstUses{segment: segment, series: map[*tenantHead][]*memSeries{}}
				once[segment] = uses
			}
			s := ref.s
			if number := page*refPage + uint64(i); s.ref != number { // the series left the head and returned under another reference
				s = newMemSeries(s.labels, s.hash, number)
			}
			uses.series[ref.th] = append(uses.series[ref.th], s)
		}
	}
	for _, segment := range slices.Sorted(maps.Keys(once)) {
		r.ing.labels.earlier = append(r.ing.labels.earlier, *once[segment])
	}
}
