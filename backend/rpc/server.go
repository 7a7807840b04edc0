// Package rpc implements the calls between the roles of a backend in a cluster: gRPC with
// the messages of package wire. It decodes requests, calls the role, and encodes
// responses.
package rpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/palliumhq/pallium/authn/cluster"
	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/ingester"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/remotewrite"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/wire"
)

// Ingester is the ingester that the server calls.
type Ingester interface {
	Push(ctx context.Context, b *series.Batch) (series.Outcome, error)
	// Select, LabelNames and LabelValues also return the IDs of the local packs that were
	// read.
	Select(ctx context.Context, req series.Request) (*series.Selection, []ulid.ULID, error)
	LabelNames(ctx context.Context, req series.Request) ([]string, []ulid.ULID, error)
	LabelValues(ctx context.Context, name string, req series.Request) ([]string, []ulid.ULID, error)
	Exemplars(ctx context.Context, id tenant.ID, mint, maxt int64, sets [][]*labels.Matcher) ([]exemplar.QueryResult, error)
	Metadata(id tenant.ID) []series.MetricMetadata
	SeriesCount(id tenant.ID) int
	HeadStats(id tenant.ID) series.HeadStats
	Version(id tenant.ID) series.IngesterVersion
	Delete(id tenant.ID, ts schema.Tombstone) error
	Flush() error
	ReserveSeries(ctx context.Context, a *ingester.ActiveSeries) error
	ActiveSeries(ctx context.Context, instance string, send func(*ingester.ActiveSeries) error) error
	Upload(ctx context.Context) error
}

// Limits of a server. Calls beyond maxStreams wait in the client.
const (
	maxStreams  = 1000 // concurrent calls per connection
	pingEvery   = 10 * time.Second
	pingTimeout = 5 * time.Second
	// partBytes is the approximate size of a message of a selection or an answer.
	partBytes = 1 << 20
)

// Server serves the roles of one process.
type Server struct {
	grpc   *grpc.Server
	memory *memory.Account
}

// NewServer returns a server of the roles that are not nil, for members of the cluster.
// The memory of calls is charged to mem.
func NewServer(m *cluster.Member, ing Ingester, comp Compactor, mem *memory.Account) *Server {
	s := &Server{memory: mem}
	s.grpc = grpc.NewServer(grpc.Creds(proof{m}), grpc.InTapHandle(s.admission),
		grpc.ForceServerCodec(wire.Codec{}),
		grpc.MaxRecvMsgSize(wire.MaxMessage), grpc.MaxSendMsgSize(wire.MaxMessage),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.InitialWindowSize(1<<20), grpc.InitialConnWindowSize(8<<20),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingEvery, Timeout: pingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	)
	if ing != nil {
		wire.RegisterIngesterServer(s.grpc, &ingesterServer{ing: ing, memory: mem})
	}
	if comp != nil {
		wire.RegisterCompactorServer(s.grpc, compactorServer{comp})
	}
	return s
}

// Serve serves until Stop.
func (s *Server) Serve(l net.Listener) error { return s.grpc.Serve(cluster.Bound(l)) }

// Stop waits for calls in progress until ctx ends, and then cancels them. It does not wait
// for handlers that continue after their call was canceled.
func (s *Server) Stop(ctx context.Context) {
	done := make(chan struct{})
	go func() { defer close(done); s.grpc.GracefulStop() }()
	select {
	case <-done:
	case <-ctx.Done():
		s.grpc.Stop()
	}
}

type ingesterServer struct {
	ing      Ingester
	memory   *memory.Account
	requests remotewrite.Pool
}

// unavailable returns the status of an error. Errors after which the call may succeed
// later or on another ingester become wire.ErrUnavailable.
func unavailable(err error) error {
	var large *memory.TooLargeError
	if errors.As(err, &large) {
		return tooLarge(large)
	}
	if errors.Is(err, memory.ErrEnded) {
		return status.Error(codes.Aborted, err.Error())
	}
	return wire.Status(err, ingester.ErrFull, ingester.ErrDiskFull, ingester.ErrAside, ingester.ErrStopped, ingester.ErrLog, memory.ErrFull)
}

func tenantOf(s string) (tenant.ID, error) {
	id, err := tenant.ParseID(s)
	if err != nil {
		return "", status.Error(codes.InvalidArgument, err.Error())
	}
	return id, nil
}

