package ingester

import (
	"errors"
	"iter"
	"slices"
	"strings"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
)

// trialBytes is about how many bytes one trial encodes, because trials are held in
// memory.
const trialBytes = 16 << 20

// trySection encodes the section's series in trial packs, and sets aside the series
// that these packs reject.
func (s *sealer) trySection(sec *sealedSection) error {
	kept := make([]sealedSeries, 0, len(sec.list))
	for list := sec.list; len(list) > 0; {
		n, size := 0, 0
		for n < len(list) && (n == 0 || size < trialBytes) {
			size += int(list[n].labels.ByteSize())
			for i := range list[n].chunks {
				size += len(list[n].chunks[i].Data)
			}
			n++
		}
		ok, err := s.try(sec.th, sec.day, list[:n])
		if err != nil {
			return err
		}
		kept = append(kept, ok...)
		list = list[n:]
	}
	sec.list = kept
	return nil
}

// try returns the series of a list that a pack can hold. It sets the others aside.
func (s *sealer) try(th *tenantHead, day int64, list []sealedSeries) ([]sealedSeries, error) {
	err := pack.Trial(s.encoder, th.id, day, each(list))
	switch {
	case err == nil:
		return list, nil
	case !errors.Is(err, pack.ErrRejected):
		return nil, err
	case len(list) == 1:
		return nil, s.setAside(th, &list[0], err)
	}
	half := len(list) / 2
	first, err := s.try(th, day, list[:half])
	if err != nil {
		return nil, err
	}
	second, err := s.try(th, day, list[half:])
	return slices.Concat(first, second), err
}

func each(list []sealedSeries) iter.Seq2[labels.Labels, []series.Chunk] {
	return func(yield func(labels.Labels, []series.Chunk) bool) {
		for i := range list {
			if !yield(list[i].labels, list[i].chunks) {
				return
			}
		}
	}
}

// setAside writes the chunks of a series into files, one for each window.
func (s *sealer) setAside(th *tenantHead, sr *sealedSeries, cause error) error {
	byWindow := map[store.Window][]series.Chunk{}
	for _, c := range sr.chunks {
		w := store.WindowOf(c.MinTime)
		byWindow[w] = append(byWindow[w], c)
	}
	for w, chunks := range byWindow {
		if err := s.ing.aside.keep(s.ing.asideHeader(th.id, sr.labels, w, cause.Error()), chunks); err != nil {
			return err
		}
	}
	s.aside++
	if s.asideOf[th.id] == nil {
		s.asideOf[th.id] = &asideCount{first: shortened(sr.labels.String()), reason: shortened(cause.Error())}
	}
	s.asideOf[th.id].series++
	return nil
}

// asideCount counts the series of one tenant that a seal set aside.
type asideCount struct {
	series        int
	first, reason string // labels of the first series, and the reason for it
}

// logAside logs the series set aside, one line per tenant.
func (s *sealer) logAside() {
	for id, n := range s.asideOf {
		s.ing.opts.Logger.Error("set aside series that no pack can hold: they are served from files of their own "+
			"and use their tenant's limited disk space", "tenant", id, "series", n.series, "first", n.first, "reason", n.reason)
	}
}

func (ing *Ingester) asideHeader(t tenant.ID, ls labels.Labels, w store.Window, reason string) asideHeader {
	return asideHeader{tenant: t, ingester: ing.opts.ID, window: w, deletion: ing.deletions.number(t), since: ing.opts.Now().UnixMilli(),
		reason: shortened(reason), labels: ls}
}

// shortened truncates s, so that a huge label does not fill the log and the
// records.
func shortened(s string) string {
	const most = 300
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}
