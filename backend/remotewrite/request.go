// Package remotewrite decodes the bodies of Prometheus remote write 1.0 and 2.0
// into batches. Floats and labels, nearly all of every request, are read where
// they lie and into memory that is used again; histograms, exemplars and
// metadata go through Prometheus' own generated code.
//
// The decoded batch points into the Request's buffers and is valid until the
// Request is reset or put back.
package remotewrite

import (
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
)

// Version is a version of the protocol.
type Version int

// The versions of remote write.
const (
	V1 Version = 1 // prometheus.WriteRequest
	V2 Version = 2 // io.prometheus.write.v2.Request
)

// ErrMalformed is the error of a body that is not what it should be; the sender
// cannot mend it by sending it again.
var ErrMalformed = errors.New("remote write body is malformed")

// The most that one request may carry, whatever its size: an empty series takes
// two bytes on the wire and a hundred times that in memory. Prometheus sends
// 2,000 samples at a time.
const (
	maxSeries = 100_000
	maxItems  = 1_000_000 // samples, histograms, exemplars and metadata together

	// maxExpanded is how many bytes a request has decompressed, with the labels and
	// texts of metadata that its references to symbols stand for: one symbol may be
	// in every series. What is accepted is sent on to ingesters in messages of at
	// most 128 MiB, in which a sample without a byte here takes up to 22.
	maxExpanded = 96 << 20
)

// ErrTooMany is the error of a request with more series or samples than one may
// carry.
var ErrTooMany = fmt.Errorf("request has more than %d series or %d samples; send fewer per request", maxSeries, maxItems)

// ErrTooLarge is the error of a request that is larger than any may be once its
// references to symbols are resolved.
var ErrTooLarge = fmt.Errorf("request has more than %d bytes with the labels and metadata of every series written out; "+
	"at most that many can be handled, whatever the tenant's limits; send fewer series per request", maxExpanded)

// Memory is what a request takes bytes from before it uses them. Its errors end
// the decoding and are returned as they are.
type Memory interface {
	Take(bytes int64) error
}

// What decoded parts of a request take, in bytes, with room for slices that grow.
const (
	entryBytes = 256 // series.Entry and the builder of its labels
	itemBytes  = 64  // series.Sample
	labelBytes = 64  // labels.Label in a builder
	// messageFactor is how many bytes a byte of a histogram, an exemplar or metadata
	// takes, of which the smallest fields become structs and slices.
	messageFactor = 16
	// takeStep is how many bytes are used before they are taken.
	takeStep = 32 << 10
)

// memoryError is an error of a Memory on its way through the decoder.
type memoryError struct{ error }

func (e memoryError) Unwrap() error { return e.error }

// Request decodes one body at a time. It is not safe for concurrent use.
type Request struct {
	Batch series.Batch

	decoded  []byte
	entries  []series.Entry
	builders []labels.ScratchBuilder
	symbols  []string
	memory   Memory
	owed     int64 // bytes of memory that are used and not taken yet
	items    int   // samples, histograms, exemplars and metadata so far
	position int   // of the series being decoded, in the body, from 1
	cleared  int   // entries whose memory was cleared for this request
	spare    int   // bytes that labels and metadata may still expand to
}

// Pool has Requests for reuse. The zero value is ready.
type Pool struct{ pool sync.Pool }

// Get returns an empty Request.
func (p *Pool) Get() *Request {
	if r, ok := p.pool.Get().(*Request); ok {
		return r
	}
	return &Request{}
}

// maxPooledBytes keeps one huge request from pinning its memory for good.
const maxPooledBytes = 4 << 20

// Put takes a Request back; nothing of its batch may be used any more.
func (p *Pool) Put(r *Request) {
	if cap(r.decoded) > maxPooledBytes || cap(r.entries) > 20_000 {
		return
	}
	p.pool.Put(r)
}

// Decode decompresses and decodes a body. limit bounds its decompressed size in
// bytes; 0 is no bound. What it takes comes from mem, with what the way to the log
// takes: the body once more. Errors are ErrMalformed, *limits.Exceeded, ErrTooMany,
// ErrTooLarge or those of mem.
func (r *Request) Decode(v Version, compressed []byte, limit int64, mem Memory) error {
	r.reset()
	r.memory = mem
	defer func() { r.memory = nil }()
	n, err := snappy.DecodedLen(compressed)
	if err != nil {
		return fmt.Errorf("%w: snappy: %w", ErrMalformed, err)
	}
	if limit > 0 && int64(n) > limit {
		return limits.MaxDecodedBytes.ExceededAt(limit, int64(n))
	}
	// Snappy's densest block makes about 22 bytes of one; a length that no body
	// of this size can have is a lie told to make us allocate.
	if int64(n) > 64*int64(len(compressed))+64 {
		return fmt.Errorf("%w: snappy: %d bytes cannot decompress to %d", ErrMalformed, len(compressed), n)
	}
	if err := mem.Take(2 * int64(n)); err != nil {
		return err
	}
	if cap(r.decoded) < n {
		r.decoded = make([]byte, n)
	}
	body, err := snappy.Decode(r.decoded[:cap(r.decoded)], compressed)
	if err != nil {
		return fmt.Errorf("%w: snappy: %w", ErrMalformed, err)
	}
	return r.unmarshal(v, body, maxExpanded-len(body))
}

