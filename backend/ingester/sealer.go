package ingester

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/series"
)

// maxPackDays is the maximum number of UTC days in a pack. Each day needs a receipt,
// and the pack cannot be deleted until all of its days are compacted.
const maxPackDays = 256

// sealTimes are the times of the samples to be sealed: the samples before the time
// `bound`, and those at or after the time `far`.
type sealTimes struct {
	window int64 // start of the window that gets its own pack
	bound  int64
	far    int64 // start of the far future
}

// Kinds of packs of a seal.
const (
	kindWindow = iota // samples of the window
	kindLate          // samples of other times
	kindFar           // samples of the far future; their packs stay on disk until that time, so these packs have no other samples
	kinds
)

// sealer writes the packs of one seal.
type sealer struct {
	ing *Ingester
	sealTimes
	// careful means that every section is first encoded in a trial pack, and that
	// rejected series are set aside.
	careful   bool
	encoder   *pack.Encoder // for all packs and trials; nil: each creates its own
	deletions func(tenant.ID) uint64

	taken  []takenSeries
	writer *pack.Writer // pack being written; nil between packs
	paths  []string
	served int // number of paths that are served
	later  [kinds][]sealedSection

	series, samples, aside int

	asideOf map[tenant.ID]*asideCount
}

// takenSeries is a series with chunks that are being sealed.
type takenSeries struct {
	th *tenantHead
	s  *memSeries
}

// release drops the sealed chunks from the head, after their packs are served.
func (s *sealer) release() {
	for _, t := range s.taken {
		t.s.sealed()
		t.th.recountSeries(t.s)
	}
}

// sealedSeries is the data of one series to be written to a pack.
type sealedSeries struct {
	labels labels.Labels
	metric string
	chunks []series.Chunk
}

func newSealedSeries(ls labels.Labels, chunks []series.Chunk) sealedSeries {
	return sealedSeries{labels: ls, metric: ls.Get(model.MetricNameLabel), chunks: chunks}
}

func compareSealed(a, b sealedSeries) int {
	return cmp.Or(strings.Compare(a.metric, b.metric), labels.Compare(a.labels, b.labels))
}

// sealedSection is the data of one tenant and day to be written to a pack.
type sealedSection struct {
	th   *tenantHead
	day  int64
	list []sealedSeries
}

// writePacks writes all samples of the given times into packs, which are served
// when it returns. Series that the encoder rejects are set aside. After an error
// the head is as before.
func (ing *Ingester) writePacks(t sealTimes) (*sealer, error) {
	s := &sealer{ing: ing, sealTimes: t, deletions: ing.deletions.number}
	err := s.write()
	if err == nil {
		return s, nil
	}
	err = errors.Join(err, s.giveUp())
	if !errors.Is(err, pack.ErrRejected) {
		return nil, err
	}
	ing.opts.Logger.Warn("pack writer rejected a series: sealing again with a trial write of each section, to find that series and "+
		"set it aside", "err", err)
	encoder, encErr := pack.NewEncoder()
	if encErr != nil {
		return nil, errors.Join(err, encErr)
	}
	s = &sealer{ing: ing, sealTimes: t, careful: true, encoder: encoder, deletions: ing.deletions.number, asideOf: map[tenant.ID]*asideCount{}}
	if err := s.write(); err != nil {
		return nil, errors.Join(err, s.giveUp())
	}
	s.logAside()
	return s, nil
}

// giveUp moves all chunks back into the head and removes the written packs that are
// not served.
func (s *sealer) giveUp() error {
	for _, t := range s.taken {
		t.s.failed()
		t.th.recountSeries(t.s)
	}
	var err error
	if s.writer != nil {
		err = s.writer.Abort()
	}
	for _, path := range s.paths[s.served:] {
		err = errors.Join(err, removeIfThere(path))
	}
	return err
}

func (s *sealer) write() error {
	heads := s.ing.heads()
	slices.SortFunc(heads, func(a, b *tenantHead) int { return strings.Compare(string(a.id), string(b.id)) })
	for _, th := range heads {
		if err := s.writeTenant(th); err != nil {
			return fmt.Errorf("tenant %s: %w", th.id, err)
		}
	}
	if err := s.closePack(); err != nil {
		return err
	}
	for kind := kindLate; kind < kinds; kind++ {
		if err := s.writeLater(s.later[kind]); err != nil {
			return err
		}
	}
	if err := s.ing.aside.sync(); err != nil {
		return err
	}
	return s.serve()
}

// serve starts serving the written packs.
func (s *sealer) serve() error {
	for _, path := range s.paths {
		// If this fails, the packs served before and the head have the same samples,
		// which is harmless.
		if err := s.ing.packs.open(path); err != nil {
			return err
		}
		s.served++
	}
	return nil
}

