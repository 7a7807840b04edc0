package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/column"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
)

// ErrConflict is Publish's answer when another generation was published since
// the catalog was read, when a sweep deleted what it took for the leftovers of an
// attempt on the day, or when the attempt took too long. Nothing of this one became
// visible, and the compaction begins again with the catalog.
var ErrConflict = errors.New("the compaction of the day has to begin again")

var (
	errPublished = fmt.Errorf("%w: the day was published, expired or swept since it was read", ErrConflict)
	errTooOld    = fmt.Errorf("%w: it began more than %s ago", ErrConflict, maxAttemptAge)
)

// Generation is one attempt to write all of a tenant's day again: packs, then
// the rows of the index, then one conditional write that makes both visible and
// takes back what they replace. Nothing of it is seen before, and an attempt
// that ends earlier is swept. It is used by one goroutine.
type Generation struct {
	s        *Store
	catalog  Catalog
	manifest schema.Manifest
	metadata []series.MetricMetadata
	due      int // entries of metadata up to the last metric
	dueSize  int // bytes of them
	stamp    int64
	fence    uint64    // number of the catalog
	begun    time.Time // with the monotonic clock

	w     *pack.TableWriter // of the pack being written; nil between packs
	path  string
	index *index.Builder
	last  string // metric of the last series
}

// NewGeneration begins to write a day again. catalog is what the caller merges,
// number that of the last deletion of series that it applies, metadata, sorted
// by metric, what is known of the day's metrics.
func (s *Store) NewGeneration(ctx context.Context, catalog Catalog, number uint64, metadata []series.MetricMetadata) (*Generation, error) {
	kept := fewVariants(metadata)
	s.metrics.droppedMetadata.Add(float64(len(metadata) - len(kept)))
	g := &Generation{s: s, catalog: catalog, metadata: kept, begun: s.opts.Now()}
	stamp, expiry, err := s.Stamp(ctx, catalog.Tenant, catalog.Day)
	if err != nil {
		return nil, err
	}
	g.stamp = stamp
	if g.fence, err = catalog.Fence(); err != nil {
		return nil, err
	}
	g.manifest = schema.Manifest{Version: schema.Version{Generation: catalog.Version().Generation + 1, Attempt: rand.Uint64()},
		Day: catalog.Day, Expiry: expiry, Tombstone: number}
	for _, l := range catalog.L0 {
		g.manifest.Sources = append(g.manifest.Sources, l.ID)
	}
	if err := s.rejectDeleted(ctx, catalog.Tenant); err != nil {
		return nil, err
	}
	due := s.nowMillis() + attemptDelay.Milliseconds()
	if err := s.index.Garbage.Enter(ctx, due, index.IndexGarbage(g.day(), g.manifest.Version)); err != nil {
		return nil, err
	}
	return g, nil
}

func (s *Store) rejectDeleted(ctx context.Context, t tenant.ID) error {
	gone, err := s.opts.Deleted(ctx, t)
	if err != nil {
		return fmt.Errorf("tenant %s: %w", t, err)
	}
	if gone {
		return fmt.Errorf("tenant %s: %w", t, ErrDeleted)
	}
	return nil
}

// ErrDeleted is in the error of a write for a tenant that was deleted.
var ErrDeleted = errors.New("tenant was deleted")

// day is what the generation is of.
func (g *Generation) day() index.TenantDay {
	return index.TenantDay{Tenant: g.catalog.Tenant, Day: g.catalog.Day}
}

// Add writes a series with all its samples of the day; see pack.TableWriter.
func (g *Generation) Add(ctx context.Context, ls labels.Labels, s *column.Series) error {
	metric := ls.Get(model.MetricNameLabel)
	g.passMetadata(metric)
	if g.w != nil && (g.w.Size() >= g.s.opts.PackBytes || g.index.Full(g.dueSize)) {
		if err := g.endPack(ctx, metric == g.last, false); err != nil {
			return err
		}
		g.passMetadata(metric)
	}
	if g.w == nil {
		if err := g.startPack(ctx); err != nil {
			return err
		}
	}
	if err := g.w.Add(ls, s); err != nil {
		return err
	}
	if metric != g.last {
		g.last = metric
	}
	return nil
}

// maxPackEntry is more than the entry of a pack in a manifest takes beside the
// names of its metrics.
const maxPackEntry = 512

