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

	"github.com/palliumhq/pallium/backend/remotewrite"
	"github.com/palliumhq/pallium/backend/series"
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
	buf := a.bodies.get()
	defer a.bodies.put(buf)
	if err := readBody(w, r, buf, lim.MaxBodyBytes); err != nil {
		a.fail(w, r, err)
		return
	}
	req := a.requests.Get()
	defer a.requests.Put(req)
	if err := req.Decode(version, buf.Bytes(), lim.MaxDecodedBytes); err != nil {
		a.fail(w, r, err)
		return
	}
	req.Batch.Tenant = id
	out, err := a.Push(r.Context(), &req.Batch)
	if err != nil {
		writeCounts(w.Header(), series.Outcome{})
		a.fail(w, r, err)
		return
	}
	writeCounts(w.Header(), out)
	if len(out.Refusals) > 0 {
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
		return 0, unsupported(fmt.Sprintf("remote write message %q is not supported; supported are prometheus.WriteRequest and io.prometheus.write.v2.Request", proto))
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

// readBody reads the whole body, which may have limit bytes; 0 is no limit.
func readBody(w http.ResponseWriter, r *http.Request, buf *bytes.Buffer, limit int64) error {
	body := r.Body
	if limit > 0 {
		if r.ContentLength > limit {
			return tooLarge(fmt.Sprintf("body is %d bytes, limit max_body_bytes allows %d; send fewer samples per request", r.ContentLength, limit))
		}
		body = http.MaxBytesReader(w, r.Body, limit)
	}
	if r.ContentLength > 0 && r.ContentLength <= 4<<20 {
		buf.Grow(int(r.ContentLength) + bytes.MinRead)
	}
	if _, err := buf.ReadFrom(body); err != nil {
		var max *http.MaxBytesError
		if errors.As(err, &max) {
			return tooLarge(fmt.Sprintf("body is more than %d bytes, which limit max_body_bytes allows; send fewer samples per request", max.Limit))
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return badRequest{errors.New("body ends before its announced length")}
		}
		return badRequest{fmt.Errorf("read body: %w", err)}
	}
	return nil
}
