// Package index gives typed access to the rows of the long-term store: catalogs and
// the rows of their generations, the work of compaction, the garbage queue, deletions
// of series, leases, and rules. Package schema encodes the keys and values, package rows
// stores them. This package defines which cells a read combines, and which cells a
// change writes under which condition; its callers decide what is written or deleted,
// and when. docs/format/index.md describes the rows, docs/format/store.md the protocols
// of the callers.
package index

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
)

// ErrInconsistent is wrapped by the error of a read that finds rows of the index that
// contradict each other. pallium verify -rebuild-index rebuilds the index from the
// packs.
var ErrInconsistent = errors.New("index is inconsistent")

// CellLife is how long after its timestamp a cell of rows.Data certainly exists.
// Readers treat older cells as if the row store had already collected them.
const CellLife = 400 * 24 * time.Hour

// MaxCell is the largest size of a cell's value in bytes.
const MaxCell = rows.MaxValueLength

// Options are the options of an Index.
type Options struct {
	Rows       rows.Store       // closed by the caller
	Now        func() time.Time // default time.Now
	Registerer prometheus.Registerer
}

// Index is the index, with one field for each kind of row. It is safe for concurrent
// use.
type Index struct {
	Catalogs    *Catalogs
	Generations *Generations
	Work        *Work
	Garbage     *Garbage
	Tombstones  *Tombstones
	Tenants     *Tenants
	Leases      *Leases
	Rules       *Rules
	Shares      *Shares
	// Alertmanagers gives access to the rows of tenants' Alertmanagers.
	Alertmanagers *Alertmanagers

	codec *schema.Codec
	table
}

// New returns the index in a row store.
func New(o Options) (*Index, error) {
	codec, err := schema.NewCodec()
	if err != nil {
		return nil, err
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	t := table{rows: steppingRows{o.Rows}, now: o.Now}
	rereads := promauto.With(o.Registerer).NewCounter(prometheus.CounterOpts{Name: "pallium_store_index_rereads_total",
		Help: "Rows of the index read a second time, restricted to the published generation, because the first read may have missed " +
			"some of its cells."})
	return &Index{Catalogs: &Catalogs{t}, Generations: &Generations{table: t, codec: codec, rereads: rereads}, Work: &Work{t},
		Garbage: &Garbage{t}, Tombstones: &Tombstones{t}, Tenants: &Tenants{t}, Leases: &Leases{t}, Rules: &Rules{t},
		Shares: &Shares{t}, Alertmanagers: &Alertmanagers{t}, codec: codec, table: t}, nil
}

// Codec returns the codec of the index, which compresses and decodes values of cells.
func (ix *Index) Codec() *schema.Codec { return ix.codec }

// TenantDay identifies a UTC day of a tenant.
type TenantDay struct {
	Tenant tenant.ID
	Day    int64
}

// table is the row store and the clock, embedded in the types for each kind of row.
type table struct {
	rows rows.Store
	now  func() time.Time
}

func (t *table) nowMillis() int64 { return t.now().UnixMilli() }

// oldest returns the timestamp below which cells are treated as collected.
func (t *table) oldest() int64 { return t.nowMillis() - CellLife.Milliseconds() }

// always is the oldest timestamp for reads of all cells.
const always = math.MinInt64

// system returns the filter for cells of rows.System, which never expire.
func system(qualifiers ...string) rows.Filter {
	return rows.Filter{Families: []rows.Family{rows.System}, Qualifiers: qualifiers, Latest: true}
}

// mutateRows applies mutations in batches. It stops after the first batch with
// errors, and joins them. A row may appear several times in ms; each batch has it at
// most once.
func (t *table) mutateRows(ctx context.Context, ms []rows.RowMutation) error {
	for len(ms) > 0 {
		n, bytes, mutations := 0, 0, 0
		keys := map[string]bool{}
		for n < len(ms) && n < 1000 && !keys[ms[n].Key] && (n == 0 || bytes < 2<<20 && mutations+len(ms[n].Mutations) < rows.MaxMutations) {
			keys[ms[n].Key] = true
			for _, m := range ms[n].Mutations {
				bytes += len(m.Qualifier) + len(m.Value)
			}
			mutations += len(ms[n].Mutations)
			n++
		}
		if err := errors.Join(t.rows.MutateRows(ctx, ms[:n])...); err != nil {
			return err
		}
		ms = ms[n:]
	}
	return nil
}
