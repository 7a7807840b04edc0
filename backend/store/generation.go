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

// ErrConflict is wrapped by the error of Publish if another generation was published
// or the day expired since the catalog was read, if a sweep raised the fence of the
// day because an attempt was overdue, or if the attempt took too long. Nothing of
// this attempt is visible to readers. The caller reads the catalog again and starts
// over. Other conditional changes of a manifest return it for the same reasons.
var ErrConflict = errors.New("the change of the day must start over")

var (
	errPublished = fmt.Errorf("%w: the day was published, expired or swept since its catalog was read", ErrConflict)
	errTooOld    = fmt.Errorf("%w: the compaction took longer than %s, so its result is discarded", ErrConflict, maxAttemptAge)
)

// Generation is one attempt to write a complete new generation of a tenant's day:
// packs, then the rows of the index, then one conditional write that makes both
// visible and removes the manifest they replace. Readers see nothing of it before
// that write, and the sweep deletes an attempt that was never published. Generation is
// not safe for concurrent use.
type Generation struct {
	s        *Store
	catalog  Catalog
	manifest schema.Manifest
	metadata []series.MetricMetadata
	due      int // number of metadata entries up to the last metric
	dueSize  int // size of those entries in bytes
	stamp    int64
	fence    uint64    // fence number of the catalog
	begun    time.Time // with a monotonic clock reading

	w     *pack.TableWriter // writes the current pack; nil between packs
	path  string
	index *index.Builder
	last  string // metric of the last series
}

// NewGeneration starts a new generation of a day. The argument `catalog` lists the packs
// that the caller merges, `number` is that of the last deletion of series that the caller
// applies, and `metadata` is that of the day's metrics, sorted by metric. NewGeneration
// returns ErrDeleted if the tenant was deleted.
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

// ErrDeleted is wrapped by the error of a write for a deleted tenant.
var ErrDeleted = errors.New("tenant was deleted")

// day returns the tenant and day of the generation.
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

// maxPackEntry is an upper bound, in bytes, for a pack's entry in a manifest, without
// the names of its metrics.
const maxPackEntry = 512

// checkParts returns an error if another pack would make the manifest too large.
func (g *Generation) checkParts() error {
	size := len(g.manifest.Sources) * len(ulid.ULID{})
	for i := range g.manifest.Packs {
		size += maxPackEntry + len(g.manifest.Packs[i].FirstMetric) + len(g.manifest.Packs[i].LastMetric)
	}
	if size += maxPackEntry + 2*schema.MaxMetricName; size > index.MaxCell || len(g.manifest.Packs) >= schema.MaxIndex {
		return fmt.Errorf("tenant's day needs more than %d packs, the most that this version can list in a manifest: please report it",
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
	// The garbage entry comes first, so that the sweep deletes the object if no row
	// ever names it.
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

// endPack closes the pack, stores it (step C4 in docs/format/store.md) and writes its
// rows of the index (C5). The argument `continues` says that the next pack has more series
// of the last metric, `last` that no pack follows.
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

// Limits of the metadata in the index. An ingester's limits are higher. Compaction
// needs its own, because the metadata of all packs of a day adds up without a limit.
const (
	maxVariants  = 8                      // entries of one metric; few senders disagree
	maxEntrySize = 64 << 10               // bytes of one entry
	maxNames     = index.MaxCell / 10 * 9 // bytes of the names of a pack, with metadata, uncompressed
)

// fewVariants returns the list without the entries beyond the first maxVariants of a
// metric and without entries larger than maxEntrySize. The list is sorted by metric.
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

// passMetadata adds the metadata of metrics up to the given one to due and dueSize.
func (g *Generation) passMetadata(metric string) {
	for g.due < len(g.metadata) && g.metadata[g.due].Metric <= metric {
		g.dueSize += pack.MetadataSize(&g.metadata[g.due])
		g.due++
	}
}

// metadataFor removes the metadata of the metrics up to the pack's last one from the
// remaining metadata and returns it. Metadata of a metric family goes with the first
// metric that sorts after the family's name. The names have enough space for the
// metadata of all metrics of the pack (see maxIndexCell of package index), so dropped
// entries are of families that have no series any more.
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

// Publish makes the generation the published one of its day (step C6 in
// docs/format/store.md). It returns ErrConflict when the compaction must start
// over.
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
		return g.manifest, g.verifyPublished(ctx, err)
	}
	if !held {
		return g.manifest, g.lost(ctx, errPublished)
	}
	g.s.metrics.published.Inc()
	return g.manifest, nil
}

// EnterReplaced enters the generation that a catalog's manifest names, and that is
// about to be replaced or to expire, into the garbage queue.
func (s *Store) EnterReplaced(ctx context.Context, c *Catalog) error {
	if c.Manifest == nil {
		return nil
	}
	return s.index.Garbage.EnterGeneration(ctx, s.nowMillis()+garbageDelay.Milliseconds(), c.Tenant, c.Manifest)
}

// verifyTimeout limits the check whether a failed publication took effect. The check
// runs even if the context of the publication has ended.
const verifyTimeout = 5 * time.Second

// verifyPublished returns nil if a publication that returned an error took effect
// anyway: the row store may have applied the write although its response was lost.
func (g *Generation) verifyPublished(ctx context.Context, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), verifyTimeout)
	defer cancel()
	now, err := g.s.Catalog(ctx, g.catalog.Tenant, g.catalog.Day)
	if err != nil {
		return fmt.Errorf("publish day %d of tenant %s: %w; could not read whether it was published: %w", g.catalog.Day, g.catalog.Tenant,
			cause, err)
	}
	if now.Version() == g.manifest.Version {
		return nil
	}
	return fmt.Errorf("publish day %d of tenant %s: %w", g.catalog.Day, g.catalog.Tenant, cause)
}

// lost ends an attempt that may not publish. A sweep may have processed its garbage
// entries while the attempt was still writing, so lost enters them again.
func (g *Generation) lost(ctx context.Context, reason error) error {
	err := g.s.index.Garbage.EnterGeneration(ctx, g.s.nowMillis()+attemptDelay.Milliseconds(), g.catalog.Tenant, &g.manifest)
	return errors.Join(fmt.Errorf("publish day %d of tenant %s: %w", g.catalog.Day, g.catalog.Tenant, reason), err)
}

// Abort deletes the current pack from the local disk, including a finished pack that
// could not be stored. The sweep deletes the packs that were stored.
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
