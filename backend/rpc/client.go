package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"

	"github.com/palliumhq/pallium/authn/cluster"
	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/wire"
)

// Pool holds the connections of a process to its peers, one per address.
type Pool struct {
	member *cluster.Member

	mu     sync.Mutex
	peers  map[string]*Peer
	closed bool
}

// NewPool returns a pool without connections.
func NewPool(m *cluster.Member) *Pool { return &Pool{member: m, peers: map[string]*Peer{}} }

const (
	// clientPing and clientPong are the interval and timeout of pings. A peer that stops
	// responding is detected within their sum. gRPC allows no shorter interval. Calls that follow
	// wait for an attempt to reconnect, at most dialTimeout. After it failed, calls fail without
	// waiting until an attempt succeeds.
	clientPing  = 10 * time.Second
	clientPong  = 3 * time.Second
	dialTimeout = 3 * time.Second
	// maxRedialGap is the maximum pause between two attempts to connect to a peer, without jitter.
	// It is short, because pushes can fail if another replica fails before the peer is connected
	// again. A refused connection costs little, and an attempt without a response takes dialTimeout.
	maxRedialGap = 400 * time.Millisecond
	firstRedial  = 100 * time.Millisecond
	// pauseAfter is the number of consecutive timeouts of pushes after which no pushes are
	// sent to a peer for pauseFor. Reads still call it, because they are hedged; their
	// timeouts do not count, because a tenant chooses the timeout of its queries.
	pauseAfter = 5
	pauseFor   = 2 * time.Second
)

// Peer returns the peer at an address. It does not wait for a connection. Calls of the
// peer with an empty address always fail.
func (p *Pool) Peer(addr string) (*Peer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, wire.ErrUnavailable
	}
	if peer := p.peers[addr]; peer != nil {
		return peer, nil
	}
	dial := []grpc.DialOption{}
	if addr == "" {
		dial = append(dial, grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return nil, errNoAddress }))
	}
	conn, err := grpc.NewClient("passthrough:///"+addr, append(dial,
		grpc.WithTransportCredentials(proof{p.member}),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(wire.Codec{}),
			grpc.MaxCallRecvMsgSize(wire.MaxMessage), grpc.MaxCallSendMsgSize(wire.MaxMessage)),
		grpc.WithInitialWindowSize(1<<20), grpc.WithInitialConnWindowSize(8<<20),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: clientPing, Timeout: clientPong, PermitWithoutStream: true}),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: dialTimeout,
			Backoff: backoff.Config{BaseDelay: firstRedial, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxRedialGap}}),
		grpc.WithDisableServiceConfig(), grpc.WithNoProxy(), grpc.WithIdleTimeout(0))...)
	if err != nil {
		return nil, fmt.Errorf("peer %s: %w", addr, err)
	}
	peer := &Peer{conn: conn, ingester: wire.NewIngesterClient(conn), compactor: wire.NewCompactorClient(conn),
		frontend: wire.NewFrontendClient(conn), ruler: wire.NewRulerClient(conn)}
	p.peers[addr] = peer
	return peer, nil
}

// Keep closes the connections to all addresses that are not in addrs.
func (p *Pool) Keep(addrs map[string]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for addr, peer := range p.peers {
		if !addrs[addr] {
			_ = peer.conn.Close()
			delete(p.peers, addr)
		}
	}
}

// Close closes all connections.
func (p *Pool) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	var errs error
	for _, peer := range p.peers {
		errs = errors.Join(errs, peer.conn.Close())
	}
	p.peers = map[string]*Peer{}
	return errs
}

// Peer calls another process. It returns errors as decoded by wire.Error.
type Peer struct {
	conn      *grpc.ClientConn
	ingester  wire.IngesterClient
	compactor wire.CompactorClient
	frontend  wire.FrontendClient
	ruler     wire.RulerClient

	mu       sync.Mutex
	timeouts int       // of pushes, consecutive
	paused   time.Time // when the peer was last paused or probed
}

// errNoAddress is returned for a member of the ring without an address, to which no process may
// connect.
var errNoAddress = errors.New("no address: the member's ring entry has no recent heartbeat")

var errPaused = fmt.Errorf("%w: the last pushes to this peer timed out", wire.ErrUnavailable)

// healthy returns an error while no pushes may be sent to the peer.
func (p *Peer) healthy() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timeouts >= pauseAfter {
		if time.Since(p.paused) < pauseFor {
			return errPaused
		}
		// This push probes the peer. Other pushes fail for another pauseFor, unless a push to
		// the peer ends without a timeout before.
		p.paused = time.Now()
	}
	return nil
}

// pushed records the result of a push for healthy and returns its decoded error.
func (p *Peer) pushed(ctx context.Context, err error) error {
	err = wire.Error(err)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case errors.Is(err, context.DeadlineExceeded) && errors.Is(ctx.Err(), context.DeadlineExceeded):
		if p.timeouts++; p.timeouts >= pauseAfter {
			p.paused = time.Now()
		}
	case !errors.Is(err, context.Canceled):
		p.timeouts = 0
	}
	return err
}

