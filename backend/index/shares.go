package index

import (
	"context"
	"fmt"

	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
)

// Shares gives access to the rows of shares of the rule groups. docs/ruler.md describes
// the protocol of their holders.
type Shares struct{ table }

// ReadAll returns the shares 0 to count-1 with one read. A share that nobody has held yet
// is zero. corrupt has the errors of rows that cannot be decoded, by share.
func (s *Shares) ReadAll(ctx context.Context, count int) (shares []schema.Share, corrupt map[int]error, err error) {
	shares = make([]schema.Share, count)
	start, end := schema.ShareRange(count)
	err = s.rows.ReadRows(ctx, []rows.Range{{Start: start, End: end}}, system(schema.ShareQualifier), func(r rows.Row) bool {
		k, ok := schema.ParseKey(r.Key)
		c, found := r.Cell(rows.System, schema.ShareQualifier)
		if !ok || !found || k.Share >= count {
			return true
		}
		var bad error
		if shares[k.Share], bad = schema.DecodeShare(c.Value); bad != nil {
			if corrupt == nil {
				corrupt = map[int]error{}
			}
			corrupt[k.Share] = bad
		}
		return true
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read shares of rule groups: %w", err)
	}
	return shares, corrupt, nil
}

// Read returns one share, zero if nobody has held it yet.
func (s *Shares) Read(ctx context.Context, share int) (schema.Share, error) {
	var out schema.Share
	var bad error
	err := s.rows.ReadRows(ctx, []rows.Range{rows.Single(schema.ShareKey(share))}, system(schema.ShareQualifier), func(r rows.Row) bool {
		if c, ok := r.Cell(rows.System, schema.ShareQualifier); ok {
			out, bad = schema.DecodeShare(c.Value)
		}
		return true
	})
	if err == nil {
		err = bad
	}
	if err != nil {
		return schema.Share{}, fmt.Errorf("read share %d of rule groups: %w", share, err)
	}
	return out, nil
}

// Take makes `holder` the holder of a share if its row is still equal to `old`, and reports
// whether it was. `next` is the row after the change. After an error, it is unknown whether the
// row was changed to `next`.
func (s *Shares) Take(ctx context.Context, share int, old schema.Share, holder string, until int64) (
	next schema.Share, held bool, err error) {
	next = schema.Share{Holder: holder, Number: old.Number + 1, Sequence: old.Sequence + 1, Until: until}
	held, err = s.replace(ctx, share, old, next)
	return next, held, err
}

// Renew extends the lease of the holder in old; otherwise it is like Take.
func (s *Shares) Renew(ctx context.Context, share int, old schema.Share, until int64) (next schema.Share, held bool, err error) {
	next = old
	next.Sequence, next.Until = old.Sequence+1, until
	held, err = s.replace(ctx, share, old, next)
	return next, held, err
}

// Release removes the holder in old; otherwise it is like Take.
func (s *Shares) Release(ctx context.Context, share int, old schema.Share, now int64) (next schema.Share, held bool, err error) {
	next = schema.Share{Number: old.Number, Sequence: old.Sequence + 1, Until: now}
	held, err = s.replace(ctx, share, old, next)
	return next, held, err
}

func (s *Shares) replace(ctx context.Context, share int, old, next schema.Share) (bool, error) {
	condition := rows.Absent(rows.System, schema.ShareQualifier)
	if old != (schema.Share{}) {
		condition = rows.ValueIs(rows.System, schema.ShareQualifier, old.Encode())
	}
	held, err := s.rows.CheckAndMutate(ctx, schema.ShareKey(share), condition,
		[]rows.Mutation{rows.Set(rows.System, schema.ShareQualifier, 0, next.Encode())}, nil)
	if err != nil {
		return false, fmt.Errorf("write share %d of rule groups: %w", share, err)
	}
	return held, nil
}
