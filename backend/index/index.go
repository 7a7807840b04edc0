// Package index is the rows of the long-term store as types: catalogs and the rows
// of their generations, the work of compaction, the garbage queue, deletions of
// series, and leases. It puts package schema, which knows their bytes, over package
// rows, which keeps them. Nothing here decides what is written or deleted, or when;
// what is here is which cells an answer is made of, which cells a change touches,
// and under which condition. docs/format/index.md has the rows as tables,
// docs/format/store.md the protocols of those who call.
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

// ErrInconsistent is in every error that says that rows of the index contradict each
// other. The index can be made again from the packs: pallium verify
// -rebuild-index.
var ErrInconsistent = errors.New("index is inconsistent")

// CellLife is how long after its timestamp a cell of rows.Data is sure to be there.
// Readers take older cells as if they were collected already.
const CellLife = 400 * 24 * time.Hour

// MaxCell is how many bytes the value of a cell may have.
const MaxCell = rows.MaxValueLength

// Options of an Index.
type Options struct {
	Rows       rows.Store       // stays the caller's to close
	Now        func() time.Time // default time.Now
	Registerer prometheus.Registerer
}

// Index is the index, by what its rows are. It is safe for concurrent use.
type Index struct {
	Catalogs    *Catalogs
	Generations *Generations
	Work        *Work
	Garbage     *Garbage
	Tombstones  *Tombstones
	Tenants     *Tenants
	Leases      *Leases

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
		Help: "Rows of the index that were read again by their published generation, because the first read did not show all of it: " +
			"a day was published meanwhile."})
	return &Index{Catalogs: &Catalogs{t}, Generations: &Generations{table: t, codec: codec, rereads: rereads}, Work: &Work{t},
		Garbage: &Garbage{t}, Tombstones: &Tombstones{t}, Tenants: &Tenants{t}, Leases: &Leases{t}, codec: codec, table: t}, nil
}

// Codec compresses and decodes the values of cells.
func (ix *Index) Codec() *schema.Codec { return ix.codec }

// TenantDay names a tenant's UTC day.
type TenantDay struct {
	Tenant tenant.ID
	Day    int64
}

// table is the rows under one of the types.
type table struct {
	rows rows.Store
	now  func() time.Time
}

func (t *table) nowMillis() int64 { return t.now().UnixMilli() }

// oldest is the timestamp below which cells are as good as collected.
func (t *table) oldest() int64 { return t.nowMillis() - CellLife.Milliseconds() }

// always is the time of the oldest cells where none is too old.
const always = math.MinInt64

// system is the filter for rows of cells that stay until they are deleted.
func system(qualifiers ...string) rows.Filter {
	return rows.Filter{Families: []rows.Family{rows.System}, Qualifiers: qualifiers, Latest: true}
}

// mutateRows applies rows in batches and joins what went wrong. A row may come
// several times: it is in one batch once.
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
