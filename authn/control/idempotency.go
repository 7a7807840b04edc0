package control

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/palliumhq/pallium/backend/rows"
)

// keepRequests is how long the response to a request is stored for repetitions.
const keepRequests = 24 * time.Hour

// Request is a request with an idempotency key that is being processed.
type Request struct {
	key    string // key of its row
	secret [32]byte
}

// Answer is the stored response to a request.
type Answer struct {
	Status  int               `json:"status"`
	Headers map[string]string `json:"headers,omitempty"`
	Body    []byte            `json:"body"`
}

// requestRecord is the record of a request that was started.
type requestRecord struct {
	Fingerprint string    `json:"fingerprint"` // hash of method, path and body
	BegunAt     time.Time `json:"begunAt"`
}

func (*requestRecord) setETag(string) {}

// BeginRequest reserves an idempotency key for a request with the given fingerprint. If
// the same request was completed before, it returns the stored response. A key that was
// used for another request, or whose request has not completed, is a Conflict.
//
// Responses can contain an API key, so they are encrypted with a key derived from the
// pepper and the idempotency key, which itself is not stored.
func (c *Control) BeginRequest(ctx context.Context, idempotencyKey, fingerprint string) (Request, *Answer, error) {
	row := c.pepper.Derive("idempotency-row/" + idempotencyKey)
	req := Request{
		key:    prefRequest + hex.EncodeToString(row[:]),
		secret: c.pepper.Derive("idempotency-answer/" + idempotencyKey),
	}
	data, err := json.Marshal(requestRecord{Fingerprint: fingerprint, BegunAt: c.moment()})
	if err != nil {
		return Request{}, nil, fmt.Errorf("encode idempotency record: %w", err)
	}
	for {
		begun, err := c.store.CheckAndMutate(ctx, req.key, rows.Absent(rows.System, cellData), []rows.Mutation{set(cellData, data)}, nil)
		if err != nil {
			return Request{}, nil, fmt.Errorf("write idempotency record: %w", err)
		}
		if begun {
			return req, nil, nil
		}
		a, expired, err := c.earlierAnswer(ctx, req, fingerprint)
		if !expired {
			return req, a, err
		}
	}
}

func (c *Control) earlierAnswer(ctx context.Context, req Request, fingerprint string) (a *Answer, expired bool, err error) {
	r, err := c.readRow(ctx, req.key)
	if err != nil {
		return nil, false, fmt.Errorf("read idempotency record: %w", err)
	}
	var rec requestRecord
	if err := decode(r, &rec); errors.Is(err, errNoRow) {
		return nil, true, nil // deleted concurrently
	} else if err != nil {
		return nil, false, err
	}
	if c.now().Sub(rec.BegunAt) >= keepRequests {
		_, err := c.store.CheckAndMutate(ctx, req.key, rows.ValueIs(rows.System, cellData, r.value(cellData)), []rows.Mutation{rows.DeleteRow()},
			nil)
		return nil, err == nil, err
	}
	if rec.Fingerprint != fingerprint {
		return nil, false, fail(Conflict, "Idempotency-Key", "this Idempotency-Key was used for another request: use a new one")
	}
	sealed := r.value(cellOutcome)
	if sealed == nil {
		return nil, false, fail(Conflict, "Idempotency-Key",
			"the request with this Idempotency-Key is still in progress or was interrupted: check its result, then use a new key")
	}
	a, err = req.open(sealed)
	return a, false, err
}

// EndRequest stores the response for repetitions of the request.
func (c *Control) EndRequest(ctx context.Context, r Request, a Answer) error {
	sealed, err := r.seal(a)
	if err != nil {
		return err
	}
	if err := c.store.Mutate(ctx, rows.RowMutation{Key: r.key, Mutations: []rows.Mutation{set(cellOutcome, sealed)}}); err != nil {
		return fmt.Errorf("write idempotency record: %w", err)
	}
	return nil
}

// AbandonRequest releases the key of a request that changed nothing.
func (c *Control) AbandonRequest(ctx context.Context, r Request) error {
	if err := c.store.Mutate(ctx, rows.RowMutation{Key: r.key, Mutations: []rows.Mutation{rows.DeleteRow()}}); err != nil {
		return fmt.Errorf("delete idempotency record: %w", err)
	}
	return nil
}

func (r Request) aead() (cipher.AEAD, error) {
	block, err := aes.NewCipher(r.secret[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func (r Request) seal(a Answer) ([]byte, error) {
	data, err := json.Marshal(a)
	if err != nil {
		return nil, fmt.Errorf("encode stored response: %w", err)
	}
	g, err := r.aead()
	if err != nil {
		return nil, fmt.Errorf("encrypt stored response: %w", err)
	}
	return g.Seal(nil, nil, data, []byte(r.key)), nil
}

func (r Request) open(sealed []byte) (*Answer, error) {
	g, err := r.aead()
	if err != nil {
		return nil, fmt.Errorf("decrypt stored response: %w", err)
	}
	data, err := g.Open(nil, nil, sealed, []byte(r.key))
	if err != nil {
		return nil, fmt.Errorf("decrypt stored response: %w", err)
	}
	var a Answer
	if err := json.Unmarshal(data, &a); err != nil {
		return nil, fmt.Errorf("decode stored response: %w", err)
	}
	return &a, nil
}

// sweepIdempotency deletes at most 10,000 records that are older than keepRequests or damaged.
func (c *Control) sweepIdempotency(ctx context.Context) error {
	var old []rows.RowMutation
	err := c.store.ReadRows(ctx, []rows.Range{rows.Prefix(prefRequest)}, newest, func(r rows.Row) bool {
		var rec requestRecord
		if err := decode(row(r), &rec); err != nil || c.now().Sub(rec.BegunAt) >= keepRequests {
			old = append(old, rows.RowMutation{Key: r.Key, Mutations: []rows.Mutation{rows.DeleteRow()}})
		}
		return len(old) < 10_000
	})
	if err != nil {
		return fmt.Errorf("read idempotency records: %w", err)
	}
	return errors.Join(c.store.MutateRows(ctx, old)...)
}
