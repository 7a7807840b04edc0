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

// refPage is how many references share a page of a refTable.
const refPage = 1 << 12

// refTable finds series by their reference in the log. References of a log are
// given out in a row, so pages are nearly full.
type refTable struct {
	pages map[uint64]*[refPage]reference
	last  *[refPage]reference // the page that was used last, and its number
	at    uint64
}

// reference is what a reference in the log names. A series that left the head and
// came back has several.
type reference struct {
	th  *tenantHead // nil when the labels are not known
	all labels.Labels
	s   *memSeries // nil before a sample that is in no pack: such series are made only
	// labels is twice the first segment of the newest epoch in which the labels were
	// met, and 1 more once they were met in another segment, too; 0 before.
	labels int32
}

// get returns what the reference names; nil when that is not known.
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

// scanLabels takes in the labels of all records from a segment on. It is done
// once at most: then the labels of every reference are known that the log has.
func (r *replay) scanLabels(ctx context.Context, from int) error {
	r.scanned = true
	th := r.th
	defer func() { r.th = th }()
	scan := labelScanner{replay: r}
	_, err := wal.Replay(ctx, r.dir, from, wal.Reader{Record: func(_ wal.Place, rec []byte) error { return decodeRecord(rec, scan) }})
	if err != nil {
		return fmt.Errorf("look for labels behind damage: %w", err)
	}
	return nil
}

// labelsOnly is a recordHandler that ignores everything but labels.
type labelsOnly struct{}

func (labelsOnly) float(uint64, int64, float64) error                  { return nil }
func (labelsOnly) histogram(uint64, int64, []byte) error               { return nil }
func (labelsOnly) metadata(string, metadata.Metadata) error            { return nil }
func (labelsOnly) exemplar(uint64, exemplar.Exemplar) error            { return nil }
func (labelsOnly) keptExemplar(labels.Labels, exemplar.Exemplar) error { return nil }

// labelScanner takes in the labels of records.
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

// noteLabels takes note of labels in the present segment.
func (r *replay) noteLabels(ref *reference) {
	first := int(ref.labels / 2)
	switch {
	case r.oldFormat: // it has them twice in each segment
		ref.labels = int32(2*r.place.Segment + 1)
	case ref.labels == 0 || r.epochs[first] != r.place.Epoch:
		ref.labels = int32(2 * r.place.Segment)
	case first != r.place.Segment:
		ref.labels |= 1
	}
}

// finishLabels has labels written a second time that the log has only once: the
// process ended before its checkpoint.
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
			if number := page*refPage + uint64(i); s.ref != number { // it came back under another one
				s = newMemSeries(s.labels, s.hash, number)
			}
			uses.series[ref.th] = append(uses.series[ref.th], s)
		}
	}
	for _, segment := range slices.Sorted(maps.Keys(once)) {
		r.ing.labels.earlier = append(r.ing.labels.earlier, *once[segment])
	}
}
