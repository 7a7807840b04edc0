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

// A push says in its header for whom it is and how large, so that the server takes
// the memory for it before it reads the message. Older peers do not say it; the
// memory for theirs is taken when they are there.
const (
	tenantKey = "pallium-tenant"
	bytesKey  = "pallium-bytes"

	// pushFactor is how many bytes a server needs for each byte of a push, beside
	// what it decodes: the message as it came and decompressed, and its record in the
	// log.
	pushFactor = 3
)

// announce puts what a push needs into its header.
func announce(ctx context.Context, p *wire.Push) context.Context {
	return metadata.AppendToOutgoingContext(ctx, tenantKey, p.Tenant, bytesKey, strconv.Itoa(len(p.Write)))
}

// admitted is a push whose header was there, with the memory for its message.
type admitted struct {
	tenant  tenant.ID
	holding *memory.Holding
	// claim makes the holding the handler's, which closes it. It reports false when
	// the call was over before: then the holding is closed.
	claim func() bool
}

type admittedKey struct{}

// admission takes the memory of a push when its header is there. It is called on
// the connection's goroutine and does not wait. A tenant that is none is told so by
// the handler.
func (s *Server) admission(ctx context.Context, info *tap.Info) (context.Context, error) {
	if info.FullMethodName != pushMethod {
		return ctx, nil
	}
	id, size, ok := announced(info.Header)
	if !ok {
		return ctx, nil // what is not announced is taken when it is there
	}
	h := s.memory.Begin(memory.Request{Tenant: id, Write: true, Internal: id == tenant.Self})
	if err := h.Take(pushFactor * size); err != nil {
		return ctx, unavailable(fmt.Errorf("push of %d bytes: %w", size, err))
	}
	// A call may end before it has a handler, and a handler go on after its call.
	claim := context.AfterFunc(ctx, h.Close)
	return context.WithValue(ctx, admittedKey{}, &admitted{id, h, claim}), nil
}

// announced reads what announce wrote.
func announced(md metadata.MD) (id tenant.ID, size int64, ok bool) {
	id, err := tenant.ParseID(one(md, tenantKey))
	if err != nil {
		return "", 0, false
	}
	size, err = strconv.ParseInt(one(md, bytesKey), 10, 64)
	return id, size, err == nil && size >= 0 && size <= wire.MaxMessage
}

// holdPush returns the account of a push with what its message takes, which may
// not have been announced, or not as it is.
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
		return nil, status.Error(codes.InvalidArgument, "push is not for the tenant that its header names")
	default:
		h = a.holding
	}
	if err := h.Raise(pushFactor * size); err != nil {
		h.Close()
		return nil, unavailable(fmt.Errorf("push of %d bytes: %w", size, err))
	}
	return h, nil
}

// tooLarge is the status of a push that alone needs more than its tenant may ever
// hold here: repeating it does not help. Older peers take it for any other error.
func tooLarge(e *memory.TooLargeError) error {
	text, err := json.Marshal(e)
	if err != nil {
		return status.Error(codes.Internal, e.Error())
	}
	return status.Error(codes.FailedPrecondition, string(text))
}

// pushError makes of the status of a push what tooLarge made it of.
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

// hold begins the account of a call that reads.
func (s *ingesterServer) hold(ctx context.Context, r memory.Request) (context.Context, *memory.Holding) {
	h := s.memory.Begin(r)
	return memory.NewContext(ctx, h), h
}

// takeMatchers takes the memory for the regular expressions of a call.
func takeMatchers(h *memory.Holding, ms []wire.Matcher) error {
	for i := range ms {
		switch labels.MatchType(ms[i].Type) {
		case labels.MatchRegexp, labels.MatchNotRegexp:
			n, err := regexsize.Pattern(ms[i].Value, mostInstructions)
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

// mostInstructions is above what Go compiles at all.
const mostInstructions = 1 << 30

// What an element of an answer takes beside its text, in bytes, and how many copies
// of the text there are: as it is, in a message, and compressed.
const (
	elementBytes = 64
	answerCopies = 3
)

// answerBytes is what a list of strings takes in an answer.
func answerBytes(list []string) int64 {
	n := int64(0)
	for _, v := range list {
		n += int64(len(v)) + 4
	}
	return (answerCopies - 1) * n // the strings themselves are there
}

// exemplarBytes is what the exemplars of a series take in an answer.
func exemplarBytes(r *exemplar.QueryResult) int64 {
	n := int64(r.SeriesLabels.ByteSize()) + elementBytes
	for i := range r.Exemplars {
		n += int64(r.Exemplars[i].Labels.ByteSize()) + elementBytes
	}
	return answerCopies * n
}

// metadataBytes is what the metadata of a metric takes in an answer.
func metadataBytes(m *series.MetricMetadata) int64 {
	return answerCopies * int64(len(m.Metric)+len(m.Unit)+len(m.Help)+elementBytes)
}