func (s *ingesterServer) Push(ctx context.Context, in *wire.PushRequest) (*wire.PushResponse, error) {
	id, err := tenantOf(in.Tenant)
	if err != nil {
		return nil, err
	}
	h, err := s.holdPush(ctx, id, int64(len(in.Write)))
	if err != nil {
		return nil, err
	}
	defer h.Close()
	req := s.requests.Get()
	defer s.requests.Put(req)
	if err := req.Unmarshal(remotewrite.V1, in.Write, h); err != nil {
		if errors.Is(err, remotewrite.ErrMalformed) {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		return nil, unavailable(err)
	}
	if m := req.Batch.Malformed; len(m) > 0 { // positions in the response would not match the request
		return nil, status.Error(codes.InvalidArgument, m[0].Message)
	}
	req.Batch.Tenant, req.Batch.Established = id, in.Established
	out, err := s.ing.Push(ctx, &req.Batch)
	if err != nil {
		return nil, unavailable(err)
	}
	resp := &wire.PushResponse{Exemplars: int64(out.Exemplars)}
	if len(out.Created) > 0 {
		resp.Created = make([]uint32, len(out.Created))
		for i, entry := range out.Created {
			resp.Created[i] = uint32(entry)
		}
	}
	for _, r := range out.Repeats {
		resp.Repeats = append(resp.Repeats, wire.Repeats{Entry: int64(r.Entry), Same: int64(r.Same), Different: int64(r.Different)})
	}
	seen := map[string]string{}
	for _, e := range out.Entries {
		r := wire.Rejection{Entry: int64(e.Entry), Reason: e.Reason, Places: e.Places}
		if seen[e.Reason] != e.Message {
			seen[e.Reason], r.Message = e.Message, e.Message
		}
		resp.Rejections = append(resp.Rejections, r)
	}
	return resp, nil
}

// request decodes the request of a read and begins its holding, which the caller must
// close.
func (s *ingesterServer) request(ctx context.Context, in *wire.SelectRequest) (context.Context, *memory.Holding, series.Request, error) {
	id, err := tenantOf(in.Tenant)
	if err != nil {
		return ctx, nil, series.Request{}, err
	}
	ctx, h := s.hold(ctx, memory.Request{Tenant: id})
	if err := reserveMatchers(h, in.Matchers); err != nil {
		h.Close()
		return ctx, nil, series.Request{}, unavailable(err)
	}
	matchers, err := wire.Matchers(in.Matchers)
	if err != nil {
		h.Close()
		return ctx, nil, series.Request{}, status.Error(codes.InvalidArgument, err.Error())
	}
	return ctx, h, series.Request{Tenant: id, MinTime: in.MinTime, MaxTime: in.MaxTime, Matchers: matchers,
		MaxSeries: int(in.MaxSeries), LabelsOnly: in.LabelsOnly, Range: decodeRange(in.Range)}, nil
}

func packIDs(ids []ulid.ULID) []byte {
	out := make([]byte, 0, len(ids)*16)
	for _, id := range ids {
		out = append(out, id[:]...)
	}
	return out
}

func (s *ingesterServer) Select(in *wire.SelectRequest, out wire.Ingester_SelectServer) error {
	ctx, h, req, err := s.request(out.Context(), in)
	if err != nil {
		return err
	}
	defer h.Close()
	sel, packs, err := s.ing.Select(ctx, req)
	if err != nil {
		return unavailable(err)
	}
	defer sel.Release()
	part, size, taken := &wire.SelectResponse{}, 0, int64(0)
	var arena []byte // encoded labels of the part
	send := func() error {
		if more := responseCopies*int64(size) - taken; more > 0 { // for the largest part: parts are sent one after the other
			if err := h.Take(more); err != nil {
				return unavailable(err)
			}
			taken += more
		}
		return out.Send(part)
	}
	for i := range sel.Series {
		w := &sel.Series[i]
		from := len(arena)
		arena = wire.AppendLabels(arena, w.Labels)
		ser := wire.Series{Labels: arena[from:len(arena):len(arena)]}
		size += len(ser.Labels) + 16
		if len(w.Chunks) > 0 {
			ser.Chunks = make([]wire.Chunk, len(w.Chunks))
		}
		for k, c := range w.Chunks {
			if c.Column != nil {
				return status.Error(codes.Internal, "an ingester returned a chunk as a column")
			}
			ser.Chunks[k] = wire.Chunk{MinTime: c.MinTime, MaxTime: c.MaxTime, Samples: int64(c.Samples), Encoding: int64(c.Encoding), Data: c.Data}
			size += len(c.Data) + 32
		}
		part.Series = append(part.Series, ser)
		if size >= partBytes {
			if err := send(); err != nil {
				return err
			}
			part, size, arena = &wire.SelectResponse{}, 0, nil
		}
	}
	part.Packs, part.End = packIDs(packs), true
	return send()
}

func (s *ingesterServer) Labels(ctx context.Context, in *wire.LabelsRequest) (*wire.LabelsResponse, error) {
	ctx, h, req, err := s.request(ctx, &in.Select)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	var values []string
	var packs []ulid.ULID
	if in.Name == "" {
		values, packs, err = s.ing.LabelNames(ctx, req)
	} else {
		values, packs, err = s.ing.LabelValues(ctx, in.Name, req)
	}
	if err == nil {
		err = h.Take(responseBytes(values))
	}
	if err != nil {
		return nil, unavailable(err)
	}
	return &wire.LabelsResponse{Values: values, Packs: packIDs(packs)}, nil
}

func (s *ingesterServer) Exemplars(ctx context.Context, in *wire.ExemplarsRequest) (*wire.ExemplarsResponse, error) {
	id, err := tenantOf(in.Tenant)
	if err != nil {
		return nil, err
	}
	ctx, h := s.hold(ctx, memory.Request{Tenant: id})
	defer h.Close()
	var sets [][]*labels.Matcher
	for _, set := range in.Sets {
		if err := reserveMatchers(h, set.Matchers); err != nil {
			return nil, unavailable(err)
		}
		ms, err := wire.Matchers(set.Matchers)
		if err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		sets = append(sets, ms)
	}
	found, err := s.ing.Exemplars(ctx, id, in.MinTime, in.MaxTime, sets)
	if err != nil {
		return nil, unavailable(err)
	}
	out := &wire.ExemplarsResponse{}
	for _, r := range found {
		if err := h.Take(exemplarBytes(&r)); err != nil {
			return nil, unavailable(err)
		}
		es := wire.ExemplarSeries{Labels: wire.AppendLabels(nil, r.SeriesLabels)}
		for _, e := range r.Exemplars {
			es.Exemplars = append(es.Exemplars,
				wire.Exemplar{Labels: wire.AppendLabels(nil, e.Labels), Value: e.Value, Time: e.Ts, HasTime: e.HasTs})
		}
		out.Series = append(out.Series, es)
	}
	return out, nil
}

func (s *ingesterServer) Metadata(ctx context.Context, in *wire.TenantRequest) (*wire.MetadataResponse, error) {
	id, err := tenantOf(in.Tenant)
	if err != nil {
		return nil, err
	}
	_, h := s.hold(ctx, memory.Request{Tenant: id})
	defer h.Close()
	out := &wire.MetadataResponse{}
	for _, m := range s.ing.Metadata(id) {
		if err := h.Take(metadataBytes(&m)); err != nil {
			return nil, unavailable(err)
		}
		out.Metadata = append(out.Metadata, wire.Metadata{Metric: m.Metric, Type: string(m.Type), Unit: m.Unit, Help: m.Help})
	}
	return out, nil
}

func (s *ingesterServer) SeriesCount(_ context.Context, in *wire.TenantRequest) (*wire.CountResponse, error) {
	id, err := tenantOf(in.Tenant)
	if err != nil {
		return nil, err
	}
	return &wire.CountResponse{Series: int64(s.ing.SeriesCount(id))}, nil
}

func (s *ingesterServer) HeadStats(_ context.Context, in *wire.TenantRequest) (*wire.HeadStatsResponse, error) {
	id, err := tenantOf(in.Tenant)
	if err != nil {
		return nil, err
	}
	h := s.ing.HeadStats(id)
	return &wire.HeadStatsResponse{Chunks: h.Chunks, MinTime: h.MinTime, MaxTime: h.MaxTime}, nil
}

func (s *ingesterServer) Version(_ context.Context, in *wire.TenantRequest) (*wire.VersionResponse, error) {
	id, err := tenantOf(in.Tenant)
	if err != nil {
		return nil, err
	}
	v := s.ing.Version(id)
	return &wire.VersionResponse{Instance: v.Instance, Epoch: v.Epoch, Changes: v.Changes, Bound: v.Bound,
		Recent: v.Recent, RecentBound: v.RecentBound}, nil
}

func (s *ingesterServer) Delete(_ context.Context, in *wire.DeleteRequest) (*wire.Empty, error) {
	id, err := tenantOf(in.Tenant)
	if err != nil {
		return nil, err
	}
	ts, err := schema.DecodeTombstone(in.Tombstone)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if err := s.ing.Delete(id, ts); err != nil {
		return nil, unavailable(err)
	}
	return &wire.Empty{}, nil
}

func (s *ingesterServer) Flush(ctx context.Context, _ *wire.Empty) (*wire.Empty, error) {
	err := s.ing.Flush()
	if err == nil {
		err = s.ing.Upload(ctx)
	}
	if err != nil {
		return nil, unavailable(fmt.Errorf("flush: %w", err))
	}
	return &wire.Empty{}, nil
}
