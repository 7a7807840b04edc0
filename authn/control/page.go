package control

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"

	"github.com/palliumhq/pallium/backend/rows"
)

// Page sizes of lists.
const (
	DefaultPageSize = 100
	MaxPageSize     = 500
)

// Page selects a page of a list.
type Page struct {
	Size   int    // number of items; 0: DefaultPageSize
	Cursor string // cursor returned with the previous page; "": the first page
}

const macLength = 16

// list reads a page of the rows under a prefix. The function `take` processes a row and reports
// whether the row belongs to the list. The text `query` describes the selection that `take`
// makes, because a cursor is valid only for the selection for which it was returned.
func (c *Control) list(ctx context.Context, prefix, query string, p Page, take func(row) (bool, error)) (next string, err error) {
	size := p.Size
	if size == 0 {
		size = DefaultPageSize
	}
	if size < 0 || size > MaxPageSize {
		return "", fail(Invalid, "pageSize", "pageSize is %d: it must be a number from 1 to %d", p.Size, MaxPageSize)
	}
	rg := rows.Prefix(prefix)
	if p.Cursor != "" {
		last, err := c.openCursor(prefix+query, p.Cursor)
		if err != nil {
			return "", err
		}
		rg.Start = prefix + last + "\x00"
	}
	var taken int
	var last string
	var more bool
	var bad error
	err = c.store.ReadRows(ctx, []rows.Range{rg}, newest, func(r rows.Row) bool {
		ok, err := take(row(r))
		if err != nil || !ok {
			bad = err
			return err == nil
		}
		if taken == size {
			more = true
			return false
		}
		taken++
		last = r.Key[len(prefix):]
		return true
	})
	if err == nil {
		err = bad
	}
	if err != nil {
		return "", fmt.Errorf("list control data: %w", err)
	}
	if !more {
		return "", nil
	}
	return c.sealCursor(prefix+query, last), nil
}

// sealCursor signs a position in a list. With an unsigned cursor, a client could start
// reading at any key.
func (c *Control) sealCursor(query, last string) string {
	return base64.RawURLEncoding.EncodeToString(append(c.cursorMAC(query, last), last...))
}

func (c *Control) openCursor(query, cursor string) (string, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil || len(b) < macLength {
		return "", fail(Invalid, "pageCursor", "pageCursor is malformed: send the nextPageCursor of the previous page unchanged")
	}
	last := string(b[macLength:])
	if !hmac.Equal(b[:macLength], c.cursorMAC(query, last)) {
		return "", fail(Invalid, "pageCursor", "pageCursor belongs to another list or to other parameters: send the nextPageCursor of the "+
			"previous page with the same parameters")
	}
	return last, nil
}

func (c *Control) cursorMAC(query, last string) []byte {
	key := c.pepper.Derive("page-cursor")
	h := hmac.New(sha256.New, key[:])
	fmt.Fprintf(h, "%d:%s%s", len(query), query, last)
	return h.Sum(nil)[:macLength]
}
