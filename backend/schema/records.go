package schema

import (
	"encoding/binary"

	"github.com/oklog/ulid/v2"

	"github.com/palliumhq/pallium/authn/tenant"
)

// MaxMetricName is the greatest length of a metric name in bytes. A manifest, which is a single
// cell, has two names for every pack: with names of this length it can list a thousand packs.
const MaxMetricName = 4 << 10

// Manifest lists the published packs of a tenant's day.
type Manifest struct {
	Version   Version
	Day       int64
	Expiry    int64  // Unix milliseconds, from the retention at the time of writing; 0 means never
	Tombstone uint64 // number of the last deletion of series that was applied to the samples
	Written   int64  // Unix milliseconds
	Packs     []PackEntry
	Sources   []ulid.ULID // L0 packs merged in this generation
	Series    int64
	Samples   int64
}

// PackEntry is a compacted pack of a manifest.
type PackEntry struct {
	ID      ulid.ULID
	Object  string
	Size    int64 // bytes
	CRC     uint32
	MinTime int64 // Unix milliseconds, inclusive
	MaxTime int64
	Series  int64
	Samples int64
	// Metrics ascend over the packs; the last metric of a pack may continue in the next.
	FirstMetric, LastMetric string
}

// PartsOf returns the ordinals of the packs that may have pages of a metric: from
// (inclusive) to to (exclusive).
func (m *Manifest) PartsOf(metric string) (from, to int) {
	for from < len(m.Packs) && m.Packs[from].LastMetric < metric {
		from++
	}
	for to = from; to < len(m.Packs) && m.Packs[to].FirstMetric <= metric; to++ {
		continue
	}
	return from, to
}

// Encode returns the value of the manifest cell.
func (m *Manifest) Encode() []byte {
	b := binary.AppendUvarint(nil, uint64(m.Version.Generation))
	b = binary.BigEndian.AppendUint64(b, m.Version.Attempt)
	b = binary.AppendUvarint(b, uint64(m.Day))
	b = appendVarint(b, m.Expiry)
	b = binary.AppendUvarint(b, m.Tombstone)
	b = appendVarint(b, m.Written)
	b = binary.AppendUvarint(b, uint64(m.Series))
	b = binary.AppendUvarint(b, uint64(m.Samples))
	b = binary.AppendUvarint(b, uint64(len(m.Packs)))
	for i := range m.Packs {
		p := &m.Packs[i]
		b = append(b, p.ID[:]...)
		b = appendText(b, p.Object)
		b = binary.AppendUvarint(b, uint64(p.Size))
		b = binary.BigEndian.AppendUint32(b, p.CRC)
		b = appendVarint(b, p.MinTime)
		b = appendVarint(b, p.MaxTime)
		b = binary.AppendUvarint(b, uint64(p.Series))
		b = binary.AppendUvarint(b, uint64(p.Samples))
		b = appendText(appendText(b, p.FirstMetric), p.LastMetric)
	}
	b = binary.AppendUvarint(b, uint64(len(m.Sources)))
	for _, id := range m.Sources {
		b = append(b, id[:]...)
	}
	return seal(valueManifest, 1, b)
}

// DecodeManifest decodes the value of a manifest cell.
func DecodeManifest(value []byte) (Manifest, error) {
	var m Manifest
	b, err := open(valueManifest, 1, "manifest", value)
	if err != nil {
		return m, err
	}
	r := &reader{b: b}
	m.Version = Version{Generation: uint32(r.upTo(1<<32-1, "generation")), Attempt: r.uint64("attempt")}
	m.Day = int64(r.upTo(1<<31-1, "day"))
	m.Expiry = r.varint("expiry")
	m.Tombstone = r.uvarint("number of a deletion")
	m.Written = r.varint("time of writing")
	m.Series, m.Samples = r.int63("series"), r.int63("samples")
	n := r.count("packs")
	for i := 0; i < n && r.err == nil; i++ {
		p := PackEntry{ID: r.id("pack ID"), Object: r.text("object"), Size: r.int63("size"), CRC: r.uint32("checksum"),
			MinTime: r.varint("first time"), MaxTime: r.varint("last time"), Series: r.int63("series"), Samples: r.int63("samples"),
			FirstMetric: r.text("first metric"), LastMetric: r.text("last metric")}
		m.Packs = append(m.Packs, p)
	}
	n = r.count("sources")
	for i := 0; i < n && r.err == nil; i++ {
		m.Sources = append(m.Sources, r.id("source"))
	}
	m.check(r)
	return m, r.end("manifest")
}

