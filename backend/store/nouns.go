package store

import "github.com/palliumhq/pallium/backend/index"

// What callers of the store speak in; package index has what they are.
type (
	// Catalog is what the index says of one tenant's UTC day.
	Catalog = index.Catalog
	// L0 is a tenant's section of an L0 pack.
	L0 = index.L0
	// Deletions is the deletions of series of a tenant.
	Deletions = index.Deletions
	// Window is one aligned window of a UTC day.
	Window = index.Window
	// DayWork is what there is to compact of a UTC day, of all tenants.
	DayWork = index.DayWork
	// IntentOf is an ingester's intent to upload samples of a window.
	IntentOf = index.IntentOf
	// ReceiptOf is an uploaded pack that has samples of the day not compacted yet.
	ReceiptOf = index.ReceiptOf
	// AsideOf is the record of what an ingester set aside of a tenant in a window.
	AsideOf = index.AsideOf
	// Lost is what a lost ingester may have had alone.
	Lost = index.Lost
)

// ErrNoAside is returned when nothing is recorded as set aside.
var ErrNoAside = index.ErrNoAside

// WindowOf is the window that holds a time in Unix milliseconds.
func WindowOf(t int64) Window { return index.WindowOf(t) }

// IsLost reports whether an intent's ingester was lost.
func IsLost(ingester string) bool { return index.IsLost(ingester) }
