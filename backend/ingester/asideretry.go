package ingester

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/series"
)

// retryBytes is about how many bytes of series set aside are in memory during a
// retry.
const retryBytes = 64 << 20

// retryAside tries again to write the series set aside into packs, which may
// succeed after an update. Series that a pack accepts are written to late packs;
// their files are removed after those packs are served.
func (ing *Ingester) retryAside(ctx context.Context) error {
	if ing.aside.empty() {
		return nil
	}
	encoder, err := pack.NewEncoder()
	if err != nil {
		return err
	}
	for all := ing.aside.all(); len(all) > 0 && ctx.Err() == nil; {
		n, size := 0, int64(0)
		for n < len(all) && (n == 0 || size < retryBytes) {
			size += max(all[n].bytes, asideCharge)
			n++
		}
		if err := ing.retryFiles(ctx, encoder, all[:n]); err != nil {
			return err
		}
		all = all[n:]
	}
	return ctx.Err()
}

// retryFiles retries files. A pack has one deletion number for each tenant, so
// files with different numbers go into different packs.
func (ing *Ingester) retryFiles(ctx context.Context, encoder *pack.Encoder, files []*asideFile) error {
	ing.sealMu.Lock()
	defer ing.sealMu.Unlock()
	byNumber := map[uint64][]*asideFile{}
	for _, f := range files {
		byNumber[f.deletion] = append(byNumber[f.deletion], f)
	}
	for _, number := range slices.Sorted(maps.Keys(byNumber)) {
		s := &sealer{ing: ing, encoder: encoder, deletions: func(tenant.ID) uint64 { return number }}
		if err := s.retry(ctx, byNumber[number]); err != nil {
			return errors.Join(err, s.giveUp())
		}
	}
	return nil
}

// retry seals the files that a pack accepts.
func (s *sealer) retry(ctx context.Context, files []*asideFile) error {
	var list []sealedSection
	var done []*asideFile
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return err
		}
		if section, ok := s.tryFile(f); ok {
			list = append(list, section)
			done = append(done, f)
		}
	}
	if len(done) == 0 {
		return nil
	}
	list, err := joinSections(list)
	if err != nil {
		return err
	}
	if err := s.writeLater(list); err != nil {
		return err
	}
	if err := s.serve(); err != nil {
		return err
	}
	for _, f := range done {
		if err := s.ing.aside.remove(f); err != nil {
			return err
		}
	}
	s.ing.opts.Logger.Info("moved series set aside into packs", "files", len(done), "packs", s.paths)
	return nil
}

// tryFile reads a file and encodes its series in a trial pack. It returns false if
// the file cannot be read, is not served any more, or the pack rejects the series.
func (s *sealer) tryFile(f *asideFile) (sealedSection, bool) {
	if f.damage != nil || !s.ing.aside.current(f) {
		return sealedSection{}, false
	}
	h, chunks, err := readAside(f.path, func(*asideHeader) bool { return true })
	if err == nil {
		chunks, err = series.Normalize(chunks)
	}
	if err != nil {
		s.ing.opts.Logger.Error("failed to read series set aside", "tenant", f.tenant, "err", err)
		return sealedSection{}, false
	}
	list := []sealedSeries{newSealedSeries(h.labels, chunks)}
	if err := pack.Trial(s.encoder, h.tenant, h.window.Day, each(list)); err != nil {
		return sealedSection{}, false
	}
	return sealedSection{th: s.ing.head(h.tenant, true), day: h.window.Day, list: list}, true
}

// joinSections merges the sections of the same tenant and day, and in each section
// the windows of the same series.
func joinSections(list []sealedSection) ([]sealedSection, error) {
	slices.SortStableFunc(list, func(a, b sealedSection) int {
		return cmp.Or(strings.Compare(string(a.th.id), string(b.th.id)), cmp.Compare(a.day, b.day))
	})
	var out []sealedSection
	for _, sec := range list {
		if n := len(out); n > 0 && out[n-1].th == sec.th && out[n-1].day == sec.day {
			out[n-1].list = append(out[n-1].list, sec.list...)
		} else {
			out = append(out, sec)
		}
	}
	for i := range out {
		var err error
		if out[i].list, err = joinSeries(out[i].list); err != nil {
			return nil, fmt.Errorf("tenant %s: %w", out[i].th.id, err)
		}
	}
	return out, nil
}

func joinSeries(list []sealedSeries) ([]sealedSeries, error) {
	slices.SortStableFunc(list, compareSealed)
	var out []sealedSeries
	for _, sr := range list {
		if n := len(out); n > 0 && labels.Equal(out[n-1].labels, sr.labels) {
			out[n-1].chunks = append(out[n-1].chunks, sr.chunks...)
		} else {
			out = append(out, sr)
		}
	}
	for i := range out {
		var err error
		if out[i].chunks, err = series.Normalize(out[i].chunks); err != nil {
			return nil, fmt.Errorf("series %s: %w", out[i].labels, err)
		}
	}
	return out, nil
}