// check makes r fail if the packs are not in the order that PartsOf requires, or have
// impossible times.
func (m *Manifest) check(r *reader) {
	for i := range m.Packs {
		p := &m.Packs[i]
		switch {
		case p.MinTime > p.MaxTime:
			r.fail("pack %d has a minimum time after its maximum time", i)
		case p.FirstMetric > p.LastMetric, i > 0 && m.Packs[i-1].LastMetric > p.FirstMetric:
			r.fail("metrics of pack %d are not in order", i)
		}
	}
}

func (r *reader) int63(what string) int64 { return int64(r.upTo(1<<63-1, what)) }

func (r *reader) id(what string) (id ulid.ULID) {
	copy(id[:], r.bytes(len(id), what))
	return id
}

// L0Entry is the section of a tenant's day in an L0 pack that is not compacted yet.
type L0Entry struct {
	Object     string
	ObjectSize int64 // bytes
	Ingester   string
	Offset     int64 // of the section in the object
	Length     int64
	CRC        uint32 // of the section
	MinTime    int64  // Unix milliseconds, inclusive
	MaxTime    int64
	Series     int64
	Samples    int64
	Tombstone  uint64 // number of the last deletion of series that was applied to the samples
	Sealed     int64  // Unix milliseconds
}

// Encode returns the value of the entry's cell.
func (e *L0Entry) Encode() []byte {
	b := appendText(nil, e.Object)
	b = binary.AppendUvarint(b, uint64(e.ObjectSize))
	b = appendText(b, e.Ingester)
	b = binary.AppendUvarint(b, uint64(e.Offset))
	b = binary.AppendUvarint(b, uint64(e.Length))
	b = binary.BigEndian.AppendUint32(b, e.CRC)
	b = appendVarint(b, e.MinTime)
	b = appendVarint(b, e.MaxTime)
	b = binary.AppendUvarint(b, uint64(e.Series))
	b = binary.AppendUvarint(b, uint64(e.Samples))
	b = binary.AppendUvarint(b, e.Tombstone)
	b = appendVarint(b, e.Sealed)
	return seal(valueL0, 1, b)
}

// DecodeL0Entry decodes the value of an L0 cell.
func DecodeL0Entry(value []byte) (L0Entry, error) {
	b, err := open(valueL0, 1, "L0 entry", value)
	if err != nil {
		return L0Entry{}, err
	}
	r := &reader{b: b}
	e := L0Entry{Object: r.text("object"), ObjectSize: r.int63("size"), Ingester: r.text("ingester"), Offset: r.int63("offset"),
		Length: r.int63("length"),
		CRC:    r.uint32("checksum"), MinTime: r.varint("first time"),
		MaxTime: r.varint("last time"), Series: r.int63("series"), Samples: r.int63("samples"),
		Tombstone: r.uvarint("number of a deletion"), Sealed: r.varint("time of sealing")}
	return e, r.end("L0 entry")
}

// Intent records that an ingester has samples of a window that are not uploaded.
type Intent struct {
	Since int64 // Unix milliseconds
	Late  bool  // the window was sealed before: compaction does not wait for the upload
	Zone  string
}

// Encode returns the value of the intent cell.
func (i *Intent) Encode() []byte {
	late := byte(0)
	if i.Late {
		late = 1
	}
	return seal(valueIntent, 1, appendText(append(appendVarint(nil, i.Since), late), i.Zone))
}

// DecodeIntent decodes the value of an intent cell.
func DecodeIntent(value []byte) (Intent, error) {
	b, err := open(valueIntent, 1, "intent", value)
	if err != nil {
		return Intent{}, err
	}
	r := &reader{b: b}
	i := Intent{Since: r.varint("time"), Late: r.flag("late"), Zone: r.text("zone")}
	return i, r.end("intent")
}