// checkParts reports a day that has so many packs that the manifest could not be
// written with another one.
func (g *Generation) checkParts() error {
	size := len(g.manifest.Sources) * len(ulid.ULID{})
	for i := range g.manifest.Packs {
		size += maxPackEntry + len(g.manifest.Packs[i].FirstMetric) + len(g.manifest.Packs[i].LastMetric)
	}
	if size += maxPackEntry + 2*schema.MaxMetricName; size > index.MaxCell || len(g.manifest.Packs) >= schema.MaxIndex {
		return fmt.Errorf("the day needs more than %d packs, and a manifest has no room for more; raise the size of a pack",
			len(g.manifest.Packs))
	}
	return nil
}

func (g *Generation) startPack(ctx context.Context) error {
	if err := g.checkParts(); err != nil {
		return err
	}
	id := ulid.Make()
	object := fmt.Sprintf("%s/%d/%s%s", ObjectDir(g.catalog.Tenant), g.catalog.Day, id, pack.Suffix)
	// The journal first: an object that no row names is deleted by it.
	if err := g.s.index.Garbage.Enter(ctx, g.s.nowMillis()+attemptDelay.Milliseconds(),
		index.PackGarbage(object, g.day(), g.manifest.Version)); err != nil {
		return err
	}
	g.path = filepath.Join(g.s.opts.Scratch, id.String()+pack.Suffix)
	continued := len(g.manifest.Packs) > 0 && g.manifest.Packs[len(g.manifest.Packs)-1].LastMetric == g.last && g.index != nil &&
		g.index.Continues()
	g.index = index.NewBuilder(g.s.index.Codec(), g.manifest.Version, len(g.manifest.Packs), continued)
	g.manifest.Packs = append(g.manifest.Packs, schema.PackEntry{ID: id, Object: object})
	w, err := pack.CreateTable(g.path, pack.Options{ID: id, Source: "compactor", Encoder: g.s.encoder,
		Deletions: func(tenant.ID) uint64 { return g.manifest.Tombstone }},
		g.catalog.Tenant, g.catalog.Day, g.index.AddPage)
	if err != nil {
		return err
	}
	g.w = w
	return nil
}

// endPack closes the pack, stores it (C4) and writes its rows of the index (C5).
// continues says that its last metric goes on in the next pack, last that there
// is no next one.
func (g *Generation) endPack(ctx context.Context, continues, last bool) error {
	w := g.w
	if err := w.Finish(); err != nil {
		return err
	}
	if err := g.index.Finish(g.metadataFor(continues), continues); err != nil {
		return err
	}
	id, err := index.Identity{Version: g.manifest.Version, Part: len(g.manifest.Packs) - 1, Last: last}.Cell()
	if err != nil {
		return err
	}
	for _, c := range append(slices.Clone(g.index.Cells()), id) {
		if err := w.Attach(c.Name, c.Value); err != nil {
			return err
		}
	}
	info, err := w.Close()
	if err != nil {
		return err
	}
	g.w = nil
	crc, err := pack.FileCRC(g.path)
	if err != nil {
		return err
	}
	e := &g.manifest.Packs[len(g.manifest.Packs)-1]
	sec := &info.Sections[0]
	e.Size, e.CRC, e.MinTime, e.MaxTime = info.Size, crc, sec.MinTime, sec.MaxTime
	e.Series, e.Samples = int64(sec.Series), sec.Samples
	e.FirstMetric, e.LastMetric = g.index.First(), g.index.Last()
	g.manifest.Series += int64(sec.Series)
	g.manifest.Samples += sec.Samples
	if _, err := g.s.opts.Objects.Put(ctx, e.Object, g.path, crc); err != nil {
		return fmt.Errorf("store compacted pack: %w", err)
	}
	if err := removeFile(g.path); err != nil {
		return err
	}
	return g.s.index.Generations.Write(ctx, g.day(), g.stamp, g.index)
}

// Bounds of the metadata in the index. The ingesters' are higher; what a day's
// packs have together, each with what was said at its time, could pass any bound.
const (
	maxVariants  = 8                      // of one metric; senders that disagree are few
	maxEntrySize = 64 << 10               // bytes of one entry
	maxNames     = index.MaxCell / 10 * 9 // bytes of the names of a pack, with metadata, uncompressed
)

// fewVariants drops what is beyond the first variants of a metric, and entries
// larger than any that is accepted today. The list is sorted by metric.
func fewVariants(list []series.MetricMetadata) []series.MetricMetadata {
	out := make([]series.MetricMetadata, 0, len(list))
	for i := range list {
		n := len(out)
		if pack.MetadataSize(&list[i]) > maxEntrySize || n >= maxVariants && out[n-maxVariants].Metric == list[i].Metric {
			continue
		}
		out = append(out, list[i])
	}
	return out
}