// Push implements distributor.Replica.
func (p *Peer) Push(ctx context.Context, push *wire.Push) (wire.PushResponse, error) {
	var resp wire.PushResponse
	if err := p.healthy(); err != nil {
		return resp, err
	}
	err := p.conn.Invoke(announce(ctx, push), pushMethod, push, &resp)
	return resp, p.pushed(ctx, pushError(err))
}

// pushMethod is the name of the method Push. It is invoked by name because the generated
// client takes a PushRequest and not a Push.
const pushMethod = "/pallium.wire.v1.Ingester/Push"

func selectRequest(req series.Request) wire.SelectRequest {
	out := wire.SelectRequest{Tenant: string(req.Tenant), MinTime: req.MinTime, MaxTime: req.MaxTime,
		Matchers: wire.MatchersOf(req.Matchers), MaxSeries: int64(req.MaxSeries), LabelsOnly: req.LabelsOnly}
	if !req.Range.All() {
		r := encodeRange(req.Range)
		out.Range = &r
	}
	return out
}

var errTruncated = fmt.Errorf("%w: the response was truncated", wire.ErrUnavailable)

// Select implements querier.Ingester. The memory of the selection is released with the
// selection, or at once after an error, since other ingesters may then be queried instead.
func (p *Peer) Select(ctx context.Context, req series.Request) (*series.Selection, []ulid.ULID, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	in := selectRequest(req)
	stream, err := p.ingester.Select(ctx, &in)
	if err != nil {
		return nil, nil, p.note(ctx, err)
	}
	sel, err := p.receive(ctx, stream, req.MaxSeries)
	if err != nil {
		sel.Release()
		return nil, nil, err
	}
	return sel.Selection, sel.packs, nil
}

// received is the received part of a selection.
type received struct {
	*series.Selection
	packs []ulid.ULID
}

// receive reads the parts of a selection of at most most series; 0 means no limit. The caller must
// release the result even after an error.
func (p *Peer) receive(ctx context.Context, stream wire.Ingester_SelectClient, most int) (received, error) {
	h, taken := memory.FromContext(ctx), int64(0)
	sel := received{Selection: &series.Selection{}}
	sel.Hold(func() { h.Give(taken) })
	b := labels.NewScratchBuilder(16)
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return sel, errTruncated
		}
		if err != nil {
			return sel, p.note(ctx, err)
		}
		for i := range part.Series {
			w, err := decodeSeries(&part.Series[i], &b)
			if err != nil {
				return sel, err
			}
			n := selectedBytes(&w)
			if err := h.Take(n); err != nil {
				return sel, err
			}
			taken += n
			sel.Series = append(sel.Series, w)
		}
		if err := series.CheckCount(len(sel.Series), most); err != nil {
			return sel, err
		}
		if !part.End {
			continue
		}
		sel.packs, err = decodePacks(part.Packs)
		return sel, errors.Join(err, p.note(ctx, nil))
	}
}

// selectedBytes returns the memory in bytes of a received series with its samples.
func selectedBytes(w *series.WithChunks) int64 {
	n := series.SelectedBytes(w.Labels, len(w.Chunks))
	for i := range w.Chunks {
		n += int64(len(w.Chunks[i].Data))
	}
	return n
}

func decodeSeries(s *wire.Series, b *labels.ScratchBuilder) (series.WithChunks, error) {
	ls, err := wire.DecodeLabels(s.Labels, b)
	if err != nil {
		return series.WithChunks{}, err
	}
	w := series.WithChunks{Labels: ls}
	if len(s.Chunks) == 0 {
		return w, nil
	}
	w.Chunks = make([]series.Chunk, 0, len(s.Chunks))
	for _, c := range s.Chunks {
		enc := chunkenc.Encoding(c.Encoding)
		if c.Encoding < 0 || c.Encoding > 255 || !chunkenc.IsValidEncoding(enc) || c.Samples <= 0 || c.MinTime > c.MaxTime {
			return w, fmt.Errorf("ingester sent an invalid chunk of %s: encoding %d, %d samples from %d to %d",
				ls, c.Encoding, c.Samples, c.MinTime, c.MaxTime)
		}
		w.Chunks = append(w.Chunks, series.Chunk{MinTime: c.MinTime, MaxTime: c.MaxTime, Samples: int(c.Samples), Encoding: enc, Data: c.Data})
	}
	return w, nil
}

func decodePacks(b []byte) ([]ulid.ULID, error) {
	if len(b)%16 != 0 {
		return nil, fmt.Errorf("invalid pack IDs: %d bytes, want a multiple of 16", len(b))
	}
	var out []ulid.ULID
	for ; len(b) > 0; b = b[16:] {
		out = append(out, ulid.ULID(b[:16]))
	}
	return out, nil
}

