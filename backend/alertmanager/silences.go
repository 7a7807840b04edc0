package alertmanager

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/alertmanager/silence"
	"github.com/prometheus/alertmanager/silence/silencepb"
	"google.golang.org/protobuf/encoding/protodelim"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/schema"
)

const (
	// refreshTime is the timeout of a read of silences before a notification.
	refreshTime = 5 * time.Second
	// silenceRetention is the time for which a silence is kept after it has ended, as in Alertmanager.
	silenceRetention = 120 * time.Hour
)

// silenceStore reads and writes the silences of tenants. index.Alertmanagers implements it.
type silenceStore interface {
	Silences(ctx context.Context, t tenant.ID) (map[string]schema.Silence, uint64, error)
	SilencesChange(ctx context.Context, t tenant.ID) (uint64, error)
	SetSilences(ctx context.Context, t tenant.ID, list map[string]schema.Silence) error
}

// silences keeps the silences of a tenant in memory and in the row store in sync.
type silences struct {
	*silence.Silences
	tenant tenant.ID
	store  silenceStore

	begun atomic.Int64 // number of reads that have begun

	turn    chan struct{} // semaphore of refreshes and changes; guards the following fields
	fresh   int64         // number (see begun) of the last successful read
	loaded  bool
	change  uint64
	changed map[string]schema.Silence // silences that the change in progress has changed
	missing map[string]schema.Silence // silences that were changed in memory and may not be stored yet
	failed  error                     // error of decoding a change
	merging bool                      // whether the changes in memory come from the row store
}

func newSilences(t tenant.ID, store silenceStore, o silence.Options) (*silences, error) {
	all, err := silence.New(o)
	if err != nil {
		return nil, fmt.Errorf("create the silences: %w", err)
	}
	s := &silences{Silences: all, tenant: t, store: store, missing: map[string]schema.Silence{}, turn: make(chan struct{}, 1)}
	all.SetBroadcast(s.note)
	return s, nil
}

// note records a change in memory. The goroutine with the turn calls it, while Alertmanager's silences are locked.
func (s *silences) note(mesh []byte) {
	if s.merging {
		return
	}
	var m silencepb.MeshSilence
	if err := protodelim.UnmarshalFrom(bytes.NewReader(mesh), &m); err != nil {
		s.failed = err
		return
	}
	s.changed[m.Silence.Id] = schema.Silence{Mesh: string(mesh), Updated: m.Silence.UpdatedAt.AsTime().UnixNano(),
		Expires: m.ExpiresAt.AsTime().UnixMilli()}
}

// refresh reads the silences from the row store if they have changed. Concurrent calls share a read that begins after them,
// because a tenant may have thousands of groups.
func (s *silences) refresh(ctx context.Context) error {
	asked := s.begun.Load()
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.end()
	if s.fresh > asked {
		return nil
	}
	return s.read(ctx)
}

// begin waits for the turn, and end releases it.
func (s *silences) begin(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for other reads of the tenant's silences: %w", context.Cause(ctx))
	}
}

func (s *silences) end() { <-s.turn }

// read does the work of refresh; the caller has the turn. It first stores the changes that are not stored yet.
func (s *silences) read(ctx context.Context) error {
	n := s.begun.Add(1)
	if err := s.write(ctx); err != nil {
		return err
	}
	change, err := s.store.SilencesChange(ctx, s.tenant)
	if err != nil {
		return err
	}
	if s.loaded && change == s.change {
		s.fresh = n
		return nil
	}
	list, change, err := s.store.Silences(ctx, s.tenant)
	if err != nil {
		return err
	}
	s.merging = true
	defer func() { s.merging = false }()
	for id, v := range list {
		if err := s.Merge([]byte(v.Mesh)); err != nil {
			return fmt.Errorf("decode silence %s of tenant %s: %w", id, s.tenant, err)
		}
	}
	s.loaded, s.change, s.fresh = true, change, n
	return nil
}

// write stores the changes that may exist only in memory.
func (s *silences) write(ctx context.Context) error {
	for id, v := range s.missing {
		err := s.store.SetSilences(ctx, s.tenant, map[string]schema.Silence{id: v})
		if err != nil && !errors.Is(err, index.ErrSilenceChanged) { // the newer change is read next
			return err
		}
		delete(s.missing, id)
	}
	return nil
}

// update executes a request that changes silences in memory, and stores the changes. If storing fails, the request fails, but
// the change remains in memory, and is stored later.
func (s *silences) update(ctx context.Context, request func()) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.end()
	if err := s.read(ctx); err != nil {
		return err
	}
	s.changed, s.failed = map[string]schema.Silence{}, nil
	request()
	if s.failed != nil {
		return fmt.Errorf("decode a changed silence: %w", s.failed)
	}
	for id, v := range s.changed {
		s.missing[id] = v
	}
	if len(s.missing) == 0 {
		return nil
	}
	if err := s.store.SetSilences(ctx, s.tenant, s.missing); err != nil {
		s.loaded = s.loaded && !errors.Is(err, index.ErrSilenceChanged)
		return err
	}
	clear(s.missing)
	return nil
}

// explainLimit replaces Alertmanager's error for too many silences, which does not say that expired silences count as well.
func (in *instance) explainLimit(out *recorder) {
	if out.code != http.StatusBadRequest || !strings.Contains(out.body.String(), "exceeded maximum number of silences") {
		return
	}
	out.body.Reset()
	_ = json.NewEncoder(&out.body).Encode(fmt.Sprintf("the tenant has max_alertmanager_silences (%d) silences already; silences that expired "+
		"in the last %d days count as well: change an existing one, wait, or ask the operator for a higher limit",
		in.opts.Limits(in.tenant).MaxAlertmanagerSilences, silenceRetention/(24*time.Hour))) // encoding a string into a buffer returns no error
}
