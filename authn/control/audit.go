package control

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"

	"github.com/palliumhq/pallium/authn/apikey"
	"github.com/palliumhq/pallium/backend/rows"
)

// Event is one entry of the audit log. It is written before its change is made, and completed with
// the outcome afterwards. An event has no outcome while its change is in progress, and if the
// process ended or the outcome could not be written.
type Event struct {
	ID        string    `json:"id"`
	Time      time.Time `json:"time"`
	RequestID string    `json:"requestId"`
	Actor     string    `json:"actor"`  // who made the request
	Action    string    `json:"action"` // method and route
	Path      string    `json:"path"`   // path of the request
	Source    string    `json:"source"` // address of the client
	Outcome   `json:"-"`
}

// Outcome is the result of an Event.
type Outcome struct {
	Status int    `json:"status,omitempty"` // HTTP status; 0: there is no outcome
	Target string `json:"target,omitempty"` // path of the object that was created
}

func (e *Event) setETag(string) {}

// StartEvent writes an event and returns it with its ID and time.
func (c *Control) StartEvent(ctx context.Context, e Event) (Event, error) {
	id, err := apikey.NewID(8)
	if err != nil {
		return Event{}, err
	}
	e.Time = c.moment()
	// Newer events sort before older ones.
	key := string(binary.BigEndian.AppendUint64(nil, ^uint64(c.now().UnixNano()))) + id
	e.ID = "ev_" + fmt.Sprintf("%x", key)
	data, err := json.Marshal(e)
	if err != nil {
		return Event{}, fmt.Errorf("encode audit event: %w", err)
	}
	if err := c.store.Mutate(ctx, rows.RowMutation{Key: prefAudit + key, Mutations: []rows.Mutation{set(cellData, data)}}); err != nil {
		return Event{}, fmt.Errorf("write audit event: %w", err)
	}
	return e, nil
}

// EndEvent adds the outcome to an event.
func (c *Control) EndEvent(ctx context.Context, e Event, o Outcome) error {
	var key []byte
	if _, err := fmt.Sscanf(e.ID, "ev_%x", &key); err != nil {
		return fmt.Errorf("parse the ID of audit event %q: %w", e.ID, err)
	}
	data, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("encode audit event: %w", err)
	}
	m := rows.RowMutation{Key: prefAudit + string(key), Mutations: []rows.Mutation{set(cellOutcome, data)}}
	if err := c.store.Mutate(ctx, m); err != nil {
		return fmt.Errorf("complete audit event: %w", err)
	}
	return nil
}

// Events lists the audit log, newest events first.
func (c *Control) Events(ctx context.Context, p Page) (out []Event, next string, err error) {
	next, err = c.list(ctx, prefAudit, "", p, func(r row) (bool, error) {
		var e Event
		if err := decode(r, &e); err != nil {
			return false, err
		}
		if data := r.value(cellOutcome); data != nil {
			if err := json.Unmarshal(data, &e.Outcome); err != nil {
				return false, fmt.Errorf("audit event %s is damaged: %w", e.ID, err)
			}
		}
		if len(out) < pageSize(p) {
			out = append(out, e)
		}
		return true, nil
	})
	return out, next, err
}