// Receipt records that an uploaded pack has samples of the row's day that are not compacted yet.
type Receipt struct {
	Object   string
	Size     int64
	CRC      uint32
	Ingester string
	Zone     string
	Windows  []int // of the day, 0 to 11
	Tenants  int
	Sealed   int64 // Unix milliseconds
	// Attempt is a random number, different for each upload of the pack; 0 in receipts of
	// older versions.
	Attempt uint64
}

// receiptVersion is the version of receipts that are written. Version 1 has no Attempt.
const receiptVersion = 2

// Encode returns the value of the receipt cell.
func (c *Receipt) Encode() []byte {
	b := appendText(nil, c.Object)
	b = binary.AppendUvarint(b, uint64(c.Size))
	b = binary.BigEndian.AppendUint32(b, c.CRC)
	b = appendText(appendText(b, c.Ingester), c.Zone)
	windows := uint64(0)
	for _, w := range c.Windows {
		windows |= 1 << w
	}
	b = binary.AppendUvarint(b, windows)
	b = binary.AppendUvarint(b, uint64(c.Tenants))
	b = appendVarint(b, c.Sealed)
	return seal(valueReceipt, receiptVersion, binary.BigEndian.AppendUint64(b, c.Attempt))
}

// DecodeReceipt decodes the value of a receipt cell.
func DecodeReceipt(value []byte) (Receipt, error) {
	version := byte(receiptVersion)
	if len(value) > 1 && value[1] == 1 {
		version = 1
	}
	b, err := open(valueReceipt, version, "receipt", value)
	if err != nil {
		return Receipt{}, err
	}
	r := &reader{b: b}
	c := Receipt{Object: r.text("object"), Size: r.int63("size"), CRC: r.uint32("checksum"), Ingester: r.text("ingester"),
		Zone: r.text("zone")}
	windows := r.upTo(1<<12-1, "windows")
	for w := range 12 {
		if windows&(1<<w) != 0 {
			c.Windows = append(c.Windows, w)
		}
	}
	c.Tenants = int(r.upTo(1<<31-1, "tenants"))
	c.Sealed = r.varint("time of sealing")
	if version > 1 {
		c.Attempt = r.uint64("attempt")
	}
	return c, r.end("receipt")
}

// Garbage is an entry of the garbage queue: an object or generation that is deleted when the entry
// is due, if nothing refers to it then; or an L0 pack that is then entered into the index, because
// its upload was interrupted.
type Garbage struct {
	Kind    string
	Name    string // object name, or another unique name
	Tenant  tenant.ID
	Day     int64
	Version Version
}

// Encode returns the value of the entry's cell.
func (g *Garbage) Encode() []byte {
	b := appendText(nil, g.Kind)
	b = appendText(b, g.Name)
	b = appendText(b, string(g.Tenant))
	b = appendVarint(b, g.Day)
	b = binary.AppendUvarint(b, uint64(g.Version.Generation))
	b = binary.BigEndian.AppendUint64(b, g.Version.Attempt)
	return seal(valueGarbage, 1, b)
}

// DecodeGarbage decodes the value of a garbage cell.
func DecodeGarbage(value []byte) (Garbage, error) {
	b, err := open(valueGarbage, 1, "garbage entry", value)
	if err != nil {
		return Garbage{}, err
	}
	r := &reader{b: b}
	g := Garbage{Kind: r.text("kind"), Name: r.text("name"), Tenant: tenant.ID(r.text("tenant")), Day: r.varint("day"),
		Version: Version{Generation: uint32(r.upTo(1<<32-1, "generation")), Attempt: r.uint64("attempt")}}
	return g, r.end("garbage entry")
}

// Lease is the current holder of a job. It only avoids duplicate work: correctness does
// not depend on it.
type Lease struct {
	Holder string
	Until  int64 // Unix milliseconds
}

// Encode returns the value of the lease cell.
func (l *Lease) Encode() []byte {
	return seal(valueLease, 1, appendVarint(appendText(nil, l.Holder), l.Until))
}

// DecodeLease decodes the value of a lease cell.
func DecodeLease(value []byte) (Lease, error) {
	b, err := open(valueLease, 1, "lease", value)
	if err != nil {
		return Lease{}, err
	}
	r := &reader{b: b}
	l := Lease{Holder: r.text("holder"), Until: r.varint("time")}
	return l, r.end("lease")
}
