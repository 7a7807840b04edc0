package store

import "github.com/palliumhq/pallium/backend/index"

// Types of package index that are part of the store's API.
type (
	// Catalog lists the published packs and the L0 packs of one tenant's UTC day.
	Catalog = index.Catalog
	// L0 is a tenant's section of an L0 pack.
	L0 = index.L0
	// Deletions are the deletions of series of a tenant.
	Deletions = index.Deletions
	// Window is one aligned window of a UTC day.
	Window = index.Window
	// DayWork is the pending work of a UTC day, of all tenants.
	DayWork = index.DayWork
	// IntentOf is an ingester's intent to upload samples of a window.
	IntentOf = index.IntentOf
	// CleanOf is a tenant's request to remove deleted series from a day's packs now.
	CleanOf = index.CleanOf
	// ReceiptOf is the receipt of an uploaded pack with samples of the day that are
	// not compacted yet.
	ReceiptOf = index.ReceiptOf
	// AsideOf is the record of the series of one tenant and window that an ingester set
	// aside.
	AsideOf = index.AsideOf
	// Lost is a window for which a lost ingester may have had the only copy of some
	// samples.
	Lost = index.Lost
)

// ErrNoAside is returned when there is no record of series set aside.
var ErrNoAside = index.ErrNoAside

// WindowOf returns the window that contains a time in Unix milliseconds.
func WindowOf(t int64) Window { return index.WindowOf(t) }

// IsLost reports whether the ingester of an intent was lost.
func IsLost(ingester string) bool { return index.IsLost(ingester) }

// InstanceOf returns the ID of the ingester of an intent, without the mark of a lost
// incarnation.
func InstanceOf(ingester string) string { return index.InstanceOf(ingester) }
