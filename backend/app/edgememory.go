package app

import (
	"errors"
	"fmt"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/gateway"
)

// edgeMemory is the process's account of memory as the gateway wants it.
type edgeMemory struct{ account *memory.Account }

// Hold implements gateway.Memory.
func (m edgeMemory) Hold(id tenant.ID, most int64, write bool) gateway.Held {
	return edgeHeld{m.account.Begin(memory.Request{Tenant: id, Limit: most, Write: write})}
}

type edgeHeld struct{ *memory.Holding }

// Take implements gateway.Held.
func (h edgeHeld) Take(n int64) error {
	err := h.Holding.Take(n)
	var large *memory.TooLargeError
	switch {
	case errors.As(err, &large):
		return fmt.Errorf("%w: %w", gateway.ErrNeverFits, err)
	case errors.Is(err, memory.ErrFull) || errors.Is(err, memory.ErrEnded):
		return fmt.Errorf("%w: %w", gateway.ErrNoMemory, err)
	}
	return err
}
