// Package remotewrite decodes request bodies of Prometheus remote write 1.0 and
// 2.0 into batches. Floats and labels, which are most of every request, are
// decoded without copies into reused memory; histograms, exemplars and metadata
// are decoded by Prometheus' generated code.
//
// The decoded batch refers to the Request's buffers. It is valid until the
// Request decodes another body or is returned to its pool.
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

// ErrMalformed is wrapped by errors about an invalid body; sending the same
// body again fails again.
var ErrMalformed = errors.New("remote write body is malformed")

// Limits of one request, independent of its size in bytes: an empty series
// takes two bytes on the wire and a hundred times as many in memory. Prometheus
// sends 2,000 samples per request.
const (
	maxSeries = 100_000
	maxItems  = 1_000_000 // series, samples, histograms, exemplars and metadata together

	// maxExpanded is the maximum size in bytes of a decompressed request, including
	// the text of all labels and metadata that refer to symbols: every series may
	// refer to the same symbol. It keeps the messages to ingesters within their
	// maximum of 128 MiB, in which a sample that is an empty message in the request
	// takes up to 22 bytes.
	maxExpanded = 96 << 20
)

// ErrTooMany is returned for a request with too many series, or with too many items:
// series, samples, histograms, exemplars and metadata together.
var ErrTooMany = fmt.Errorf("request has more than %d series, or more than %d items (series, samples and metadata together); "+
	"send fewer per request",
	maxSeries, maxItems)

// ErrTooLarge is returned for a request that is too large after it is decompressed and
// its references to symbols are resolved.
var ErrTooLarge = fmt.Errorf("request expands to more than %d bytes, counting the labels and metadata of every series in full; "+
	"this limit is fixed: send fewer series per request", maxExpanded)

// Memory is a memory budget from which decoding takes bytes before it uses them.
// Its errors end the decoding and are returned unchanged.
type Memory interface {
	Take(bytes int64) error
}

// Memory of decoded parts of a request in bytes, including the spare capacity
// of growing slices.
const (
	entryBytes = 256 // series.Entry and the builder of its labels
	itemBytes  = 64  // series.Sample
	labelBytes = 64  // labels.Label in a builder
	// messageFactor is the memory per encoded byte of a histogram, an exemplar
	// or metadata, whose smallest fields become structs and slices.
	messageFactor = 16
	// takeStep is the number of bytes that are counted before they are taken
	// from the budget.
	takeStep = 32 << 10
)

// memoryError marks an error of a Memory within the decoder.
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
	pending  int64 // counted bytes that have not been taken from memory yet
	items    int   // series, samples, histograms, exemplars and metadata so far
	position int   // of the current series in the body, from 1
	cleared  int   // number of entries whose memory was cleared for this request
	spare    int   // bytes that labels and metadata may still expand to
}

// Pool is a pool of Requests. The zero value is ready to use.
type Pool struct{ pool sync.Pool }

// Get returns a Request from the pool, or a new one.
func (p *Pool) Get() *Request {
	if r, ok := p.pool.Get().(*Request); ok {
		return r
	}
	return &Request{}
}

// maxPooledBytes is the maximum buffer size of a pooled Request, so that one
// huge request does not retain its memory permanently.
const maxPooledBytes = 4 << 20

// Put returns a Request to the pool. Its batch must not be used afterwards.
func (p *Pool) Put(r *Request) {
	if cap(r.decoded) > maxPooledBytes || cap(r.entries) > 20_000 {
		return
	}
	p.pool.Put(r)
}

// Decode decompresses and decodes a body. limit is the maximum decompressed
// size in bytes; 0 means no limit. Decode takes the memory of the body from mem
// twice: once for decoding and once for the copies on the way to the
// write-ahead log. Errors wrap ErrMalformed, or are a *limits.Exceeded,
// ErrTooMany, ErrTooLarge or an error of mem.
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
	// Snappy compresses a block to at least 1/22 of its size. Reject impossible
	// lengths before allocating for them.
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

