package api

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/remotewrite"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
)

// Response headers with the number of written samples, from remote write 2.0. They are set for both
// protocol versions, because the gateway charges budgets by them; it removes them from responses to
// senders of 1.0.
const (
	headerSamples    = "X-Prometheus-Remote-Write-Samples-Written"
	headerHistograms = "X-Prometheus-Remote-Write-Histograms-Written"
	headerExemplars  = "X-Prometheus-Remote-Write-Exemplars-Written"
	// headerCharged is only for the gateway: the cost of the request in
	// addition to its samples, in samples.
	headerCharged = "X-Pallium-Samples-Charged"
)

// push serves a remote write request.
func (a *api) push(w http.ResponseWriter, r *http.Request) {
	version, err := negotiate(r.Header)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	id := access(r)
	lim := a.Limits(id)
	h := a.Memory.Begin(memory.Request{Tenant: id, Limit: lim.MaxMemoryBytes, Write: true})
	defer h.Close()
	buf := a.bodies.get()
	defer a.bodies.put(buf)
	if err := readBody(w, r, buf, lim.MaxBodyBytes, h); err != nil {
		a.fail(w, r, err)
		return
	}
	req := a.requests.Get()
	defer a.requests.Put(req)
	if err := req.Decode(version, buf.Bytes(), lim.MaxDecodedBytes, h); err != nil {
		a.fail(w, r, err)
		return
	}
	req.Batch.Tenant, req.Batch.Limits = id, &lim
	out, err := a.Push(memory.NewContext(r.Context(), h), &req.Batch)
	if err != nil {
		writeCounts(w.Header(), series.Outcome{})
		a.fail(w, r, err)
		return
	}
	writeCounts(w.Header(), out)
	if len(out.Rejections) > 0 {
		writeText(w, http.StatusBadRequest, out.String())
		return
	}
	if out.Deduplicated != (series.Counts{}) && out.Samples+out.Histograms+out.Exemplars == 0 {
		w.WriteHeader(http.StatusAccepted) // same as Cortex and Mimir
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// writeCounts sets the headers with the number of written samples. Samples that were deduplicated
// because another HA replica is elected count as written: otherwise senders would report them as
// failures.
func writeCounts(h http.Header, out series.Outcome) {
	d := out.Deduplicated
	h.Set(headerSamples, strconv.Itoa(out.Samples+d.Samples))
	h.Set(headerHistograms, strconv.Itoa(out.Histograms+d.Histograms))
	h.Set(headerExemplars, strconv.Itoa(out.Exemplars+d.Exemplars))
	if out.Charged > 0 {
		h.Set(headerCharged, strconv.Itoa(out.Charged))
	}
}

// negotiate determines the protocol version from the headers. Senders without
// these headers use 1.0 with snappy. Anything else is rejected with 415, after
// which some senders fall back to a supported version.
func negotiate(h http.Header) (remotewrite.Version, error) {
	if enc := h.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "snappy") {
		return 0, unsupported(fmt.Sprintf("Content-Encoding %q is not supported; send snappy", enc))
	}
	ct := h.Get("Content-Type")
	if ct == "" {
		return remotewrite.V1, nil
	}
	media, params, err := mime.ParseMediaType(ct)
	if err != nil {
		return 0, unsupported(fmt.Sprintf("Content-Type %q cannot be parsed", ct))
	}
	if media != "application/x-protobuf" {
		return 0, unsupported(fmt.Sprintf("Content-Type %q is not remote write; send application/x-protobuf", media))
	}
	switch proto := params["proto"]; proto {
	case "", "prometheus.WriteRequest":
		return remotewrite.V1, nil
	case "io.prometheus.write.v2.Request":
		return remotewrite.V2, nil
	default:
		return 0, unsupported(fmt.Sprintf("remote write message %q is not supported; "+
			"supported are prometheus.WriteRequest and io.prometheus.write.v2.Request", proto))
	}
}

// bodyPool is a pool of buffers for request bodies.
type bodyPool struct{ pool sync.Pool }

func (p *bodyPool) get() *bytes.Buffer {
	if b, ok := p.pool.Get().(*bytes.Buffer); ok {
		b.Reset()
		return b
	}
	return &bytes.Buffer{}
}

func (p *bodyPool) put(b *bytes.Buffer) {
	if b.Cap() <= 4<<20 {
		p.pool.Put(b)
	}
}

// firstRead is the capacity in bytes of a body's buffer before any byte was
// received.
const firstRead = 64 << 10

// readBody reads the whole body, of at most limit bytes; 0 means no limit. It charges memory as the
// body is received, not by Content-Length.
func readBody(w http.ResponseWriter, r *http.Request, buf *bytes.Buffer, limit int64, h *memory.Holding) error {
	body := r.Body
	if limit > 0 {
		if r.ContentLength > limit {
			return limits.MaxBodyBytes.ExceededAt(limit, r.ContentLength)
		}
		body = http.MaxBytesReader(w, r.Body, limit)
	}
	room := firstRead
	if n := r.ContentLength; n > 0 && n < firstRead {
		room = int(n) + 1 // one more byte, to read the EOF without growing
	}
	if err := readAll(buf, body, room, h); err != nil {
		if errors.Is(err, errNoMemory) {
			return err
		}
		var max *http.MaxBytesError
		if errors.As(err, &max) {
			return limits.MaxBodyBytes.ExceededAt(max.Limit, limits.More)
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return badRequest{errors.New("body is shorter than its Content-Length")}
		}
		return badRequest{fmt.Errorf("read body: %w", err)}
	}
	return nil
}

// errNoMemory wraps errors of the memory account in readAll.
var errNoMemory = errors.New("read body")

// readAll reads body until EOF into buf. The buffer first has a capacity of room bytes, and doubles
// whenever it is full.
func readAll(buf *bytes.Buffer, body io.Reader, room int, h *memory.Holding) error {
	charged := 0
	if n := buf.Cap(); n > room {
		// Charge a reused buffer with its whole capacity, even if little of it
		// will be used: otherwise stalled requests would hold memory that is
		// not accounted for.
		if h.Take(int64(n)) == nil {
			charged = n
		} else {
			*buf = bytes.Buffer{}
		}
	}
	for {
		if buf.Len() == charged {
			more := max(room, charged)
			if err := h.Take(int64(more)); err != nil {
				return fmt.Errorf("%w: %w", errNoMemory, err)
			}
			buf.Grow(more)
			charged += more
		}
		free := buf.AvailableBuffer()[:charged-buf.Len()]
		n, err := body.Read(free)
		buf.Write(free[:n])
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