// Unmarshal decodes a decompressed body, which must not change while the batch
// is in use. What that takes beside the body comes from mem, which may be nil.
func (r *Request) Unmarshal(v Version, body []byte, mem Memory) error {
	r.memory = mem
	defer func() { r.memory = nil }()
	return r.unmarshal(v, body, math.MaxInt)
}

// unmarshal is Unmarshal for a body whose labels and metadata may expand to so
// many bytes more than it has.
func (r *Request) unmarshal(v Version, body []byte, spare int) error {
	r.reset()
	r.spare = spare
	err := r.expand(0)
	switch {
	case err != nil:
	case v == V1:
		err = r.unmarshalV1(body)
	case v == V2:
		err = r.unmarshalV2(body)
	default:
		err = fmt.Errorf("version %d is not known", v)
	}
	if err == nil {
		err = r.settle()
	}
	if err != nil {
		r.reset()
		var mem memoryError
		if errors.As(err, &mem) {
			return mem.error
		}
		if errors.Is(err, ErrTooMany) || errors.Is(err, ErrTooLarge) {
			return err
		}
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	r.Batch.Entries = r.entries
	return nil
}

func (r *Request) reset() {
	r.entries = r.entries[:0]
	r.symbols = r.symbols[:0]
	r.items, r.owed = 0, 0
	r.Batch = series.Batch{Metadata: r.Batch.Metadata[:0]}
	r.position, r.cleared = 0, 0
}

// expand counts bytes that references stand for.
func (r *Request) expand(n int) error {
	if r.spare -= n; r.spare < 0 {
		return ErrTooLarge
	}
	return r.use(2 * n) // in the batch, and on the way to the log
}

// use counts n bytes of memory, which are taken in steps.
func (r *Request) use(n int) error {
	if r.owed += int64(n); r.owed < takeStep {
		return nil
	}
	return r.settle()
}

// settle takes what was used.
func (r *Request) settle() error {
	n := r.owed
	r.owed = 0
	if r.memory == nil || n == 0 {
		return nil
	}
	if err := r.memory.Take(n); err != nil {
		return memoryError{err}
	}
	return nil
}

// room counts one more item of the request.
func (r *Request) room() error {
	if err := r.use(itemBytes); err != nil {
		return err
	}
	if r.items++; r.items > maxItems || r.position > maxSeries {
		return ErrTooMany
	}
	return nil
}

// entry begins a new series. Its slices and the builder of its labels have the
// memory of an earlier request.
func (r *Request) entry() (*series.Entry, *labels.ScratchBuilder) {
	r.position++
	i := len(r.entries)
	if i < cap(r.entries) {
		r.entries = r.entries[:i+1]
	} else {
		r.entries = append(r.entries, series.Entry{})
	}
	for len(r.builders) <= i {
		r.builders = append(r.builders, labels.ScratchBuilder{})
	}
	e := &r.entries[i]
	// Lets go of histograms: once for what earlier requests left there, and then of
	// what was used. A slot is used again for each series that is left out.
	if i >= r.cleared {
		clear(e.Samples[:cap(e.Samples)])
		r.cleared = i + 1
	} else {
		clear(e.Samples)
	}
	e.Samples, e.Exemplars = e.Samples[:0], e.Exemplars[:0]
	b := &r.builders[i]
	b.Reset()
	return e, b
}

// malformed is the error of a series, an exemplar or metadata that is not what it
// should be while the rest of the request is: only that is left out.
type malformed struct{ text string }

func (m malformed) Error() string { return m.text }

// leaveOut counts what was left out of a series, with so many samples.
func (r *Request) leaveOut(what error, samples int) {
	position := r.position
	r.Batch.Malformed = series.Reject(r.Batch.Malformed, "malformed_series", "parts of the request are malformed", samples,
		func() string { return fmt.Sprintf("series %d of the request: %v", position, what) })
}

// dropEntry takes back the last entry and counts its samples.
func (r *Request) dropEntry(e *series.Entry, why error) {
	r.leaveOut(why, len(e.Samples))
	r.entries = r.entries[:len(r.entries)-1]
}

// optional takes the error of a part of a series without which the series can be
// taken: an exemplar, or metadata.
func (r *Request) optional(err error) error {
	var bad malformed
	if !errors.As(err, &bad) {
		return err
	}
	r.leaveOut(err, 0)
	return nil
}

// finish sets the labels of an entry from what its builder has.
func finish(e *series.Entry, b *labels.ScratchBuilder, sorted bool) {
	if !sorted {
		b.Sort()
	}
	b.Overwrite(&e.Labels)
	e.Hash = e.Labels.Hash()
}

// maxLabelBytes is what Prometheus' encoding of labels has room for: it panics
// above, and garbles a string of just this length.
const maxLabelBytes = 1<<24 - 1

func checkLabel(name, value string) error {
	if n := max(len(name), len(value)); n > maxLabelBytes {
		return malformed{fmt.Sprintf("a label name or value has %d bytes, at most %d are possible", n, maxLabelBytes)}
	}
	return nil
}