// Unmarshal decodes a decompressed body, which must not be modified while the
// batch is in use. It takes the memory that it needs in addition to the body
// from mem, which may be nil.
func (r *Request) Unmarshal(v Version, body []byte, mem Memory) error {
	r.memory = mem
	defer func() { r.memory = nil }()
	return r.unmarshal(v, body, math.MaxInt)
}

// unmarshal is Unmarshal with a limit: labels and metadata may expand by at
// most `spare` bytes.
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
		err = fmt.Errorf("unknown version %d", v)
	}
	if err == nil {
		err = r.takePending()
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
	r.items, r.pending = 0, 0
	r.Batch = series.Batch{Metadata: r.Batch.Metadata[:0]}
	r.position, r.cleared = 0, 0
}

// expand counts the bytes of a symbol to which a label or metadata refers.
func (r *Request) expand(n int) error {
	if r.spare -= n; r.spare < 0 {
		return ErrTooLarge
	}
	return r.use(2 * n) // in the batch, and on the way to the write-ahead log
}

// use counts n bytes of memory. It takes them from the budget in steps of
// takeStep.
func (r *Request) use(n int) error {
	if r.pending += int64(n); r.pending < takeStep {
		return nil
	}
	return r.takePending()
}

// takePending takes the pending bytes from the budget.
func (r *Request) takePending() error {
	n := r.pending
	r.pending = 0
	if r.memory == nil || n == 0 {
		return nil
	}
	if err := r.memory.Take(n); err != nil {
		return memoryError{err}
	}
	return nil
}

// countItem counts an item of the request and its memory.
func (r *Request) countItem() error {
	if err := r.use(itemBytes); err != nil {
		return err
	}
	if r.items++; r.items > maxItems || r.position > maxSeries {
		return ErrTooMany
	}
	return nil
}

// entry starts a new series. Its slices and label builder reuse the memory of
// earlier requests.
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
	// Release histograms. The first time that this request uses the entry, all histograms
	// from earlier requests are released. The entry of a dropped series is used again for
	// the next series: then only the dropped series' histograms are left.
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

// malformed is the error of an invalid series, exemplar or metadata in an
// otherwise valid request. Only that part is rejected.
type malformed struct{ text string }

func (m malformed) Error() string { return m.text }

// leaveOut records a rejected part of the current series, with the number of
// its samples.
func (r *Request) leaveOut(what error, samples int) {
	position := r.position
	r.Batch.Malformed = series.Reject(r.Batch.Malformed, "malformed_series", "parts of the request are malformed", samples,
		func() string { return fmt.Sprintf("series %d of the request: %v", position, what) })
}

// dropEntry removes the last entry and records its samples as rejected.
func (r *Request) dropEntry(e *series.Entry, why error) {
	r.leaveOut(why, len(e.Samples))
	r.entries = r.entries[:len(r.entries)-1]
}

// optional handles the error of an exemplar or metadata, without which the
// series can be accepted. It records a malformed part and returns any other
// error.
func (r *Request) optional(err error) error {
	var bad malformed
	if !errors.As(err, &bad) {
		return err
	}
	r.leaveOut(err, 0)
	return nil
}

// finish sets the labels and the hash of an entry from its builder.
func finish(e *series.Entry, b *labels.ScratchBuilder, sorted bool) {
	if !sorted {
		b.Sort()
	}
	b.Overwrite(&e.Labels)
	e.Hash = e.Labels.Hash()
}

// maxLabelBytes is the maximum length of a label name or value. Prometheus'
// labels.Labels stores a length of 1<<24 incorrectly, and panics for longer
// strings.
const maxLabelBytes = 1<<24 - 1

func checkLabel(name, value string) error {
	if n := max(len(name), len(value)); n > maxLabelBytes {
		return malformed{fmt.Sprintf("a label name or value has %d bytes, the maximum is %d", n, maxLabelBytes)}
	}
	return nil
}
