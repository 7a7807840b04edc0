package rpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/wire"
)

// echoing is an Alertmanager whose responses repeat the requests.
type echoing struct {
	changed []tenant.ID
	told    string
}

func (e *echoing) Serve(_ context.Context, id tenant.ID, r *wire.AlertmanagerRequest) (*wire.AlertmanagerResponse, error) {
	if id == "broken" {
		return nil, errors.New("not running here")
	}
	return &wire.AlertmanagerResponse{Code: 207, ContentType: fmt.Sprint(id, r.Method, r.Path, r.ContentType), Body: r.Body}, nil
}

func (e *echoing) Changed(_ context.Context, id tenant.ID) error {
	e.changed = append(e.changed, id)
	return nil
}

func (e *echoing) Told(key, entry string, flushed int64) { e.told = fmt.Sprint(key, entry, flushed) }

// TestAlertmanager checks that requests with small and large bodies, changed configurations and sent notifications
// reach the Alertmanager of a peer.
func TestAlertmanager(t *testing.T) {
	e := &echoing{}
	p, stop := serveCalls(t, func(s *Server) { s.ServeAlertmanager(e) })
	defer stop()
	for _, body := range [][]byte{nil, []byte("x"), bytes.Repeat([]byte("0123456789"), 1_000_000)} {
		out, err := p.Alertmanager(t.Context(), "acme", &wire.AlertmanagerRequest{Method: "POST", Path: "/a?b", ContentType: "c", Body: body})
		if err != nil || out.Code != 207 || out.ContentType != "acmePOST/a?bc" || !bytes.Equal(out.Body, body) {
			t.Fatalf("%d bytes: %v", len(body), err)
		}
	}
	if _, err := p.Alertmanager(t.Context(), "broken", &wire.AlertmanagerRequest{}); err == nil || !strings.Contains(err.Error(), "not running here") {
		t.Errorf("an Alertmanager that does not run: %v", err)
	}
	if _, err := p.Alertmanager(t.Context(), "not/valid", &wire.AlertmanagerRequest{}); err == nil {
		t.Error("an invalid tenant is accepted")
	}
	large := &wire.AlertmanagerRequest{Body: make([]byte, maxAlertmanagerBody+1)}
	if _, err := p.Alertmanager(t.Context(), "acme", large); err == nil {
		t.Error("a request that is too large is accepted")
	}
	if err := p.AlertmanagerChanged(t.Context(), "acme"); err != nil || len(e.changed) != 1 {
		t.Errorf("changed: %v, %v", e.changed, err)
	}
	if err := p.AlertmanagerTold(t.Context(), "acme", "k\x00\xff", "e\xfe", 7); err != nil || e.told != "k\x00\xffe\xfe7" {
		t.Errorf("told: %q, %v", e.told, err)
	}
}