// Labels implements querier.Ingester. It returns label names if name is empty, otherwise
// the values of that label.
func (p *Peer) Labels(ctx context.Context, name string, req series.Request) ([]string, []ulid.ULID, error) {
	resp, err := p.ingester.Labels(ctx, &wire.LabelsRequest{Select: selectRequest(req), Name: name})
	if err = p.note(ctx, err); err != nil {
		return nil, nil, err
	}
	if err := memory.FromContext(ctx).Take(responseBytes(resp.Values)); err != nil {
		return nil, nil, err
	}
	packs, err := decodePacks(resp.Packs)
	return resp.Values, packs, err
}

// Exemplars implements querier.Ingester.
func (p *Peer) Exemplars(ctx context.Context, id tenant.ID, mint, maxt int64, sets [][]*labels.Matcher) ([]exemplar.QueryResult, error) {
	in := &wire.ExemplarsRequest{Tenant: string(id), MinTime: mint, MaxTime: maxt}
	for _, set := range sets {
		in.Sets = append(in.Sets, wire.MatcherSet{Matchers: wire.MatchersOf(set)})
	}
	resp, err := p.ingester.Exemplars(ctx, in)
	if err = p.note(ctx, err); err != nil {
		return nil, err
	}
	b := labels.NewScratchBuilder(16)
	var out []exemplar.QueryResult
	for _, s := range resp.Series {
		r := exemplar.QueryResult{}
		if r.SeriesLabels, err = wire.DecodeLabels(s.Labels, &b); err != nil {
			return nil, err
		}
		for _, e := range s.Exemplars {
			ls, err := wire.DecodeLabels(e.Labels, &b)
			if err != nil {
				return nil, err
			}
			r.Exemplars = append(r.Exemplars, exemplar.Exemplar{Labels: ls, Value: e.Value, Ts: e.Time, HasTs: e.HasTime})
		}
		if err := memory.FromContext(ctx).Take(exemplarBytes(&r)); err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// Metadata returns the ingester's metadata of a tenant's metrics.
func (p *Peer) Metadata(ctx context.Context, id tenant.ID) ([]series.MetricMetadata, error) {
	resp, err := p.ingester.Metadata(ctx, &wire.TenantRequest{Tenant: string(id)})
	if err = p.note(ctx, err); err != nil {
		return nil, err
	}
	var out []series.MetricMetadata
	for _, m := range resp.Metadata {
		mm := series.MetricMetadata{Metric: m.Metric, Metadata: metadata.Metadata{Type: model.MetricType(m.Type), Unit: m.Unit, Help: m.Help}}
		if err := memory.FromContext(ctx).Take(metadataBytes(&mm)); err != nil {
			return nil, err
		}
		out = append(out, mm)
	}
	return out, nil
}

// SeriesCount returns the number of active series of a tenant in the ingester.
func (p *Peer) SeriesCount(ctx context.Context, id tenant.ID) (int, error) {
	resp, err := p.ingester.SeriesCount(ctx, &wire.TenantRequest{Tenant: string(id)})
	if err = p.note(ctx, err); err != nil {
		return 0, err
	}
	return int(resp.Series), nil
}

// HeadStats returns the number and time range of the ingester's unsealed chunks of a tenant.
func (p *Peer) HeadStats(ctx context.Context, id tenant.ID) (series.HeadStats, error) {
	resp, err := p.ingester.HeadStats(ctx, &wire.TenantRequest{Tenant: string(id)})
	if err = p.note(ctx, err); err != nil {
		return series.HeadStats{}, err
	}
	return series.HeadStats{Chunks: resp.Chunks, MinTime: resp.MinTime, MaxTime: resp.MaxTime}, nil
}

// Version returns the version of a tenant's samples in the ingester.
func (p *Peer) Version(ctx context.Context, id tenant.ID) (series.IngesterVersion, error) {
	resp, err := p.ingester.Version(ctx, &wire.TenantRequest{Tenant: string(id)})
	if err = p.note(ctx, err); err != nil {
		return series.IngesterVersion{}, err
	}
	return series.IngesterVersion{Instance: resp.Instance, Epoch: resp.Epoch, Changes: resp.Changes, Bound: resp.Bound,
		Recent: resp.Recent, RecentBound: resp.RecentBound}, nil
}

// Delete sends a tombstone to the ingester.
func (p *Peer) Delete(ctx context.Context, id tenant.ID, ts schema.Tombstone) error {
	_, err := p.ingester.Delete(ctx, &wire.DeleteRequest{Tenant: string(id), Tombstone: ts.Encode()})
	return p.note(ctx, err)
}

// Flush makes the ingester seal and upload all its samples.
func (p *Peer) Flush(ctx context.Context) error {
	_, err := p.ingester.Flush(ctx, &wire.Empty{})
	return p.note(ctx, err)
}