// writeTenant takes a tenant's chunks, writes the chunks of the window, and stores
// the others in s.later.
func (s *sealer) writeTenant(th *tenantHead) error {
	var days [kinds]map[int64][]sealedSeries
	for kind := range days {
		days[kind] = map[int64][]sealedSeries{}
	}
	for _, m := range th.all() {
		chunks, err := m.take(s.bound, s.far)
		th.recountSeries(m) // even if no chunk was taken, late samples may have been encoded
		if err != nil {
			return err
		}
		if len(chunks) == 0 {
			continue
		}
		s.taken = append(s.taken, takenSeries{th, m})
		normal, err := series.Normalize(chunks)
		if err != nil {
			if err = s.unreadable(th, m, chunks, err); err != nil {
				return err
			}
			continue
		}
		s.series++
		s.deal(m, normal, &days)
	}
	for kind := range days {
		for day, list := range days[kind] {
			slices.SortFunc(list, compareSealed)
			section := sealedSection{th: th, day: day, list: list}
			if kind != kindWindow {
				s.later[kind] = append(s.later[kind], section)
				continue
			}
			if err := s.writeSection(kind, &section); err != nil { // a window is within one day
				return err
			}
		}
	}
	return nil
}

// unreadable handles chunks that cannot be normalized. That is a defect, but it
// affects only one series, which is set aside.
func (s *sealer) unreadable(th *tenantHead, m *memSeries, chunks []series.Chunk, cause error) error {
	cause = fmt.Errorf("%w: series %s: %w", pack.ErrRejected, m.labels, cause)
	if !s.careful {
		return cause
	}
	return s.setAside(th, &sealedSeries{labels: m.labels, chunks: chunks}, cause)
}

// deal groups the chunks of a series, which are in ascending order, by kind of pack
// and by day.
func (s *sealer) deal(m *memSeries, chunks []series.Chunk, days *[kinds]map[int64][]sealedSeries) {
	for len(chunks) > 0 {
		kind, day := s.kind(&chunks[0]), series.Day(chunks[0].MinTime)
		n := 0
		for n < len(chunks) && s.kind(&chunks[n]) == kind && series.Day(chunks[n].MinTime) == day {
			s.samples += chunks[n].Samples
			n++
		}
		list := days[kind][day]
		if k := len(list); k > 0 && labels.Equal(list[k-1].labels, m.labels) { // chunks of the same day before and after the window
			list[k-1].chunks = slices.Concat(list[k-1].chunks, chunks[:n])
		} else {
			list = append(list, newSealedSeries(m.labels, chunks[:n:n]))
		}
		days[kind][day] = list
		chunks = chunks[n:]
	}
}

func (s *sealer) kind(c *series.Chunk) int {
	switch {
	case c.MinTime >= s.far:
		return kindFar
	case series.WindowStart(c.MinTime) == s.window:
		return kindWindow
	}
	return kindLate
}

// writeLater writes sections of any days into packs of at most maxPackDays days.
func (s *sealer) writeLater(list []sealedSection) error {
	slices.SortStableFunc(list, func(a, b sealedSection) int { return cmp.Compare(a.day, b.day) })
	for len(list) > 0 {
		n, days := 0, 0
		for n < len(list) {
			if n == 0 || list[n].day != list[n-1].day {
				days++
			}
			if days > maxPackDays {
				break
			}
			n++
		}
		part := list[:n]
		slices.SortFunc(part, func(a, b sealedSection) int {
			return cmp.Or(strings.Compare(string(a.th.id), string(b.th.id)), cmp.Compare(a.day, b.day))
		})
		for i := range part {
			if err := s.writeSection(kindLate, &part[i]); err != nil {
				return fmt.Errorf("tenant %s: %w", part[i].th.id, err)
			}
		}
		if err := s.closePack(); err != nil {
			return err
		}
		list = list[n:]
	}
	return nil
}

func (s *sealer) writeSection(kind int, sec *sealedSection) error {
	if s.careful {
		if err := s.trySection(sec); err != nil || len(sec.list) == 0 {
			return err
		}
	}
	if err := s.openPack(kind); err != nil {
		return err
	}
	md, dropped := pack.FitMetadata(sec.th.metadataOf(sec.list))
	if dropped > 0 {
		s.ing.metrics.droppedMetadata.WithLabelValues("pack_full").Add(float64(dropped))
	}
	if err := s.writer.StartSection(sec.th.id, sec.day, md); err != nil {
		return err
	}
	for i := range sec.list {
		if err := s.writer.Add(sec.list[i].labels, sec.list[i].chunks); err != nil {
			return err
		}
	}
	return nil
}

// openPack begins a pack unless one is being written.
func (s *sealer) openPack(kind int) error {
	if s.writer != nil {
		return nil
	}
	id := ulid.Make()
	dir := filepath.Join(s.ing.packs.dir, "late")
	if kind == kindWindow {
		dir = filepath.Join(s.ing.packs.dir, fmt.Sprint(series.Day(s.window)),
			fmt.Sprintf("%02d", s.window%series.DayMillis/series.WindowMillis))
	}
	path := filepath.Join(dir, s.ing.opts.ID+"-"+id.String()+pack.Suffix)
	w, err := pack.Create(path, pack.Options{ID: id, Level: 0, Source: s.ing.opts.ID, Encoder: s.encoder, Deletions: s.deletions})
	if err != nil {
		return err
	}
	s.writer = w
	s.paths = append(s.paths, path)
	return nil
}

// closePack completes the current pack.
func (s *sealer) closePack() error {
	if s.writer == nil {
		return nil
	}
	if _, err := s.writer.Close(); err != nil {
		return err
	}
	s.writer = nil
	return nil
}