// passMetadata counts the metadata that belongs to metrics up to the given one.
func (g *Generation) passMetadata(metric string) {
	for g.due < len(g.metadata) && g.metadata[g.due].Metric <= metric {
		g.dueSize += pack.MetadataSize(&g.metadata[g.due])
		g.due++
	}
}

// metadataFor takes the metadata of the metrics up to the last one of the pack
// from what is left; a family's goes with the first metric behind its name. There
// is room for that of all metrics of the pack (see maxIndexCell). What is dropped
// stands between two metrics: it is of families whose series are gone.
func (g *Generation) metadataFor(continues bool) []series.MetricMetadata {
	n := 0
	for n < len(g.metadata) && (g.metadata[n].Metric < g.index.Last() || !continues && g.metadata[n].Metric == g.index.Last()) {
		n++
	}
	first, size := n, 0
	for first > 0 && size+pack.MetadataSize(&g.metadata[first-1]) <= maxNames-g.index.NamesSize() {
		first--
		size += pack.MetadataSize(&g.metadata[first])
	}
	out := g.metadata[first:n]
	g.metadata = g.metadata[n:]
	g.due, g.dueSize = 0, 0
	g.s.metrics.droppedMetadata.Add(float64(first))
	return out
}

// Publish makes the generation the day's (C6). It returns ErrConflict when the
// attempt has to begin again.
func (g *Generation) Publish(ctx context.Context) (schema.Manifest, error) {
	if g.w != nil {
		if err := g.endPack(ctx, false, true); err != nil {
			return g.manifest, err
		}
	}
	if err := g.s.rejectDeleted(ctx, g.catalog.Tenant); err != nil {
		return g.manifest, err
	}
	if err := g.s.EnterReplaced(ctx, &g.catalog); err != nil {
		return g.manifest, err
	}
	g.manifest.Written = g.s.nowMillis()
	if g.s.opts.Now().Sub(g.begun) > maxAttemptAge {
		return g.manifest, g.lost(ctx, errTooOld)
	}
	held, err := g.s.index.Catalogs.Publish(ctx, &g.catalog, &g.manifest, g.fence, g.stamp)
	if err != nil {
		return g.manifest, g.afterDoubt(ctx, err)
	}
	if !held {
		return g.manifest, g.lost(ctx, errPublished)
	}
	g.s.metrics.published.Inc()
	return g.manifest, nil
}

// EnterReplaced enters what a catalog names, which is about to be replaced, into the
// garbage queue.
func (s *Store) EnterReplaced(ctx context.Context, c *Catalog) error {
	if c.Manifest == nil {
		return nil
	}
	return s.index.Garbage.EnterGeneration(ctx, s.nowMillis()+garbageDelay.Milliseconds(), c.Tenant, c.Manifest)
}

// doubtTime bounds how long it is tried to find out what became of a
// publication, also when its context has ended.
const doubtTime = 5 * time.Second

// afterDoubt finds out what became of a publication whose answer was lost.
func (g *Generation) afterDoubt(ctx context.Context, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), doubtTime)
	defer cancel()
	now, err := g.s.Catalog(ctx, g.catalog.Tenant, g.catalog.Day)
	if err != nil {
		return fmt.Errorf("publish day %d of tenant %s: %w; whether it was published could not be read: %w", g.catalog.Day, g.catalog.Tenant,
			cause, err)
	}
	if now.Version() == g.manifest.Version {
		return nil
	}
	return fmt.Errorf("publish day %d of tenant %s: %w", g.catalog.Day, g.catalog.Tenant, cause)
}

// lost ends an attempt that may not publish. A sweep may have worked off its
// garbage entries while it went on writing, so they are made again.
func (g *Generation) lost(ctx context.Context, reason error) error {
	err := g.s.index.Garbage.EnterGeneration(ctx, g.s.nowMillis()+attemptDelay.Milliseconds(), g.catalog.Tenant, &g.manifest)
	return errors.Join(fmt.Errorf("publish day %d of tenant %s: %w", g.catalog.Day, g.catalog.Tenant, reason), err)
}

// Abort gives up what is being written on the local disk, also a finished pack
// that could not be stored. What was stored already is swept later.
func (g *Generation) Abort() error {
	var err error
	if g.w != nil {
		err = g.w.Abort()
		g.w = nil
	}
	if g.path != "" {
		err = errors.Join(err, removeFile(g.path))
	}
	return err
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
