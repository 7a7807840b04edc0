package rpc

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/regexsize"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/wire"
)

// The header of a push has its tenant and size, so that the server reserves the memory
// before it reads the message. For pushes of older peers, which have no such header, the
// memory is reserved after the message was read.
const (
	tenantKey = "pallium-tenant"
	bytesKey  = "pallium-bytes"

	// pushFactor is the number of bytes in memory per byte of a push, in addition to the
	// decoded batch: the received message, the decompressed one, and the record in the
	// log.
	pushFactor = 3
)

// announce sets the header of a push.
func announce(ctx context.Context, p *wire.Push) context.Context {
	return metadata.AppendToOutgoingContext(ctx, tenantKey, p.Tenant, bytesKey, strconv.Itoa(len(p.Write)))
}

// admitted is a push whose memory was reserved by its header.
type admitted struct {
	tenant  tenant.ID
	holding *memory.Holding
	// claim transfers the holding to the handler, which must close it. It returns false
	// if the call has already ended and the holding is closed.
	claim func() bool
}

type admittedKey struct{}

// admission reserves the memory of a push when its header was received. It runs on the
// connection's goroutine and must not block. The handler rejects invalid tenants.
func (s *Server) admission(ctx context.Context, info *tap.Info) (context.Context, error) {
	if info.FullMethodName != pushMethod {
		return ctx, nil
	}
	id, size, ok := announced(info.Header)
	if !ok {
		return ctx, nil // holdPush reserves the memory
	}
	h := s.memory.Begin(memory.Request{Tenant: id, Write: true, Internal: id == tenant.Self})
	if err := h.Take(pushFactor * size); err != nil {
		return ctx, unavailable(fmt.Errorf("push of %d bytes: %w", size, err))
	}
	// A call may end before its handler starts, and a handler may run longer than its call.
	claim := context.AfterFunc(ctx, h.Close)
	return context.WithValue(ctx, admittedKey{}, &admitted{id, h, claim}), nil
}

// announced decodes the header that announce wrote.
func announced(md metadata.MD) (id tenant.ID, size int64, ok bool) {
	id, err := tenant.ParseID(one(md, tenantKey))
	if err != nil {
		return "", 0, false
	}
	size, err = strconv.ParseInt(one(md, bytesKey), 10, 64)
	return id, size, err == nil && size >= 0 && size <= wire.MaxMessage
}

// holdPush returns the holding of a push with the memory for its message. The header may
// have been missing or wrong.
func (s *ingesterServer) holdPush(ctx context.Context, id tenant.ID, size int64) (*memory.Holding, error) {
	a, _ := ctx.Value(admittedKey{}).(*admitted)
	var h *memory.Holding
	switch {
	case a == nil:
		h = s.memory.Begin(memory.Request{Tenant: id, Write: true, Internal: id == tenant.Self})
	case !a.claim():
		return nil, wire.Status(context.Cause(ctx))
	case a.tenant != id:
		a.holding.Close()
		return nil, status.Error(codes.InvalidArgument, "tenant of the push differs from the tenant in its header")
	default:
		h = a.holding
	}
	if err := h.Raise(pushFactor * size); err != nil {
		h.Close()
		return nil, unavailable(fmt.Errorf("push of %d bytes: %w", size, err))
	}
	return h, nil
}

// tooLarge returns the status of a push that alone needs more memory than its tenant may
// use, so that repeating it would not help. Older peers treat it like any other error.
func tooLarge(e *memory.TooLargeError) error {
	text, err := json.Marshal(e)
	if err != nil {
		return status.Error(codes.Internal, e.Error())
	}
	return status.Error(codes.FailedPrecondition, string(text))
}

// pushError is the reverse of tooLarge: it returns the TooLargeError in a status, or err.
func pushError(err error) error {
	s, ok := status.FromError(err)
	if !ok || s.Code() != codes.FailedPrecondition {
		return err
	}
	var e memory.TooLargeError
	if json.Unmarshal([]byte(s.Message()), &e) != nil {
		return err
	}
	return &e
}

func one(md metadata.MD, key string) string {
	if v := md.Get(key); len(v) == 1 {
		return v[0]
	}
	return ""
}

// note returns the decoded error of a call that is not a push. It is memory.ErrEndedElsewhere if the
// peer ended the call because the peer was nearly out of memory.
func (p *Peer) note(_ context.Context, err error) error {
	if s, ok := status.FromError(err); ok && s.Code() == codes.Aborted {
		return memory.ErrEndedElsewhere
	}
	return wire.Error(err)
}

// hold begins the holding of a call and returns a context with it.
func (s *ingesterServer) hold(ctx context.Context, r memory.Request) (context.Context, *memory.Holding) {
	h := s.memory.Begin(r)
	return memory.NewContext(ctx, h), h
}

// reserveMatchers reserves the memory for the regular expressions of a call.
func reserveMatchers(h *memory.Holding, ms []wire.Matcher) error {
	for i := range ms {
		switch labels.MatchType(ms[i].Type) {
		case labels.MatchRegexp, labels.MatchNotRegexp:
			n, err := regexsize.Pattern(ms[i].Value, maxInstructions)
			if err != nil {
				return status.Error(codes.InvalidArgument, fmt.Sprintf("matcher of %s: %v", ms[i].Name, err))
			}
			if err := h.Take(int64(n) * regexsize.InstructionBytes); err != nil {
				return err
			}
		}
	}
	return nil
}

// maxInstructions is more than package regexp accepts, so only the memory limits the size.
const maxInstructions = 1 << 30

// elementBytes is the memory in bytes of an element of a response in addition to its
// text. responseCopies is the number of copies of the text: the original, the encoded
// message and the compressed message.
const (
	elementBytes   = 64
	responseCopies = 3
)

// responseBytes returns the memory in bytes of a list of strings in a response.
func responseBytes(list []string) int64 {
	n := int64(0)
	for _, v := range list {
		n += int64(len(v)) + 4
	}
	return (responseCopies - 1) * n // the original strings are already accounted for
}

// exemplarBytes returns the memory in bytes of the exemplars of a series in a response.
func exemplarBytes(r *exemplar.QueryResult) int64 {
	n := int64(r.SeriesLabels.ByteSize()) + elementBytes
	for i := range r.Exemplars {
		n += int64(r.Exemplars[i].Labels.ByteSize()) + elementBytes
	}
	return responseCopies * n
}

// metadataBytes returns the memory in bytes of the metadata of a metric in a response.
func metadataBytes(m *series.MetricMetadata) int64 {
	return responseCopies * int64(len(m.Metric)+len(m.Unit)+len(m.Help)+elementBytes)
}
