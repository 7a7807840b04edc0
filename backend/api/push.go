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

// The headers in which a receiver says how much it wrote (remote write 2.0; we
// send them in both versions, the gateway budgets by them).
const (
	headerSamples    = "X-Prometheus-Remote-Write-Samples-Written"
	headerHistograms = "X-Prometheus-Remote-Write-Histograms-Written"
	headerExemplars  = "X-Prometheus-Remote-Write-Exemplars-Written"
	// headerCharged is for the gateway alone: what the request costs its tenant
	// beside the samples, in samples.
	headerCharged = "X-Pallium-Samples-Charged"
)

// push takes a remote write request.
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
		w.WriteHeader(http.StatusAccepted) // as senders of Cortex and Mimir know it
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// writeCounts tells what was written. What another replica is heard for counts as
// written: a sender that is told of nothing reports failures for ever.
func writeCounts(h http.Header, out series.Outcome) {
	d := out.Deduplicated
	h.Set(headerSamples, strconv.Itoa(out.Samples+d.Samples))
	h.Set(headerHistograms, strconv.Itoa(out.Histograms+d.Histograms))
	h.Set(headerExemplars, strconv.Itoa(out.Exemplars+d.Exemplars))
	if out.Charged > 0 {
		h.Set(headerCharged, strconv.Itoa(out.Charged))
	}
}

// negotiate finds the protocol version from the headers. Old and small senders
// give none of them and mean 1.0 with snappy. What is not remote write is told
// so with 415, upon which some senders fall back to what we know.
func negotiate(h http.Header) (remotewrite.Version, error) {
	if enc := h.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "snappy") {
		return 0, unsupported(fmt.Sprintf("Content-Encoding %q is not supported, send snappy", enc))
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
		return 0, unsupported(fmt.Sprintf("Content-Type %q is not remote write, send application/x-protobuf", media))
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

// bodyPool has buffers for request bodies.
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

// firstRead is how much room a body has before any of it has come.
const firstRead = 64 << 10

// readBody reads the whole body, which may have limit bytes; 0 is no limit. It
// takes memory as the body comes, not as its header promises.
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
		room = int(n) + 1 // the end is seen by one byte of room
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
			return badRequest{errors.New("body ends before its announced length")}
		}
		return badRequest{fmt.Errorf("read body: %w", err)}
	}
	return nil
}

// errNoMemory marks an error of the account of memory.
var errNoMemory = errors.New("read body")

// readAll reads until the end. It has room for so many bytes at first, and for
// twice as many whenever they are used.
func readAll(buf *bytes.Buffer, body io.Reader, room int, h *memory.Holding) error {
	charged := 0
	if n := buf.Cap(); n > room {
		// A buffer that was used before is held with all its room, however little of it
		// comes to be used: otherwise those who stall would hold it unseen.
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
